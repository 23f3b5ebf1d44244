// interact_route_grad: from the gradient of cosines (g) to that of the dot products with experts, in their place, and
// for each text and frame to that of its gates.
//
// With p_s = π_s / √n, n = πᵀ G π and y_s = Σ_l g_l x_ls:
//
//   dx_ls = p_s g_l     dn = −½ n^{−3/2} Σ_s π_s y_s     dlogit_s = π_s (y_s / √n + 2 dn (G π)_s)     dG_ss' = dn π_s π_s'
//
// The sum that the gradient of a soft-max subtracts is 0: a cosine does not change when all gates grow alike.
//
// Floor: reads k + 1 numbers and writes k for each cosine; small beside the products of 2·k·D FLOPs each around it.
// Layout: a workgroup of 64 takes 16 frames of a pair; an invocation a row of products, then one a frame. What the
// gates gain goes into planes `[2k + 1, frames, texts]`: k logits, dn, k gates.
const FRAMES = 16u;

var<workgroup> weights: array<f32, 256>;
var<workgroup> y: array<f32, 256>;

fn set_plane(plane: u32, frame: u32, text: u32, value: f32) {
    set_gates((plane * p.video_count * p.max_frames + frame) * p.text_count + text, value);
}

// What belongs to a pair that is not scored holds zeros: the products and sums read whole chunks.
fn clear(lane: u32, a: Pair, first: u32, last: bool, bases: vec2<u32>) {
    let stride = chunk_stride();
    let rows = p.video_count * p.max_frames;
    let w0 = min(word_segments(2u * a.text) - bases.x, stride);
    let w1 = min(min(word_segments(2u * a.text + 1u), size(p.words)) - bases.x, stride);
    let f0 = min(frame_segments(2u * a.video) - bases.y + first, rows);
    let f1 = min(min(frame_segments(2u * a.video + 1u), size(p.frames)) - bases.y, rows);
    for (var f = f0 + lane; f < select(min(f0 + FRAMES, f1), f1, last); f += LANES) {
        for (var s = 0u; s < p.slots; s++) {
            for (var w = w0; w < w1; w++) { set_products((f * p.slots + s) * stride + w, 0.0); }
        }
        for (var plane = 0u; plane <= 2u * p.slots; plane++) { set_plane(plane, f, a.text - p.first_text, 0.0); }
    }
}

@compute @workgroup_size(64)
fn main(
    @builtin(local_invocation_index) lane: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let bases = vec2<u32>(chunk_word_rows().x, chunk_frame_rows().x);
    let tiles = (p.max_frames + FRAMES - 1u) / FRAMES;
    for (var unit = group.x; unit < chunk_texts() * chunk_videos() * tiles; unit += groups.x) {
        let a = pair_at(unit / tiles, bases);
        let first = unit % tiles * FRAMES;
        if !a.there { clear(lane, a, first, unit % tiles + 1u == tiles, bases); }
        let count = min(max(a.frame_rows.y, first) - first, FRAMES);
        for (var t = lane; t < count; t += LANES) {
            let gates = gates_of(a.text, a.frame_rows.x + first + t);
            for (var s = 0u; s < p.slots; s++) { weights[t * p.slots + s] = gates.pi[s] * gates.scale; }
        }
        workgroupBarrier();
        let base = a.base / a.stride * p.slots * a.stride + a.base % a.stride;
        for (var line = lane; line < count * p.slots; line += LANES) {
            let t = first + line / p.slots;
            var sum = 0.0;
            for (var l = 0u; l < a.word_rows.y; l++) {
                let d = g(a.base + t * a.stride + l);
                let at = base + (first * p.slots + line) * a.stride + l;
                sum = fma(d, products(at), sum);
                set_products(at, weights[line] * d);
            }
            y[line] = sum;
        }
        workgroupBarrier();
        for (var t = lane; t < count; t += LANES) {
            let row = a.frame_rows.x + first + t;
            var gates = gates_of(a.text, row);
            var mean = 0.0;
            for (var s = 0u; s < p.slots; s++) { mean = fma(gates.pi[s], y[t * p.slots + s], mean); }
            let dn = -0.5 * gates.scale * gates.scale * gates.scale * mean;
            let frame = row - bases.y;
            let text = a.text - p.first_text;
            for (var s = 0u; s < p.slots; s++) {
                let dgate = fma(2.0 * dn, toward(row, s, &gates), y[t * p.slots + s] * gates.scale);
                set_plane(s, frame, text, gates.pi[s] * dgate);
                set_plane(p.slots + 1u + s, frame, text, gates.pi[s]);
            }
            set_plane(p.slots, frame, text, dn);
        }
        workgroupBarrier();
    }
}
