// sum_rows: y[c] = Σ_r x[r, c], in the order of the rows.
// Floor: 4 bytes an element; bound by bandwidth.
// Layout: an invocation a column; neighbours read neighbouring columns.
struct P { rows: u32, cols: u32, stride: u32 }

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let rows = size(p.rows);
    let cols = size(p.cols);
    for (var c = id.x; c < cols; c += groups.x * 64u) {
        var sum = 0.0;
        for (var r = 0u; r < rows; r++) { sum += x(r * p.stride + c); }
        set_y(c, sum);
    }
}
