// fill: y = value, word by word. A kernel, because clearing a buffer can only write zero.
// Floor: 4 bytes a word; bound by bandwidth.
struct P { n: u32, value: u32 }

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    for (var i = id.x; i < p.n; i += groups.x * 256u) {
        set_y(i, p.value);
    }
}
