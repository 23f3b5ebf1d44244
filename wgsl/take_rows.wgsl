// take_rows: y[m] = x[begin + m]; a row of 0 beyond the rows there are.
// Floor: 8 bytes an element of y; bound by bandwidth.
// Layout: an invocation an element; neighbours copy neighbouring columns.
struct P { rows: u32, n: u32, cols: u32 }

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let rows = size(p.rows);
    let first = begin(0u);
    var here = 0u;
    if first < rows { here = min(size(p.n), rows - first) * p.cols; }
    for (var item = id.x; item < size(p.n) * p.cols; item += groups.x * 256u) {
        var value = 0.0;
        if item < here { value = x(first * p.cols + item); }
        set_y(item, value);
    }
}
