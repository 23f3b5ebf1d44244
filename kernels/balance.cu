// How evenly a batch uses its experts, and how large the routers' logits grow.
#include "common.cuh"

constexpr u32 EXPERTS = 64;

// The text whose video has the row, or their number if none has: segments are in order.
__device__ inline u32 text_of(const u32* __restrict__ segments, u32 row, u32 texts) {
    u32 low = 0, high = texts;
    while (low < high) {
        u32 middle = (low + high) / 2;
        if (segments[2 * middle + 1] <= row) low = middle + 1;
        else high = middle;
    }
    return low < texts && segments[2 * low] <= row ? low : texts;
}

// exp of what is at most about 0; a NaN stays one.
__device__ inline float share_of(float difference) { return difference < -87.0f ? 0.0f : expf(difference); }

// The gates of one frame; logits are read again for each number, all but the first time from cache.
struct Frame {
    const float* __restrict__ text;
    const float* __restrict__ frame;
    u32 experts;
    float top;        // the largest logit
    float logarithm;  // of the sum of exponentials above it
    u32 largest;

    __device__ Frame(const float* text, const float* frame, u32 experts)
        : text(text), frame(frame), experts(experts), top(experts > 0 ? logit(0) : 0.0f), largest(0) {
        for (u32 e = 1; e < experts; e++) {
            if (logit(e) > top) {
                top = logit(e);
                largest = e;
            }
        }
        float total = 0.0f;
        for (u32 e = 0; e < experts; e++) total += share_of(logit(e) - top);
        logarithm = logf(total);
    }
    __device__ float logit(u32 e) const { return text[e] + frame[e]; }
    __device__ float gate(u32 e) const { return share_of(logit(e) - top - logarithm); }
    __device__ float lse() const { return top + logarithm; }
};

// balance_parts: for each 256 frames the sums of their gates, how often each expert has the largest logit, the sum of
// squared log-sum-exps, and how many frames belong to a text.
// Floor: 4 bytes a logit; bound by latency at the sizes of a batch (8192 frames of 16 experts are 0.5 MB).
// Layout: a block takes 256 frames, a thread each; then a sum over the block for each number.
//
//   part: | sums of gates, K | counts of largest, K | squares | frames |
//
// Not yet measured on a GPU. To try: a part a warp, so that more blocks share the work.
struct BalanceParts { Size rows; Size texts; u32 experts; };
KERNEL balance_parts(
    const float* __restrict__ text_logits, const float* __restrict__ frame_logits, const u32* __restrict__ segments,
    float* __restrict__ parts, const u32* counts, BalanceParts p
) {
    __shared__ Folds folds;
    Block block(folds);
    u32 rows = p.rows(counts), texts = p.texts(counts), k = p.experts;
    for (u32 part = blockIdx.x; part * THREADS < rows; part += gridDim.x) {
        u32 row = part * THREADS + threadIdx.x;
        u32 text = row < rows ? text_of(segments, row, texts) : texts;
        bool there = text < texts;
        // Who has no frame looks at none.
        Frame frame(text_logits + (there ? text : 0) * k, frame_logits + (there ? row : 0) * k, there ? k : 0);
        float* sums = parts + part * (2 * k + 2);
        for (u32 e = 0; e < k; e++) {
            float gates = block.sum(there ? frame.gate(e) : 0.0f);
            float largest = block.sum(there && frame.largest == e ? 1.0f : 0.0f);
            if (threadIdx.x == 0) {
                sums[e] = gates;
                sums[k + e] = largest;
            }
        }
        float squares = block.sum(there ? frame.lse() * frame.lse() : 0.0f);
        float frames = block.sum(there ? 1.0f : 0.0f);
        if (threadIdx.x == 0) {
            sums[2 * k] = squares;
            sums[2 * k + 1] = frames;
        }
    }
}

// balance: the losses from the sums of the parts: K Σ f_k P_k, the mean square of the log-sum-exps, the shares f.
// Floor: 8 K bytes a part; one small block, bound by latency.
// Layout: a thread a number of a part, which adds the parts in their order; the first one adds what is left.
// Not yet measured on a GPU.
struct Balance { Size rows; Size texts; u32 experts; u32 wants_share; u32 wants_frames; };
KERNEL balance(
    const float* __restrict__ parts, float* __restrict__ balance, float* __restrict__ z, float* __restrict__ share,
    float* __restrict__ frames, const u32* counts, Balance p
) {
    __shared__ float sums[2 * EXPERTS + 2];
    if (blockIdx.x > 0) return;
    u32 k = p.experts, numbers = 2 * k + 2;
    u32 count = (p.rows(counts) + THREADS - 1) / THREADS;
    if (threadIdx.x < numbers) {
        float sum = 0.0f;
        for (u32 i = 0; i < count; i++) sum += parts[i * numbers + threadIdx.x];
        sums[threadIdx.x] = sum;
    }
    __syncthreads();
    float all = sums[2 * k + 1], n = fmaxf(all, 1.0f);
    if (threadIdx.x < k && p.wants_share == 1) share[threadIdx.x] = sums[k + threadIdx.x] / n;
    if (threadIdx.x == 0) {
        float even = 0.0f;
        for (u32 e = 0; e < k; e++) even = fmaf(sums[k + e] / n, sums[e] / n, even);
        balance[0] = static_cast<float>(k) * even;
        z[0] = sums[2 * k] / n;
        if (p.wants_frames == 1) frames[0] = all;
    }
}

// balance_grad: dframe_logits = gate (dbalance K (f_k - Σ f_e gate_e) + dz 2 lse) / frames; 0 for nobody's frames.
// Floor: 8 bytes a logit (the other readings come from cache); bound by latency at the sizes of a batch.
// Layout: a thread a frame. Not yet measured on a GPU. To try: a row's experts across neighbouring threads, so that
// stores are whole sectors.
struct BalanceGrad { Size rows; Size texts; u32 experts; u32 has_balance; u32 has_z; };
KERNEL balance_grad(
    const float* __restrict__ text_logits, const float* __restrict__ frame_logits, const u32* __restrict__ segments,
    const float* __restrict__ share, const float* __restrict__ frames, const float* __restrict__ dbalance,
    const float* __restrict__ dz, float* __restrict__ dframe_logits, const u32* counts, BalanceGrad p
) {
    u32 rows = p.rows(counts), texts = p.texts(counts), k = p.experts;
    float n = fmaxf(frames[0], 1.0f);
    float even = p.has_balance == 1 ? dbalance[0] * static_cast<float>(k) / n : 0.0f;
    float growth = p.has_z == 1 ? dz[0] * 2.0f / n : 0.0f;
    for (u32 row = thread_index(); row < rows; row += thread_count()) {
        float* d = dframe_logits + row * k;
        u32 text = text_of(segments, row, texts);
        if (text == texts) {
            for (u32 e = 0; e < k; e++) d[e] = 0.0f;
            continue;
        }
        Frame frame(text_logits + text * k, frame_logits + row * k, k);
        float mean = 0.0f;
        for (u32 e = 0; e < k; e++) mean = fmaf(share[e], frame.gate(e), mean);
        for (u32 e = 0; e < k; e++) d[e] = frame.gate(e) * fmaf(even, share[e] - mean, growth * frame.lse());
    }
}
