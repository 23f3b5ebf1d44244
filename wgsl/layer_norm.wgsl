// layer_norm: y = gain (x - mean) rstd + bias with each row's own mean and 1 / sqrt(variance + eps).
// Floor: 8 bytes an element; bound by bandwidth. The row's further readings come from cache.
// Layout: a workgroup of 64 a row; the variance is of centred values, since E[x^2] - E[x]^2 loses its digits far from
// zero. y may lie in x's place: each invocation rewrites only what it has read itself.
struct P { rows: u32, cols: u32, eps: f32, wants_mean: u32, wants_rstd: u32 }

@compute @workgroup_size(64)
fn main(
    @builtin(local_invocation_index) lane: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let rows = size(p.rows);
    let cols = size(p.cols);
    for (var row = group.x; row < rows; row += groups.x) {
        var part = 0.0;
        for (var c = lane; c < cols; c += 64u) { part += x(row * cols + c); }
        let average = add_up(lane, part) / f32(cols);
        part = 0.0;
        for (var c = lane; c < cols; c += 64u) {
            let centred = x(row * cols + c) - average;
            part = fma(centred, centred, part);
        }
        let inverse = 1.0 / sqrt(add_up(lane, part) / f32(cols) + p.eps);
        for (var c = lane; c < cols; c += 64u) {
            let i = row * cols + c;
            set_y(i, fma((x(i) - average) * inverse, gain(c), bias(c)));
        }
        if lane == 0u && p.wants_mean == 1u { set_mean(row, average); }
        if lane == 0u && p.wants_rstd == 1u { set_rstd(row, inverse); }
    }
}
