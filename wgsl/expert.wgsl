// expert: delta = shared + low + diagonal_e v + bias_e, and y = v + delta, for each slot of a row and its expert e.
// Floor: 8 bytes an element of y, 12 with delta; bound by bandwidth. What slots have in common comes from cache.
// Layout: an invocation an element. y may lie in low's place.
struct P { rows: u32, cols: u32, slots: u32, experts: u32, routed: u32, wants_delta: u32 }

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let items = size(p.rows) * p.slots * p.cols;
    for (var item = id.x; item < items; item += groups.x * 256u) {
        let slot = item / p.cols;
        let column = item % p.cols;
        let narrow = slot / p.slots * p.cols + column;
        var e = slot % p.slots;
        if p.routed == 1u { e = table(slot); }
        let value = v(narrow);
        var d = low(item) + shared_part(narrow);
        if e < p.experts { d = fma(diagonal(e * p.cols + column), value, d + bias(e * p.cols + column)); }
        if p.wants_delta == 1u { set_delta(item, d); }
        set_y(item, value + d);
    }
}
