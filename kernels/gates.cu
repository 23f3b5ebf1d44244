// Token interaction with a router: every text mixes the experts of every frame anew.
//
//   π_s = softmax_s(g_i,expert(t,s) + h_ts)      n = πᵀ G π      p_s = π_s / √n      c_lt = Σ_s p_s x_lts
//
// x are the products of interact_dots, a row a slot; c is what interact_pool pools. An expert that does not exist, and a
// logit of EXCLUDED or less, has gate 0; where n is LEAST_NORM or less all p are 0.
#include "interact.cuh"
#include "tile.cuh"

constexpr u32 MAX_SLOTS = 16;
constexpr float LEAST_NORM = 1e-12f;

// A warp takes this many frames of a pair.
constexpr u32 GATE_FRAMES = 16;
constexpr u32 GATE_FLOATS = GATE_FRAMES * MAX_SLOTS;

struct Router {
    const float* text;
    const float* frame;
    const u32* table;
    const float* gram;
    u32 experts, slots, kept;

    __device__ u32 expert(u32 row, u32 s) const { return table ? table[row * slots + s] : s; }
    __device__ float logit(u32 i, u32 row, u32 s) const {
        u32 e = expert(row, s);
        if (e >= experts) return FLOOR;
        float z = text[i * experts + e] + frame[row * slots + s];
        return z <= EXCLUDED ? FLOOR : z;
    }
    // (G π)_s
    __device__ float toward(u32 row, u32 s, const float* pi) const {
        const float* products = gram + (size_t(row) * slots + s) * slots;
        float sum = 0.0f;
        for (u32 other = 0; other < slots; other++) sum = fmaf(products[other], pi[other], sum);
        return sum;
    }
    // The slots that survive, as bits: the `kept` largest, of equal ones the lower; a NaN stays.
    __device__ u32 survivors(const float* logits) const {
        u32 bits = 0;
        for (u32 s = 0; s < slots; s++) {
            u32 ahead = 0;
            for (u32 other = 0; kept > 0 && other < slots; other++) {
                ahead += logits[other] > logits[s] || (logits[other] == logits[s] && other < s);
            }
            if (kept == 0 || ahead < kept) bits |= 1u << s;
        }
        return bits;
    }
    // The gates of text i and a frame into this lane's part of shared memory; returns 1 / √n, or 0.
    __device__ float gates(u32 i, u32 row, float* pi) const {
        for (u32 s = 0; s < slots; s++) pi[s] = logit(i, row, s);
        u32 bits = survivors(pi);
        float most = FLOOR;
        for (u32 s = 0; s < slots; s++) {
            if (!(bits >> s & 1)) pi[s] = FLOOR;
            most = fmaxf(most, pi[s]);
        }
        float total = 0.0f;
        for (u32 s = 0; s < slots; s++) {
            pi[s] = pi[s] <= EXCLUDED ? 0.0f : soft(pi[s] - most);
            total += pi[s];
        }
        // Where no slot takes part all gates stay 0.
        float inverse = total == 0.0f ? 0.0f : 1.0f / total;
        for (u32 s = 0; s < slots; s++) pi[s] *= inverse;
        float n = 0.0f;
        for (u32 s = 0; s < slots; s++) n = fmaf(pi[s], toward(row, s, pi), n);
        return n <= LEAST_NORM ? 0.0f : 1.0f / sqrtf(n);
    }
};

// Frames of a pair that a warp takes: from `first` on, `count` of them, and where their products begin.
struct Share {
    u32 first, count, products;

    __device__ Share(const Interact& p, const Pair& a, u32 tile) {
        first = tile * GATE_FRAMES;
        count = first < a.frames.count ? min(GATE_FRAMES, a.frames.count - first) : 0;
        // With a row a slot; a listed pair has such places of its own.
        products = a.base / a.stride * p.slots * a.stride + a.base % a.stride;
    }
};

__device__ inline u32 gate_tiles(const Interact& p) { return (p.max_frames + GATE_FRAMES - 1) / GATE_FRAMES; }

// interact_route: from products to cosines, for the pairs of a chunk or for listed pairs.
// Floor: reads k numbers and writes one for each cosine, 4·(k + 1) bytes; bound by bandwidth. Beside interact_dots, 2·k·D
// FLOPs each in f32, it is small: at D = 512, k = 4 a tenth.
// Layout: a warp takes 16 frames of a pair. A lane a frame takes its gates, k exponentials; then lanes run over frames
// and words, words neighbouring.
KERNEL interact_route(const u32* __restrict__ word_segments, const u32* __restrict__ frame_segments,
                      const float* __restrict__ router_text, const float* __restrict__ router_frame,
                      const u32* __restrict__ slot_table, const float* __restrict__ gram,
                      const u32* __restrict__ pairs, const float* __restrict__ products, float* __restrict__ dots,
                      const u32* __restrict__ counts, Interact p) {
    __shared__ float memory[WARPS * GATE_FLOATS];
    float* weights = memory + threadIdx.x / WARP * GATE_FLOATS;
    Router router = {router_text, router_frame, slot_table, gram, p.experts, p.slots, p.kept};
    Chunk chunk(p, word_segments, frame_segments, counts);
    u32 listed = p.listed(counts), lane = lane_index(), tiles = gate_tiles(p);
    u32 of_list = min(p.text_count, max(listed, p.first_text) - p.first_text);
    u32 total = listed > 0 ? of_list : chunk.texts * chunk.videos;
    for (u32 unit = warp_index(); unit < total * tiles; unit += warp_count()) {
        u32 index = unit / tiles;
        Pair a = listed > 0 ? listed_pair(p, chunk, pairs, index) : chunk_pair(p, chunk, index);
        Share share(p, a, unit % tiles);
        if (lane < share.count) {
            float* mine = weights + lane * p.slots;
            float scale = router.gates(a.text, a.frames.begin + share.first + lane, mine);
            for (u32 s = 0; s < p.slots; s++) mine[s] *= scale;
        }
        __syncwarp();
        u32 columns = a.words.count + 1;
        for (u32 i = lane; i < share.count * columns; i += WARP) {
            u32 t = i / columns, l = i % columns;
            const float* x = products + share.products + (share.first + t) * p.slots * a.stride + l;
            float sum = 0.0f;
            for (u32 s = 0; s < p.slots; s++) sum = fmaf(weights[t * p.slots + s], x[s * a.stride], sum);
            dots[a.base + (share.first + t) * a.stride + l] = sum;
        }
        __syncwarp();
    }
}

// What the gates of a chunk gain: planes [2k + 1, frames, texts], texts side by side: k logits, dn, k gates.
struct Planes {
    float* at;
    u32 frames, texts;

    __device__ Planes(const Interact& p, float* at) : at(at), frames(p.video_count * p.max_frames), texts(p.text_count) {}
    __device__ float& operator()(u32 plane, u32 frame, u32 text) const {
        return at[(size_t(plane) * frames + frame) * texts + text];
    }
};

// What belongs to a pair that is not scored holds zeros: products and sums read whole chunks. The last share of a pair
// also has what lies beyond max_frames.
__device__ inline void clear(const Interact& p, const Chunk& chunk, const Pair& a, u32 tile, float* products,
                             const Planes& planes) {
    u32 stride = chunk.stride(), rows = p.video_count * p.max_frames;
    u32 first_word = chunk.word_rows().begin, first_frame = chunk.frame_rows().begin;
    u32 w0 = min(chunk.word_segments[2 * a.text] - first_word, stride);
    u32 w1 = min(min(chunk.word_segments[2 * a.text + 1], chunk.all_words) - first_word, stride);
    u32 f0 = min(chunk.frame_segments[2 * a.video] - first_frame + tile * GATE_FRAMES, rows);
    u32 f1 = min(min(chunk.frame_segments[2 * a.video + 1], chunk.all_frames) - first_frame, rows);
    if (tile + 1 < gate_tiles(p)) f1 = min(f1, f0 + GATE_FRAMES);
    for (u32 f = f0; f < f1; f++) {
        for (u32 s = 0; s < p.slots; s++) {
            for (u32 w = w0 + lane_index(); w < w1; w += WARP) products[(f * p.slots + s) * stride + w] = 0.0f;
        }
        for (u32 plane = lane_index(); plane <= 2 * p.slots; plane += WARP) {
            planes(plane, f, a.text - p.first_text) = 0.0f;
        }
    }
}

// interact_route_grad: from the gradient of cosines (g) to that of the products, in their place, and for each text and
// frame to that of its gates. With y_s = Σ_l g_l x_ls:
//
//   dx_ls = p_s g_l     dn = −½ n^{−3/2} Σ_s π_s y_s     dlogit_s = π_s (y_s / √n + 2 dn (G π)_s)     dG_ss' = dn π_s π_s'
//
// The sum that the gradient of a soft-max subtracts is 0: a cosine does not change when all gates grow alike.
// Floor: reads k + 1 numbers and writes k for each cosine; bound by bandwidth, and small beside the products around it.
// Layout: as interact_route; eight lanes a row of products, so that each reads whole sectors, then a lane a frame.
KERNEL_OF(4) interact_route_grad(const u32* __restrict__ word_segments, const u32* __restrict__ frame_segments,
                           const float* __restrict__ router_text, const float* __restrict__ router_frame,
                           const u32* __restrict__ slot_table, const float* __restrict__ gram,
                           const u32* __restrict__ pairs, const float* __restrict__ g, float* __restrict__ products,
                           float* __restrict__ gates, const u32* __restrict__ counts, Interact p) {
    __shared__ float memory[WARPS * (2 * GATE_FLOATS + GATE_FRAMES)];
    float* pi = memory + threadIdx.x / WARP * (2 * GATE_FLOATS + GATE_FRAMES);
    float* y = pi + GATE_FLOATS;
    float* scales = y + GATE_FLOATS;
    Router router = {router_text, router_frame, slot_table, gram, p.experts, p.slots, p.kept};
    Chunk chunk(p, word_segments, frame_segments, counts);
    Planes planes(p, gates);
    u32 lane = lane_index(), tiles = gate_tiles(p), first_frame = chunk.frame_rows().begin;
    constexpr u32 SPLIT = 8;
    for (u32 unit = warp_index(); unit < chunk.texts * chunk.videos * tiles; unit += warp_count()) {
        Pair a = chunk_pair(p, chunk, unit / tiles);
        if (!a.there) {
            clear(p, chunk, a, unit % tiles, products, planes);
            continue;
        }
        Share share(p, a, unit % tiles);
        u32 row = a.frames.begin + share.first + lane;
        if (lane < share.count) scales[lane] = router.gates(a.text, row, pi + lane * p.slots);
        __syncwarp();
        u32 lines = share.count * p.slots, columns = a.words.count + 1;
        for (u32 from = 0; from < lines; from += WARP / SPLIT) {
            u32 line = from + lane / SPLIT;
            float sum = 0.0f;
            if (line < lines) {
                u32 t = line / p.slots;
                const float* of_frame = g + a.base + (share.first + t) * a.stride;
                float* x = products + share.products + (share.first * p.slots + line) * a.stride;
                float weight = pi[line] * scales[t];
                for (u32 l = lane % SPLIT; l < columns; l += SPLIT) {
                    sum = fmaf(of_frame[l], x[l], sum);
                    x[l] = weight * of_frame[l];
                }
            }
#pragma unroll
            for (u32 step = SPLIT / 2; step > 0; step /= 2) sum += __shfl_xor_sync(ALL, sum, step);
            if (lane % SPLIT == 0 && line < lines) y[line] = sum;
        }
        __syncwarp();
        if (lane < share.count) {
            const float* mine = pi + lane * p.slots;
            const float* gained = y + lane * p.slots;
            float scale = scales[lane], mean = 0.0f;
            for (u32 s = 0; s < p.slots; s++) mean = fmaf(mine[s], gained[s], mean);
            float dn = -0.5f * scale * scale * scale * mean;
            u32 frame = row - first_frame, text = a.text - p.first_text;
            for (u32 s = 0; s < p.slots; s++) {
                float dgate = fmaf(2.0f * dn, router.toward(row, s, mine), gained[s] * scale);
                planes(s, frame, text) = mine[s] * dgate;
                planes(p.slots + 1 + s, frame, text) = mine[s];
            }
            planes(p.slots, frame, text) = dn;
        }
        // No barrier: of what this part read, a lane's next round writes its own first, and y behind the first barrier.
    }
}

// interact_route_frames: what a chunk adds to the gradient of the router's logits of frames and of the gram. Chunks are
// launched in a fixed order, the first writes and the others add.
// Floor: reads 2k + 1 numbers a text and frame; bound by latency and small. Layout: a warp takes a number of the result,
// its lanes every 32nd text.
KERNEL interact_route_frames(const u32* __restrict__ word_segments, const u32* __restrict__ frame_segments,
                             float* __restrict__ gates, float* __restrict__ drouter_frame, float* __restrict__ dgram,
                             const u32* __restrict__ counts, Interact p) {
    Chunk chunk(p, word_segments, frame_segments, counts);
    Planes planes(p, gates);
    Rows rows = chunk.frame_rows();
    u32 k = p.slots, each = k + k * k;
    for (u32 i = warp_index(); i < rows.count * each; i += warp_count()) {
        u32 frame = i / each, item = i % each;
        bool logit = item < k;
        float* y = logit ? drouter_frame : dgram;
        u32 s = logit ? item : (item - k) / k, other = logit ? 0 : (item - k) % k;
        float sum = 0.0f;
        for (u32 text = lane_index(); text < chunk.texts; text += WARP) {
            if (logit) sum += planes(s, frame, text);
            else sum += planes(k, frame, text) * planes(k + 1 + s, frame, text) * planes(k + 1 + other, frame, text);
        }
        sum = warp_sum(sum);
        u32 at = logit ? (rows.begin + frame) * k + s : (rows.begin + frame) * k * k + item - k;
        if (lane_index() == 0 && y) y[at] = p.add ? y[at] + sum : sum;
    }
}

// interact_route_texts: what a chunk adds to the gradient of the router's logits of texts; the first chunk writes and
// the others add.
// Floor: reads k numbers a text and frame; bound by latency and small. Layout: a block takes an expert and 32 texts,
// side by side, and each of its warps every eighth frame; parts are added in a fixed order.
KERNEL interact_route_texts(const u32* __restrict__ word_segments, const u32* __restrict__ frame_segments,
                            const u32* __restrict__ slot_table, float* __restrict__ gates,
                            float* __restrict__ drouter_text, const u32* __restrict__ counts, Interact p) {
    __shared__ float of_warp[WARPS][WARP];
    Chunk chunk(p, word_segments, frame_segments, counts);
    Planes planes(p, gates);
    Rows rows = chunk.frame_rows();
    u32 warp = threadIdx.x / WARP, lane = lane_index(), strips = (chunk.texts + WARP - 1) / WARP;
    for (u32 unit = blockIdx.x; unit < strips * p.experts; unit += gridDim.x) {
        u32 text = unit % strips * WARP + lane, expert = unit / strips;
        float sum = 0.0f;
        for (u32 frame = warp; frame < rows.count; frame += WARPS) {
            for (u32 s = 0; s < p.slots; s++) {
                u32 holds = slot_table ? slot_table[(rows.begin + frame) * p.slots + s] : s;
                if (holds == expert && text < chunk.texts) sum += planes(s, frame, text);
            }
        }
        of_warp[warp][lane] = sum;
        __syncthreads();
        if (warp == 0 && text < chunk.texts) {
            float total = 0.0f;
#pragma unroll
            for (u32 k = 0; k < WARPS; k++) total += of_warp[k][lane];
            float* y = drouter_text + (p.first_text + text) * p.experts + expert;
            *y = p.add ? *y + total : total;
        }
        __syncthreads();
    }
}

// foreground: which frames of its own video a text is about: those ⌈T/2⌉ with the highest peaks, of equal ones the
// earlier; a frame's peak is its highest cosine with a word.
// Floor: 2·L·T·k·D FLOPs a pair, once a batch; beside all pairs of it small, so this is plain.
// Layout: a block takes a pair: a thread a frame takes its gates, a warp a frame its peak, lanes along the rows; then a
// thread a frame counts who is ahead.
struct Foreground {
    Size texts, videos, words, frames;
    u32 width, text_cap, video_cap, frame_cap, views, max_words, max_frames;
    float tau, relevance_tau;
    u32 experts, slots, kept, keep_background, tabled;
};

KERNEL_OF(4) foreground(const float* __restrict__ words, const u32* __restrict__ word_segments,
                  const float* __restrict__ word_log_weights, const float* __restrict__ frames,
                  const u32* __restrict__ frame_segments, const float* __restrict__ router_text,
                  const float* __restrict__ router_frame, const u32* __restrict__ slot_table,
                  const float* __restrict__ gram, float* __restrict__ log_weights, float* __restrict__ scratch,
                  const u32* __restrict__ counts, Foreground p) {
    __shared__ float peaks[512];
    __shared__ float weights[512 * MAX_SLOTS];
    Router router = {router_text, router_frame, slot_table, gram, p.experts, p.slots, p.kept};
    u32 videos = p.videos(counts), texts = p.texts(counts), warp = threadIdx.x / WARP, lane = lane_index();
    u32 all_words = p.words(counts), all_frames = p.frames(counts);
    for (u32 i = blockIdx.x; i < videos; i += gridDim.x) {
        Rows all = Chunk::of_one(frame_segments, i, all_frames, ALL);
        Rows text = i < texts ? Chunk::of_one(word_segments, i, all_words, p.max_words) : Rows{0, 0};
        u32 word_count = text.count > 0 ? text.count - 1 : 0;
        u32 count = word_count > 0 && all.count <= p.max_frames ? all.count : 0;
        for (u32 t = threadIdx.x; t < count; t += THREADS) {
            float* mine = weights + t * p.slots;
            if (p.experts == 0) {
                mine[0] = 1.0f;
                continue;
            }
            float scale = router.gates(i, all.begin + t, mine);
            for (u32 s = 0; s < p.slots; s++) mine[s] *= scale;
        }
        __syncthreads();
        for (u32 t = warp; t < count; t += WARPS) {
            u32 row = all.begin + t;
            const float* experts = frames + size_t(row) * p.slots * p.width;
            float peak = 2.0f * FLOOR;
            for (u32 l = 0; l < word_count; l++) {
                if (word_log_weights && word_log_weights[text.begin + l] <= EXCLUDED) continue;
                const float* word = words + size_t(text.begin + l) * p.width;
                float sum = 0.0f;
                for (u32 d = lane; d < p.width; d += WARP) {
                    float mixed = 0.0f;
                    for (u32 s = 0; s < p.slots; s++) mixed = fmaf(weights[t * p.slots + s], experts[s * p.width + d], mixed);
                    sum = fmaf(word[d], mixed, sum);
                }
                peak = fmaxf(peak, warp_sum(sum));
            }
            if (lane == 0) peaks[t] = peak;
        }
        __syncthreads();
        for (u32 t = threadIdx.x; t < all.count; t += THREADS) {
            float value = 0.0f;
            // Without a word that takes part there is no peak.
            if (t < count && peaks[t] >= FLOOR) {
                u32 ahead = 0;
                for (u32 other = 0; other < count; other++) {
                    ahead += peaks[other] > peaks[t] || (peaks[other] == peaks[t] && other < t);
                }
                if ((ahead < (count + 1) / 2) == (p.keep_background != 0)) value = FLOOR;
            }
            log_weights[all.begin + t] = value;
        }
        // No barrier: the next round writes peaks behind its first one.
    }
}
