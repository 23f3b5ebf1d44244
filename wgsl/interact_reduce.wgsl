// interact_reduce: what a chunk adds to d ln ω (from each video's part) or to dβ (from the sentences' columns of G,
// times τ_ρ).
//
// Floor: reads one number a video and word, or one a text and frame; bound by bandwidth, and small.
// Layout: one invocation a word (or frame), sums in ascending order. Chunks are launched in a fixed order, the first
// writes and the others add.
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let of_words = p.transposed == 1u;
    var rows = chunk_frame_rows();
    if of_words { rows = chunk_word_rows(); }
    let base = chunk_word_rows().x;
    for (var i = id.x; i < rows.y; i += groups.x * 64u) {
        var sum = 0.0;
        if of_words {
            for (var j = 0u; j < chunk_videos(); j++) { sum += parts(j * chunk_stride() + i); }
        } else {
            for (var j = 0u; j < chunk_texts(); j++) {
                let text = text_rows(p.first_text + j);
                let sentence = text.x - base + text.y - 1u;
                if text.y >= 2u && sentence < chunk_stride() { sum += parts(i * chunk_stride() + sentence); }
            }
            sum *= p.relevance_tau;
        }
        if p.add == 1u { sum += y(rows.x + i); }
        set_y(rows.x + i, sum);
    }
}
