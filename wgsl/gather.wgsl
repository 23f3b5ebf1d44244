// gather: y[m] = x[index[m]]; a row of 0 where the index lies beyond the rows there are.
// Floor: 8 bytes an element; bound by bandwidth.
// Layout: an invocation an element; neighbours copy neighbouring columns.
struct P { rows: u32, m: u32, cols: u32 }

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let rows = size(p.rows);
    let items = size(p.m) * p.cols;
    for (var item = id.x; item < items; item += groups.x * 256u) {
        let row = index(item / p.cols);
        var value = 0.0;
        if row < rows { value = x(row * p.cols + item % p.cols); }
        set_y(item, value);
    }
}
