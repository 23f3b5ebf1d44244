// expert_grad: dlow = d = dexperts + ddelta, dshared = the sum of d over a row's slots, and dv = that of
// dexperts + diagonal_e d.
// Floor: 4 bytes an element of each gradient given and of dlow; bound by bandwidth.
// Layout: an invocation a column of a row, for all its slots. dlow may lie in a gradient's place. The gradients of
// diagonal and bias are expert_parts and expert_sum.
struct P {
    rows: u32, cols: u32, slots: u32, experts: u32, routed: u32, has_dexperts: u32, has_ddelta: u32, part: u32,
    wants_low: u32, wants_shared: u32, wants_v: u32,
}

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let items = size(p.rows) * p.cols;
    for (var item = id.x; item < items; item += groups.x * 256u) {
        let column = item % p.cols;
        var of_shared = 0.0;
        var of_v = 0.0;
        for (var s = 0u; s < p.slots; s++) {
            let slot = item / p.cols * p.slots + s;
            let at = slot * p.cols + column;
            let direct = dexperts(at);
            let d = direct + ddelta(at);
            var e = s;
            if p.routed == 1u { e = table(slot); }
            of_shared += d;
            of_v += direct;
            if e < p.experts { of_v = fma(diagonal(e * p.cols + column), d, of_v); }
            if p.wants_low == 1u { set_dlow(at, d); }
        }
        if p.wants_shared == 1u { set_dshared(item, of_shared); }
        if p.wants_v == 1u { set_dv(item, of_v); }
    }
}
