// layer_norm_sum: the second stage of the gradients of gain and bias: sums over the parts, in their order.
// Floor: 8 bytes a column and part; far below the first stage.
// Layout: an invocation a column.
struct P { rows: u32, cols: u32, part: u32, wants_gain: u32, wants_bias: u32 }

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let cols = size(p.cols);
    let parts = (size(p.rows) + p.part - 1u) / p.part;
    for (var c = id.x; c < cols; c += groups.x * 64u) {
        var gained = 0.0;
        var plain = 0.0;
        for (var part = 0u; part < parts; part++) {
            gained += sums(2u * part * cols + c);
            plain += sums((2u * part + 1u) * cols + c);
        }
        if p.wants_gain == 1u { set_dgain(c, gained); }
        if p.wants_bias == 1u { set_dbias(c, plain); }
    }
}
