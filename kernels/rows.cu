// A run of rows, written into a larger table or read from it, at a place that the batch says.
#include "common.cuh"

// put_rows: y[r] = part[r - begin] for begin <= r < begin + n, else x[r].
// Floor: 8 bytes an element of the run where y takes the place of x, else 8 an element of x; bound by bandwidth.
// Layout: a thread four neighbouring columns, or one where rows are not a multiple of 4 long. First the run, which lies
// side by side in y as in part; then everything else, unless it is there already. Not yet measured on a GPU.
struct PutRows { Size rows; Size n; u32 cols; };

template <u32 W>
__device__ inline void put_packs(const float* x, const float* part, u32 begin, float* y, u32 rows, u32 n, u32 cols) {
    u32 width = cols / W;
    u32 here = begin < rows ? min(n, rows - begin) : 0;
    for (u32 item = thread_index(); item < here * width; item += thread_count()) {
        store<W>(y, begin * cols + W * item, load<W>(part, W * item));
    }
    if (x == y) return;
    for (u32 item = thread_index(); item < rows * width; item += thread_count()) {
        // Below `begin` the difference wraps round to a large number.
        if (item / width - begin >= here) store<W>(y, W * item, load<W>(x, W * item));
    }
}

KERNEL put_rows(
    const float* x, const float* __restrict__ part, const u32* __restrict__ begin, float* y, const u32* counts, PutRows p
) {
    u32 rows = p.rows(counts), n = p.n(counts);
    if (p.cols % 4 == 0) put_packs<4>(x, part, begin[0], y, rows, n, p.cols);
    else put_packs<1>(x, part, begin[0], y, rows, n, p.cols);
}

// take_rows: y[m] = x[begin + m]; a row of 0 beyond the rows there are.
// Floor: 8 bytes an element of y; bound by bandwidth.
// Layout: as put_rows. Not yet measured on a GPU.
struct TakeRows { Size rows; Size n; u32 cols; };

template <u32 W>
__device__ inline void take_packs(const float* x, u32 begin, float* y, u32 rows, u32 n, u32 cols) {
    u32 width = cols / W;
    u32 here = begin < rows ? min(n, rows - begin) : 0;
    for (u32 item = thread_index(); item < n * width; item += thread_count()) {
        Pack<W> value = {};
        if (item < here * width) value = load<W>(x, begin * cols + W * item);
        store<W>(y, W * item, value);
    }
}

KERNEL take_rows(
    const float* __restrict__ x, const u32* __restrict__ begin, float* __restrict__ y, const u32* counts, TakeRows p
) {
    u32 rows = p.rows(counts), n = p.n(counts);
    if (p.cols % 4 == 0) take_packs<4>(x, begin[0], y, rows, n, p.cols);
    else take_packs<1>(x, begin[0], y, rows, n, p.cols);
}
