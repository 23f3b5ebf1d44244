// layer_norm_dx: with h = (x - mean) rstd and s = gain dy, dx = rstd (s - mean(s) - h mean(s h)) row by row.
// Floor: 12 bytes an element; bound by bandwidth. The second reading comes from cache.
// Layout: a workgroup of 64 a row. dx may lie in dy's place: each invocation rewrites only what it has read itself.
struct P { rows: u32, cols: u32 }

@compute @workgroup_size(64)
fn main(
    @builtin(local_invocation_index) lane: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let rows = size(p.rows);
    let cols = size(p.cols);
    for (var row = group.x; row < rows; row += groups.x) {
        let centre = mean(row);
        let inverse = rstd(row);
        var plain = 0.0;
        var weighted = 0.0;
        for (var c = lane; c < cols; c += 64u) {
            let i = row * cols + c;
            let s = gain(c) * dy(i);
            plain += s;
            weighted = fma(s, (x(i) - centre) * inverse, weighted);
        }
        let average = add_up(lane, plain) / f32(cols);
        let along = add_up(lane, weighted) / f32(cols);
        for (var c = lane; c < cols; c += 64u) {
            let i = row * cols + c;
            let h = (x(i) - centre) * inverse;
            set_dx(i, inverse * fma(h, -along, gain(c) * dy(i) - average));
        }
    }
}
