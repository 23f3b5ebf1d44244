// Stands before the kernels of token interaction that work on a chunk: some texts with some videos, whose dot
// products lie in the workspace, frames as rows, words as columns, `text_count * max_words` columns a row.
// With a router a frame has a row a slot in the products, which are mixed before they are pooled.
// What lies beyond the counts is nobody's: such a chunk has no rows.
struct P {
    texts: u32, videos: u32, words: u32, frames: u32, width: u32,
    text_cap: u32, video_cap: u32, frame_cap: u32, views: u32, max_words: u32, max_frames: u32,
    tau: f32, relevance_tau: f32, experts: u32, slots: u32, kept: u32,
    first_text: u32, text_count: u32, first_video: u32, video_count: u32,
    has_weights: u32, listed: u32, transposed: u32, add: u32, tabled: u32, pair_rows: u32,
}

// What a log-weight at or below the first value becomes.
const EXCLUDED = -1e29;
const FLOOR = -1e30;

// Texts and videos of the chunk that exist.
fn chunk_texts() -> u32 { return min(p.text_count, max(size(p.texts), p.first_text) - p.first_text); }
fn chunk_videos() -> u32 { return min(p.video_count, max(size(p.videos), p.first_video) - p.first_video); }
fn chunk_stride() -> u32 { return p.text_count * p.max_words; }

// First row and number of rows of the chunk's texts in their operand.
fn chunk_word_rows() -> vec2<u32> {
    let n = chunk_texts();
    if n == 0u { return vec2<u32>(0u, 0u); }
    let begin = min(word_segments(2u * p.first_text), size(p.words));
    let end = min(word_segments(2u * (p.first_text + n) - 1u), size(p.words));
    return vec2<u32>(begin, min(max(end, begin) - begin, p.text_count * p.max_words));
}

fn chunk_frame_rows() -> vec2<u32> {
    let n = chunk_videos();
    if n == 0u { return vec2<u32>(0u, 0u); }
    let begin = min(frame_segments(2u * p.first_video), size(p.frames));
    let end = min(frame_segments(2u * (p.first_video + n) - 1u), size(p.frames));
    return vec2<u32>(begin, min(max(end, begin) - begin, p.video_count * p.max_frames));
}

// The same with a row a slot.
fn chunk_slot_rows() -> vec2<u32> { return chunk_frame_rows() * p.slots; }

// First row and number of rows of a text; none if it is longer than the op was made for.
fn text_rows(i: u32) -> vec2<u32> {
    let begin = min(word_segments(2u * i), size(p.words));
    let end = max(min(word_segments(2u * i + 1u), size(p.words)), begin);
    return vec2<u32>(begin, select(end - begin, 0u, end - begin > p.max_words));
}

fn video_rows(j: u32) -> vec2<u32> {
    let begin = min(frame_segments(2u * j), size(p.frames));
    let end = max(min(frame_segments(2u * j + 1u), size(p.frames)), begin);
    return vec2<u32>(begin, select(end - begin, 0u, end - begin > p.max_frames));
}
