// expert_parts: for every part of `part` rows and every expert, the sums of v d and of d over the slots that meet it,
// with d = dexperts + ddelta: the first stage of the gradients of diagonal and bias.
// Floor: 4 bytes an element of each gradient given; bound by bandwidth. The table is read once an expert, from cache.
// Layout: an invocation a column of one part and expert; sums[part][expert][which][column].
struct P {
    rows: u32, cols: u32, slots: u32, experts: u32, routed: u32, has_dexperts: u32, has_ddelta: u32, part: u32,
}

@compute @workgroup_size(64)
fn main(
    @builtin(global_invocation_id) id: vec3<u32>,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let rows = size(p.rows);
    let parts = (rows + p.part - 1u) / p.part;
    for (var e = group.z; e < p.experts; e += groups.z) {
        for (var part = group.y; part < parts; part += groups.y) {
            let begin = part * p.part * p.slots;
            let end = min(rows, (part + 1u) * p.part) * p.slots;
            for (var c = id.x; c < p.cols; c += groups.x * 64u) {
                var gained = 0.0;
                var plain = 0.0;
                for (var slot = begin; slot < end; slot++) {
                    var expert = slot % p.slots;
                    if p.routed == 1u { expert = table(slot); }
                    if expert == e {
                        let d = dexperts(slot * p.cols + c) + ddelta(slot * p.cols + c);
                        gained = fma(v(slot / p.slots * p.cols + c), d, gained);
                        plain += d;
                    }
                }
                let at = (part * p.experts + e) * 2u * p.cols + c;
                set_sums(at, gained);
                set_sums(at + p.cols, plain);
            }
        }
    }
}
