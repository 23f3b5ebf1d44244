// mean_parts: the sum of every part of `part` elements: the first stage of a mean.
// Floor: 4 bytes an element; bound by bandwidth.
// Layout: a workgroup of 256 a part; an invocation adds every 256th element, then the workgroup folds in a tree.
struct P { n: u32, part: u32 }

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) lane: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let n = size(p.n);
    let parts = (n + p.part - 1u) / p.part;
    for (var part = group.x; part < parts; part += groups.x) {
        var sum = 0.0;
        for (var i = part * p.part + lane; i < min(n, (part + 1u) * p.part); i += 256u) { sum += x(i); }
        let all = add_up(lane, sum);
        if lane == 0u { set_sums(part, all); }
    }
}
