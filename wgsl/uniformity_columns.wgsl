// uniformity_columns: the log-sum-exp of every column of logits, and how far it lies above that of equal ones.
// Floor: 4 bytes an element (the second reading comes from cache); bound by bandwidth.
// Layout: a workgroup takes 16 columns, 16 invocations each, which go over every 16th row; then they fold in a tree.
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
    for (var first = group.x * 16u; first < cols; first += groups.x * 16u) {
        let j = first + lane % 16u;
        let end = select(0u, rows, j < cols);
        var best = -1e30;
        for (var i = lane / 16u; i < end; i += 16u) { best = max(best, scores(i * p.stride + j)); }
        let largest = largest_in_column(lane, best);
        var sum = 0.0;
        var below = 0.0;
        for (var i = lane / 16u; i < end; i += 16u) {
            let d = scale * (scores(i * p.stride + j) - largest);
            below += d;
            sum += exp(max(d, -87.0));
        }
        sum = sum_of_column(lane, sum);
        below = sum_of_column(lane, below);
        if lane < 16u && j < cols {
            let n = f32(max(rows, 1u));
            set_lse(j, select(scale * largest + log(max(sum, 1.0)), 0.0, rows == 0u));
            set_terms(j, select(log(max(sum, 1.0) / n) - below / n, 0.0, rows == 0u));
        }
    }
}
