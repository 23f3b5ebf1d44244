// row_dot: y[r] = <a[r], b[r]>.
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
        var dots = 0.0;
        for (var c = lane; c < p.cols; c += 64u) { dots = fma(a(row * p.cols + c), b(row * p.cols + c), dots); }
        let whole = add_up(lane, dots);
        if lane == 0u { set_y(row, whole); }
    }
}
