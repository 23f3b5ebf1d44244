// broadcast_mean: x = y / n in each of n elements.
// Floor: 4 bytes an element; bound by bandwidth.
struct P { n: u32 }

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let n = size(p.n);
    for (var i = id.x; i < n; i += groups.x * 256u) { set_x(i, y(0u) / f32(n)); }
}
