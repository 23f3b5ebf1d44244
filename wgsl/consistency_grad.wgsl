// consistency_grad: dz = dloss / 4 (s(row) / N + s(column) / M) with s = q (ln(q/m) - KL(q, m)); dperturbed = scale dz, and
// each row's part of the gradient of log_scale.
// Floor: 12 bytes an element and some 80 FLOPs; both bind about equally.
// Layout: a workgroup of 256 a row; neighbours take neighbouring columns.
struct P { rows: u32, cols: u32, stride: u32 }

fn slope(scale: f32, score_of_goal: f32, score: f32, lse: f32, above: f32, kl: f32) -> f32 {
    let r = ratio(0.5 * (scale * (score_of_goal - score) + above));
    return exp(clamp(scale * score - lse, -87.0, 88.0)) * (r.log - kl);
}

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) lane: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let rows = size(p.rows);
    let cols = size(p.cols);
    let scale = exp(log_scale(0u));
    let factor = 0.25 * dloss(0u);
    let of_row = factor / f32(max(rows, 1u));
    let of_col = factor / f32(max(cols, 1u));
    for (var i = group.x; i < rows; i += groups.x) {
        var sum = 0.0;
        for (var j = lane; j < cols; j += 256u) {
            let at = i * p.stride + j;
            let a = goal(at);
            let b = perturbed(at);
            let row = slope(scale, a, b, row_stats(3u * i), row_stats(3u * i + 1u), row_stats(3u * i + 2u));
            let col = slope(scale, a, b, col_stats(3u * j), col_stats(3u * j + 1u), col_stats(3u * j + 2u));
            let dz = of_row * row + of_col * col;
            sum = fma(dz, b, sum);
            set_dperturbed(at, scale * dz);
        }
        let all = add_up(lane, sum);
        if lane == 0u { set_terms(i, scale * all); }
    }
}
