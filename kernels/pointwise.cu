// Element by element. All of these are bound by bandwidth: a thread takes four neighbours at once, a fourth of the grid
// of the WGSL kernels has work, and any input may be the output.
#include "common.cuh"

// unary: y = f(x).
// Floor: 8 bytes an element. Of the functions GELU is the longest, at about 40 instructions for those 8 bytes: an H200
// has time for some 50. Not yet measured on a GPU.
struct Unary { Size n; u32 kind; float a; float b; };
KERNEL unary(const float* x, float* y, const u32* counts, Unary p) {
    map(p.n(counts), y, [p](float x) { return unary(p.kind, x, p.a, p.b); }, x);
}

// unary_grad: dx = f'(x) dy.
// Floor: 12 bytes an element. Not yet measured on a GPU.
struct UnaryGrad { Size n; u32 kind; float a; float b; };
KERNEL unary_grad(const float* x, const float* dy, float* dx, const u32* counts, UnaryGrad p) {
    map(p.n(counts), dx, [p](float x, float dy) { return unary_derivative(p.kind, x, p.a) * dy; }, x, dy);
}

// binary: y = a ∘ b (0 add, 1 subtract, 2 multiply), in rows that begin `stride` apart.
// Floor: 12 bytes an element. Not yet measured on a GPU.
// Layout: what lies without gaps is one row, four elements a thread; of score matrices a warp takes a row.
struct Binary { Size rows; Size cols; u32 stride; u32 kind; };
KERNEL binary(const float* a, const float* b, float* y, const u32* counts, Binary p) {
    auto f = [p](float a, float b) { return p.kind == 0 ? a + b : p.kind == 1 ? a - b : a * b; };
    u32 rows = p.rows(counts), cols = p.cols(counts);
    if (p.stride == 0) {
        map(cols, y, f, a, b);
        return;
    }
    for (u32 row = warp_index(); row < rows; row += warp_count()) {
        u32 begin = row * p.stride;
        for (u32 c = lane_index(); c < cols; c += WARP) y[begin + c] = f(a[begin + c], b[begin + c]);
    }
}

// scale_rows: y[r] = w[r] x[r]. y may lie in x's place.
// Floor: 8 bytes an element; bound by bandwidth.
// Layout: a warp a row. Not yet measured on a GPU.
struct ScaleRows { Size rows; Size cols; };
KERNEL scale_rows(const float* x, const float* __restrict__ w, float* y, const u32* counts, ScaleRows p) {
    u32 cols = p.cols(counts);
    each_row(p.rows(counts), cols, [&](auto width, u32 row) {
        constexpr u32 W = decltype(width)::VALUE;
        float number = w[row];
        for (u32 c = W * lane_index(); c < cols; c += W * WARP) {
            Pack<W> out = load<W>(x, row * cols + c);
#pragma unroll
            for (u32 k = 0; k < W; k++) out.at[k] *= number;
            store<W>(y, row * cols + c, out);
        }
    });
}

// row_dot: y[r] = <a[r], b[r]>.
// Floor: 8 bytes an element; bound by bandwidth.
// Layout: a warp a row. Not yet measured on a GPU.
struct RowDot { Size rows; Size cols; };
KERNEL row_dot(
    const float* __restrict__ a, const float* __restrict__ b, float* __restrict__ y, const u32* counts, RowDot p
) {
    u32 cols = p.cols(counts);
    each_row(p.rows(counts), cols, [&](auto width, u32 row) {
        constexpr u32 W = decltype(width)::VALUE;
        float dots = 0.0f;
#pragma unroll 4
        for (u32 c = W * lane_index(); c < cols; c += W * WARP) {
            Pack<W> left = load<W>(a, row * cols + c), right = load<W>(b, row * cols + c);
#pragma unroll
            for (u32 k = 0; k < W; k++) dots = fmaf(left.at[k], right.at[k], dots);
        }
        dots = warp_sum(dots);
        if (lane_index() == 0) y[row] = dots;
    });
}
