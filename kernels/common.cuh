// What every kernel begins with.
//
// A kernel takes its operands in the order of its KernelDef as pointers (null where absent), then the counts of the
// batch, then its parameters as `P`. It runs with THREADS threads a block, strides over the grid in blocks, and writes
// every element below the counts. Sums are taken in a fixed order: no atomics on floats.
#pragma once

typedef unsigned int u32;

constexpr u32 THREADS = 256;
constexpr u32 WARP = 32;
constexpr u32 WARPS = THREADS / WARP;
constexpr u32 ALL = 0xffffffffu;

#define KERNEL extern "C" __global__ void __launch_bounds__(THREADS)

// A length as `Params::size_times` writes it: bit 31 says ragged, bits 28 to 30 the axis, the rest the factor.
struct Size {
    u32 word;
    __device__ u32 operator()(const u32* counts) const {
        if (word >> 31 == 0) return word;
        return counts[word >> 28 & 7] * (word & 0x0fffffff);
    }
};

// The log-weight of what does not take part, and the bound below which it is taken for that; Masks in ARCHITECTURE.md.
constexpr float FLOOR = -1e30f;

// First index and step of a loop over `n` elements by all threads of a one-dimensional grid.
__device__ inline u32 thread_index() { return blockIdx.x * THREADS + threadIdx.x; }
__device__ inline u32 thread_count() { return gridDim.x * THREADS; }
// The same for loops over rows by warps.
__device__ inline u32 warp_index() { return blockIdx.x * WARPS + threadIdx.x / WARP; }
__device__ inline u32 warp_count() { return gridDim.x * WARPS; }
__device__ inline u32 lane_index() { return threadIdx.x % WARP; }

// Sum over a warp, in every lane; always the same order.
__device__ inline float warp_sum(float x) {
#pragma unroll
    for (u32 mask = WARP / 2; mask > 0; mask /= 2) x += __shfl_xor_sync(ALL, x, mask);
    return x;
}

__device__ inline float warp_max(float x) {
#pragma unroll
    for (u32 mask = WARP / 2; mask > 0; mask /= 2) x = fmaxf(x, __shfl_xor_sync(ALL, x, mask));
    return x;
}

// Sum over a block, in every thread. `parts` is shared and holds WARPS floats; it may be used again after the call.
__device__ inline float block_sum(float x, float* parts) {
    x = warp_sum(x);
    if (lane_index() == 0) parts[threadIdx.x / WARP] = x;
    __syncthreads();
    float sum = 0.0f;
#pragma unroll
    for (u32 i = 0; i < WARPS; i++) sum += parts[i];
    __syncthreads();
    return sum;
}

// On bits: compiled code may assume that x != x is never true.
__device__ inline bool is_nan(float x) { return (__float_as_uint(x) & 0x7fffffff) > 0x7f800000; }

__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

constexpr float GELU = 0.7978845608f;

// Functions of one number by the numbers of `UnaryKind::code`.
__device__ inline float unary(u32 kind, float x, float a, float b) {
    switch (kind) {
        case 0: return a * x + b;
        case 1: return is_nan(x) ? x : fmaxf(x, 0.0f);
        case 2: return 0.5f * x * (1.0f + tanhf(GELU * (x + 0.044715f * x * x * x)));
        case 3: return x * sigmoid(1.702f * x);
        case 4: return sigmoid(x);
        case 5: return tanhf(x);
        default: return expf(x);
    }
}

__device__ inline float unary_derivative(u32 kind, float x, float a) {
    switch (kind) {
        case 0: return a;
        case 1: return x > 0.0f ? 1.0f : 0.0f;
        case 2: {
            float t = tanhf(GELU * (x + 0.044715f * x * x * x));
            return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * GELU * (1.0f + 3.0f * 0.044715f * x * x);
        }
        case 3: { float s = sigmoid(1.702f * x); return s + x * 1.702f * s * (1.0f - s); }
        case 4: { float s = sigmoid(x); return s * (1.0f - s); }
        case 5: { float t = tanhf(x); return 1.0f - t * t; }
        default: return expf(x);
    }
}
