// What a batch of pairs learns from beside the contrast: a margin between two matrices of scores, and which negatives are
// hard.
#include "common.cuh"

struct MarginParams { Size rows; Size cols; u32 stride; u32 has_weight; float margin; u32 wants; };

// The larger of 0 and x; NaN for NaN.
__device__ inline float relu(float x) { return x < 0.0f ? 0.0f : x; }

// margin: the weighted mean of relu(margin + low_ii - high_ii), and the sum of the weights.
// Floor: 12 bytes a pair, each from a sector of its own; one small block, bound by latency. Not yet measured on a GPU.
KERNEL margin(
    const float* __restrict__ low, const float* __restrict__ high, const float* __restrict__ weight,
    float* __restrict__ loss, float* __restrict__ total, const u32* counts, MarginParams p
) {
    __shared__ Folds folds;
    Block block(folds);
    if (blockIdx.x > 0) return;
    u32 n = min(p.rows(counts), p.cols(counts));
    float sum = 0.0f, weights = 0.0f;
    for (u32 i = threadIdx.x; i < n; i += THREADS) {
        u32 at = i * p.stride + i;
        float w = p.has_weight == 1 ? weight[i] : 1.0f;
        sum = fmaf(w, relu(p.margin + (low[at] - high[at])), sum);
        weights += w;
    }
    sum = block.sum(sum);
    weights = block.sum(weights);
    if (threadIdx.x == 0) {
        loss[0] = weights == 0.0f ? 0.0f : sum / weights;
        if (p.wants == 1) total[0] = weights;
    }
}

// margin_grad: on the diagonals dlow_ii = dloss w_i / Σ w where the margin is not kept, dhigh_ii = -dlow_ii; 0 elsewhere;
// dweight_i = dloss (relu_i - loss) / Σ w.
// Floor: 8 bytes written an element; bound by bandwidth.
// Layout: a block a row; neighbours take neighbouring columns. Not yet measured on a GPU.
KERNEL margin_grad(
    const float* __restrict__ low, const float* __restrict__ high, const float* __restrict__ weight,
    const float* __restrict__ loss, const float* __restrict__ total, const float* __restrict__ dloss,
    float* __restrict__ dlow, float* __restrict__ dhigh, float* __restrict__ dweight, const u32* counts, MarginParams p
) {
    u32 n = min(p.rows(counts), p.cols(counts));
    float share = total[0] == 0.0f ? 0.0f : dloss[0] / total[0];
    for (u32 i = blockIdx.x; i < n; i += gridDim.x) {
        u32 row = i * p.stride;
        float lacking = p.margin + (low[row + i] - high[row + i]);
        float slope = lacking > 0.0f ? share * (p.has_weight == 1 ? weight[i] : 1.0f) : 0.0f;
        for (u32 j = threadIdx.x; j < n; j += THREADS) {
            dlow[row + j] = i == j ? slope : 0.0f;
            dhigh[row + j] = i == j ? -slope : 0.0f;
        }
        if (threadIdx.x == 0 && p.wants == 1) dweight[i] = share * (relu(lacking) - loss[0]);
    }
}

// A number in the order of the scores: above 1, 1 for a NaN; 0 is left for what is no negative.
__device__ inline u32 ordered(float score) {
    u32 bits = __float_as_uint(score);
    if (is_nan(score)) return 1;
    if (bits == 0x80000000u) return 0x80000000u;
    return bits >> 31 == 1 ? ~bits : bits | 0x80000000u;
}

// hard_negatives: ln(weight) for the negatives of each row that are most similar to it, 0 for the rest; of equal ones the
// lower column comes first, and a NaN behind every number.
// Floor: 8 bytes an element. In fact some 45 readings of a row, all but the first from cache: bound by latency.
// Layout: a block a row. Scores are compared as words in the same order, 0 for what is no negative. The word of the last
// one that is wanted is found bit by bit from the top, a count over the row each; if there are more of that word than are
// wanted, the column of the last is found in the same way.
// Not yet measured on a GPU. To try: the digits of top_k, 8 bits at a time, where rows are long.
struct HardNegatives {
    Size rows; Size cols; u32 stride; u32 has_video; u32 has_caption; u32 items; float share; float log;
};
KERNEL hard_negatives(
    const float* __restrict__ similarity, const u32* __restrict__ video_key, const u32* __restrict__ caption_key,
    float* __restrict__ log_weight, const u32* counts, HardNegatives p
) {
    __shared__ Folds folds;
    Block block(folds);
    u32 n = min(p.rows(counts), p.cols(counts));
    for (u32 i = blockIdx.x; i < n; i += gridDim.x) {
        const float* row = similarity + i * p.stride;
        auto key = [&](u32 j) {
            bool same = p.has_video == 1 && video_key[i] == video_key[j];
            same = same || (p.has_caption == 1 && caption_key[i] == caption_key[j]);
            return i == j || same ? 0 : ordered(row[j]);
        };
        // How many of the first `end` columns a condition holds for; counts are exact in a float.
        auto count = [&](u32 end, auto holds) {
            float found = 0.0f;
            for (u32 j = threadIdx.x; j < end; j += THREADS) found += holds(key(j)) ? 1.0f : 0.0f;
            return static_cast<u32>(block.sum(found));
        };
        u32 negatives = count(n, [](u32 word) { return word > 0; });
        u32 wanted = p.share > 0.0f ? static_cast<u32>(ceilf(p.share * static_cast<float>(negatives))) : p.items;
        wanted = min(wanted, negatives);
        u32 bound = 0;
        for (u32 bit = 0x80000000u; bit > 0; bit >>= 1) {
            u32 higher = bound | bit;
            if (count(n, [higher](u32 word) { return word >= higher; }) >= wanted) bound = higher;
        }
        u32 equal = wanted - min(count(n, [bound](u32 word) { return word > bound; }), wanted);
        // The last column of that word that is taken: fewer than `equal` stand before it.
        u32 last = 0;
        for (u32 bit = 0x80000000u >> __clz(static_cast<int>(n)); bit > 0; bit >>= 1) {
            u32 further = last | bit;
            if (count(min(further, n), [bound](u32 word) { return word == bound; }) < equal) last = further;
        }
        for (u32 j = threadIdx.x; j < n; j += THREADS) {
            u32 word = key(j);
            bool taken = word > bound || (word == bound && j <= last && equal > 0);
            log_weight[i * p.stride + j] = taken && word > 0 && wanted > 0 ? p.log : 0.0f;
        }
    }
}
