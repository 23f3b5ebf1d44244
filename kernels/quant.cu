// Rounding to 8-bit codes, and back.
#include "common.cuh"

// |code| of x is the number of k in 0..127 with (k + 1/2) m < 127 |x|, or = where k is odd. The quotient says which it
// is up to a step; products, which are the same bits everywhere, say which it is.
__device__ inline float code(float x, float m) {
    float at = __fmul_rn(fabsf(x), 127.0f);
    float near = rintf(at / m);
    bool odd = (static_cast<u32>(near) & 1) == 1;
    float above = __fmul_rn(near + 0.5f, m), below = __fmul_rn(near - 0.5f, m);
    // A tie belongs to the even code of the two.
    float number = near;
    if (above < at || (above == at && odd)) number += 1.0f;
    if (below > at || (below == at && odd)) number -= 1.0f;
    return copysignf(number, x);
}

// fake_quant: y = code scale, row by row, with scale = m / 127 for the row's largest magnitude m; rows with m <= 1e-30
// become 0. y may lie in x's place.
// Floor: 8 bytes an element; bound by bandwidth. The row's second reading comes from cache.
// Layout: a warp a row, which rewrites only what it has read itself. Not yet measured on a GPU.
struct FakeQuant { Size rows; Size cols; };
KERNEL fake_quant(const float* x, float* y, const u32* counts, FakeQuant p) {
    u32 cols = p.cols(counts);
    each_row(p.rows(counts), cols, [&](auto width, u32 row) {
        constexpr u32 W = decltype(width)::VALUE;
        u32 first = row * cols;
        float largest = 0.0f;
        for (u32 c = W * lane_index(); c < cols; c += W * WARP) {
            Pack<W> in = load<W>(x, first + c);
#pragma unroll
            for (u32 k = 0; k < W; k++) largest = fmaxf(largest, fabsf(in.at[k]));
        }
        float m = warp_max(largest), scale = __fmul_rn(m, 1.0f / 127.0f);
        for (u32 c = W * lane_index(); c < cols; c += W * WARP) {
            Pack<W> out = load<W>(x, first + c);
#pragma unroll
            for (u32 k = 0; k < W; k++) out.at[k] = m > 1e-30f ? __fmul_rn(code(out.at[k], m), scale) : out.at[k] * 0.0f;
            store<W>(y, first + c, out);
        }
    });
}

// quantize_rows: codes of int8, four a word, and a scale m / 127 for each row with largest magnitude m; rows with
// m <= 1e-30 have codes and scale 0, a row with a NaN a scale of NaN.
// Floor: 5 bytes an element; bound by bandwidth. The row's second reading comes from cache.
// Layout: a warp a row, a lane a word at a time. Not yet measured on a GPU.
struct QuantizeRows { Size rows; u32 cols; };
KERNEL quantize_rows(const float* __restrict__ x, u32* codes, float* scales, const u32* __restrict__ counts,
                     QuantizeRows p) {
    u32 cols = p.cols, words = (cols + 3) / 4;
    each_row(p.rows(counts), cols, [&](auto width, u32 row) {
        constexpr u32 W = decltype(width)::VALUE;
        u32 first = row * cols;
        float largest = 0.0f, none = 0.0f;
        for (u32 c = W * lane_index(); c < cols; c += W * WARP) {
            Pack<W> in = load<W>(x, first + c);
#pragma unroll
            for (u32 k = 0; k < W; k++) {
                largest = fmaxf(largest, fabsf(in.at[k]));
                if (is_nan(in.at[k])) none = 1.0f;
            }
        }
        float m = warp_max(largest);
        bool any_none = warp_max(none) > 0.0f;
        for (u32 w = lane_index(); w < words; w += WARP) {
            float four[4] = {};
            if constexpr (W == 4) {
                Pack<4> in = load<4>(x, first + 4 * w);
#pragma unroll
                for (u32 k = 0; k < 4; k++) four[k] = in.at[k];
            } else {
#pragma unroll
                for (u32 k = 0; k < 4; k++)
                    if (4 * w + k < cols) four[k] = x[first + 4 * w + k];
            }
            u32 word = 0;
#pragma unroll
            for (u32 k = 0; k < 4; k++) {
                int number = m > 1e-30f ? static_cast<int>(code(four[k], m)) : 0;
                word |= static_cast<u32>(number & 0xff) << (8 * k);
            }
            codes[row * words + w] = word;
        }
        if (lane_index() == 0) {
            float scale = m > 1e-30f ? __fmul_rn(m, 1.0f / 127.0f) : 0.0f;
            scales[row] = any_none ? __uint_as_float(0x7fc00000) : scale;
        }
    });
}
