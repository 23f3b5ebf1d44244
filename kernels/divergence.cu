// How far the soft-maxes over scores are from uniform, and from those over other scores. Logits and probabilities are
// never written: each pass computes them again. Differences of scores are scaled, not scaled scores subtracted: what all
// scores of a line have in common costs no digits.
#include "common.cuh"

struct Matrix { Size rows; Size cols; u32 stride; };

// exp of what is at most about 0; a NaN stays one.
__device__ inline float share_of(float difference) { return difference < -87.0f ? 0.0f : expf(difference); }

// Columns go in blocks of 16, each in 16 strips of rows, which fold at the end.
//
//      16 columns
//     +--------+
//     | 0 0 .. |  strips 0..15, then 0..15 again, ...
//     | 1 1 .. |
//     +--------+
constexpr u32 SIDE = 16;
static_assert(SIDE * SIDE == THREADS, "16 columns in 16 strips");

// Folds over the strips of a column, in every thread of it; two buffers take turns as in Block.
class Folded {
    float (&parts)[2][SIDE][SIDE];
    u32 turn = 0;

    template <class Fold>
    __device__ float all(float x, Fold fold) {
        float (&mine)[SIDE][SIDE] = parts[turn];
        turn ^= 1;
        u32 column = threadIdx.x % SIDE;
        mine[threadIdx.x / SIDE][column] = x;
        __syncthreads();
        float whole = mine[0][column];
#pragma unroll
        for (u32 s = 1; s < SIDE; s++) whole = fold(whole, mine[s][column]);
        return whole;
    }

public:
    __device__ explicit Folded(float (&parts)[2][SIDE][SIDE]) : parts(parts) {}
    __device__ float sum(float x) {
        return all(x, [](float a, float b) { return a + b; });
    }
    __device__ float max(float x) {
        return all(x, [](float a, float b) { return fmaxf(a, b); });
    }
};

// The log-sum-exp of a line's logits and how far it lies above that of equal ones; 0 for an empty line. A line is seen
// through `each(f)`, which calls f(score) for a thread's share, and `fold`, which joins the threads.
template <class Each, class Fold>
__device__ inline void uniformity_line(Each each, Fold& fold, float scale, u32 length, bool first, float* lse, float* term) {
    float largest = FLOOR, sum = 0.0f, below = 0.0f;
    each([&](float score) { largest = fmaxf(largest, score); });
    largest = fold.max(largest);
    each([&](float score) {
        float d = scale * (score - largest);
        below += d;
        sum += share_of(d);
    });
    sum = fold.sum(sum);
    below = fold.sum(below);
    if (!first) return;
    float n = static_cast<float>(length);
    *lse = length > 0 ? fmaf(scale, largest, logf(sum)) : 0.0f;
    *term = length > 0 ? logf(sum / n) - below / n : 0.0f;
}

// uniformity_rows: the log-sum-exp of every row of logits, and how far it lies above that of equal ones.
// Floor: 4 bytes an element (the second reading comes from cache); bound by bandwidth.
// Layout: a block a row; a thread goes over every 256th column. Not yet measured on a GPU. To try: a warp a row below 256
// columns.
KERNEL uniformity_rows(
    const float* __restrict__ scores, const float* __restrict__ log_scale, float* __restrict__ lse,
    float* __restrict__ terms, const u32* counts, Matrix p
) {
    __shared__ Folds folds;
    Block block(folds);
    u32 rows = p.rows(counts), cols = p.cols(counts);
    float scale = expf(log_scale[0]);
    for (u32 i = blockIdx.x; i < rows; i += gridDim.x) {
        const float* row = scores + i * p.stride;
        auto each = [&](auto f) {
#pragma unroll 4
            for (u32 j = threadIdx.x; j < cols; j += THREADS) f(row[j]);
        };
        uniformity_line(each, block, scale, cols, threadIdx.x == 0, lse + i, terms + i);
    }
}

// uniformity_columns: the same of every column.
// Floor: 4 bytes an element (the second reading comes from cache); bound by bandwidth.
// Layout: a block takes 16 columns in 16 strips of rows. Not yet measured on a GPU.
KERNEL uniformity_columns(
    const float* __restrict__ scores, const float* __restrict__ log_scale, float* __restrict__ lse,
    float* __restrict__ terms, const u32* counts, Matrix p
) {
    __shared__ float parts[2][SIDE][SIDE];
    Folded folded(parts);
    u32 rows = p.rows(counts), cols = p.cols(counts);
    float scale = expf(log_scale[0]);
    for (u32 first = blockIdx.x * SIDE; first < cols; first += gridDim.x * SIDE) {
        u32 j = first + threadIdx.x % SIDE, strip = threadIdx.x / SIDE;
        u32 end = j < cols ? rows : 0;
        auto each = [&](auto f) {
#pragma unroll 4
            for (u32 i = strip; i < end; i += SIDE) f(scores[i * p.stride + j]);
        };
        uniformity_line(each, folded, scale, rows, strip == 0 && j < cols, lse + j, terms + j);
    }
}

// divergence_loss: half the mean of the rows' terms plus half the mean of the columns'; 0 without any.
// Floor: 4 bytes a row and a column; one small block, bound by latency. Not yet measured on a GPU.
KERNEL divergence_loss(
    const float* __restrict__ row_terms, const float* __restrict__ col_terms, float* __restrict__ loss,
    const u32* counts, Matrix p
) {
    __shared__ Folds folds;
    Block block(folds);
    if (blockIdx.x > 0) return;
    auto mean = [&](const float* terms, u32 n) {
        float sum = 0.0f;
        for (u32 i = threadIdx.x; i < n; i += THREADS) sum += terms[i];
        return block.sum(sum) / static_cast<float>(max(n, 1u));
    };
    float of_rows = mean(row_terms, p.rows(counts));
    float of_cols = mean(col_terms, p.cols(counts));
    if (threadIdx.x == 0) loss[0] = 0.5f * (of_rows + of_cols);
}

// uniformity_grad: dscores = scale dloss / 2 ((exp(z - row_lse) - 1/M) / N + (exp(z - col_lse) - 1/N) / M).
// Floor: 8 bytes an element; bound by bandwidth.
// Layout: a block a row; neighbours take neighbouring columns. Not yet measured on a GPU.
KERNEL uniformity_grad(
    const float* __restrict__ scores, const float* __restrict__ log_scale, const float* __restrict__ row_lse,
    const float* __restrict__ col_lse, const float* __restrict__ dloss, float* __restrict__ dscores,
    const u32* counts, Matrix p
) {
    u32 rows = p.rows(counts), cols = p.cols(counts);
    float scale = expf(log_scale[0]), factor = 0.5f * scale * dloss[0];
    float of_row = factor / static_cast<float>(max(rows, 1u)), of_col = factor / static_cast<float>(max(cols, 1u));
    float both = 2.0f * of_row / static_cast<float>(max(cols, 1u));
    for (u32 i = blockIdx.x; i < rows; i += gridDim.x) {
        float own = row_lse[i];
#pragma unroll 4
        for (u32 j = threadIdx.x; j < cols; j += THREADS) {
            float z = scale * scores[i * p.stride + j];
            dscores[i * p.stride + j] = fmaf(of_row, share_of(z - own), fmaf(of_col, share_of(z - col_lse[j]), -both));
        }
    }
}

// What x = ln(p/q) / 2 says of two probabilities with mean m.
//
// JS = 1/2 Σ m spread(x), spread = 2 (x tanh x - ln cosh x): no term is negative, so that nothing cancels where p and q
// are nearly equal. Near 0, tanh is a continued fraction and ln cosh x = atanh(t² / (2 - t²)); far from it, what |x|
// cancels in x tanh x - ln cosh x is left out of both.
struct Ratio {
    float spread;  // (p ln(p/m) + q ln(q/m)) / m
    float log;     // ln(q/m)
    float part;    // the smaller of p and q as a part of the larger
};

// By its series, for s below 1/5.
__device__ inline float atanh_small(float s) {
    float q = s * s;
    float series = fmaf(q, fmaf(q, 1.0f / 11.0f, 1.0f / 9.0f), 1.0f / 7.0f);
    return s * fmaf(q, fmaf(q, fmaf(q, series, 1.0f / 5.0f), 1.0f / 3.0f), 1.0f);
}

__device__ inline Ratio ratio(float x) {
    constexpr float LN2 = 0.69314718056f;
    float h = fabsf(x), part = share_of(-2.0f * h);
    if (h < 0.5f) {
        float q = x * x;
        float t = x * (fmaf(q, q + 105.0f, 945.0f) / fmaf(q, fmaf(q, 15.0f, 420.0f), 945.0f));
        float near = atanh_small(t * t / (2.0f - t * t));
        return {2.0f * fmaf(x, t, -near), -x - near, part};
    }
    float more = 2.0f * atanh_small(part / (2.0f + part));
    float lacking = 2.0f * h * (part / (1.0f + part));
    return {2.0f * (LN2 - lacking - more), LN2 - more - (x > 0.0f ? 2.0f * x : 0.0f), part};
}

// JS of the soft-maxes over two lines, and the three numbers the gradient needs, as uniformity_line sees lines;
// `each(f)` calls f(goal, score).
template <class Each, class Fold>
__device__ inline void consistency_line(Each each, Fold& fold, float scale, u32 length, bool first, float* stats, float* term) {
    float goal_top = FLOOR, top = FLOOR, goal_total = 0.0f, total = 0.0f, js = 0.0f, kl = 0.0f;
    each([&](float goal, float score) {
        goal_top = fmaxf(goal_top, goal);
        top = fmaxf(top, score);
    });
    goal_top = fold.max(goal_top);
    top = fold.max(top);
    each([&](float goal, float score) {
        goal_total += share_of(scale * (goal - goal_top));
        total += share_of(scale * (score - top));
    });
    goal_total = fold.sum(goal_total);
    total = fold.sum(total);
    float goal_log = logf(goal_total), log = logf(total);
    float above = fmaf(scale, top - goal_top, logf(total / goal_total));
    each([&](float goal, float score) {
        Ratio r = ratio(0.5f * fmaf(scale, goal - score, above));
        float p = scale * (goal - goal_top) - goal_log, q = scale * (score - top) - log;
        float larger = share_of(p > q ? p : q);
        js = fmaf(0.25f * (larger * (1.0f + r.part)), r.spread, js);
        kl = fmaf(p > q ? larger * r.part : larger, r.log, kl);
    });
    js = fold.sum(js);
    kl = fold.sum(kl);
    if (!first) return;
    stats[0] = length > 0 ? fmaf(scale, top, log) : 0.0f;
    stats[1] = length > 0 ? above : 0.0f;
    stats[2] = kl;
    *term = js;
}

constexpr u32 STATS = 3;

// consistency_rows: JS of the two soft-maxes over every row; kept for the gradient: the log-sum-exp of the perturbed
// logits, how far it lies above the target's, KL(q, m).
// Floor: 8 bytes an element (the second and third reading come from cache) and some 60 FLOPs; bound by bandwidth.
// Layout: a block a row; a thread goes over every 256th column. Not yet measured on a GPU. To try: a warp a row below 256
// columns, the scores kept in registers.
KERNEL consistency_rows(
    const float* __restrict__ goal, const float* __restrict__ perturbed, const float* __restrict__ log_scale,
    float* __restrict__ stats, float* __restrict__ terms, const u32* counts, Matrix p
) {
    __shared__ Folds folds;
    Block block(folds);
    u32 rows = p.rows(counts), cols = p.cols(counts);
    float scale = expf(log_scale[0]);
    for (u32 i = blockIdx.x; i < rows; i += gridDim.x) {
        u32 row = i * p.stride;
        auto each = [&](auto f) {
#pragma unroll 2
            for (u32 j = threadIdx.x; j < cols; j += THREADS) f(goal[row + j], perturbed[row + j]);
        };
        consistency_line(each, block, scale, cols, threadIdx.x == 0, stats + STATS * i, terms + i);
    }
}

// consistency_columns: the same of every column.
// Floor: 8 bytes an element (the second and third reading come from cache) and some 60 FLOPs; bound by bandwidth.
// Layout: a block takes 16 columns in 16 strips of rows. Not yet measured on a GPU.
KERNEL consistency_columns(
    const float* __restrict__ goal, const float* __restrict__ perturbed, const float* __restrict__ log_scale,
    float* __restrict__ stats, float* __restrict__ terms, const u32* counts, Matrix p
) {
    __shared__ float parts[2][SIDE][SIDE];
    Folded folded(parts);
    u32 rows = p.rows(counts), cols = p.cols(counts);
    float scale = expf(log_scale[0]);
    for (u32 first = blockIdx.x * SIDE; first < cols; first += gridDim.x * SIDE) {
        u32 j = first + threadIdx.x % SIDE, strip = threadIdx.x / SIDE;
        u32 end = j < cols ? rows : 0;
        auto each = [&](auto f) {
#pragma unroll 2
            for (u32 i = strip; i < end; i += SIDE) f(goal[i * p.stride + j], perturbed[i * p.stride + j]);
        };
        consistency_line(each, folded, scale, rows, strip == 0 && j < cols, stats + STATS * j, terms + j);
    }
}

// consistency_grad: dz = dloss / 4 (s(row) / N + s(column) / M) with s = q (ln(q/m) - KL(q, m)); dperturbed = scale dz, and
// each row's part of the gradient of log_scale.
// Floor: 12 bytes an element and some 80 FLOPs; bound by bandwidth.
// Layout: a block a row; neighbours take neighbouring columns. Not yet measured on a GPU.
KERNEL consistency_grad(
    const float* __restrict__ goal, const float* __restrict__ perturbed, const float* __restrict__ log_scale,
    const float* __restrict__ row_stats, const float* __restrict__ col_stats, const float* __restrict__ dloss,
    float* __restrict__ dperturbed, float* __restrict__ terms, const u32* counts, Matrix p
) {
    __shared__ Folds folds;
    Block block(folds);
    u32 rows = p.rows(counts), cols = p.cols(counts);
    float scale = expf(log_scale[0]), factor = 0.25f * dloss[0];
    float of_row = factor / static_cast<float>(max(rows, 1u)), of_col = factor / static_cast<float>(max(cols, 1u));
    auto slope = [&](float goal, float score, const float* stats) {
        Ratio r = ratio(0.5f * fmaf(scale, goal - score, stats[1]));
        return share_of(scale * score - stats[0]) * (r.log - stats[2]);
    };
    for (u32 i = blockIdx.x; i < rows; i += gridDim.x) {
        float sum = 0.0f;
        for (u32 j = threadIdx.x; j < cols; j += THREADS) {
            float a = goal[i * p.stride + j], b = perturbed[i * p.stride + j];
            float of_both = of_col * slope(a, b, col_stats + STATS * j);
            float dz = fmaf(of_row, slope(a, b, row_stats + STATS * i), of_both);
            sum = fmaf(dz, b, sum);
            dperturbed[i * p.stride + j] = scale * dz;
        }
        sum = block.sum(sum);
        if (threadIdx.x == 0) terms[i] = scale * sum;
    }
}
