// Rows of unit length and layer norm. A warp takes a row and rewrites only what it has read itself, so that an output
// may lie in its input's place. Where rows are a multiple of 4 long, a lane reads four neighbours at once.
#include "common.cuh"

// unit: y = x / |x| row by row, and 1 / |x|. A row shorter than 1e-6 gives zeros; a NaN in a row, NaN.
// Floor: 8 bytes an element; bound by bandwidth. The row's second reading comes from cache.
// Not yet measured on a GPU. To try: keep rows of up to 512 in registers.
struct Unit { Size rows; Size cols; u32 wanted; };
KERNEL unit(const float* x, float* y, float* inv_norm, const u32* counts, Unit p) {
    u32 cols = p.cols(counts);
    each_row(p.rows(counts), cols, [&](auto width, u32 row) {
        constexpr u32 W = decltype(width)::VALUE;
        u32 first = row * cols;
        float squares = 0.0f;
#pragma unroll 4
        for (u32 c = W * lane_index(); c < cols; c += W * WARP) {
            Pack<W> in = load<W>(x, first + c);
#pragma unroll
            for (u32 k = 0; k < W; k++) squares = fmaf(in.at[k], in.at[k], squares);
        }
        float norm = sqrtf(warp_sum(squares));
        // Not a maximum with 1e-6: a NaN must reach the row.
        float inverse = norm < 1e-6f ? 0.0f : 1.0f / norm;
        for (u32 c = W * lane_index(); c < cols; c += W * WARP) {
            Pack<W> out = load<W>(x, first + c);
#pragma unroll
            for (u32 k = 0; k < W; k++) out.at[k] *= inverse;
            store<W>(y, first + c, out);
        }
        if (lane_index() == 0 && p.wanted == 1) inv_norm[row] = inverse;
    });
}

// unit_grad: dx = inv_norm (dy - y <y, dy>) row by row.
// Floor: 12 bytes an element; bound by bandwidth. The second reading comes from cache. dx may lie in dy's place.
// Not yet measured on a GPU.
struct UnitGrad { Size rows; Size cols; };
KERNEL unit_grad(
    const float* __restrict__ y, const float* __restrict__ inv_norm, const float* dy, float* dx, const u32* counts,
    UnitGrad p
) {
    u32 cols = p.cols(counts);
    each_row(p.rows(counts), cols, [&](auto width, u32 row) {
        constexpr u32 W = decltype(width)::VALUE;
        u32 first = row * cols;
        float dots = 0.0f;
#pragma unroll 4
        for (u32 c = W * lane_index(); c < cols; c += W * WARP) {
            Pack<W> unit = load<W>(y, first + c), gradient = load<W>(dy, first + c);
#pragma unroll
            for (u32 k = 0; k < W; k++) dots = fmaf(unit.at[k], gradient.at[k], dots);
        }
        float along = warp_sum(dots), inverse = inv_norm[row];
        for (u32 c = W * lane_index(); c < cols; c += W * WARP) {
            Pack<W> unit = load<W>(y, first + c), out = load<W>(dy, first + c);
#pragma unroll
            for (u32 k = 0; k < W; k++) out.at[k] = inverse * fmaf(unit.at[k], -along, out.at[k]);
            store<W>(dx, first + c, out);
        }
    });
}

// layer_norm: y = gain (x - mean) rstd + bias with each row's own mean and 1 / sqrt(variance + eps).
// Floor: 8 bytes an element; bound by bandwidth. The row's further readings come from cache. The variance is of centred
// values, since E[x^2] - E[x]^2 loses its digits far from zero. y may lie in x's place.
// Not yet measured on a GPU. To try: keep rows of up to 512 in registers.
struct LayerNorm { Size rows; Size cols; float eps; u32 wants_mean; u32 wants_rstd; };
KERNEL layer_norm(
    const float* x, const float* __restrict__ gain, const float* __restrict__ bias, float* y, float* mean, float* rstd,
    const u32* counts, LayerNorm p
) {
    u32 cols = p.cols(counts);
    float number = static_cast<float>(cols);
    each_row(p.rows(counts), cols, [&](auto width, u32 row) {
        constexpr u32 W = decltype(width)::VALUE;
        u32 first = row * cols;
        float part = 0.0f;
#pragma unroll 4
        for (u32 c = W * lane_index(); c < cols; c += W * WARP) {
            Pack<W> in = load<W>(x, first + c);
#pragma unroll
            for (u32 k = 0; k < W; k++) part += in.at[k];
        }
        float average = warp_sum(part) / number;
        part = 0.0f;
#pragma unroll 4
        for (u32 c = W * lane_index(); c < cols; c += W * WARP) {
            Pack<W> in = load<W>(x, first + c);
#pragma unroll
            for (u32 k = 0; k < W; k++) part = fmaf(in.at[k] - average, in.at[k] - average, part);
        }
        float inverse = 1.0f / sqrtf(warp_sum(part) / number + p.eps);
        for (u32 c = W * lane_index(); c < cols; c += W * WARP) {
            Pack<W> out = load<W>(x, first + c), by = load<W>(gain, c), plus = load<W>(bias, c);
#pragma unroll
            for (u32 k = 0; k < W; k++) out.at[k] = fmaf((out.at[k] - average) * inverse, by.at[k], plus.at[k]);
            store<W>(y, first + c, out);
        }
        if (lane_index() == 0 && p.wants_mean == 1) mean[row] = average;
        if (lane_index() == 0 && p.wants_rstd == 1) rstd[row] = inverse;
    });
}

// layer_norm_dx: with h = (x - mean) rstd and s = gain dy, dx = rstd (s - mean(s) - h mean(s h)) row by row.
// Floor: 12 bytes an element; bound by bandwidth. The second reading comes from cache. dx may lie in dy's place.
// Not yet measured on a GPU.
struct LayerNormDx { Size rows; Size cols; };
KERNEL layer_norm_dx(
    const float* __restrict__ x, const float* __restrict__ gain, const float* __restrict__ mean,
    const float* __restrict__ rstd, const float* dy, float* dx, const u32* counts, LayerNormDx p
) {
    u32 cols = p.cols(counts);
    float number = static_cast<float>(cols);
    each_row(p.rows(counts), cols, [&](auto width, u32 row) {
        constexpr u32 W = decltype(width)::VALUE;
        u32 first = row * cols;
        float centre = mean[row], inverse = rstd[row], plain = 0.0f, weighted = 0.0f;
#pragma unroll 4
        for (u32 c = W * lane_index(); c < cols; c += W * WARP) {
            Pack<W> in = load<W>(x, first + c), gradient = load<W>(dy, first + c), by = load<W>(gain, c);
#pragma unroll
            for (u32 k = 0; k < W; k++) {
                float s = by.at[k] * gradient.at[k];
                plain += s;
                weighted = fmaf(s, (in.at[k] - centre) * inverse, weighted);
            }
        }
        float average = warp_sum(plain) / number, along = warp_sum(weighted) / number;
        for (u32 c = W * lane_index(); c < cols; c += W * WARP) {
            Pack<W> in = load<W>(x, first + c), out = load<W>(dy, first + c), by = load<W>(gain, c);
#pragma unroll
            for (u32 k = 0; k < W; k++) {
                float h = (in.at[k] - centre) * inverse;
                out.at[k] = inverse * fmaf(h, -along, by.at[k] * out.at[k] - average);
            }
            store<W>(dx, first + c, out);
        }
    });
}

// layer_norm_parts: for every part of `part` rows the column sums of dy (x - mean) rstd and of dy: the first stage of
// the gradients of gain and bias; sums[part][which][column].
// Floor: 8 bytes an element; bound by bandwidth.
// Layout: a block takes 64 columns of a part in 4 strips of rows, as sum_rows does. Not yet measured on a GPU.
struct LayerNormParts { Size rows; Size cols; u32 part; };
KERNEL layer_norm_parts(
    const float* __restrict__ x, const float* __restrict__ mean, const float* __restrict__ rstd,
    const float* __restrict__ dy, float* __restrict__ sums, const u32* counts, LayerNormParts p
) {
    __shared__ float parts_of_strips[2][THREADS];
    Strips strips(parts_of_strips);
    u32 rows = p.rows(counts), cols = p.cols(counts);
    u32 parts = (rows + p.part - 1) / p.part;
    for (u32 part = blockIdx.y; part < parts; part += gridDim.y) {
        u32 end = min(rows, (part + 1) * p.part);
        for (u32 first = blockIdx.x * COLUMNS; first < cols; first += gridDim.x * COLUMNS) {
            u32 c = first + column_index();
            float gained = 0.0f, plain = 0.0f;
            if (c < cols) {
#pragma unroll 4
                for (u32 row = part * p.part + strip_index(); row < end; row += STRIPS) {
                    float d = dy[row * cols + c];
                    gained = fmaf(d, (x[row * cols + c] - mean[row]) * rstd[row], gained);
                    plain += d;
                }
            }
            gained = strips.sum(gained);
            plain = strips.sum(plain);
            if (strip_index() == 0 && c < cols) {
                sums[2 * part * cols + c] = gained;
                sums[(2 * part + 1) * cols + c] = plain;
            }
        }
    }
}

// layer_norm_sum: the second stage of the gradients of gain and bias: sums over the parts, in a fixed order.
// Floor: 8 bytes a column and part; far below the first stage. Layout: as sum_rows. Not yet measured on a GPU.
struct LayerNormSum { Size rows; Size cols; u32 part; u32 wants_gain; u32 wants_bias; };
KERNEL layer_norm_sum(
    const float* __restrict__ sums, float* __restrict__ dgain, float* __restrict__ dbias, const u32* counts,
    LayerNormSum p
) {
    __shared__ float parts_of_strips[2][THREADS];
    Strips strips(parts_of_strips);
    u32 cols = p.cols(counts);
    u32 parts = (p.rows(counts) + p.part - 1) / p.part;
    for (u32 first = blockIdx.x * COLUMNS; first < cols; first += gridDim.x * COLUMNS) {
        u32 c = first + column_index();
        float gained = 0.0f, plain = 0.0f;
        if (c < cols) {
#pragma unroll 4
            for (u32 part = strip_index(); part < parts; part += STRIPS) {
                gained += sums[2 * part * cols + c];
                plain += sums[(2 * part + 1) * cols + c];
            }
        }
        gained = strips.sum(gained);
        plain = strips.sum(plain);
        if (strip_index() == 0 && c < cols) {
            if (p.wants_gain == 1) dgain[c] = gained;
            if (p.wants_bias == 1) dbias[c] = plain;
        }
    }
}
