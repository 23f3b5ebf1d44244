// Sums over rows and over everything, and their gradients.
#include "common.cuh"

// sum_rows: y[c] = Σ_r x[r, c], in a fixed order.
// Floor: 4 bytes an element; bound by bandwidth. In fact by the few blocks: 512 columns are 8 of them, and one block
// draws some 60 GB/s.
// Layout: a block takes 64 columns in 4 strips of rows, which are added up at the end; neighbours read neighbouring
// columns.
//
//      64 columns
//     +----------+
//     | 0 0 0 .. |  strips 0..3, then 0..3 again, ...
//     | 1 1 1 .. |
//     +----------+
//
// Not yet measured on a GPU. A thread a column would leave all but 2 of 132 multiprocessors idle at 512 columns.
struct SumRows { Size rows; Size cols; u32 stride; };
KERNEL sum_rows(const float* __restrict__ x, float* __restrict__ y, const u32* counts, SumRows p) {
    __shared__ float parts_of_strips[2][THREADS];
    Strips strips(parts_of_strips);
    u32 rows = p.rows(counts), cols = p.cols(counts);
    for (u32 first = blockIdx.x * COLUMNS; first < cols; first += gridDim.x * COLUMNS) {
        u32 c = first + column_index();
        float sum = 0.0f;
        if (c < cols) {
#pragma unroll 8
            for (u32 r = strip_index(); r < rows; r += STRIPS) sum += x[r * p.stride + c];
        }
        sum = strips.sum(sum);
        if (strip_index() == 0 && c < cols) y[c] = sum;
    }
}

// broadcast_rows: y[r, c] = x[c].
// Floor: 4 bytes an element; bound by bandwidth. A thread an element; x stays in cache. Not yet measured on a GPU.
struct BroadcastRows { Size rows; Size cols; u32 stride; };
KERNEL broadcast_rows(const float* __restrict__ x, float* __restrict__ y, const u32* counts, BroadcastRows p) {
    u32 cols = p.cols(counts);
    u32 n = p.rows(counts) * cols;
    for (u32 i = thread_index(); i < n; i += thread_count()) {
        u32 r = i / cols, c = i - r * cols;
        y[r * p.stride + c] = x[c];
    }
}

// mean_parts: the sum of every part of `part` elements: the first stage of a mean.
// Floor: 4 bytes an element; bound by bandwidth.
// Layout: a block a part; a thread adds every 256th pack of four, one sum for each place of the pack, then the block
// folds. Not yet measured on a GPU.
struct MeanParts { Size n; u32 part; };
KERNEL mean_parts(const float* __restrict__ x, float* __restrict__ sums, const u32* counts, MeanParts p) {
    __shared__ Folds folds;
    Block block(folds);
    u32 n = p.n(counts);
    u32 parts = (n + p.part - 1) / p.part;
    for (u32 part = blockIdx.x; part < parts; part += gridDim.x) {
        u32 begin = part * p.part;
        float sum = part_sum(x, begin, min(p.part, n - begin), [](float x, float sum) { return sum + x; });
        sum = block.sum(sum);
        if (threadIdx.x == 0) sums[part] = sum;
    }
}

// mean_all: the sum of the parts' sums, divided by the number of elements; 0 when there are none.
// Floor: 4 bytes a part; one small block, bound by latency. Not yet measured on a GPU.
struct MeanAll { Size n; u32 part; };
KERNEL mean_all(const float* __restrict__ sums, float* __restrict__ y, const u32* counts, MeanAll p) {
    __shared__ Folds folds;
    Block block(folds);
    if (blockIdx.x > 0) return;
    u32 n = p.n(counts);
    u32 parts = (n + p.part - 1) / p.part;
    float sum = 0.0f;
    for (u32 i = threadIdx.x; i < parts; i += THREADS) sum += sums[i];
    sum = block.sum(sum);
    if (threadIdx.x == 0) y[0] = sum / static_cast<float>(max(n, 1u));
}

// broadcast_mean: x = y / n in each of n elements.
// Floor: 4 bytes an element; bound by bandwidth. Not yet measured on a GPU.
struct BroadcastMean { Size n; };
KERNEL broadcast_mean(const float* y, float* x, const u32* counts, BroadcastMean p) {
    u32 n = p.n(counts);
    if (n == 0) return;
    float value = y[0] / static_cast<float>(n);
    map(n, x, [value]() { return value; });
}
