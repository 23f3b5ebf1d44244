// linear: y = act(A·B + bias) + residual, any of A and B transposed. linear_bf16: the same with A and B rounded to
// bf16, products and sums in f32.
//
// Floor: 2·m·n·k FLOPs. linear is bound by f32 arithmetic (67 TFLOP/s on an H200); linear_bf16 by what passes from L2
// to shared memory: a tile reads 512 bytes for 8,192 FLOPs.
// Layout: a block a tile of 64 x 64; see tile.cuh.
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
        default: return x;
    }
}

// Bias, activation and residual for N neighbours of row r from column c on. The residual may be y itself.
template <u32 N>
__device__ inline void finish(const Linear& p, u32 m, u32 n, u32 r, u32 c, const float (&sum)[N],
                              const float* bias, const float* residual, float* y) {
    if (r >= m || c >= n) return;
    float value[N];
    size_t at = size_t(r) * p.ldy + c;
#pragma unroll
    for (u32 j = 0; j < N; j++) {
        value[j] = sum[j];
        if (c + j >= n) continue;
        if (p.has_bias) value[j] += bias[c + j];
        value[j] = activate(p.activation, value[j]);
        if (p.has_residual) value[j] += residual[at + j];
    }
    store_row(y + at, value, n - c, p.ldy % N == 0 && reinterpret_cast<size_t>(y) % (4 * N) == 0);
}

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
#pragma unroll
            for (u32 i = 0; i < 4; i++)
                finish(p, m, n, row0 + own_row() + i, col0 + own_column(), sum[i], bias, residual, y);
        }
    }
}

KERNEL linear_bf16(const float* __restrict__ a, const float* __restrict__ b, const float* __restrict__ bias,
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
            u32 row = row0 + warp_row() + lane_index() / 4, col = col0 + warp_column() + lane_index() % 4 * 2;
#pragma unroll
            for (u32 i = 0; i < 2; i++)
#pragma unroll
                for (u32 j = 0; j < 2; j++) {
                    float upper[2] = {sum[i][j][0], sum[i][j][1]}, lower[2] = {sum[i][j][2], sum[i][j][3]};
                    finish(p, m, n, row + 16 * i, col + 8 * j, upper, bias, residual, y);
                    finish(p, m, n, row + 16 * i + 8, col + 8 * j, lower, bias, residual, y);
                }
        }
    }
}
