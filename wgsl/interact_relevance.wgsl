// Stands between interact_pair and the kernels that pool: one workgroup a pair, ρ in workgroup memory, reductions in a
// fixed order.
var<workgroup> log_rho: array<f32, 512>;
var<workgroup> lanes: array<f32, 64>;

fn most_of_all(lane: u32, x: f32) -> f32 {
    lanes[lane] = x;
    workgroupBarrier();
    for (var s = LANES / 2u; s > 0u; s >>= 1u) {
        if lane < s { lanes[lane] = max(lanes[lane], lanes[lane + s]); }
        workgroupBarrier();
    }
    let most = lanes[0];
    workgroupBarrier();
    return most;
}

fn sum_of_all(lane: u32, x: f32) -> f32 {
    lanes[lane] = x;
    workgroupBarrier();
    for (var s = LANES / 2u; s > 0u; s >>= 1u) {
        if lane < s { lanes[lane] += lanes[lane + s]; }
        workgroupBarrier();
    }
    let sum = lanes[0];
    workgroupBarrier();
    return sum;
}

fn log_omega(a: Pair, l: u32) -> f32 {
    if p.has_weights == 0u { return -log(f32(a.word_rows.y - 1u)); }
    let w = word_log_weights(a.word_rows.x + l);
    return select(w, FLOOR, w <= EXCLUDED);
}

// ln ρ of a pair under a view, into workgroup memory; returns the highest log-weight, EXCLUDED or less if no frame is
// left. Not the highest logit: a NaN would pass for an empty video.
fn take_relevance(lane: u32, a: Pair, view: u32) -> f32 {
    var highest = FLOOR;
    var heaviest = FLOOR;
    for (var t = lane; t < a.frame_rows.y; t += LANES) {
        var prior = frame_bias(a.frame_rows.x + t);
        if view > 0u { prior += log_weights((view - 1u) * p.frame_cap + a.frame_rows.x + t); }
        let c = dots(a.base + t * a.stride + a.word_rows.y - 1u);
        log_rho[t] = select(c / p.relevance_tau + prior, FLOOR, prior <= EXCLUDED);
        highest = max(highest, log_rho[t]);
        heaviest = max(heaviest, prior);
    }
    highest = most_of_all(lane, highest);
    var sum = 0.0;
    for (var t = lane; t < a.frame_rows.y; t += LANES) { sum += soft(log_rho[t] - highest); }
    sum = sum_of_all(lane, sum);
    let log_sum = highest + log(max(sum, 1e-30));
    for (var t = lane; t < a.frame_rows.y; t += LANES) { log_rho[t] = max(log_rho[t] - log_sum, FLOOR); }
    workgroupBarrier();
    return most_of_all(lane, heaviest);
}

// The highest word log-weight of a pair's text, EXCLUDED or less if no word is left.
fn highest_weight(lane: u32, a: Pair) -> f32 {
    var highest = FLOOR;
    for (var l = lane; l + 1u < a.word_rows.y; l += LANES) { highest = max(highest, log_omega(a, l)); }
    return most_of_all(lane, highest);
}
