// Stands between interact_chunk and the kernels that work on pairs: where one is, by workgroups of 64 invocations.
const LANES = 64u;

// The exponential of something at most 0, which may be a floor.
fn soft(x: f32) -> f32 { return select(exp(max(x, -85.0)), 0.0, x < -85.0); }

struct Pair {
    // Exists, and where: text, video, rows of both.
    there: bool,
    text: u32, video: u32,
    word_rows: vec2<u32>, frame_rows: vec2<u32>,
    // Where its dot products begin, and from frame to frame.
    base: u32, stride: u32,
    // Where its score goes.
    score: u32,
}

fn pair_at(index: u32, bases: vec2<u32>) -> Pair {
    var a: Pair;
    if size(p.listed) > 0u {
        let at = p.first_text + index;
        a.text = pairs(2u * at);
        a.video = pairs(2u * at + 1u);
        a.there = a.text < size(p.texts) && a.video < size(p.videos);
        a.base = index * p.max_frames * p.max_words;
        a.stride = p.max_words;
        a.score = at;
    } else {
        a.there = true;
        a.text = p.first_text + index / chunk_videos();
        a.video = p.first_video + index % chunk_videos();
        a.stride = chunk_stride();
        a.score = a.text * p.video_cap + a.video;
    }
    if a.there {
        a.word_rows = text_rows(a.text);
        a.frame_rows = video_rows(a.video);
    }
    if size(p.listed) == 0u {
        let word = a.word_rows.x - bases.x;
        let frame = a.frame_rows.x - bases.y;
        a.base = frame * a.stride + word;
        // Behind a segment that is too long there may be no room left.
        let room = p.video_count * p.max_frames;
        a.there = word < a.stride && word + a.word_rows.y <= a.stride && frame < room && frame + a.frame_rows.y <= room;
    }
    a.there = a.there && a.word_rows.y >= 2u && a.frame_rows.y > 0u;
    if !a.there { a.word_rows.y = 1u; a.frame_rows.y = 0u; }
    return a;
}
