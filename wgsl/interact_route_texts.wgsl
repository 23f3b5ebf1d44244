// interact_route_texts: what a chunk adds to the gradient of the router's logits of texts, from the planes of
// interact_route_grad.
//
// Floor: reads k numbers a text and frame; bound by bandwidth, and small.
// Layout: an invocation a text and expert, neighbours take neighbouring texts, which lie side by side; sums over frames
// and slots in ascending order. Chunks are launched in a fixed order, the first writes and the others add.
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let rows = chunk_frame_rows();
    let texts = chunk_texts();
    for (var i = id.x; i < texts * p.experts; i += groups.x * 64u) {
        let text = i % texts;
        let expert = i / texts;
        var sum = 0.0;
        for (var frame = 0u; frame < rows.y; frame++) {
            for (var s = 0u; s < p.slots; s++) {
                var holds = s;
                if p.tabled == 1u { holds = slot_table((rows.x + frame) * p.slots + s); }
                if holds == expert {
                    sum += gates((s * p.video_count * p.max_frames + frame) * p.text_count + text);
                }
            }
        }
        let at = (p.first_text + text) * p.experts + expert;
        if p.add == 1u { sum += drouter_text(at); }
        set_drouter_text(at, sum);
    }
}
