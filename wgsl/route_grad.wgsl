// route_grad: dlogits[r, table[r, s]] = dpicked[r, s], 0 elsewhere.
// Floor: 4 bytes a logit and 8 a slot; bound by bandwidth. An invocation a logit, which looks through the row's slots.
struct P { rows: u32, experts: u32, slots: u32 }

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let items = size(p.rows) * p.experts;
    for (var item = id.x; item < items; item += groups.x * 256u) {
        let row = item / p.experts;
        var sum = 0.0;
        for (var s = row * p.slots; s < (row + 1u) * p.slots; s++) {
            if table(s) == item % p.experts { sum += dpicked(s); }
        }
        set_dlogits(item, sum);
    }
}
