// unary: y = f(x), element by element.
// Floor: 8 bytes an element; bound by bandwidth.
struct P { n: u32, kind: u32, a: f32, b: f32 }

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let n = size(p.n);
    for (var i = id.x; i < n; i += groups.x * 256u) {
        set_y(i, unary(p.kind, x(i), p.a, p.b));
    }
}
