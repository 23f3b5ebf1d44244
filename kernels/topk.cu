// The k largest scores of each row, also merged over chunks of columns.
#include "common.cuh"

// top_k: the k largest of each row in descending order, equal ones by the lower index, merged with an earlier result.
// Floor: 4 bytes a score; bound by bandwidth. In fact 3 to 9 readings of a row, all but the first from cache.
// Layout: a block a row. A key is 64 bits: the score as a number in the same order, then the inverted index, so that
// all keys differ and larger is better. Radix selection, 8 bits at a time from the top: a histogram of the keys that
// share the digits found so far, a suffix sum over it, and the digit in which the k-th best falls. It stops as soon as
// a digit holds exactly as many keys as are wanted; for noise that is after three or four digits. Keys at or above the
// threshold are collected in any order and sorted by a bitonic network.
//
//   scores --histogram--> digit --...--> threshold --collect--> keys[1024] --sort--> values, index
//
// The key 0 means nobody: an empty place of the earlier result, or none at all. A NaN is (0, index).
// Not yet measured on a GPU. To try: histograms by warps (scores share their first digits, so that threads meet in few
// bins), and several blocks a row where rows are few.
struct TopK { Size rows; Size cols; u32 stride; u32 k; u32 carried; };

typedef unsigned long long u64;

constexpr u32 MOST = 1024;
constexpr u32 BINS = 256;
constexpr u32 NOBODY = 0xffffffffu;
static_assert(BINS == THREADS, "a thread a bin");

// Maps a score to a number in the same order. -0 equals 0; a NaN stands below everything.
__device__ inline u32 ordered(float score) {
    u32 bits = __float_as_uint(score);
    if (is_nan(score)) return 0;
    if (bits == 0x80000000u) return 0x80000000u;
    return bits >> 31 == 1 ? ~bits : bits | 0x80000000u;
}

// The score of a key: `ordered` backwards.
__device__ inline float score_of(u64 key) {
    u32 word = key >> 32;
    if (word == 0) return __uint_as_float(0x7fc00000u);
    return __uint_as_float(word >> 31 == 1 ? word & 0x7fffffffu : ~word);
}

__device__ inline u64 key_of(float score, u32 index) { return static_cast<u64>(ordered(score)) << 32 | ~index; }

// The candidates of one row: its scores, then the earlier result.
struct Candidates {
    const float* scores;
    const float* carry_values;
    const u32* carry_index;
    u32 base, cols, length;

    __device__ u64 operator[](u32 i) const {
        if (i < cols) return key_of(scores[i], base + i);
        u32 place = carry_index[i - cols];
        return place == NOBODY ? 0 : key_of(carry_values[i - cols], place);
    }
};

// What the threads of a block share.
struct Shared {
    u32 bins[BINS];
    u32 totals[WARPS];
    // The digit in which the last wanted key falls, keys in higher digits, keys in this one; and keys in all.
    u32 digit, higher, inside, all;
    u32 taken;
    u64 keys[MOST];
};

// Finds the digit of the `wanted`-th best among the keys that agree with `threshold` above bit `shift` + 8. Where there
// are fewer than that, `all` becomes 0.
__device__ inline void find_digit(const Candidates& row, u64 threshold, u32 shift, u32 wanted, Shared& shared) {
    u32 lane = lane_index(), warp = threadIdx.x / WARP;
    shared.bins[threadIdx.x] = 0;
    if (threadIdx.x == 0) shared.all = 0;
    __syncthreads();
    for (u32 i = threadIdx.x; i < row.length; i += THREADS) {
        u64 key = row[i];
        // Shifted twice, since a shift by 64 is not defined.
        if (key != 0 && ((key ^ threshold) >> shift >> 8) == 0) atomicAdd(&shared.bins[(key >> shift) & 255], 1u);
    }
    __syncthreads();
    u32 own = shared.bins[threadIdx.x], sum = own;
#pragma unroll
    for (u32 reach = 1; reach < WARP; reach *= 2) {
        u32 more = __shfl_down_sync(ALL, sum, reach);
        if (lane + reach < WARP) sum += more;
    }
    if (lane == 0) shared.totals[warp] = sum;
    __syncthreads();
    u32 all = 0;
#pragma unroll
    for (u32 i = 0; i < WARPS; i++) {
        u32 total = shared.totals[i];
        all += total;
        if (i > warp) sum += total;
    }
    // Exactly one thread, if any.
    if (sum - own < wanted && sum >= wanted) {
        shared.digit = threadIdx.x;
        shared.higher = sum - own;
        shared.inside = own;
        shared.all = all;
    }
    __syncthreads();
}

// The least key that is among the k best; 0 where there are no more than k.
__device__ inline u64 find_threshold(const Candidates& row, u32 k, Shared& shared) {
    u64 threshold = 0;
    u32 wanted = k;
    for (u32 digit = 0; digit < 8; digit++) {
        u32 shift = 56 - 8 * digit;
        find_digit(row, threshold, shift, wanted, shared);
        if (shared.all == 0) break;
        threshold |= static_cast<u64>(shared.digit) << shift;
        wanted -= shared.higher;
        if (shared.inside == wanted) break;
        // `all` is written again at once.
        __syncthreads();
    }
    return threshold;
}

// Puts the keys at or above the threshold into shared.keys, in any order, and 0 behind them.
__device__ inline void collect(const Candidates& row, u64 threshold, u32 k, Shared& shared) {
    if (threadIdx.x == 0) shared.taken = 0;
    for (u32 i = threadIdx.x; i < MOST; i += THREADS) shared.keys[i] = 0;
    __syncthreads();
    for (u32 i = threadIdx.x; i < row.length; i += THREADS) {
        u64 key = row[i];
        if (key != 0 && key >= threshold) {
            u32 place = atomicAdd(&shared.taken, 1u);
            if (place < k) shared.keys[place] = key;
        }
    }
    __syncthreads();
}

// Sorts the first `length` keys, a power of two, in descending order.
__device__ inline void sort(u64* keys, u32 length) {
    for (u32 run = 2; run <= length; run *= 2) {
        for (u32 reach = run / 2; reach > 0; reach /= 2) {
            for (u32 pair = threadIdx.x; pair < length / 2; pair += THREADS) {
                u32 a = 2 * pair - (pair & (reach - 1));
                u64 left = keys[a], right = keys[a + reach];
                bool descending = (a & run) == 0;
                if (descending ? left < right : right < left) {
                    keys[a] = right;
                    keys[a + reach] = left;
                }
            }
            __syncthreads();
        }
    }
}

KERNEL top_k(
    const float* __restrict__ scores, const u32* __restrict__ base, const float* __restrict__ carry_values,
    const u32* __restrict__ carry_index, float* __restrict__ values, u32* __restrict__ index, const u32* counts, TopK p
) {
    __shared__ Shared shared;
    u32 rows = p.rows(counts), cols = p.cols(counts);
    u32 k = min(p.k, MOST), start = base ? base[0] : 0;
    u32 places = 1;
    while (places < k) places *= 2;
    for (u32 r = blockIdx.x; r < rows; r += gridDim.x) {
        Candidates row = {scores + r * p.stride, carry_values + r * k, carry_index + r * k, start, cols, cols};
        if (p.carried == 1) row.length += k;
        u64 threshold = find_threshold(row, k, shared);
        collect(row, threshold, k, shared);
        sort(shared.keys, places);
        for (u32 i = threadIdx.x; i < k; i += THREADS) {
            u64 key = shared.keys[i];
            values[r * k + i] = key == 0 ? FLOOR : score_of(key);
            index[r * k + i] = key == 0 ? NOBODY : ~static_cast<u32>(key);
        }
        // No barrier: the next row's search has several before `keys` is written again.
    }
}
