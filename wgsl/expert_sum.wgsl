// expert_sum: the second stage of the gradients of diagonal and bias: sums over the parts, in their order.
// Floor: 8 bytes a column, expert and part; far below the first stage.
// Layout: an invocation a column of an expert.
struct P {
    rows: u32, cols: u32, slots: u32, experts: u32, routed: u32, has_dexperts: u32, has_ddelta: u32, part: u32,
    wants_diagonal: u32, wants_bias: u32,
}

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let parts = (size(p.rows) + p.part - 1u) / p.part;
    for (var item = id.x; item < p.experts * p.cols; item += groups.x * 256u) {
        var gained = 0.0;
        var plain = 0.0;
        for (var part = 0u; part < parts; part++) {
            let at = (part * p.experts + item / p.cols) * 2u * p.cols + item % p.cols;
            gained += sums(at);
            plain += sums(at + p.cols);
        }
        if p.wants_diagonal == 1u { set_ddiagonal(item, gained); }
        if p.wants_bias == 1u { set_dbias(item, plain); }
    }
}
