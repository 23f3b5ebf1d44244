// interact_route: from the dot products of words with the experts of frames (a row a slot) to the cosines with what each
// text makes of them: c = Σ_s p_s x_s, p_s = π_s / √(πᵀ G π).
//
// Floor: reads k numbers and writes one for each cosine, 4·(k + 1) bytes; after interact_dots, 2·k·D FLOPs each, small.
// Layout: a workgroup of 64 takes 16 frames of a pair: an invocation a frame takes its gates, then all run over frames
// and words, words neighbouring.
//
//   x  t slot 0  . . . . . q      p of the 16 frames in workgroup memory      c  t  . . . . . q
//        slot 1  . . . . . q
const FRAMES = 16u;

var<workgroup> weights: array<f32, 256>;

@compute @workgroup_size(64)
fn main(
    @builtin(local_invocation_index) lane: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let bases = vec2<u32>(chunk_word_rows().x, chunk_frame_rows().x);
    let of_list = min(p.text_count, max(size(p.listed), p.first_text) - p.first_text);
    let total = select(chunk_texts() * chunk_videos(), of_list, size(p.listed) > 0u);
    let tiles = (p.max_frames + FRAMES - 1u) / FRAMES;
    for (var unit = group.x; unit < total * tiles; unit += groups.x) {
        let a = pair_at(unit / tiles, bases);
        let first = unit % tiles * FRAMES;
        let count = min(max(a.frame_rows.y, first) - first, FRAMES);
        for (var t = lane; t < count; t += LANES) {
            let gates = gates_of(a.text, a.frame_rows.x + first + t);
            for (var s = 0u; s < p.slots; s++) { weights[t * p.slots + s] = gates.pi[s] * gates.scale; }
        }
        workgroupBarrier();
        let columns = a.word_rows.y;
        let from_base = a.base / a.stride * p.slots * a.stride + a.base % a.stride;
        for (var i = lane; i < count * columns; i += LANES) {
            let t = i / columns;
            let l = i % columns;
            var sum = 0.0;
            for (var s = 0u; s < p.slots; s++) {
                sum = fma(weights[t * p.slots + s], products(from_base + ((first + t) * p.slots + s) * a.stride + l), sum);
            }
            set_dots(a.base + (first + t) * a.stride + l, sum);
        }
        workgroupBarrier();
    }
}
