// Token interaction by chunks: some texts with some videos, whose dot products lie in the workspace, frames as rows,
// words as columns, `text_count * max_words` columns a row. Listed pairs have places of their own there.
//
//                 text 0        text 1                 a text: its words, then its sentence q
//             w w w w q      w w q . . . stride
//   video 0 t c c c c c      c c c
//           t c c c c c      c c c
//   video 1 t ...
//
// What lies beyond the counts is nobody's: such a chunk has no rows. A text or video that is longer than the op was
// made for has no rows of its own, and its pairs score 0. With a router a frame has a row a slot in the products, which
// gates.cu mixes before they are pooled.
#include "interact.cuh"
#include "tile.cuh"

// interact_dots: dot products of all frames of a chunk (rows, one a slot) with all its words (columns), as linear computes them.
// Floor: 2·rows·columns·D FLOPs; bound by f32 arithmetic: 405 GFLOP for 1000 x 1000 pairs of 33 x 12 rows of 512.
// Layout: a block a tile of 64 x 64; both lie along. 80 registers, nothing spilled.
KERNEL interact_dots(const float* __restrict__ words, const u32* __restrict__ word_segments,
                        const float* __restrict__ frames, const u32* __restrict__ frame_segments,
                        float* __restrict__ dots, const u32* __restrict__ counts, Interact p) {
    __shared__ Stages stages;
    Chunk chunk(p, word_segments, frame_segments, counts);
    Rows f = chunk.slot_rows(p.slots), w = chunk.word_rows();
    u32 stride = chunk.stride();
    Matrix left = {frames + size_t(f.begin) * p.width, f.count, p.width, p.width};
    Matrix right = {words + size_t(w.begin) * p.width, w.count, p.width, p.width};
    bool aligned = stride % 4 == 0 && reinterpret_cast<size_t>(dots) % 16 == 0;
    for (u32 row0 = blockIdx.y * TILE; row0 < f.count; row0 += gridDim.y * TILE) {
        for (u32 col0 = blockIdx.x * TILE; col0 < w.count; col0 += gridDim.x * TILE) {
            float sum[4][4] = {};
            tile_product<true, true>(left, right, row0, col0, stages, sum);
            by_four(put_tile(stages, sum), [&](u32 r, u32 c, float (&value)[4]) {
                r += row0, c += col0;
                if (r >= f.count || c >= w.count) return;
                store_four(dots + size_t(r) * stride + c, value, w.count - c, aligned);
            });
        }
    }
}

// interact_accumulate: y (+)= G·W for the frames of a chunk (a row a slot), or y (+)= Gᵀ·E for its words (`transposed`). Chunks are
// launched in a fixed order, the first writes and the others add.
// Floor: 2·frames·words·D FLOPs; bound by f32 arithmetic. Layout: a block a tile of 64 x 64 of y; the rows that are
// weighed lie across, G either way.
KERNEL_OF(4) interact_accumulate(const u32* __restrict__ word_segments, const u32* __restrict__ frame_segments,
                              const float* __restrict__ g, const float* __restrict__ x, float* __restrict__ y,
                              const u32* __restrict__ counts, Interact p) {
    __shared__ Stages stages;
    Chunk chunk(p, word_segments, frame_segments, counts);
    Rows f = chunk.slot_rows(p.slots), w = chunk.word_rows();
    Rows out = p.transposed ? w : f, in = p.transposed ? f : w;
    Matrix left = {g, out.count, in.count, chunk.stride()};
    Matrix right = {x + size_t(in.begin) * p.width, p.width, in.count, p.width};
    bool aligned = p.width % 4 == 0 && reinterpret_cast<size_t>(y) % 16 == 0;
    for (u32 row0 = blockIdx.y * TILE; row0 < out.count; row0 += gridDim.y * TILE) {
        for (u32 col0 = blockIdx.x * TILE; col0 < p.width; col0 += gridDim.x * TILE) {
            float sum[4][4] = {};
            if (p.transposed) tile_product<false, false>(left, right, row0, col0, stages, sum);
            else tile_product<true, false>(left, right, row0, col0, stages, sum);
            by_four(put_tile(stages, sum), [&](u32 r, u32 c, float (&value)[4]) {
                r += row0, c += col0;
                if (r >= out.count || c >= p.width) return;
                float* to = y + size_t(out.begin + r) * p.width + c;
#pragma unroll
                for (u32 j = 0; j < 4; j++) {
                    if (p.add && c + j < p.width) value[j] += to[j];
                }
                store_four(to, value, p.width - c, aligned);
            });
        }
    }
}

// interact_pair_dots: dot products of the frames (rows) and words (columns) of listed pairs, each pair at a place of
// its own in the workspace, `max_frames` rows (times the slots) of `max_words` columns.
// Floor: (L + T)·D·4 bytes a pair if neither text nor video is met again; bound by bandwidth.
// Layout: a block takes pairs in turn, and of a pair tiles of 16 frames x 64 words: videos are short. The contraction
// is shared out: each of four groups of 64 threads takes 16 of every 64 elements, a thread 4 x 4 sums; the groups'
// sums are added in their order.
// Tried: 32 x 32 with 2 x 2 sums a thread and the whole contraction reads as much from shared memory as it multiplies,
// and for 33 words computes two tiles of which a fifth is wanted.
constexpr u32 PAIR_FRAMES = 16;
constexpr u32 PAIR_GROUPS = 4;
constexpr u32 PAIR_DEPTH = PAIR_GROUPS * DEPTH;
constexpr u32 PAIR_SLICE = PAIR_FRAMES * DEPTH;

struct alignas(128) PairStages {
    float words[2 * PAIR_GROUPS * SLICE];
    float frames[2 * PAIR_GROUPS * PAIR_SLICE];
};

// The group's part of a tile.
__device__ inline void pair_product(const Matrix& frames, const Matrix& words, u32 row0, u32 col0, PairStages& s,
                                    float (&sum)[4][4]) {
    u32 steps = (words.depth + PAIR_DEPTH - 1) / PAIR_DEPTH, thread = fresh_thread(), group = thread / 64;
    bool frames_aligned = frames.aligned(), words_aligned = words.aligned();
    auto copy = [&](u32 step) {
        if (step < steps) {
            u32 first = step % 2 * PAIR_GROUPS, k0 = step * PAIR_DEPTH;
#pragma unroll 1
            for (u32 i = 0; i < PAIR_GROUPS; i++) {
                stage<true>(s.words + (first + i) * SLICE, words, words_aligned, thread, col0, k0 + i * DEPTH);
            }
            stage<true, PAIR_FRAMES>(s.frames + (first + group) * PAIR_SLICE, frames, frames_aligned, thread % 64,
                                     row0, k0 + group * DEPTH);
        }
        commit_copies();
    };
    copy(0);
    u32 row = thread % WARP / 8 * 4, col = (thread % 64 / WARP * 8 + thread % 8) * 4;
#pragma unroll 1
    for (u32 step = 0; step < steps; step++) {
        wait_copies<0>();
        __syncthreads();
        copy(step + 1);
        u32 slice = step % 2 * PAIR_GROUPS + group;
        u32 left_start = slice * PAIR_SLICE + fragment_start<true>(row);
        u32 right_start = slice * SLICE + fragment_start<true>(col);
#pragma unroll
        for (u32 k = 0; k < DEPTH; k += 4) {
            float left[4][4], right[4][4];
            fragment<true>(s.frames, left_start, k, left);
            fragment<true>(s.words, right_start, k, right);
            multiply_fragments(left, right, sum);
        }
    }
    __syncthreads();
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        float* to = s.words + (group * PAIR_FRAMES + row + i) * TILE + col;
        *reinterpret_cast<float4*>(to) = make_float4(sum[i][0], sum[i][1], sum[i][2], sum[i][3]);
    }
    __syncthreads();
}

KERNEL interact_pair_dots(const float* __restrict__ words, const u32* __restrict__ word_segments,
                                const float* __restrict__ frames, const u32* __restrict__ frame_segments,
                                const u32* __restrict__ pairs, float* __restrict__ dots,
                                const u32* __restrict__ counts, Interact p) {
    __shared__ PairStages stages;
    Chunk chunk(p, word_segments, frame_segments, counts);
    u32 count = min(p.text_count, max(p.listed(counts), p.first_text) - p.first_text);
    for (u32 pair = blockIdx.x; pair < count; pair += gridDim.x) {
        u32 text = pairs[2 * (p.first_text + pair)], video = pairs[2 * (p.first_text + pair) + 1];
        if (text >= chunk.all_texts || video >= chunk.all_videos) continue;
        Rows f = chunk.video_rows(video), w = chunk.text_rows(text);
        f = {f.begin * p.slots, f.count * p.slots};
        Matrix left = {frames + size_t(f.begin) * p.width, f.count, p.width, p.width};
        Matrix right = {words + size_t(w.begin) * p.width, w.count, p.width, p.width};
        for (u32 row0 = 0; row0 < f.count; row0 += PAIR_FRAMES) {
            for (u32 col0 = 0; col0 < w.count; col0 += TILE) {
                float part[4][4] = {};
                pair_product(left, right, row0, col0, stages, part);
                for (u32 i = threadIdx.x; i < PAIR_FRAMES * TILE; i += THREADS) {
                    u32 r = row0 + i / TILE, c = col0 + i % TILE;
                    float sum = 0.0f;
#pragma unroll
                    for (u32 group = 0; group < PAIR_GROUPS; group++) {
                        sum += stages.words[group * PAIR_FRAMES * TILE + i];
                    }
                    if (r < f.count && c < w.count) dots[(pair * p.pair_rows + r) * p.max_words + c] = sum;
                }
                __syncthreads();
            }
        }
    }
}

// interact_reduce: what a chunk adds to d ln ω (from each video's part) or to dβ (from the sentences' columns of G,
// times τ_ρ). Chunks are launched in a fixed order, the first writes and the others add.
// Floor: reads one number a video and word, or one a text and frame; bound by latency and small.
// Layout: of words, a block takes 32, side by side, and each of its warps every eighth video; of frames, a warp takes
// one and its lanes every 32nd text. Parts are added in a fixed order.
__device__ inline void reduce_words(const Chunk& chunk, const float* parts, float* y, bool add) {
    __shared__ float of_warp[WARPS][WARP];
    Rows rows = chunk.word_rows();
    u32 warp = threadIdx.x / WARP, lane = lane_index();
    for (u32 first = blockIdx.x * WARP; first < rows.count; first += gridDim.x * WARP) {
        u32 i = first + lane;
        float sum = 0.0f;
        if (i < rows.count) {
            for (u32 j = warp; j < chunk.videos; j += WARPS) sum += parts[j * chunk.stride() + i];
        }
        of_warp[warp][lane] = sum;
        __syncthreads();
        if (warp == 0 && i < rows.count) {
            float total = 0.0f;
#pragma unroll
            for (u32 k = 0; k < WARPS; k++) total += of_warp[k][lane];
            y[rows.begin + i] = add ? y[rows.begin + i] + total : total;
        }
        __syncthreads();
    }
}

__device__ inline void reduce_frames(const Chunk& chunk, const float* parts, float* y, bool add, float tau) {
    Rows rows = chunk.frame_rows();
    u32 base = chunk.word_rows().begin, stride = chunk.stride();
    for (u32 i = warp_index(); i < rows.count; i += warp_count()) {
        float sum = 0.0f;
        for (u32 j = lane_index(); j < chunk.texts; j += WARP) {
            Rows text = chunk.text_rows(chunk.first_text + j);
            u32 sentence = text.begin - base + text.count - 1;
            if (text.count >= 2 && sentence < stride) sum += parts[i * stride + sentence];
        }
        sum = tau * warp_sum(sum);
        if (lane_index() == 0) y[rows.begin + i] = add ? y[rows.begin + i] + sum : sum;
    }
}

KERNEL interact_reduce(const u32* __restrict__ word_segments, const u32* __restrict__ frame_segments,
                       const float* __restrict__ parts, float* __restrict__ y, const u32* __restrict__ counts,
                       Interact p) {
    Chunk chunk(p, word_segments, frame_segments, counts);
    if (p.transposed) reduce_words(chunk, parts, y, p.add);
    else reduce_frames(chunk, parts, y, p.add, p.relevance_tau);
}

// Pooling. A team takes a pair: a warp where segments are short, the block where they are long. Within a team the
// lanes share out lines (words, each over its frames, or frames, each over its words); where there are fewer lines
// than lanes, neighbouring lanes share a line. What is known of a pair's words and frames lies in shared memory.

struct WarpTeam {
    static constexpr u32 SIZE = WARP;
    __device__ static u32 rank() { return lane_index(); }
    __device__ static u32 index() { return warp_index(); }
    __device__ static u32 count() { return warp_count(); }
    // Which part of the block's shared memory.
    __device__ static u32 place() { return threadIdx.x / WARP; }
    // What the team wrote before is seen by all of it afterwards.
    __device__ static void sync() { __syncwarp(); }
    // The same behind a sum or a maximum: shuffles order no memory, barriers do.
    __device__ static void sync_after_fold() { __syncwarp(); }
    __device__ static float sum(float x) { return warp_sum(x); }
    __device__ static float highest(float x) { return warp_max(x); }
};

struct BlockTeam {
    Block block;
    static constexpr u32 SIZE = THREADS;
    __device__ static u32 rank() { return threadIdx.x; }
    __device__ static u32 index() { return blockIdx.x; }
    __device__ static u32 count() { return gridDim.x; }
    __device__ static u32 place() { return 0; }
    __device__ static void sync() { __syncthreads(); }
    __device__ static void sync_after_fold() {}
    __device__ float sum(float x) { return block.sum(x); }
    __device__ float highest(float x) { return block.max(x); }
};

template <class Team> __device__ inline bool any(Team& team, bool x) { return team.highest(x ? 1.0f : 0.0f) > 0.0f; }

// The most numbers a team of one warp may keep of a pair, and a team of a whole block, for segments of 512.
constexpr u32 WARP_FLOATS = 768;
constexpr u32 BLOCK_FLOATS = 7 * 512;
static_assert(WARPS * WARP_FLOATS >= BLOCK_FLOATS);

__device__ inline bool warps_suffice(const Interact& p) { return 4 * p.max_frames + 3 * p.max_words <= WARP_FLOATS; }

// ln ω of a pair's words into shared memory, and whether any takes part.
template <class Team>
__device__ inline bool take_weights(Team& team, const Interact& p, const Pair& a, const float* word_log_weights,
                                    float* log_omega) {
    bool some = false;
    float uniform = -logf(static_cast<float>(a.words.count));
    for (u32 l = Team::rank(); l < a.words.count; l += Team::SIZE) {
        float w = p.has_weights ? word_log_weights[a.words.begin + l] : uniform;
        bool out = w <= EXCLUDED;
        log_omega[l] = out ? FLOOR : w;
        some |= !out;
    }
    return any(team, some);
}

// ln ρ of a pair under a view into shared memory, and whether any frame takes part: not by the highest logit, a NaN
// would pass for an empty video. Afterwards what the team wrote to shared memory is seen by all of it.
template <class Team>
__device__ inline bool take_relevance(Team& team, const Interact& p, const Pair& a, u32 view, const float* frame_bias,
                                      const float* log_weights, const float* dots, float* log_rho) {
    float highest = FLOOR;
    bool some = false;
    for (u32 t = Team::rank(); t < a.frames.count; t += Team::SIZE) {
        float prior = frame_bias ? frame_bias[a.frames.begin + t] : 0.0f;
        if (view > 0) prior += log_weights[(view - 1) * p.frame_cap + a.frames.begin + t];
        bool out = prior <= EXCLUDED;
        float logit = out ? FLOOR : dots[a.base + t * a.stride + a.words.count] / p.relevance_tau + prior;
        log_rho[t] = logit;
        highest = fmaxf(highest, logit);
        some |= !out;
    }
    highest = team.highest(highest);
    float sum = 0.0f;
    for (u32 t = Team::rank(); t < a.frames.count; t += Team::SIZE) sum += soft(log_rho[t] - highest);
    sum = team.sum(sum);
    float log_sum = highest + logf(at_least(sum, 1e-30f));
    for (u32 t = Team::rank(); t < a.frames.count; t += Team::SIZE) {
        log_rho[t] = at_least(log_rho[t] - log_sum, FLOOR);
    }
    some = any(team, some);
    Team::sync_after_fold();
    return some;
}

// How a team shares out lines: `split` neighbouring lanes a line, a power of two of at most a warp.
template <class Team> __device__ inline u32 lanes_a_line(u32 lines) {
    u32 split = 1;
    while (split < WARP && 2 * split * lines <= Team::SIZE) split *= 2;
    return split;
}

// Sum over the lanes of a line.
__device__ inline float line_sum(float x, u32 split) {
    for (u32 step = split / 2; step > 0; step /= 2) x += __shfl_xor_sync(ALL, x, step);
    return x;
}

// For each line the soft-max of logit(line, i), i < length, and the mean of value(line, i) under it: calls
// done(line, highest logit, sum of exponentials less it, that sum weighted by the values) in one lane.
template <class Team, class Logit, class Value, class Done>
__device__ inline void pool_lines(u32 lines, u32 length, Logit logit, Value value, Done done) {
    u32 split = lanes_a_line<Team>(lines);
    u32 part = Team::rank() % split;
    for (u32 first = 0; first < lines; first += Team::SIZE / split) {
        u32 line = first + Team::rank() / split;
        u32 end = line < lines ? length : 0;
        float most = FLOOR;
        for (u32 i = part; i < end; i += split) most = fmaxf(most, logit(line, i));
        for (u32 step = split / 2; step > 0; step /= 2) most = fmaxf(most, __shfl_xor_sync(ALL, most, step));
        float weights = 0.0f, values = 0.0f;
        for (u32 i = part; i < end; i += split) {
            float weight = soft(logit(line, i) - most);
            weights += weight;
            values = fmaf(weight, value(line, i), values);
        }
        weights = line_sum(weights, split);
        values = line_sum(values, split);
        if (part == 0 && line < lines) done(line, most, weights, values);
    }
}

// For each line the sum of term(line, i): calls done(line, sum) in one lane.
template <class Team, class Term, class Done>
__device__ inline void sum_lines(u32 lines, u32 length, Term term, Done done) {
    u32 split = lanes_a_line<Team>(lines);
    u32 part = Team::rank() % split;
    for (u32 first = 0; first < lines; first += Team::SIZE / split) {
        u32 line = first + Team::rank() / split;
        u32 end = line < lines ? length : 0;
        float sum = 0.0f;
        for (u32 i = part; i < end; i += split) sum += term(line, i);
        sum = line_sum(sum, split);
        if (part == 0 && line < lines) done(line, sum);
    }
}

struct PoolOperands {
    const float* word_log_weights;
    const float* frame_bias;
    const float* log_weights;
    const u32* pairs;
    const float* dots;
};

// interact_pool: from dot products to scores and relevance, for the pairs of a chunk or for listed pairs.
//
//   ln ρ_t = log_softmax_t(c_qt / τ_ρ + β_t + the view's log-weight)
//   S      = ½ (Σ_l ω_l Σ_t softmax_t(c_lt / τ + ln ρ_t) c_lt  +  Σ_t ρ_t Σ_l softmax_l(c_lt / τ + ln ω_l) c_lt)
//
// Floor: reads each dot product once, 4 bytes, for about 60 FLOPs; after interact_dots, 2·D FLOPs each, it is small.
// A pair is read four times, all but the first from L1. Logits take c times 1/τ: a division costs more than an
// exponential, and the error is that of a temperature off by 6e-8.
template <class Team>
__device__ inline void pool(Team team, const Interact& p, const Chunk& chunk, const PoolOperands& o, u32 listed, float* memory,
                            float* scores, float* view_scores, float* relevance) {
    float* log_omega = memory + Team::place() * WARP_FLOATS;
    float* log_rho = log_omega + p.max_words;
    float sharpness = 1.0f / p.tau;
    u32 of_list = min(p.text_count, max(listed, p.first_text) - p.first_text);
    u32 total = listed > 0 ? of_list : chunk.texts * chunk.videos;
    u32 views = view_scores ? p.views : 0;
    for (u32 index = Team::index(); index < total; index += Team::count()) {
        Pair a = listed > 0 ? listed_pair(p, chunk, o.pairs, index) : chunk_pair(p, chunk, index);
        const float* dots = o.dots + a.base;
        bool some_word = take_weights(team, p, a, o.word_log_weights, log_omega);
        for (u32 view = 0; view <= views; view++) {
            bool some_frame = take_relevance(team, p, a, view, o.frame_bias, o.log_weights, o.dots, log_rho);
            bool scored = a.there && some_word && some_frame;
            float pooled = 0.0f;
            if (scored) {
                pool_lines<Team>(
                    a.words.count, a.frames.count,
                    [&](u32 l, u32 t) { return fmaf(dots[t * a.stride + l], sharpness, log_rho[t]); },
                    [&](u32 l, u32 t) { return dots[t * a.stride + l]; },
                    [&](u32 l, float, float weights, float values) {
                        pooled += soft(log_omega[l]) * values / weights;
                    });
                pool_lines<Team>(
                    a.frames.count, a.words.count,
                    [&](u32 t, u32 l) { return fmaf(dots[t * a.stride + l], sharpness, log_omega[l]); },
                    [&](u32 t, u32 l) { return dots[t * a.stride + l]; },
                    [&](u32 t, float, float weights, float values) {
                        pooled += soft(log_rho[t]) * values / weights;
                    });
            }
            pooled = 0.5f * team.sum(pooled);
            Team::sync_after_fold();
            if (Team::rank() == 0) {
                if (view == 0) scores[a.score] = pooled;
                else view_scores[(view - 1) * p.text_cap * p.video_cap + a.score] = pooled;
            }
            if (view == 0 && listed == 0 && relevance) {
                // A video that is too long has rows all the same.
                u32 begin = min(chunk.frame_segments[2 * a.video], chunk.all_frames);
                u32 end = min(chunk.frame_segments[2 * a.video + 1], chunk.all_frames);
                for (u32 t = begin + Team::rank(); t < end; t += Team::SIZE) {
                    // Each lane reads what it wrote itself.
                    relevance[a.text * p.frame_cap + t] = scored ? soft(log_rho[t - begin]) : 0.0f;
                }
            }
        }
    }
}

KERNEL_OF(4) interact_pool(const u32* __restrict__ word_segments, const float* __restrict__ word_log_weights,
                        const u32* __restrict__ frame_segments, const float* __restrict__ frame_bias,
                        const float* __restrict__ log_weights, const u32* __restrict__ pairs,
                        const float* __restrict__ dots, float* __restrict__ scores, float* __restrict__ view_scores,
                        float* __restrict__ relevance, const u32* __restrict__ counts, Interact p) {
    __shared__ float memory[WARPS * WARP_FLOATS];
    __shared__ Folds folds;
    Chunk chunk(p, word_segments, frame_segments, counts);
    PoolOperands o = {word_log_weights, frame_bias, log_weights, pairs, dots};
    u32 listed = p.listed(counts);
    if (warps_suffice(p)) pool(WarpTeam(), p, chunk, o, listed, memory, scores, view_scores, relevance);
    else pool(BlockTeam{Block(folds)}, p, chunk, o, listed, memory, scores, view_scores, relevance);
}

struct Seeds {
    const float* dscores;
    const float* dview_scores;
    const float* drelevance;
};

// What belongs to a pair that is not scored holds zeros: the products read whole chunks.
template <class Team>
__device__ inline void clear(const Interact& p, const Chunk& chunk, const Pair& a, float* g, float* dlog_omega) {
    u32 stride = chunk.stride(), rows = p.video_count * p.max_frames;
    u32 first_word = chunk.word_rows().begin, first_frame = chunk.frame_rows().begin;
    u32 w0 = min(chunk.word_segments[2 * a.text] - first_word, stride);
    u32 w1 = min(min(chunk.word_segments[2 * a.text + 1], chunk.all_words) - first_word, stride);
    u32 f0 = min(chunk.frame_segments[2 * a.video] - first_frame, rows);
    u32 f1 = min(min(chunk.frame_segments[2 * a.video + 1], chunk.all_frames) - first_frame, rows);
    for (u32 w = w0 + Team::rank(); w < w1; w += Team::SIZE) {
        for (u32 f = f0; f < f1; f++) g[f * stride + w] = 0.0f;
        dlog_omega[(a.video - p.first_video) * stride + w] = 0.0f;
    }
}

// interact_pool_grad: from dot products and the gradients of scores and relevance to the gradient G of the dot
// products, for the pairs of a chunk; also each pair's part of d ln ω.
//
// With α, γ the soft-maxes over frames and over words, u_l = Σ_t α c, v_t = Σ_l γ c, P = ω_l α, Q = ρ_t γ:
//
//   G_lt    = ½ (P (1 + (c − u_l)/τ) + Q (1 + (c − v_t)/τ))          d ln ω_l = ½ (ω_l u_l + Σ_t Q (c − v_t))
//   r_t     = ½ (Σ_l P (c − u_l) + ρ_t v_t) + ρ_t dρ_t               G_qt = (r_t − ρ_t Σ_s r_s) / τ_ρ
//   dβ_t    = τ_ρ Σ G_qt, which interact_reduce adds up
//
// P and Q are one exponential each: ln P = c/τ + ln ρ_t + (ln ω_l − lse_l), the bracket is `gain` of the word.
//
// Floor: reads each dot product once and writes G, 8 bytes, for about 150 FLOPs; small beside the three products of
// 2·D FLOPs each around it. G has memory of its own: further views need the dot products again and add to it. Every
// element is written by the same lane in every view.
template <class Team>
__device__ inline void pool_grad(Team team, const Interact& p, const Chunk& chunk, const PoolOperands& o, const Seeds& seeds,
                                 float* memory, float* g_of_chunk, float* dlog_omega_of_chunk) {
    float* log_omega = memory + Team::place() * WARP_FLOATS;
    float* word_gain = log_omega + p.max_words;
    float* u = word_gain + p.max_words;
    float* log_rho = u + p.max_words;
    float* frame_gain = log_rho + p.max_frames;
    float* v = frame_gain + p.max_frames;
    float* dlog_rho = v + p.max_frames;
    float sharpness = 1.0f / p.tau;
    u32 total = chunk.texts * chunk.videos, first_word = chunk.word_rows().begin;
    for (u32 index = Team::index(); index < total; index += Team::count()) {
        Pair a = chunk_pair(p, chunk, index);
        if (!a.there) {
            clear<Team>(p, chunk, a, g_of_chunk, dlog_omega_of_chunk);
            continue;
        }
        const float* dots = o.dots + a.base;
        float* g = g_of_chunk + a.base;
        float* dlog_omega =
            dlog_omega_of_chunk + (a.video - p.first_video) * a.stride + (a.words.begin - first_word);
        bool some_word = take_weights(team, p, a, o.word_log_weights, log_omega);
        for (u32 view = 0; view <= p.views; view++) {
            auto add_to = [&](float* at, float x) { *at = view > 0 ? *at + x : x; };
            bool some_frame = take_relevance(team, p, a, view, o.frame_bias, o.log_weights, o.dots, log_rho);
            // A view in which nothing is left hands back nothing.
            float live = some_word && some_frame ? 1.0f : 0.0f;
            const float* seed = view == 0 ? seeds.dscores : seeds.dview_scores;
            u32 seed_at = view == 0 ? a.score : (view - 1) * p.text_cap * p.video_cap + a.score;
            float half = seed ? 0.5f * live * seed[seed_at] : 0.0f;
            pool_lines<Team>(
                a.words.count, a.frames.count,
                [&](u32 l, u32 t) { return fmaf(dots[t * a.stride + l], sharpness, log_rho[t]); },
                [&](u32 l, u32 t) { return dots[t * a.stride + l]; },
                [&](u32 l, float most, float weights, float values) {
                    weights = at_least(weights, 1e-30f);
                    word_gain[l] = log_omega[l] - (most + logf(weights));
                    u[l] = values / weights;
                });
            pool_lines<Team>(
                a.frames.count, a.words.count,
                [&](u32 t, u32 l) { return fmaf(dots[t * a.stride + l], sharpness, log_omega[l]); },
                [&](u32 t, u32 l) { return dots[t * a.stride + l]; },
                [&](u32 t, float most, float weights, float values) {
                    weights = at_least(weights, 1e-30f);
                    frame_gain[t] = log_rho[t] - (most + logf(weights));
                    v[t] = values / weights;
                });
            Team::sync();
            float total_r = 0.0f;
            sum_lines<Team>(
                a.frames.count, a.words.count,
                [&](u32 t, u32 l) {
                    float c = dots[t * a.stride + l];
                    return soft(fmaf(c, sharpness, log_rho[t]) + word_gain[l]) * (c - u[l]);
                },
                [&](u32 t, float away) {
                    float rho = soft(log_rho[t]);
                    float r = half * (away + rho * v[t]);
                    if (view == 0 && seeds.drelevance) {
                        r += live * rho * seeds.drelevance[a.text * p.frame_cap + a.frames.begin + t];
                    }
                    dlog_rho[t] = r;
                    total_r += r;
                });
            total_r = team.sum(total_r);
            Team::sync_after_fold();
            for (u32 t = Team::rank(); t < a.frames.count; t += Team::SIZE) {
                float dbias = dlog_rho[t] - soft(log_rho[t]) * total_r;
                add_to(g + t * a.stride + a.words.count, dbias / p.relevance_tau);
            }
            sum_lines<Team>(
                a.words.count, a.frames.count,
                [&](u32 l, u32 t) {
                    u32 at = t * a.stride + l;
                    float c = dots[at], logit = c * sharpness;
                    float weight_p = soft(logit + log_rho[t] + word_gain[l]);
                    float weight_q = soft(logit + log_omega[l] + frame_gain[t]);
                    float away_p = weight_p * (c - u[l]), away_q = weight_q * (c - v[t]);
                    add_to(g + at, half * (weight_p + weight_q + (away_p + away_q) * sharpness));
                    return away_q;
                },
                [&](u32 l, float away) { add_to(dlog_omega + l, half * (soft(log_omega[l]) * u[l] + away)); });
            if (view == 0 && Team::rank() == 0) dlog_omega[a.words.count] = 0.0f;
            Team::sync();
        }
    }
}

KERNEL_OF(4) interact_pool_grad(const u32* __restrict__ word_segments, const float* __restrict__ word_log_weights,
                             const u32* __restrict__ frame_segments, const float* __restrict__ frame_bias,
                             const float* __restrict__ log_weights, const u32* __restrict__ pairs,
                             const float* __restrict__ dots, const float* __restrict__ dscores,
                             const float* __restrict__ dview_scores, const float* __restrict__ drelevance,
                             float* __restrict__ g, float* __restrict__ dlog_omega, const u32* __restrict__ counts,
                             Interact p) {
    __shared__ float memory[WARPS * WARP_FLOATS];
    __shared__ Folds folds;
    Chunk chunk(p, word_segments, frame_segments, counts);
    PoolOperands o = {word_log_weights, frame_bias, log_weights, pairs, dots};
    Seeds seeds = {dscores, dview_scores, drelevance};
    if (warps_suffice(p)) pool_grad(WarpTeam(), p, chunk, o, seeds, memory, g, dlog_omega);
    else pool_grad(BlockTeam{Block(folds)}, p, chunk, o, seeds, memory, g, dlog_omega);
}
