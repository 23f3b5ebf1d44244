// scale_rows: y[r] = w[r] x[r]. y may lie in x's place.
// Floor: 8 bytes an element; bound by bandwidth.
// Layout: a workgroup of 64 a row; neighbours read neighbouring columns.
struct P { rows: u32, cols: u32 }

@compute @workgroup_size(64)
fn main(
    @builtin(local_invocation_index) lane: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    for (var row = group.x; row < size(p.rows); row += groups.x) {
        let number = w(row);
        for (var c = lane; c < p.cols; c += 64u) { set_y(row * p.cols + c, x(row * p.cols + c) * number); }
    }
}
