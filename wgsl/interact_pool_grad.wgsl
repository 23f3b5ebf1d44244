// interact_pool_grad: from dot products and the gradients of scores and relevance to the gradient G of the dot
// products, for the pairs of a chunk; also each pair's part of d ln ω.
//
// Floor: reads each dot product once and writes G, 8 bytes, for about 150 FLOPs; small beside the three products of
// 2·D FLOPs each around it.
// Layout: as in interact_pool. With α, γ the soft-maxes over frames and over words, u_l = Σ_t α c, v_t = Σ_l γ c,
// P = ω_l α, Q = ρ_t γ:
//
//   G_lt    = ½ (P (1 + (c − u_l)/τ) + Q (1 + (c − v_t)/τ))          d ln ω_l = ½ (ω_l u_l + Σ_t Q (c − v_t))
//   r_t     = ½ (Σ_l P (c − u_l) + ρ_t v_t) + ρ_t dρ_t               G_qt = (r_t − ρ_t Σ_s r_s) / τ_ρ,  dβ_t = τ_ρ Σ G_qt
//
// G has memory of its own: further views need the dot products again and add to it. Every element is written by the
// same invocation in every view, so storage needs no barrier.
var<workgroup> lse_of_word: array<f32, 512>;
var<workgroup> u_of_word: array<f32, 512>;
var<workgroup> lse_of_frame: array<f32, 512>;
var<workgroup> v_of_frame: array<f32, 512>;
var<workgroup> dlog_rho: array<f32, 512>;

fn add_to(at: u32, view: u32, x: f32) {
    var sum = x;
    if view > 0u { sum += g(at); }
    set_g(at, sum);
}

// What belongs to a pair that is not scored holds zeros: the products read whole chunks.
fn clear(lane: u32, text: u32, video: u32, bases: vec2<u32>) {
    let stride = chunk_stride();
    let w0 = min(word_segments(2u * text) - bases.x, stride);
    let w1 = min(min(word_segments(2u * text + 1u), size(p.words)) - bases.x, stride);
    let f0 = min(frame_segments(2u * video) - bases.y, p.video_count * p.max_frames);
    let f1 = min(min(frame_segments(2u * video + 1u), size(p.frames)) - bases.y, p.video_count * p.max_frames);
    for (var w = w0 + lane; w < w1; w += LANES) {
        for (var f = f0; f < f1; f++) { set_g(f * stride + w, 0.0); }
        set_dlog_omega((video - p.first_video) * stride + w, 0.0);
    }
}

@compute @workgroup_size(64)
fn main(
    @builtin(local_invocation_index) lane: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let bases = vec2<u32>(chunk_word_rows().x, chunk_frame_rows().x);
    let total = chunk_texts() * chunk_videos();
    for (var index = group.x; index < total; index += groups.x) {
        let a = pair_at(index, bases);
        let word_count = a.word_rows.y - 1u;
        let frame_count = a.frame_rows.y;
        let word_weight = highest_weight(lane, a);
        if !a.there { clear(lane, a.text, a.video, bases); }
        let omega_row = (a.video - p.first_video) * chunk_stride() + a.word_rows.x - bases.x;
        for (var view = 0u; view <= p.views; view++) {
            let frame_weight = take_relevance(lane, a, view);
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
                lse_of_word[l] = most + log(max(weights, 1e-30));
                u_of_word[l] = values / max(weights, 1e-30);
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
                lse_of_frame[t] = most + log(max(weights, 1e-30));
                v_of_frame[t] = values / max(weights, 1e-30);
            }
            workgroupBarrier();
            // A view in which nothing is left hands back nothing.
            let live = select(0.0, 1.0, frame_weight > EXCLUDED && word_weight > EXCLUDED);
            var ds = 0.0;
            if view == 0u { ds = dscores(a.score); }
            else { ds = dview_scores((view - 1u) * p.text_cap * p.video_cap + a.score); }
            let half = 0.5 * live * ds;
            var total_r = 0.0;
            for (var t = lane; t < frame_count; t += LANES) {
                var away = 0.0;
                for (var l = 0u; l < word_count; l++) {
                    let c = dots(a.base + t * a.stride + l);
                    let weight = soft(c / p.tau + log_rho[t] - lse_of_word[l]);
                    away = fma(soft(log_omega(a, l)) * weight, c - u_of_word[l], away);
                }
                let rho = soft(log_rho[t]);
                var r = half * (away + rho * v_of_frame[t]);
                if view == 0u { r += live * rho * drelevance(a.text * p.frame_cap + a.frame_rows.x + t); }
                dlog_rho[t] = r;
                total_r += r;
            }
            total_r = sum_of_all(lane, total_r);
            for (var t = lane; t < frame_count; t += LANES) {
                let dbias = dlog_rho[t] - soft(log_rho[t]) * total_r;
                add_to(a.base + t * a.stride + word_count, view, dbias / p.relevance_tau);
            }
            for (var l = lane; l < word_count; l += LANES) {
                let omega = soft(log_omega(a, l));
                var domega = omega * u_of_word[l];
                for (var t = 0u; t < frame_count; t++) {
                    let at = a.base + t * a.stride + l;
                    let c = dots(at);
                    let weight_p = omega * soft(c / p.tau + log_rho[t] - lse_of_word[l]);
                    let weight_q = soft(log_rho[t]) * soft(c / p.tau + log_omega(a, l) - lse_of_frame[t]);
                    let away_p = weight_p * (c - u_of_word[l]);
                    let away_q = weight_q * (c - v_of_frame[t]);
                    domega += away_q;
                    add_to(at, view, half * (weight_p + weight_q + (away_p + away_q) / p.tau));
                }
                var sum = half * domega;
                if view > 0u { sum += dlog_omega(omega_row + l); }
                set_dlog_omega(omega_row + l, sum);
            }
            if view == 0u && lane == 0u && a.there { set_dlog_omega(omega_row + word_count, 0.0); }
            workgroupBarrier();
        }
    }
}
