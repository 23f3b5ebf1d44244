// interact_pool: from dot products to scores and relevance, for the pairs of a chunk or for listed pairs.
//
// Floor: reads each dot product once, 4 bytes, for about 60 FLOPs; after interact_dots, 2·D FLOPs each, it is small.
// Layout: 64 invocations a pair. Over frames (t2v) each takes words 64 apart and streams down their columns, side by
// side; over words (v2t) each takes frames and streams along their rows. ρ lies in workgroup memory.
//
//        words ->            q
//   t  +------------------+---+
//      | c: each lane a   | c |   ln ρ_t = log_softmax_t(c_qt / τ_ρ + β_t + the view's log-weight)
//      | column, then each| q |
//      | lane a row       | t |
//      +------------------+---+
// Soft-maxes subtract their maximum: any temperature will do. The CPU's one exponential per dot product, which
// needs 2/τ <= 80, is left out: here exponentials are not what binds.
@compute @workgroup_size(64)
fn main(
    @builtin(local_invocation_index) lane: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let bases = vec2<u32>(chunk_word_rows().x, chunk_frame_rows().x);
    let of_list = min(p.text_count, max(size(p.listed), p.first_text) - p.first_text);
    let total = select(chunk_texts() * chunk_videos(), of_list, size(p.listed) > 0u);
    for (var index = group.x; index < total; index += groups.x) {
        let a = pair_at(index, bases);
        let word_count = a.word_rows.y - 1u;
        let frame_count = a.frame_rows.y;
        let word_weight = highest_weight(lane, a);
        for (var view = 0u; view <= p.views; view++) {
            let frame_weight = take_relevance(lane, a, view);
            let counts_for = a.there && frame_weight > EXCLUDED && word_weight > EXCLUDED;
            var pooled = 0.0;
            if counts_for {
                for (var l = lane; l < word_count; l += LANES) {
                    var most = FLOOR;
                    for (var t = 0u; t < frame_count; t++) {
                        most = max(most, dots(a.base + t * a.stride + l) / p.tau + log_rho[t]);
                    }
                    var weights = 0.0;
                    var values = 0.0;
                    for (var t = 0u; t < frame_count; t++) {
                        let c = dots(a.base + t * a.stride + l);
                        let weight = soft(c / p.tau + log_rho[t] - most);
                        weights += weight;
                        values = fma(weight, c, values);
                    }
                    pooled += soft(log_omega(a, l)) * values / weights;
                }
                for (var t = lane; t < frame_count; t += LANES) {
                    var most = FLOOR;
                    for (var l = 0u; l < word_count; l++) {
                        most = max(most, dots(a.base + t * a.stride + l) / p.tau + log_omega(a, l));
                    }
                    var weights = 0.0;
                    var values = 0.0;
                    for (var l = 0u; l < word_count; l++) {
                        let c = dots(a.base + t * a.stride + l);
                        let weight = soft(c / p.tau + log_omega(a, l) - most);
                        weights += weight;
                        values = fma(weight, c, values);
                    }
                    pooled += soft(log_rho[t]) * values / weights;
                }
            }
            pooled = 0.5 * sum_of_all(lane, pooled);
            if lane == 0u {
                if view == 0u { set_scores(a.score, pooled); }
                else { set_view_scores((view - 1u) * p.text_cap * p.video_cap + a.score, pooled); }
            }
            if view == 0u && size(p.listed) == 0u {
                // A video that is too long has rows all the same.
                let begin = min(frame_segments(2u * a.video), size(p.frames));
                let end = min(frame_segments(2u * a.video + 1u), size(p.frames));
                for (var t = begin + lane; t < end; t += LANES) {
                    var rho = 0.0;
                    if counts_for { rho = soft(log_rho[t - begin]); }
                    set_relevance(a.text * p.frame_cap + t, rho);
                }
            }
        }
    }
}
