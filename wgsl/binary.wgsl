// binary: y = a ∘ b, element by element (0 add, 1 subtract, 2 multiply).
// Floor: 12 bytes an element; bound by bandwidth.
struct P { n: u32, kind: u32 }

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let n = size(p.n);
    for (var i = id.x; i < n; i += groups.x * 256u) {
        let l = a(i);
        let r = b(i);
        set_y(i, select(select(l * r, l - r, p.kind == 1u), l + r, p.kind == 0u));
    }
}
