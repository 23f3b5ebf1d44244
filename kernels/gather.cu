// Rows by index, and the sum of rows into the places an index names.
#include "common.cuh"

// gather: y[m] = x[index[m]]; a row of 0 where the index lies beyond the rows there are.
// Floor: 8 bytes an element; bound by bandwidth.
// Layout: a thread four neighbouring columns, or one where rows are not a multiple of 4 long. Not yet measured on a
// GPU.
struct Gather { Size rows; Size m; u32 cols; };

template <u32 W>
__device__ inline void gather_packs(const float* x, const u32* index, float* y, u32 rows, u32 m, u32 cols) {
    u32 width = cols / W;
    for (u32 item = thread_index(); item < m * width; item += thread_count()) {
        u32 i = item / width, c = W * (item - i * width);
        u32 row = index[i];
        Pack<W> value = {};
        if (row < rows) value = load<W>(x, row * cols + c);
        store<W>(y, i * cols + c, value);
    }
}

KERNEL gather(
    const float* __restrict__ x, const u32* __restrict__ index, float* __restrict__ y, const u32* counts, Gather p
) {
    u32 rows = p.rows(counts), m = p.m(counts);
    if (p.cols % 4 == 0) gather_packs<4>(x, index, y, rows, m, p.cols);
    else gather_packs<1>(x, index, y, rows, m, p.cols);
}

// scatter_add: x[r] = sum of dy[m] over index[m] = r, in the order of m: the same bits every time, without atomics.
// Floor: 4 bytes an element of x and of dy; in fact bound by the index, which every block reads as a whole.
// Layout: a block owns 32 rows and 64 columns of x and holds their sums. It goes through the index 1024 entries at a
// time: first all threads look for entries that name one of its rows and list them in order, then four strips of
// threads, a thread a column, add what stands in the list; strip s adds to the rows r with r % 4 = s.
//
//     index --look--> list of (m, r) --add--> sums[32][64] --> x
//
// Not yet measured on a GPU. Every thread reading every entry, as in WGSL, takes a few instructions an entry where the
// list takes a fraction of one.
constexpr u32 OWNED = 32;
constexpr u32 ROUNDS = 4;
constexpr u32 LOOKED = ROUNDS * THREADS;

// What a block knows of the entries it has looked at.
struct Found {
    u32 items[LOOKED];
    u32 rows[LOOKED];
    // Hits before each warp in each round, and all of them.
    u32 before[ROUNDS * WARPS];
    u32 hits;
};

// Lists the entries of index[begin..begin + LOOKED] that name one of the rows from `first` on, in their order. May be
// called while other threads still read the list before: nothing that they read is written before the first barrier.
__device__ inline void look(const u32* __restrict__ index, u32 begin, u32 m, u32 first, u32 owned, Found& found) {
    u32 lane = lane_index(), warp = threadIdx.x / WARP;
    u32 row[ROUNDS], votes[ROUNDS];
#pragma unroll
    for (u32 round = 0; round < ROUNDS; round++) {
        u32 item = begin + round * THREADS + threadIdx.x;
        // Below `first` the difference wraps round to a large number.
        row[round] = item < m ? index[item] - first : 0xffffffffu;
    }
#pragma unroll
    for (u32 round = 0; round < ROUNDS; round++) {
        votes[round] = __ballot_sync(ALL, row[round] < owned);
        if (lane == 0) found.before[round * WARPS + warp] = __popc(votes[round]);
    }
    __syncthreads();
    static_assert(ROUNDS * WARPS == WARP, "one warp adds up the hits before each");
    if (warp == 0) {
        u32 own = found.before[lane], sum = own;
#pragma unroll
        for (u32 reach = 1; reach < WARP; reach *= 2) {
            u32 lower = __shfl_up_sync(ALL, sum, reach);
            if (lane >= reach) sum += lower;
        }
        found.before[lane] = sum - own;
        if (lane == WARP - 1) found.hits = sum;
    }
    __syncthreads();
#pragma unroll
    for (u32 round = 0; round < ROUNDS; round++) {
        if (row[round] < owned) {
            u32 place = found.before[round * WARPS + warp] + __popc(votes[round] & ((1u << lane) - 1));
            found.items[place] = begin + round * THREADS + threadIdx.x;
            found.rows[place] = row[round];
        }
    }
    __syncthreads();
}

struct ScatterAdd { Size rows; Size m; u32 cols; };
KERNEL scatter_add(
    const float* __restrict__ dy, const u32* __restrict__ index, float* __restrict__ x, const u32* counts, ScatterAdd p
) {
    __shared__ float sums[OWNED][COLUMNS];
    __shared__ Found found;
    u32 rows = p.rows(counts), m = p.m(counts);
    u32 column = column_index(), strip = strip_index();
    for (u32 first = blockIdx.y * OWNED; first < rows; first += gridDim.y * OWNED) {
        u32 owned = min(OWNED, rows - first);
        for (u32 left = blockIdx.x * COLUMNS; left < p.cols; left += gridDim.x * COLUMNS) {
            u32 c = left + column;
            for (u32 r = strip; r < OWNED; r += STRIPS) sums[r][column] = 0.0f;
            for (u32 begin = 0; begin < m; begin += LOOKED) {
                look(index, begin, m, first, owned, found);
                for (u32 hit = 0; hit < found.hits; hit++) {
                    u32 r = found.rows[hit];
                    if (r % STRIPS == strip && c < p.cols) sums[r][column] += dy[found.items[hit] * p.cols + c];
                }
            }
            for (u32 r = strip; r < owned; r += STRIPS) {
                if (c < p.cols) x[(first + r) * p.cols + c] = sums[r][column];
            }
        }
    }
}

// gather_lerp: y[m] = (1 - w[m]) x[first[m]] + w[m] x[second[m]]; an index beyond the rows there are is a row of 0.
// Floor: 12 bytes an element; bound by bandwidth.
// Layout: a thread four neighbouring columns, or one where rows are not a multiple of 4 long. Not yet measured on a
// GPU.
struct GatherLerp { Size rows; Size m; u32 cols; };

template <u32 W>
__device__ inline void lerp_packs(
    const float* __restrict__ x, const u32* __restrict__ first, const u32* __restrict__ second,
    const float* __restrict__ weight, float* __restrict__ y, u32 rows, u32 m, u32 cols
) {
    u32 width = cols / W;
    for (u32 item = thread_index(); item < m * width; item += thread_count()) {
        u32 i = item / width, c = W * (item - i * width);
        u32 ends[2] = {first[i], second[i]};
        float w = weight[i], weights[2] = {1.0f - w, w};
        Pack<W> value = {};
#pragma unroll
        for (u32 end = 0; end < 2; end++) {
            if (ends[end] < rows) {
                Pack<W> in = load<W>(x, ends[end] * cols + c);
#pragma unroll
                for (u32 k = 0; k < W; k++) value.at[k] = fmaf(weights[end], in.at[k], value.at[k]);
            }
        }
        store<W>(y, i * cols + c, value);
    }
}

KERNEL gather_lerp(
    const float* __restrict__ x, const u32* __restrict__ first, const u32* __restrict__ second,
    const float* __restrict__ weight, float* __restrict__ y, const u32* counts, GatherLerp p
) {
    u32 rows = p.rows(counts), m = p.m(counts);
    if (p.cols % 4 == 0) lerp_packs<4>(x, first, second, weight, y, rows, m, p.cols);
    else lerp_packs<1>(x, first, second, weight, y, rows, m, p.cols);
}

// scatter_lerp: x[r] = sum of (1 - w[m]) dy[m] over first[m] = r and of w[m] dy[m] over second[m] = r, in the order of m,
// first before second.
// Floor: 4 bytes an element of x and of dy; in fact bound by the indices, which every block reads as a whole.
// Layout: a block owns 32 rows and 64 columns of x and holds their sums; a thread a column, four strips of threads, of
// which strip s adds to the rows r with r % 4 = s. Not yet measured on a GPU. To try: the list of scatter_add; some
// hundred frames are drawn between two others, where a caption's words are gathered by the thousand.
struct ScatterLerp { Size rows; Size m; u32 cols; };
KERNEL scatter_lerp(
    const float* __restrict__ dy, const u32* __restrict__ first, const u32* __restrict__ second,
    const float* __restrict__ weight, float* __restrict__ x, const u32* counts, ScatterLerp p
) {
    __shared__ float sums[OWNED][COLUMNS];
    u32 rows = p.rows(counts), m = p.m(counts);
    u32 column = column_index(), strip = strip_index();
    for (u32 begin = blockIdx.y * OWNED; begin < rows; begin += gridDim.y * OWNED) {
        for (u32 c = blockIdx.x * COLUMNS + column; c < p.cols; c += gridDim.x * COLUMNS) {
            // A thread meets no other in its sums.
            for (u32 r = strip; r < OWNED; r += STRIPS) sums[r][column] = 0.0f;
            for (u32 i = 0; i < m; i++) {
                u32 ends[2] = {first[i], second[i]};
                float w = weight[i], weights[2] = {1.0f - w, w};
#pragma unroll
                for (u32 end = 0; end < 2; end++) {
                    // Below `begin` the difference wraps round to a large number.
                    u32 r = ends[end] - begin;
                    if (r < OWNED && r % STRIPS == strip) sums[r][column] = fmaf(weights[end], dy[i * p.cols + c], sums[r][column]);
                }
            }
            for (u32 r = strip; r < min(OWNED, rows - begin); r += STRIPS) x[(begin + r) * p.cols + c] = sums[r][column];
        }
    }
}
