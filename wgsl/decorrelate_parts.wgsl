// decorrelate_parts: for every part of `part` rows the sum of the squared cosines of their ordered pairs of slots: the
// first stage of their mean.
// Floor: 4 bytes an element of the Gram matrices; bound by bandwidth.
// Layout: a workgroup of 256 a part, an invocation a row of it, then a tree.
struct P { rows: u32, slots: u32, part: u32 }

fn cosines(row: u32) -> f32 {
    let first = row * p.slots * p.slots;
    var sum = 0.0;
    for (var s = 0u; s < p.slots; s++) {
        for (var t = 0u; t < p.slots; t++) {
            let product = gram(first + s * (p.slots + 1u)) * gram(first + t * (p.slots + 1u));
            let dot = gram(first + s * p.slots + t);
            if s != t && !(product <= 1e-12) { sum += dot * dot / product; }
        }
    }
    return sum;
}

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) lane: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let rows = size(p.rows);
    let parts = (rows + p.part - 1u) / p.part;
    for (var part = group.x; part < parts; part += groups.x) {
        var sum = 0.0;
        for (var row = part * p.part + lane; row < min(rows, (part + 1u) * p.part); row += 256u) { sum += cosines(row); }
        let all = add_up(lane, sum);
        if lane == 0u { set_sums(part, all); }
    }
}
