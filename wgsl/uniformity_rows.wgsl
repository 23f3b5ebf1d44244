// uniformity_rows: the log-sum-exp of every row of logits, and how far it lies above that of equal ones.
// Floor: 4 bytes an element (the second reading comes from cache); bound by bandwidth.
// Layout: a workgroup of 256 a row; an invocation goes over every 256th column, first for the maximum, then the sums.
// Learnt: differences of scores are scaled, not scaled scores subtracted; what all of a row share costs no digits.
struct P { rows: u32, cols: u32, stride: u32 }

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) lane: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let rows = size(p.rows);
    let cols = size(p.cols);
    let scale = exp(log_scale(0u));
    for (var i = group.x; i < rows; i += groups.x) {
        var best = -1e30;
        for (var j = lane; j < cols; j += 256u) { best = max(best, scores(i * p.stride + j)); }
        let largest = largest_of(lane, best);
        var sum = 0.0;
        var below = 0.0;
        for (var j = lane; j < cols; j += 256u) {
            let d = scale * (scores(i * p.stride + j) - largest);
            below += d;
            sum += exp(max(d, -87.0));
        }
        sum = add_up(lane, sum);
        below = add_up(lane, below);
        if lane == 0u {
            let n = f32(max(cols, 1u));
            set_lse(i, select(scale * largest + log(max(sum, 1.0)), 0.0, cols == 0u));
            set_terms(i, select(log(max(sum, 1.0) / n) - below / n, 0.0, cols == 0u));
        }
    }
}
