// margin: the weighted mean of relu(margin + low_ii - high_ii), and the sum of the weights.
// Floor: 12 bytes a pair, each from a cache line of its own; one small workgroup, bound by latency.
struct P { rows: u32, cols: u32, stride: u32, has_weight: u32, margin: f32, wants_total: u32 }

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) lane: u32) {
    let n = min(size(p.rows), size(p.cols));
    var sum = 0.0;
    var weights = 0.0;
    for (var i = lane; i < n; i += 256u) {
        let at = i * p.stride + i;
        var w = 1.0;
        if p.has_weight == 1u { w = weight(i); }
        let lacking = p.margin + (low(at) - high(at));
        sum += w * select(lacking, 0.0, lacking < 0.0);
        weights += w;
    }
    sum = add_up(lane, sum);
    weights = add_up(lane, weights);
    if lane == 0u {
        var mean = 0.0;
        if weights != 0.0 { mean = sum / weights; }
        set_loss(0u, mean);
        if p.wants_total == 1u { set_total(0u, weights); }
    }
}
