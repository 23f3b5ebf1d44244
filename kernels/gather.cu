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
