// layer_norm_parts: for every part of `part` rows the column sums of dy (x - mean) rstd and of dy: the first stage of
// the gradients of gain and bias.
// Floor: 8 bytes an element; bound by bandwidth.
// Layout: an invocation a column of a part; sums[part][which][column].
struct P { rows: u32, cols: u32, part: u32 }

@compute @workgroup_size(64)
fn main(
    @builtin(global_invocation_id) id: vec3<u32>,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let rows = size(p.rows);
    let cols = size(p.cols);
    let parts = (rows + p.part - 1u) / p.part;
    for (var part = group.y; part < parts; part += groups.y) {
        for (var c = id.x; c < cols; c += groups.x * 64u) {
            var gained = 0.0;
            var plain = 0.0;
            for (var row = part * p.part; row < min(rows, (part + 1u) * p.part); row++) {
                let i = row * cols + c;
                let d = dy(i);
                gained = fma(d, (x(i) - mean(row)) * rstd(row), gained);
                plain += d;
            }
            set_sums(2u * part * cols + c, gained);
            set_sums((2u * part + 1u) * cols + c, plain);
        }
    }
}
