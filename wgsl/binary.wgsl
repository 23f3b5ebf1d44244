// binary: y = a ∘ b, element by element (0 add, 1 subtract, 2 multiply), in rows that begin `stride` apart.
// Floor: 12 bytes an element; bound by bandwidth.
// Layout: an invocation an element; what lies without gaps is one row.
struct P { rows: u32, cols: u32, stride: u32, kind: u32 }

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let cols = size(p.cols);
    let n = size(p.rows) * cols;
    for (var i = id.x; i < n; i += groups.x * 256u) {
        let at = i / cols * p.stride + i % cols;
        let l = a(at);
        let r = b(at);
        set_y(at, select(select(l * r, l - r, p.kind == 1u), l + r, p.kind == 0u));
    }
}
