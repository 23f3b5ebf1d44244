// Sums over rows and over everything, and their gradients.
#include "common.cuh"

// sum_rows: y[c] = Σ_r x[r, c], in the order of the rows.
// Floor: 4 bytes an element; bound by bandwidth. Layout: a thread a column; neighbours read neighbouring columns.
struct SumRows { Size rows; Size cols; u32 stride; };
KERNEL sum_rows(const float* x, float* y, const u32* counts, SumRows p) {
    u32 rows = p.rows(counts), cols = p.cols(counts);
    for (u32 c = thread_index(); c < cols; c += thread_count()) {
        float sum = 0.0f;
        for (u32 r = 0; r < rows; r++) sum += x[r * p.stride + c];
        y[c] = sum;
    }
}
