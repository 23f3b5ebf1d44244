// The optimiser: clipping by the norm of all gradients, and AdamW over one flat vector.
#include "common.cuh"

// norm_parts: the norm of every part of `part` gradients: the first stage of the norm of all.
// Floor: 4 bytes an element; bound by bandwidth.
// Layout: a block a part, as in mean_parts. Not yet measured on a GPU.
struct NormParts { Size n; u32 part; };
KERNEL norm_parts(const float* __restrict__ grads, float* __restrict__ norms, const u32* counts, NormParts p) {
    __shared__ Folds folds;
    Block block(folds);
    u32 n = p.n(counts);
    u32 parts = (n + p.part - 1) / p.part;
    for (u32 part = blockIdx.x; part < parts; part += gridDim.x) {
        u32 begin = part * p.part;
        float sum = part_sum(grads, begin, min(p.part, n - begin), [](float g, float sum) { return fmaf(g, g, sum); });
        sum = block.sum(sum);
        if (threadIdx.x == 0) norms[part] = sqrtf(sum);
    }
}

// clip_norm: the norm of all gradients from the norms of the parts, and the factor min(1, max / (norm + 1e-6)).
// Floor: 4 bytes a part; one small block, bound by latency. A NaN is passed on: fminf would turn it into 1.
// Not yet measured on a GPU.
struct ClipNorm { Size n; u32 part; float max_norm; };
KERNEL clip_norm(
    const float* __restrict__ norms, float* __restrict__ scale, float* __restrict__ norm, const u32* counts, ClipNorm p
) {
    __shared__ Folds folds;
    Block block(folds);
    if (blockIdx.x > 0) return;
    u32 parts = (p.n(counts) + p.part - 1) / p.part;
    float sum = 0.0f;
    for (u32 i = threadIdx.x; i < parts; i += THREADS) sum = fmaf(norms[i], norms[i], sum);
    float all = sqrtf(block.sum(sum));
    if (threadIdx.x == 0) {
        scale[0] = is_nan(all) ? all : fminf(1.0f, p.max_norm / (all + 1e-6f));
        norm[0] = all;
    }
}

// adam_w: one step of AdamW over a flat vector with settings by ranges of elements; see op/optim.rs.
// Floor: 28 bytes an element (four read, three written); bound by bandwidth.
// Layout: a thread takes four neighbours. It finds the first one's range by bisection in a table that stays cached, and
// goes on from there: ranges ascend. All three outputs may lie in their inputs' places. The limits test for NaN on
// bits, so that a NaN stays one. Not yet measured on a GPU.
struct AdamW { Size n; Size groups; float beta1; float rest1; float beta2; float rest2; float eps; };

// A range of elements and its settings; behind the last one, a range that nothing is in.
struct Range {
    u32 at, begin, end;
    float factor, decay, smallest, largest;

    __device__ void read(u32 number, u32 groups, const u32* ranges, const float* factors) {
        at = number;
        begin = end = 0xffffffffu;
        factor = decay = smallest = largest = 0.0f;
        if (number >= groups) return;
        begin = ranges[2 * number];
        end = ranges[2 * number + 1];
        Pack<4> settings = load<4>(factors, 4 * number);
        factor = settings.at[0];
        decay = settings.at[1];
        smallest = settings.at[2];
        largest = settings.at[3];
    }
};

// The first range that ends behind element i, or the number of ranges.
__device__ inline u32 range_at(u32 i, u32 groups, const u32* ranges) {
    u32 low = 0, high = groups;
    while (low < high) {
        u32 middle = (low + high) / 2;
        if (ranges[2 * middle + 1] <= i) low = middle + 1;
        else high = middle;
    }
    return low;
}

// What is the same for all elements: the settings, the gradients' factor, the learning rate and the corrections.
struct Step {
    AdamW p;
    float clip, rate, correction1, correction2;

    __device__ void operator()(const Range& range, float gradient, float& weight, float& first, float& second) const {
        float g = gradient * clip;
        first = fmaf(p.beta1, first, p.rest1 * g);
        second = fmaf(p.beta2, second, p.rest2 * g * g);
        float step = first * correction1 / (sqrtf(second * correction2) + p.eps);
        weight = fmaf(fmaf(range.decay, weight, step), -(rate * range.factor), weight);
        if (!is_nan(weight)) weight = fminf(fmaxf(weight, range.smallest), range.largest);
    }
};

KERNEL adam_w(
    const float* params, const float* m, const float* v, const float* __restrict__ grads,
    const float* __restrict__ clip, const float* __restrict__ scalars, const u32* __restrict__ ranges,
    const float* __restrict__ factors, float* new_params, float* new_m, float* new_v, const u32* counts, AdamW p
) {
    u32 n = p.n(counts), groups = p.groups(counts);
    Step step = {p, clip[0], scalars[0], scalars[1], scalars[2]};
    // Four neighbours at once, and the last few one by one.
    auto some = [&](auto width, u32 i) {
        constexpr u32 W = decltype(width)::VALUE;
        Pack<W> gradient = load<W>(grads, i), weight = load<W>(params, i);
        Pack<W> first = load<W>(m, i), second = load<W>(v, i);
        Range range;
        range.read(range_at(i, groups, ranges), groups, ranges, factors);
#pragma unroll
        for (u32 k = 0; k < W; k++) {
            while (range.at < groups && range.end <= i + k) range.read(range.at + 1, groups, ranges, factors);
            if (range.begin <= i + k) step(range, gradient.at[k], weight.at[k], first.at[k], second.at[k]);
        }
        store<W>(new_params, i, weight);
        store<W>(new_m, i, first);
        store<W>(new_v, i, second);
    };
    u32 packs = n / 4, i = thread_index();
    if (i < n % 4) some(Width<1>{}, 4 * packs + i);
    for (; i < packs; i += thread_count()) some(Width<4>{}, 4 * i);
}
