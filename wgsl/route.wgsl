// route: the slots of each row, the largest logit first, of equal ones the lower expert, a NaN behind every number.
// Floor: 4 bytes a logit and 8 a slot; at our sizes (8,192 rows of 16) bound by latency.
// Layout: an invocation a row. Each slot takes the best of what comes after the slot before, in the order of (logit,
// expert): no list of what is taken, so that nothing is kept but two words.
struct P { rows: u32, experts: u32, slots: u32 }

// A number in the order of the logits: a NaN stands below everything, -0 equals 0.
fn ordered(logit: f32) -> u32 {
    let bits = bitcast<u32>(logit);
    if is_nan(logit) { return 0u; }
    if bits == 0x80000000u { return 0x80000000u; }
    return select(bits | 0x80000000u, ~bits, (bits >> 31u) == 1u);
}

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let rows = size(p.rows);
    for (var row = id.x; row < rows; row += groups.x * 256u) {
        var last = 0xffffffffu;
        var last_expert = 0u;
        for (var s = 0u; s < p.slots; s++) {
            var best = 0u;
            var expert = p.experts;
            for (var e = 0u; e < p.experts; e++) {
                let key = ordered(logits(row * p.experts + e));
                let after = s == 0u || key < last || (key == last && e > last_expert);
                if after && (expert == p.experts || key > best) {
                    best = key;
                    expert = e;
                }
            }
            set_picked(row * p.slots + s, logits(row * p.experts + expert));
            set_table(row * p.slots + s, expert);
            last = best;
            last_expert = expert;
        }
    }
}
