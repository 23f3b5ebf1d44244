// What the kernels of token interaction share: their parameters, the rows of a chunk, and where a pair lies in it.
#pragma once
#include "common.cuh"

// At or below this, a log-weight takes its frame or word out, a router's logit its slot.
constexpr float EXCLUDED = -1e29f;

struct Interact {
    Size texts, videos, words, frames;
    u32 width, text_cap, video_cap, frame_cap, views, max_words, max_frames;
    float tau, relevance_tau;
    u32 experts, slots, kept;
    u32 first_text, text_count, first_video, video_count, has_weights;
    Size listed;
    u32 transposed, add, tabled;
    // Of products that a listed pair has a place for.
    u32 pair_rows;
};

struct Rows { u32 begin, count; };

// What a kernel knows of its chunk.
struct Chunk {
    const u32* word_segments;
    const u32* frame_segments;
    u32 all_texts, all_videos, all_words, all_frames, max_words, max_frames;
    u32 first_text, text_count, first_video, video_count;
    // Texts and videos of the chunk that exist.
    u32 texts, videos;

    __device__ Chunk(const Interact& p, const u32* words, const u32* frames, const u32* counts)
        : word_segments(words), frame_segments(frames), all_texts(p.texts(counts)), all_videos(p.videos(counts)),
          all_words(p.words(counts)), all_frames(p.frames(counts)), max_words(p.max_words), max_frames(p.max_frames),
          first_text(p.first_text), text_count(p.text_count), first_video(p.first_video), video_count(p.video_count) {
        texts = min(text_count, max(all_texts, first_text) - first_text);
        videos = min(video_count, max(all_videos, first_video) - first_video);
    }
    __device__ u32 stride() const { return text_count * max_words; }

    // First row and number of rows of the chunk's texts in their operand.
    __device__ Rows word_rows() const {
        return of_chunk(word_segments, first_text, texts, all_words, text_count * max_words);
    }
    __device__ Rows frame_rows() const {
        return of_chunk(frame_segments, first_video, videos, all_frames, video_count * max_frames);
    }
    // The same with a row a slot.
    __device__ Rows slot_rows(u32 slots) const {
        Rows frames = frame_rows();
        return {frames.begin * slots, frames.count * slots};
    }
    // First row and number of rows of one text.
    __device__ Rows text_rows(u32 i) const { return of_one(word_segments, i, all_words, max_words); }
    __device__ Rows video_rows(u32 j) const { return of_one(frame_segments, j, all_frames, max_frames); }

    __device__ static Rows of_chunk(const u32* segments, u32 first, u32 n, u32 rows, u32 most) {
        if (n == 0) return {0, 0};
        u32 begin = min(segments[2 * first], rows), end = min(segments[2 * (first + n) - 1], rows);
        return {begin, min(max(end, begin) - begin, most)};
    }
    __device__ static Rows of_one(const u32* segments, u32 i, u32 rows, u32 most) {
        u32 begin = min(segments[2 * i], rows), end = max(min(segments[2 * i + 1], rows), begin);
        return {begin, end - begin > most ? 0 : end - begin};
    }
};

// The exponential of something at most 0, which may be a floor; a NaN stays one.
__device__ inline float soft(float x) { return x < -85.0f ? 0.0f : expf(x); }

// The larger of the two, unlike fmaxf NaN if x is.
__device__ inline float at_least(float x, float floor) { return x < floor ? floor : x; }

struct Pair {
    // Exists; otherwise it has no words and no frames.
    bool there;
    u32 text, video;
    Rows words, frames;
    // Where its dot products begin, and from frame to frame.
    u32 base, stride;
    // Where its score goes.
    u32 score;
};

// Whether the pair has words and frames; takes them away if not, or if `room` says there is no place for them.
__device__ inline void settle(Pair& a, bool room) {
    a.there = room && a.words.count >= 2 && a.frames.count > 0;
    a.words.count = a.there ? a.words.count - 1 : 0;
    if (!a.there) a.frames.count = 0;
}

__device__ inline Pair listed_pair(const Interact& p, const Chunk& chunk, const u32* pairs, u32 index) {
    Pair a = {};
    u32 at = p.first_text + index;
    a.text = pairs[2 * at];
    a.video = pairs[2 * at + 1];
    bool known = a.text < chunk.all_texts && a.video < chunk.all_videos;
    if (known) {
        a.words = chunk.text_rows(a.text);
        a.frames = chunk.video_rows(a.video);
    }
    a.base = index * p.max_frames * p.max_words;
    a.stride = p.max_words;
    a.score = at;
    settle(a, known);
    return a;
}

__device__ inline Pair chunk_pair(const Interact& p, const Chunk& chunk, u32 index) {
    Pair a = {};
    a.text = p.first_text + index / chunk.videos;
    a.video = p.first_video + index % chunk.videos;
    a.words = chunk.text_rows(a.text);
    a.frames = chunk.video_rows(a.video);
    a.stride = chunk.stride();
    a.score = a.text * p.video_cap + a.video;
    u32 word = a.words.begin - chunk.word_rows().begin, frame = a.frames.begin - chunk.frame_rows().begin;
    a.base = frame * a.stride + word;
    // Behind a segment that is too long there may be no room left.
    u32 rows = p.video_count * p.max_frames;
    settle(a, word < a.stride && word + a.words.count <= a.stride && frame < rows && frame + a.frames.count <= rows);
    return a;
}
