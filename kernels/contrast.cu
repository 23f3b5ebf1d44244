// Symmetric InfoNCE over a score matrix, and its gradient. The logits are never written: each pass computes them again.
#include "common.cuh"

// Logits z = exp(log_scale) scores + log_weight, -1e30 where a pair is left out: i ≠ j with the same video or caption.
struct Logits {
    float scale;
    u32 stride;
    // Each null where there are none.
    const u32* __restrict__ video_key;
    const u32* __restrict__ caption_key;
    const float* __restrict__ log_weight;

    __device__ float operator()(float score, u32 i, u32 j) const {
        float z = scale * score;
        if (log_weight) z += log_weight[i * stride + j];
        bool same = video_key && video_key[i] == video_key[j];
        same = same || (caption_key && caption_key[i] == caption_key[j]);
        return same && i != j ? FLOOR : z;
    }
};

// The logits of a kernel with the parameters `p`.
template <class P>
__device__ inline Logits logits(
    P p, const float* log_scale, const u32* video_key, const u32* caption_key, const float* log_weight
) {
    return {
        expf(log_scale[0]),
        p.stride,
        p.has_video == 1 ? video_key : nullptr,
        p.has_caption == 1 ? caption_key : nullptr,
        p.has_weight == 1 ? log_weight : nullptr,
    };
}

// exp of what may be a floor; a NaN stays one.
__device__ inline float share_of(float difference) { return difference < -87.0f ? 0.0f : expf(difference); }

// contrast_rows: the log-sum-exp of every row of logits, and how far it lies above the pair's logit.
// Floor: 4 bytes an element (the second reading comes from cache); bound by bandwidth.
// Layout: a block a row; a thread goes over every 256th column, first for the maximum, then the sum.
// Not yet measured on a GPU. To try: a warp a row below 256 columns.
struct ContrastRows { Size rows; Size cols; u32 stride; u32 has_video; u32 has_caption; u32 has_weight; };
KERNEL contrast_rows(
    const float* __restrict__ scores, const float* __restrict__ log_scale, const u32* __restrict__ video_key,
    const u32* __restrict__ caption_key, const float* __restrict__ log_weight, float* __restrict__ lse,
    float* __restrict__ terms, const u32* counts, ContrastRows p
) {
    __shared__ Folds folds;
    Block block(folds);
    u32 n = min(p.rows(counts), p.cols(counts));
    Logits logit = logits(p, log_scale, video_key, caption_key, log_weight);
    for (u32 i = blockIdx.x; i < n; i += gridDim.x) {
        const float* row = scores + i * p.stride;
        float largest = FLOOR, sum = 0.0f;
#pragma unroll 4
        for (u32 j = threadIdx.x; j < n; j += THREADS) largest = fmaxf(largest, logit(row[j], i, j));
        largest = block.max(largest);
#pragma unroll 4
        for (u32 j = threadIdx.x; j < n; j += THREADS) sum += share_of(logit(row[j], i, j) - largest);
        float logarithm = logf(block.sum(sum));
        if (threadIdx.x == 0) {
            lse[i] = largest + logarithm;
            // Not lse minus the logit: where a pair is sure of itself the two are equal in all but the last digits.
            terms[i] = (largest - logit(row[i], i, i)) + logarithm;
        }
    }
}

// contrast_columns: the log-sum-exp of every column of logits, and how far it lies above the pair's logit.
// Floor: 4 bytes an element (the second reading comes from cache); bound by bandwidth.
// Layout: a block takes 16 columns in 16 strips of rows, which fold at the end.
//
//      16 columns
//     +--------+
//     | 0 0 .. |  strips 0..15, then 0..15 again, ...
//     | 1 1 .. |
//     +--------+
//
// Not yet measured on a GPU. 16 columns are 64 bytes, half of what one request can fetch, but 32 would leave half of
// the multiprocessors idle at 2048 columns.
constexpr u32 SIDE = 16;
static_assert(SIDE * SIDE == THREADS, "16 columns in 16 strips");

struct ContrastColumns { Size rows; Size cols; u32 stride; u32 has_video; u32 has_caption; u32 has_weight; };
KERNEL contrast_columns(
    const float* __restrict__ scores, const float* __restrict__ log_scale, const u32* __restrict__ video_key,
    const u32* __restrict__ caption_key, const float* __restrict__ log_weight, float* __restrict__ lse,
    float* __restrict__ terms, const u32* counts, ContrastColumns p
) {
    __shared__ float strips[SIDE][SIDE];
    u32 n = min(p.rows(counts), p.cols(counts));
    u32 column = threadIdx.x % SIDE, strip = threadIdx.x / SIDE;
    Logits logit = logits(p, log_scale, video_key, caption_key, log_weight);
    for (u32 first = blockIdx.x * SIDE; first < n; first += gridDim.x * SIDE) {
        u32 j = first + column;
        u32 end = j < n ? n : 0;
        float largest = FLOOR, sum = 0.0f;
#pragma unroll 4
        for (u32 i = strip; i < end; i += SIDE) largest = fmaxf(largest, logit(scores[i * p.stride + j], i, j));
        strips[strip][column] = largest;
        __syncthreads();
#pragma unroll
        for (u32 s = 0; s < SIDE; s++) largest = fmaxf(largest, strips[s][column]);
        __syncthreads();
#pragma unroll 4
        for (u32 i = strip; i < end; i += SIDE) sum += share_of(logit(scores[i * p.stride + j], i, j) - largest);
        strips[strip][column] = sum;
        __syncthreads();
        if (strip == 0 && j < n) {
            float total = 0.0f;
#pragma unroll
            for (u32 s = 0; s < SIDE; s++) total += strips[s][column];
            float logarithm = logf(total);
            lse[j] = largest + logarithm;
            terms[j] = (largest - logit(scores[j * p.stride + j], j, j)) + logarithm;
        }
        __syncthreads();
    }
}

// contrast_loss: half the mean of the rows' terms plus half the mean of the columns'; 0 for an empty batch.
// Floor: 8 bytes a row; one small block, bound by latency. Not yet measured on a GPU.
struct ContrastLoss { Size rows; Size cols; };
KERNEL contrast_loss(
    const float* __restrict__ row_terms, const float* __restrict__ col_terms, float* __restrict__ loss,
    const u32* counts, ContrastLoss p
) {
    __shared__ Folds folds;
    Block block(folds);
    if (blockIdx.x > 0) return;
    u32 n = min(p.rows(counts), p.cols(counts));
    float sum = 0.0f;
    for (u32 i = threadIdx.x; i < n; i += THREADS) sum += row_terms[i] + col_terms[i];
    sum = block.sum(sum);
    if (threadIdx.x == 0) loss[0] = sum / static_cast<float>(max(2 * n, 1u));
}

// contrast_grad: dz = dloss / 2N (exp(z - row_lse) + exp(z - col_lse) - 2 on the diagonal); dscores = scale dz,
// dlog_weight = dz, and each row's part of the gradient of log_scale.
// Floor: 8 bytes an element; bound by bandwidth.
// Layout: a block a row; neighbours take neighbouring columns, a thread 4 scores at a time, so that several are on
// their way at once. dscores may lie in the place of scores: each thread rewrites only what it has read itself.
// Not yet measured on a GPU.
struct ContrastGrad {
    Size rows; Size cols; u32 stride; u32 has_video; u32 has_caption; u32 has_weight; u32 wants_weight;
};
KERNEL contrast_grad(
    const float* scores, const float* __restrict__ log_scale, const u32* __restrict__ video_key,
    const u32* __restrict__ caption_key, const float* __restrict__ log_weight, const float* __restrict__ row_lse,
    const float* __restrict__ col_lse, const float* __restrict__ dloss, float* dscores, float* dlog_weight,
    float* terms, const u32* counts, ContrastGrad p
) {
    constexpr u32 AHEAD = 4;
    __shared__ Folds folds;
    Block block(folds);
    u32 n = min(p.rows(counts), p.cols(counts));
    Logits logit = logits(p, log_scale, video_key, caption_key, log_weight);
    float share = dloss[0] / static_cast<float>(max(2 * n, 1u));
    for (u32 i = blockIdx.x; i < n; i += gridDim.x) {
        u32 row = i * p.stride;
        float own = row_lse[i], sum = 0.0f;
        for (u32 first = threadIdx.x; first < n; first += AHEAD * THREADS) {
            float score[AHEAD];
#pragma unroll
            for (u32 k = 0; k < AHEAD; k++) {
                u32 j = first + k * THREADS;
                score[k] = j < n ? scores[row + j] : 0.0f;
            }
#pragma unroll
            for (u32 k = 0; k < AHEAD; k++) {
                u32 j = first + k * THREADS;
                if (j >= n) break;
                float z = logit(score[k], i, j);
                float dz = share * (share_of(z - own) + share_of(z - col_lse[j]) - (i == j ? 2.0f : 0.0f));
                sum = fmaf(dz, score[k], sum);
                dscores[row + j] = logit.scale * dz;
                if (p.wants_weight == 1) dlog_weight[row + j] = dz;
            }
        }
        sum = block.sum(sum);
        if (threadIdx.x == 0) terms[i] = logit.scale * sum;
    }
}

// contrast_scale: the gradient of log_scale, from the rows' parts.
// Floor: 4 bytes a row; one small block, bound by latency. Not yet measured on a GPU.
struct ContrastScale { Size rows; Size cols; };
KERNEL contrast_scale(
    const float* __restrict__ terms, float* __restrict__ dlog_scale, const u32* counts, ContrastScale p
) {
    __shared__ Folds folds;
    Block block(folds);
    if (blockIdx.x > 0) return;
    u32 n = min(p.rows(counts), p.cols(counts));
    float sum = 0.0f;
    for (u32 i = threadIdx.x; i < n; i += THREADS) sum += terms[i];
    sum = block.sum(sum);
    if (threadIdx.x == 0) dlog_scale[0] = sum;
}
