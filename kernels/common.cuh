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

// A kernel of which a processor should hold at least `blocks` blocks: so many registers the compiler may use. Left to
// itself, ptxas spills some of them to make room for one more block.
#define KERNEL_OF(blocks) extern "C" __global__ void __launch_bounds__(THREADS, blocks)

// A length as `Params::size_times` writes it: bit 31 says ragged, bits 28 to 30 the axis, the rest the factor.
struct Size {
    u32 word;
    __device__ u32 operator()(const u32* counts) const {
        if (word >> 31 == 0) return word;
        return counts[word >> 28 & 7] * (word & 0x0fffffff);
    }
};

// The log-weight of what does not take part, and the bound below which it is taken for that; the rules in ARCHITECTURE.md.
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

// Shared memory of a Block.
struct Folds {
    float of_warps[2][WARPS];
};

// Sums and maxima over a block, in every thread, at one barrier each: two buffers take turns, and who writes one has
// passed the barrier before which everybody had read it.
class Block {
    Folds& folds;
    u32 turn = 0;

    template <class Fold>
    __device__ float all(float of_warp, Fold fold) {
        float* parts = folds.of_warps[turn];
        turn ^= 1;
        if (lane_index() == 0) parts[threadIdx.x / WARP] = of_warp;
        __syncthreads();
        float whole = parts[0];
#pragma unroll
        for (u32 i = 1; i < WARPS; i++) whole = fold(whole, parts[i]);
        return whole;
    }

public:
    __device__ explicit Block(Folds& folds) : folds(folds) {}
    __device__ float sum(float x) {
        return all(warp_sum(x), [](float a, float b) { return a + b; });
    }
    // At least FLOOR; a NaN is passed over.
    __device__ float max(float x) {
        return all(warp_max(fmaxf(x, FLOOR)), [](float a, float b) { return fmaxf(a, b); });
    }
};

// Blocks that sum columns hold COLUMNS of them in STRIPS strips of rows: thread t has column t % COLUMNS and strip
// t / COLUMNS.
constexpr u32 COLUMNS = 64;
constexpr u32 STRIPS = THREADS / COLUMNS;
__device__ inline u32 column_index() { return threadIdx.x % COLUMNS; }
__device__ inline u32 strip_index() { return threadIdx.x / COLUMNS; }

// Sums over the strips of a column, in every thread of it; two buffers take turns as in Block.
class Strips {
    float (&parts)[2][THREADS];
    u32 turn = 0;

public:
    __device__ explicit Strips(float (&parts)[2][THREADS]) : parts(parts) {}
    __device__ float sum(float x) {
        float* mine = parts[turn];
        turn ^= 1;
        mine[threadIdx.x] = x;
        __syncthreads();
        float sum = 0.0f;
#pragma unroll
        for (u32 i = 0; i < STRIPS; i++) sum += mine[i * COLUMNS + column_index()];
        return sum;
    }
};

// W neighbouring numbers that are read and written at once. With W = 4 the place must be a multiple of 4: operands
// begin at multiples of 256 bytes, and rows do so where their length is a multiple of 4.
template <u32 W>
struct alignas(4 * W) Pack {
    float at[W];
};
// W as a type: what a generic lambda can take.
template <u32 W>
struct Width {
    static constexpr u32 VALUE = W;
};
template <u32 W>
__device__ inline Pack<W> load(const float* x, u32 i) { return *reinterpret_cast<const Pack<W>*>(x + i); }
template <u32 W>
__device__ inline void store(float* y, u32 i, Pack<W> value) { *reinterpret_cast<Pack<W>*>(y + i) = value; }

// y[i] = f(x[i]..) for every i below n, four at a time. An x may be y.
template <class F, class... X>
__device__ inline void map(u32 n, float* y, F f, const X*... x) {
    u32 packs = n / 4, i = thread_index();
    if (i < n % 4) y[4 * packs + i] = f(x[4 * packs + i]...);
    for (; i < packs; i += thread_count()) {
        auto each = [f](auto... in) {
            Pack<4> out;
#pragma unroll
            for (u32 k = 0; k < 4; k++) out.at[k] = f(in.at[k]...);
            return out;
        };
        store<4>(y, 4 * i, each(load<4>(x, 4 * i)...));
    }
}

// `body(width, row)` for each row, by warps; the width is a type, Width<4> or Width<1>.
template <class F>
__device__ inline void each_row(u32 rows, u32 cols, F body) {
    if (cols % 4 == 0) {
        for (u32 row = warp_index(); row < rows; row += warp_count()) body(Width<4>{}, row);
    } else {
        for (u32 row = warp_index(); row < rows; row += warp_count()) body(Width<1>{}, row);
    }
}

// A thread's share of a sum over x[begin..begin + length] by a block: f(element, sum so far), beginning at 0. Four sums
// run side by side, and are added in a fixed order.
template <class F>
__device__ inline float part_sum(const float* __restrict__ x, u32 begin, u32 length, F f) {
    u32 packs = begin % 4 == 0 ? length / 4 : 0;
    Pack<4> sums = {};
#pragma unroll 4
    for (u32 i = threadIdx.x; i < packs; i += THREADS) {
        Pack<4> in = load<4>(x, begin + 4 * i);
#pragma unroll
        for (u32 k = 0; k < 4; k++) sums.at[k] = f(in.at[k], sums.at[k]);
    }
    for (u32 i = 4 * packs + threadIdx.x; i < length; i += THREADS) sums.at[0] = f(x[begin + i], sums.at[0]);
    return (sums.at[0] + sums.at[1]) + (sums.at[2] + sums.at[3]);
}

// On bits: compiled code may assume that x != x is never true.
__device__ inline bool is_nan(float x) { return (__float_as_uint(x) & 0x7fffffff) > 0x7f800000; }

__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

constexpr float GELU = 0.7978845608f;

// The distribution function of a normal number: with z = |x| / sqrt(2) it is 1 - erfc(z) / 2 or erfc(z) / 2, of which the
// rational Chebyshev fit of Numerical Recipes (section 6.2) has a relative error of 1.2e-7 everywhere.
__device__ inline float normal_below(float x) {
    float z = fabsf(x) * 0.7071067812f;
    float t = 1.0f / (1.0f + 0.5f * z);
    float fit = -1.26551223f + t * (1.00002368f + t * (0.37409196f + t * (0.09678418f + t * (-0.18628806f + t * (0.27886807f +
        t * (-1.13520398f + t * (1.48851587f + t * (-0.82215223f + t * 0.17087277f))))))));
    float beyond = 0.5f * t * expf(fit - z * z);
    return x < 0.0f ? beyond : 1.0f - beyond;
}

// Functions of one number by the numbers of `UnaryKind::code`.
__device__ inline float unary(u32 kind, float x, float a, float b) {
    switch (kind) {
        case 0: return a * x + b;
        case 1: return is_nan(x) ? x : fmaxf(x, 0.0f);
        case 2: return 0.5f * x * (1.0f + tanhf(GELU * (x + 0.044715f * x * x * x)));
        case 3: return x * sigmoid(1.702f * x);
        case 4: return x * normal_below(x);
        case 5: return sigmoid(x);
        case 6: return tanhf(x);
        case 7: return expf(x);
        // max(x, 0) + ln(1 + e^-|x|); the sum, not a maximum, keeps a NaN.
        default: return (x < 0.0f ? 0.0f : x) + log1pf(expf(-fabsf(x)));
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
        case 4: return normal_below(x) + x * 0.3989422804f * expf(-0.5f * x * x);
        case 5: { float s = sigmoid(x); return s * (1.0f - s); }
        case 6: { float t = tanhf(x); return 1.0f - t * t; }
        case 7: return expf(x);
        default: return sigmoid(x);
    }
}
