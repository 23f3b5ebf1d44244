// interact_route_frames: what a chunk adds to the gradient of the router's logits of frames and of the gram, from the
// planes of interact_route_grad.
//
// Floor: reads 2k + 1 numbers a text and frame; bound by bandwidth, and small.
// Layout: an invocation a number of the result, sums over texts in ascending order, which lie side by side. Chunks are
// launched in a fixed order, the first writes and the others add.
fn plane(index: u32, frame: u32, text: u32) -> f32 {
    return gates((index * p.video_count * p.max_frames + frame) * p.text_count + text);
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let rows = chunk_frame_rows();
    let k = p.slots;
    let each = k + k * k;
    for (var i = id.x; i < rows.y * each; i += groups.x * 64u) {
        let frame = i / each;
        let item = i % each;
        let row = rows.x + frame;
        var sum = 0.0;
        if item < k {
            for (var text = 0u; text < chunk_texts(); text++) { sum += plane(item, frame, text); }
            if p.add == 1u { sum += drouter_frame(row * k + item); }
            set_drouter_frame(row * k + item, sum);
        } else {
            let s = (item - k) / k;
            let other = (item - k) % k;
            for (var text = 0u; text < chunk_texts(); text++) {
                sum += plane(k, frame, text) * plane(k + 1u + s, frame, text) * plane(k + 1u + other, frame, text);
            }
            if p.add == 1u { sum += dgram(row * k * k + item - k); }
            set_dgram(row * k * k + item - k, sum);
        }
    }
}
