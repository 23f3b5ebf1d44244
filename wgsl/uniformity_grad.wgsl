// uniformity_grad: dscores = scale dloss / 2 ((exp(z - row_lse) - 1/M) / N + (exp(z - col_lse) - 1/N) / M).
// Floor: 8 bytes an element; bound by bandwidth.
// Layout: a workgroup of 256 a row; neighbours take neighbouring columns.
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
    let factor = 0.5 * scale * dloss(0u);
    let of_row = factor / f32(max(rows, 1u));
    let of_col = factor / f32(max(cols, 1u));
    let both = 2.0 * of_row / f32(max(cols, 1u));
    for (var i = group.x; i < rows; i += groups.x) {
        let own = row_lse(i);
        for (var j = lane; j < cols; j += 256u) {
            let z = scale * scores(i * p.stride + j);
            let share = exp(clamp(z - own, -87.0, 88.0));
            let other = exp(clamp(z - col_lse(j), -87.0, 88.0));
            set_dscores(i * p.stride + j, of_row * share + (of_col * other - both));
        }
    }
}
