// contrast_rows: the log-sum-exp of every row of logits, and how far it lies above the pair's logit.
// Floor: 4 bytes an element (the second reading comes from cache); bound by bandwidth.
// Layout: a workgroup of 256 a row; an invocation goes over every 256th column, first for the maximum, then the sum.
struct P { rows: u32, cols: u32, stride: u32, has_video: u32, has_caption: u32, has_weight: u32 }

var<workgroup> tops: array<f32, 256>;

fn largest_of(lane: u32, value: f32) -> f32 {
    tops[lane] = value;
    workgroupBarrier();
    for (var half = 128u; half > 0u; half >>= 1u) {
        if lane < half { tops[lane] = max(tops[lane], tops[lane + half]); }
        workgroupBarrier();
    }
    let largest = tops[0];
    workgroupBarrier();
    return largest;
}

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) lane: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let n = min(size(p.rows), size(p.cols));
    let scale = exp(log_scale(0u));
    for (var i = group.x; i < n; i += groups.x) {
        var best = -1e30;
        for (var j = lane; j < n; j += 256u) { best = max(best, logit(i, j, scale)); }
        let largest = largest_of(lane, best);
        var sum = 0.0;
        for (var j = lane; j < n; j += 256u) { sum += share_of(logit(i, j, scale) - largest); }
        let logarithm = log(add_up(lane, sum));
        if lane == 0u {
            set_lse(i, largest + logarithm);
            set_terms(i, (largest - logit(i, i, scale)) + logarithm);
        }
    }
}
