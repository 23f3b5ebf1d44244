// linear: y = act(A·B + bias) + residual, any of A and B transposed. linear_bf16: the same with A and B rounded to
// bf16, products and sums in f32. linear_int8: A and Bᵀ are rows of codes of int8, four a word, with a scale each; sums
// of products in i32, then act(scale_a scale_b sum + bias) + residual.
//
// Floor: 2·m·n·k FLOPs. linear is bound by f32 arithmetic (67 TFLOP/s on an H200); linear_bf16 by what passes from L2
// to shared memory: a tile reads 512 bytes for 8,192 FLOPs.
// Layout: a block a tile of 64 x 64; see tile.cuh. Registers stand in ptx/RESOURCES.md; nothing is spilled.
// linear_int8 takes the tiles of linear, a word in the place of a number: a DP4A, of which an SM does 64 a cycle, is
// four products. Tensor cores (mma.m16n8k32 of s8) would do 16 times as many; the tile would be that of bf16.
// Not measured yet; predicted on an H200: 40 TFLOP/s and, with 5.5 TB/s from L2, at most 88 TFLOP/s; linear_int8 at
// most 130 TOP/s.
#include "tile.cuh"

struct Linear {
    Size m, n, k;
    u32 lda, ldb, ldy;
    u32 a_t, b_t, activation, has_bias, has_residual;
};

__device__ inline float activate(u32 kind, float x) {
    switch (kind) {
        case 1: return unary(1, x, 0.0f, 0.0f);
        case 2: return unary(2, x, 0.0f, 0.0f);
        case 3: return unary(3, x, 0.0f, 0.0f);
        case 4: return unary(4, x, 0.0f, 0.0f);
        default: return x;
    }
}

// Bias, activation and residual for a finished tile, whose numbers `scale` changes first. The residual may be y itself.
template <class P, class Scale>
__device__ inline void finish(const P& p, u32 m, u32 n, u32 row0, u32 col0, const float* tile, const float* bias,
                              const float* residual, float* y, Scale scale) {
    bool aligned = p.ldy % 4 == 0 && reinterpret_cast<size_t>(y) % 16 == 0;
    by_four(tile, [&](u32 r, u32 c, float (&x)[4]) {
        r += row0, c += col0;
        if (r >= m || c >= n) return;
        size_t at = size_t(r) * p.ldy + c;
#pragma unroll
        for (u32 j = 0; j < 4; j++) {
            if (c + j >= n) continue;
            x[j] = scale(x[j], r, c + j);
            if (p.has_bias) x[j] += bias[c + j];
            x[j] = activate(p.activation, x[j]);
            if (p.has_residual) x[j] += residual[at + j];
        }
        store_four(y + at, x, n - c, aligned);
    });
}

struct Plain {
    __device__ float operator()(float sum, u32, u32) const { return sum; }
};

struct Yes { static constexpr bool value = true; };
struct No { static constexpr bool value = false; };

// Calls work(A lies along, B lies along) with constants.
template <class Work> __device__ inline void by_layout(const Linear& p, Work work) {
    if (p.a_t == 0) {
        if (p.b_t == 0) work(Yes{}, No{});
        else work(Yes{}, Yes{});
    } else {
        if (p.b_t == 0) work(No{}, No{});
        else work(No{}, Yes{});
    }
}

KERNEL linear(const float* __restrict__ a, const float* __restrict__ b, const float* __restrict__ bias,
                 const float* residual, float* y, const u32* __restrict__ counts, Linear p) {
    __shared__ Stages stages;
    u32 m = p.m(counts), n = p.n(counts), k = p.k(counts);
    Matrix left = {a, m, k, p.lda}, right = {b, n, k, p.ldb};
    for (u32 row0 = blockIdx.y * TILE; row0 < m; row0 += gridDim.y * TILE) {
        for (u32 col0 = blockIdx.x * TILE; col0 < n; col0 += gridDim.x * TILE) {
            float sum[4][4] = {};
            by_layout(p, [&](auto a_along, auto b_along) {
                tile_product<a_along.value, b_along.value>(left, right, row0, col0, stages, sum);
            });
            finish(p, m, n, row0, col0, put_tile(stages, sum), bias, residual, y, Plain{});
        }
    }
}

KERNEL_OF(4) linear_bf16(const float* __restrict__ a, const float* __restrict__ b, const float* __restrict__ bias,
                      const float* residual, float* y, const u32* __restrict__ counts, Linear p) {
    __shared__ Bf16Stages stages;
    u32 m = p.m(counts), n = p.n(counts), k = p.k(counts);
    Matrix left = {a, m, k, p.lda}, right = {b, n, k, p.ldb};
    for (u32 row0 = blockIdx.y * TILE; row0 < m; row0 += gridDim.y * TILE) {
        for (u32 col0 = blockIdx.x * TILE; col0 < n; col0 += gridDim.x * TILE) {
            float sum[2][2][4] = {};
            by_layout(p, [&](auto a_along, auto b_along) {
                bf16_tile_product<a_along.value, b_along.value>(left, right, row0, col0, stages, sum);
            });
            finish(p, m, n, row0, col0, put_tile(stages, sum), bias, residual, y, Plain{});
        }
    }
}

struct LinearInt8 {
    Size m, n;
    u32 words, ldy;
    u32 activation, has_bias, has_residual;
};

KERNEL linear_int8(const u32* __restrict__ a, const float* __restrict__ scales_a, const u32* __restrict__ b,
                   const float* __restrict__ scales_b, const float* __restrict__ bias, const float* residual, float* y,
                   u32* /* panels */, const u32* __restrict__ counts, LinearInt8 p) {
    __shared__ Stages stages;
    u32 m = p.m(counts), n = p.n(counts);
    Matrix left = {reinterpret_cast<const float*>(a), m, p.words, p.words};
    Matrix right = {reinterpret_cast<const float*>(b), n, p.words, p.words};
    for (u32 row0 = blockIdx.y * TILE; row0 < m; row0 += gridDim.y * TILE) {
        for (u32 col0 = blockIdx.x * TILE; col0 < n; col0 += gridDim.x * TILE) {
            int sum[4][4] = {};
            tile_product<true, true>(left, right, row0, col0, stages, sum);
            float sums[4][4];
#pragma unroll
            for (u32 i = 0; i < 4; i++)
#pragma unroll
                for (u32 j = 0; j < 4; j++) sums[i][j] = static_cast<float>(sum[i][j]);
            auto scale = [&](float x, u32 r, u32 c) { return x * (scales_a[r] * scales_b[c]); };
            finish(p, m, n, row0, col0, put_tile(stages, sums), bias, residual, y, scale);
        }
    }
}
