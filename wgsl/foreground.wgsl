// foreground: which frames of its own video a text is about: those ⌈T/2⌉ with the highest peaks, of equal ones the
// earlier; a frame's peak is its highest cosine with a word.
//
// Floor: 2·L·T·k·D FLOPs a pair, once a batch; beside all pairs of it small, so this is plain.
// Layout: a workgroup of 256 a pair. Each invocation takes words of frames in turn, and peaks meet in workgroup memory
// as ordered bits: a maximum is the same in any order. Then an invocation a frame counts who is ahead of it.
// Learnt: lavapipe leaves a shader's loops after 65535 rounds of all of them together, hence 256 and four at a time.
struct P {
    texts: u32, videos: u32, words: u32, frames: u32, width: u32,
    text_cap: u32, video_cap: u32, frame_cap: u32, views: u32, max_words: u32, max_frames: u32,
    tau: f32, relevance_tau: f32, experts: u32, slots: u32, kept: u32,
    keep_background: u32, tabled: u32,
}

const EXCLUDED = -1e29;
const FLOOR = -1e30;

var<workgroup> peaks: array<atomic<u32>, 512>;

fn soft(x: f32) -> f32 { return select(exp(max(x, -85.0)), 0.0, x < -85.0); }

// Bits that are ordered as the numbers are; 0 for none.
fn ordered(x: f32) -> u32 {
    // Both zeros are one number.
    let bits = bitcast<u32>(select(x, 0.0, x == 0.0));
    return select(bits | 0x80000000u, ~bits, (bits >> 31u) == 1u);
}

fn cosine(text: u32, word: u32, row: u32) -> f32 {
    var sum = 0.0;
    var a: Gates;
    a.pi[0] = 1.0;
    a.scale = 1.0;
    if p.experts > 0u { a = gates_of(text, row); }
    for (var s = 0u; s < p.slots; s++) {
        var product = 0.0;
        let left = word * p.width;
        let right = (row * p.slots + s) * p.width;
        let whole = p.width / 4u * 4u;
        for (var d = 0u; d < whole; d += 4u) {
            product = fma(words(left + d), frames(right + d), product);
            product = fma(words(left + d + 1u), frames(right + d + 1u), product);
            product = fma(words(left + d + 2u), frames(right + d + 2u), product);
            product = fma(words(left + d + 3u), frames(right + d + 3u), product);
        }
        for (var d = whole; d < p.width; d++) { product = fma(words(left + d), frames(right + d), product); }
        sum = fma(a.pi[s] * a.scale, product, sum);
    }
    return sum;
}

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) lane: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    for (var i = group.x; i < size(p.videos); i += groups.x) {
        let begin = min(frame_segments(2u * i), size(p.frames));
        let end = max(min(frame_segments(2u * i + 1u), size(p.frames)), begin);
        var first = 0u;
        var rows = 0u;
        if i < size(p.texts) {
            first = min(word_segments(2u * i), size(p.words));
            rows = max(min(word_segments(2u * i + 1u), size(p.words)), first) - first;
        }
        var count = end - begin;
        if rows < 2u || rows > p.max_words || count > p.max_frames { count = 0u; }
        for (var t = lane; t < count; t += 256u) { atomicStore(&peaks[t], 0u); }
        workgroupBarrier();
        let word_count = max(rows, 1u) - 1u;
        for (var item = lane; item < count * word_count; item += 256u) {
            let t = item / word_count;
            let word = first + item % word_count;
            if !(word_log_weights(word) <= EXCLUDED) { atomicMax(&peaks[t], ordered(cosine(i, word, begin + t))); }
        }
        workgroupBarrier();
        for (var t = lane; t < end - begin; t += 256u) {
            var value = 0.0;
            // Without a word that takes part there is no peak.
            if t < count && atomicLoad(&peaks[t]) > 0u {
                let mine = atomicLoad(&peaks[t]);
                var ahead = 0u;
                for (var other = 0u; other < count; other++) {
                    let theirs = atomicLoad(&peaks[other]);
                    if theirs > mine || (theirs == mine && other < t) { ahead++; }
                }
                let foreground = ahead < (count + 1u) / 2u;
                if foreground == (p.keep_background == 1u) { value = FLOOR; }
            }
            set_log_weights(begin + t, value);
        }
        workgroupBarrier();
    }
}
