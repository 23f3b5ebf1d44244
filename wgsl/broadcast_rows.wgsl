// broadcast_rows: y[r, c] = x[c].
// Floor: 4 bytes an element; bound by bandwidth.
struct P { rows: u32, cols: u32, stride: u32 }

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let cols = size(p.cols);
    let n = size(p.rows) * cols;
    for (var i = id.x; i < n; i += groups.x * 256u) {
        set_y(i / cols * p.stride + i % cols, x(i % cols));
    }
}
