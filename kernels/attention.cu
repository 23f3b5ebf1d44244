// Attention within packed segments, and its gradients.
//
// A block takes a head of a segment and tiles of its rows; a warp owns one or two rows of a tile. What they meet (keys
// and values for queries, queries and their gradients for keys) passes through shared memory in stages of 128, 64 or 32
// rows, for heads of up to 32, 64 or 128 columns. Where one stage holds a whole segment it is filled once for all
// tiles, and nothing is rescaled.
//
//     dots: a lane a staged row        sums: a lane a column (32 apart), the rows' weights by shuffle
//     own[row][column] --broadcast--+      weight of row j --shuffle--+
//     staged[lane][column] ---------+--> logit        staged[j][lane] -+--> sum
//
// Rows of a stage are 32, 64 or 128 columns and one more apart: both ways of reading meet all banks. One problem more
// than there are segments: what lies between segments and behind the last one is written by who comes after it.
#include "tile.cuh"

// Rows [begin, end).
struct Rows {
    u32 begin, end;
    __device__ u32 number() const { return end - begin; }
};

// Rows of segment i of a table, clamped to the rows there are, at most `most` of them.
__device__ inline Rows segment(const u32* __restrict__ table, u32 i, u32 rows, u32 most) {
    u32 begin = min(table[2 * i], rows);
    u32 end = max(min(table[2 * i + 1], rows), begin);
    return {begin, begin + min(end - begin, most)};
}

// The rows that belong to problem i: its segment, of which the rows before it in the table's order go along.
struct Stretch {
    u32 before;
    Rows rows;
};
__device__ inline Stretch stretch(const u32* __restrict__ table, u32 i, u32 n, u32 rows, u32 most) {
    Rows mine = {rows, rows};
    if (i < n) mine = segment(table, i, rows, most);
    u32 before = i > 0 ? segment(table, i - 1, rows, most).end : 0;
    return {min(before, mine.begin), mine};
}

constexpr u32 EVERY = 0xffffffffu;
// At or below this log-weight a key takes no part.
constexpr float EXCLUDED = -1e29f;

// Heads of up to 32 * PACKS columns.
template <u32 PACKS> struct Shape {
    static constexpr u32 CHUNKS = 4 / PACKS;
    static constexpr u32 STAGED = WARP * CHUNKS;
    static constexpr u32 STRIDE = WARP * PACKS + 1;
    // Rows that a warp owns, and that a tile has.
    static constexpr u32 OWN = PACKS == 4 ? 1 : 2;
    static constexpr u32 TILE = WARPS * OWN;
};

// Two matrices of staged rows, and the rows that the warps own of two more.
struct Shared {
    float first[128 * 33];
    float second[128 * 33];
    float own_first[1024];
    float own_second[1024];
};

// The part of a matrix that belongs to one head.
struct Head {
    u32 cols, left, d;
    __device__ u32 at(u32 row) const { return row * cols + left; }
};

template <u32 PACKS>
__device__ inline void fill_stage(Shared& s, const float* __restrict__ a, const float* __restrict__ b, Head head, Rows rows) {
    for (u32 j = threadIdx.x / WARP; j < rows.number(); j += WARPS) {
        for (u32 c = lane_index(); c < head.d; c += WARP) {
            s.first[j * Shape<PACKS>::STRIDE + c] = a[head.at(rows.begin + j) + c];
            s.second[j * Shape<PACKS>::STRIDE + c] = b[head.at(rows.begin + j) + c];
        }
    }
}

// dots[o][chunk] = <own row o, staged row 32 chunk + lane>; lanes behind the last row repeat it.
template <u32 PACKS>
__device__ inline void dots_staged(
    float (&dots)[Shape<PACKS>::OWN][Shape<PACKS>::CHUNKS], const float* own, const float* staged, u32 number, u32 d
) {
    using S = Shape<PACKS>;
    own += threadIdx.x / WARP * S::OWN * WARP * PACKS;
    u32 places[S::CHUNKS];
#pragma unroll
    for (u32 chunk = 0; chunk < S::CHUNKS; chunk++) {
        places[chunk] = min(chunk * WARP + lane_index(), number - 1) * S::STRIDE;
#pragma unroll
        for (u32 o = 0; o < S::OWN; o++) dots[o][chunk] = 0.0f;
    }
#pragma unroll 2
    for (u32 c = 0; c < d; c++) {
#pragma unroll
        for (u32 chunk = 0; chunk < S::CHUNKS; chunk++) {
            float y = staged[places[chunk] + c];
#pragma unroll
            for (u32 o = 0; o < S::OWN; o++) dots[o][chunk] = fmaf(own[o * WARP * PACKS + c], y, dots[o][chunk]);
        }
    }
}

// sums[o][pack] += sum over the staged rows of a chunk of their lanes' weights times the row.
template <u32 PACKS>
__device__ inline void add_rows(
    float (&sums)[Shape<PACKS>::OWN][PACKS], const float (&weights)[Shape<PACKS>::OWN][Shape<PACKS>::CHUNKS],
    const float* staged, u32 number, u32 d
) {
    using S = Shape<PACKS>;
#pragma unroll
    for (u32 chunk = 0; chunk < S::CHUNKS; chunk++) {
        u32 first = chunk * WARP;
#pragma unroll 2
        for (u32 j = first; j < min(number, first + WARP); j++) {
            float w[S::OWN];
#pragma unroll
            for (u32 o = 0; o < S::OWN; o++) w[o] = __shfl_sync(ALL, weights[o][chunk], j - first);
#pragma unroll
            for (u32 pack = 0; pack < PACKS; pack++) {
                u32 c = lane_index() + WARP * pack;
                float y = c < d ? staged[j * S::STRIDE + c] : 0.0f;
#pragma unroll
                for (u32 o = 0; o < S::OWN; o++) sums[o][pack] = fmaf(w[o], y, sums[o][pack]);
            }
        }
    }
}

// attention: y_i = sum over the keys j of its segment of softmax_j(<q_i, k_j> scale + log_weight_j) v_j, and the
// log-sum-exp of the logits. Keys at or below -1e29, those behind the first `keys` ones and, if causal, those at a later
// place of their segment than the query take no part.
// Floor: 4 bytes an element of q, k, v and y, 4 d FLOPs a query, key and head; bound by bandwidth at some dozen keys,
// in fact by reads of shared memory: one for every one to two FMAs. Not yet measured on a GPU. To try: mma.m16n8k8 in tf32.
struct Attention {
    Size q_rows; Size k_rows; Size n; u32 heads; u32 d; u32 keys; float scale; u32 causal; u32 weighted; u32 wants_lse;
};

template <u32 PACKS>
__device__ inline void attend(
    Shared& s, const float* __restrict__ q, const float* __restrict__ k, const float* __restrict__ v,
    const u32* __restrict__ q_segments, const u32* __restrict__ k_segments, const float* __restrict__ log_weights,
    float* __restrict__ y, float* __restrict__ lse, const u32* counts, const Attention& p
) {
    using S = Shape<PACKS>;
    u32 q_rows = p.q_rows(counts), k_rows = p.k_rows(counts), n = p.n(counts);
    u32 lane = lane_index(), warp = threadIdx.x / WARP;
    for (u32 problem = blockIdx.x; problem < (n + 1) * p.heads; problem += gridDim.x) {
        u32 i = problem / p.heads, h = problem % p.heads;
        Head head = {p.heads * p.d, h * p.d, p.d};
        Stretch mine = stretch(q_segments, i, n, q_rows, EVERY);
        if (blockIdx.y == 0) {
            for (u32 row = mine.before + warp; row < mine.rows.begin; row += WARPS) {
                for (u32 c = lane; c < p.d; c += WARP) y[head.at(row) + c] = 0.0f;
                if (p.wants_lse == 1 && lane == 0) lse[row * p.heads + h] = FLOOR;
            }
        }
        Rows keys = {0, 0};
        if (i < n) keys = segment(k_segments, i, k_rows, p.keys);
        u32 start = mine.rows.begin + S::TILE * blockIdx.y;
        for (u32 first = start; first < mine.rows.end; first += S::TILE * gridDim.y) {
            u32 own = first + warp * S::OWN;
            float largest[S::OWN], total[S::OWN], sums[S::OWN][PACKS];
#pragma unroll
            for (u32 o = 0; o < S::OWN; o++) {
                largest[o] = FLOOR;
                total[o] = 0.0f;
#pragma unroll
                for (u32 pack = 0; pack < PACKS; pack++) sums[o][pack] = 0.0f;
            }
            for (u32 begin = keys.begin; begin < keys.end; begin += S::STAGED) {
                Rows staged = {begin, min(begin + S::STAGED, keys.end)};
                // Everybody has read what was there before.
                __syncthreads();
                if (first == start || keys.number() > S::STAGED) fill_stage<PACKS>(s, k, v, head, staged);
                if (begin == keys.begin) {
                    for (u32 o = 0; o < S::OWN; o++) {
                        for (u32 c = lane; c < p.d; c += WARP) {
                            float value = own + o < mine.rows.end ? q[head.at(own + o) + c] : 0.0f;
                            s.own_first[(warp * S::OWN + o) * WARP * PACKS + c] = value;
                        }
                    }
                }
                __syncthreads();
                float weights[S::OWN][S::CHUNKS];
                dots_staged<PACKS>(weights, s.own_first, s.first, staged.number(), p.d);
#pragma unroll
                for (u32 chunk = 0; chunk < S::CHUNKS; chunk++) {
                    u32 j = chunk * WARP + lane;
                    float weight = FLOOR;
                    if (j < staged.number()) weight = p.weighted == 1 ? log_weights[begin + j] : 0.0f;
#pragma unroll
                    for (u32 o = 0; o < S::OWN; o++) {
                        bool late = p.causal == 1 && begin + j - keys.begin > own + o - mine.rows.begin;
                        weights[o][chunk] = weight <= EXCLUDED || late ? FLOOR : fmaf(weights[o][chunk], p.scale, weight);
                    }
                }
#pragma unroll
                for (u32 o = 0; o < S::OWN; o++) {
                    float here = largest[o], sum = 0.0f;
#pragma unroll
                    for (u32 chunk = 0; chunk < S::CHUNKS; chunk++) here = fmaxf(here, weights[o][chunk]);
                    here = warp_max(here);
                    float rescale = expf(largest[o] - here);
                    largest[o] = here;
#pragma unroll
                    for (u32 chunk = 0; chunk < S::CHUNKS; chunk++) {
                        weights[o][chunk] = weights[o][chunk] <= EXCLUDED ? 0.0f : expf(weights[o][chunk] - here);
                        sum += weights[o][chunk];
                    }
                    total[o] = fmaf(total[o], rescale, warp_sum(sum));
#pragma unroll
                    for (u32 pack = 0; pack < PACKS; pack++) sums[o][pack] *= rescale;
                }
                add_rows<PACKS>(sums, weights, s.second, staged.number(), p.d);
            }
#pragma unroll
            for (u32 o = 0; o < S::OWN; o++) {
                if (own + o < mine.rows.end) {
                    // Not a comparison with 0 from below: a NaN must reach the row.
                    bool nothing = total[o] == 0.0f;
                    float share = nothing ? 0.0f : 1.0f / total[o];
#pragma unroll
                    for (u32 pack = 0; pack < PACKS; pack++) {
                        u32 c = lane + WARP * pack;
                        if (c < p.d) y[head.at(own + o) + c] = sums[o][pack] * share;
                    }
                    if (p.wants_lse == 1 && lane == 0) {
                        lse[(own + o) * p.heads + h] = nothing ? FLOOR : largest[o] + logf(total[o]);
                    }
                }
            }
        }
    }
}

KERNEL_OF(3) attention(
    const float* __restrict__ q, const float* __restrict__ k, const float* __restrict__ v,
    const u32* __restrict__ q_segments, const u32* __restrict__ k_segments, const float* __restrict__ log_weights,
    float* __restrict__ y, float* __restrict__ lse, const u32* counts, Attention p
) {
    __shared__ Shared s;
    if (p.d <= 32) attend<1>(s, q, k, v, q_segments, k_segments, log_weights, y, lse, counts, p);
    else if (p.d <= 64) attend<2>(s, q, k, v, q_segments, k_segments, log_weights, y, lse, counts, p);
    else attend<4>(s, q, k, v, q_segments, k_segments, log_weights, y, lse, counts, p);
}

// attention_delta: delta[h, i] = <y_i, dy_i> over the columns of head h.
// Floor: 8 bytes an element; bound by bandwidth.
// Layout: a thread a head of a row: some dozen columns, of which it reads whole cache lines. Not yet measured on a GPU.
struct AttentionDelta { Size rows; u32 heads; u32 d; u32 stride; };
KERNEL attention_delta(
    const float* __restrict__ y, const float* __restrict__ dy, float* __restrict__ delta, const u32* counts,
    AttentionDelta p
) {
    u32 items = p.rows(counts) * p.heads;
    for (u32 item = thread_index(); item < items; item += thread_count()) {
        float sum = 0.0f;
#pragma unroll 4
        for (u32 c = 0; c < p.d; c++) sum = fmaf(y[item * p.d + c], dy[item * p.d + c], sum);
        delta[item % p.heads * p.stride + item / p.heads] = sum;
    }
}

// What both gradient kernels read.
struct Given {
    const float* __restrict__ q;
    const float* __restrict__ k;
    const float* __restrict__ v;
    const u32* __restrict__ q_segments;
    const u32* __restrict__ k_segments;
    const float* __restrict__ log_weights;
    const float* __restrict__ lse;
    const float* __restrict__ delta;
    const float* __restrict__ dy;
};

struct AttentionGrad {
    Size q_rows; Size k_rows; Size n; u32 heads; u32 d; u32 keys; float scale; u32 causal; u32 weighted; u32 q_stride; u32 k_stride;
};

// Calls `write(row, head's number, sums of dl times rows of the first matrix, of p times rows of the second, sum of dl)`
// for every row of queries, or of keys (KEYS), by whole warps; rows outside of segments get zeros.
template <u32 PACKS, bool KEYS, class Write>
__device__ inline void each_gradient(Shared& s, const Given& in, const u32* counts, const AttentionGrad& p, Write write) {
    using S = Shape<PACKS>;
    u32 q_rows = p.q_rows(counts), k_rows = p.k_rows(counts), n = p.n(counts);
    u32 lane = lane_index(), warp = threadIdx.x / WARP;
    for (u32 problem = blockIdx.x; problem < (n + 1) * p.heads; problem += gridDim.x) {
        u32 i = problem / p.heads, h = problem % p.heads;
        Head head = {p.heads * p.d, h * p.d, p.d};
        Stretch mine = KEYS ? stretch(in.k_segments, i, n, k_rows, p.keys) : stretch(in.q_segments, i, n, q_rows, EVERY);
        Rows others = {0, 0};
        if (i < n) others = KEYS ? segment(in.q_segments, i, q_rows, EVERY) : segment(in.k_segments, i, k_rows, p.keys);
        if (blockIdx.y == 0) {
            float zeros[PACKS] = {};
            for (u32 row = mine.before + warp; row < mine.rows.begin; row += WARPS) write(row, h, zeros, zeros, 0.0f);
        }
        u32 start = mine.rows.begin + S::TILE * blockIdx.y;
        for (u32 first = start; first < mine.rows.end; first += S::TILE * gridDim.y) {
            u32 own = first + warp * S::OWN;
            float slopes[S::OWN][PACKS] = {}, values[S::OWN][PACKS] = {}, shares[S::OWN] = {};
            for (u32 begin = others.begin; begin < others.end; begin += S::STAGED) {
                Rows staged = {begin, min(begin + S::STAGED, others.end)};
                // Everybody has read what was there before.
                __syncthreads();
                if (first == start || others.number() > S::STAGED) {
                    fill_stage<PACKS>(s, KEYS ? in.q : in.k, KEYS ? in.dy : in.v, head, staged);
                }
                if (begin == others.begin) {
                    for (u32 o = 0; o < S::OWN; o++) {
                        for (u32 c = lane; c < p.d; c += WARP) {
                            u32 from = head.at(own + o) + c, to = (warp * S::OWN + o) * WARP * PACKS + c;
                            bool there = own + o < mine.rows.end;
                            s.own_first[to] = there ? (KEYS ? in.k : in.q)[from] : 0.0f;
                            s.own_second[to] = there ? (KEYS ? in.v : in.dy)[from] : 0.0f;
                        }
                    }
                }
                __syncthreads();
                float probabilities[S::OWN][S::CHUNKS], dls[S::OWN][S::CHUNKS];
                dots_staged<PACKS>(probabilities, s.own_first, s.first, staged.number(), p.d);
                dots_staged<PACKS>(dls, s.own_second, s.second, staged.number(), p.d);
#pragma unroll
                for (u32 chunk = 0; chunk < S::CHUNKS; chunk++) {
                    u32 j = chunk * WARP + lane;
#pragma unroll
                    for (u32 o = 0; o < S::OWN; o++) {
                        float probability = 0.0f;
                        if (j < staged.number() && own + o < mine.rows.end) {
                            u32 key = KEYS ? own + o : begin + j, query = KEYS ? begin + j : own + o;
                            float weight = p.weighted == 1 ? in.log_weights[key] : 0.0f;
                            float exponent = fmaf(probabilities[o][chunk], p.scale, weight) - in.lse[query * p.heads + h];
                            u32 here = own + o - mine.rows.begin, there = begin + j - others.begin;
                            bool late = p.causal == 1 && (KEYS ? here > there : there > here);
                            if (!(weight <= EXCLUDED || late)) probability = expf(exponent);
                            dls[o][chunk] = probability * (dls[o][chunk] - in.delta[h * p.q_stride + query]);
                        } else {
                            dls[o][chunk] = 0.0f;
                        }
                        probabilities[o][chunk] = probability;
                        shares[o] += dls[o][chunk];
                    }
                }
                add_rows<PACKS>(slopes, dls, s.first, staged.number(), p.d);
                if (KEYS) add_rows<PACKS>(values, probabilities, s.second, staged.number(), p.d);
            }
#pragma unroll
            for (u32 o = 0; o < S::OWN; o++) {
                if (own + o < mine.rows.end) write(own + o, h, slopes[o], values[o], KEYS ? warp_sum(shares[o]) : 0.0f);
            }
        }
    }
}

// Writes a head of a row from sums that lie in lanes.
template <u32 PACKS>
__device__ inline void write_head(float* __restrict__ to, u32 row, u32 h, const AttentionGrad& p, const float (&sums)[PACKS], float scale) {
#pragma unroll
    for (u32 pack = 0; pack < PACKS; pack++) {
        u32 c = lane_index() + WARP * pack;
        if (c < p.d) to[(row * p.heads + h) * p.d + c] = sums[pack] * scale;
    }
}

// attention_dq: dq_i = scale sum_j dl_ij k_j with dl_ij = p_ij (<dy_i, v_j> - delta_i) and p_ij = exp(l_ij - lse_i).
// Floor: 4 bytes an element of q, k, v, dy and dq, 6 d FLOPs a query, key and head; bound by bandwidth at some dozen
// keys, in fact by reads of shared memory. Not yet measured on a GPU.
template <u32 PACKS>
__device__ inline void queries_back(Shared& s, const Given& in, float* __restrict__ dq, const u32* counts, const AttentionGrad& p) {
    auto write = [&](u32 row, u32 h, const float (&slopes)[PACKS], const float (&)[PACKS], float) {
        write_head<PACKS>(dq, row, h, p, slopes, p.scale);
    };
    each_gradient<PACKS, false>(s, in, counts, p, write);
}

KERNEL_OF(3) attention_dq(
    const float* __restrict__ q, const float* __restrict__ k, const float* __restrict__ v,
    const u32* __restrict__ q_segments, const u32* __restrict__ k_segments, const float* __restrict__ log_weights,
    const float* __restrict__ lse, const float* __restrict__ delta, const float* __restrict__ dy, float* __restrict__ dq,
    const u32* counts, AttentionGrad p
) {
    __shared__ Shared s;
    Given in = {q, k, v, q_segments, k_segments, log_weights, lse, delta, dy};
    if (p.d <= 32) queries_back<1>(s, in, dq, counts, p);
    else if (p.d <= 64) queries_back<2>(s, in, dq, counts, p);
    else queries_back<4>(s, in, dq, counts, p);
}

// attention_dkv: dk_j = scale sum_i dl_ij q_i, dv_j = sum_i p_ij dy_i and, a head, the share sum_i dl_ij of the gradient
// of a key's log-weight: attention_dq with queries and keys in each other's place.
// Floor: 4 bytes an element of q, k, v, dy, dk and dv, 8 d FLOPs a query, key and head. Not yet measured on a GPU.
struct AttentionDkv { AttentionGrad common; u32 wants_dk; u32 wants_dv; u32 wants_shares; };

template <u32 PACKS>
__device__ inline void keys_back(
    Shared& s, const Given& in, float* __restrict__ dk, float* __restrict__ dv, float* __restrict__ shares,
    const u32* counts, const AttentionDkv& p
) {
    auto write = [&](u32 row, u32 h, const float (&slopes)[PACKS], const float (&values)[PACKS], float share) {
        if (p.wants_dk == 1) write_head<PACKS>(dk, row, h, p.common, slopes, p.common.scale);
        if (p.wants_dv == 1) write_head<PACKS>(dv, row, h, p.common, values, 1.0f);
        if (p.wants_shares == 1 && lane_index() == 0) shares[h * p.common.k_stride + row] = share;
    };
    each_gradient<PACKS, true>(s, in, counts, p.common, write);
}

KERNEL_OF(3) attention_dkv(
    const float* __restrict__ q, const float* __restrict__ k, const float* __restrict__ v,
    const u32* __restrict__ q_segments, const u32* __restrict__ k_segments, const float* __restrict__ log_weights,
    const float* __restrict__ lse, const float* __restrict__ delta, const float* __restrict__ dy,
    float* __restrict__ dk, float* __restrict__ dv, float* __restrict__ shares, const u32* counts, AttentionDkv p
) {
    __shared__ Shared s;
    Given in = {q, k, v, q_segments, k_segments, log_weights, lse, delta, dy};
    if (p.common.d <= 32) keys_back<1>(s, in, dk, dv, shares, counts, p);
    else if (p.common.d <= 64) keys_back<2>(s, in, dk, dv, shares, counts, p);
    else keys_back<4>(s, in, dk, dv, shares, counts, p);
}
