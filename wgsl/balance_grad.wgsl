// balance_grad: dframe_logits = gate (dbalance K (f_k - sum_e f_e gate_e) + dz 2 lse) / frames; 0 for nobody's frames.
// Floor: 8 bytes a logit (the second and third reading come from cache); bound by latency at the sizes of a batch.
// Layout: an invocation a frame.
struct P { rows: u32, texts: u32, experts: u32, has_balance: u32, has_z: u32 }

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) lane: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let rows = size(p.rows);
    let texts = size(p.texts);
    let n = max(frames(0u), 1.0);
    var even = 0.0;
    var growth = 0.0;
    if p.has_balance == 1u { even = dbalance(0u) * f32(p.experts) / n; }
    if p.has_z == 1u { growth = dz(0u) * 2.0 / n; }
    for (var row = group.x * 256u + lane; row < rows; row += groups.x * 256u) {
        let text = text_of(row, texts);
        var top = Top(0.0, 0.0, 0u);
        if text < texts { top = top_of(text, row); }
        let lse = top.value + top.logarithm;
        var mean = 0.0;
        for (var e = 0u; e < p.experts && text < texts; e++) {
            mean += share(e) * exp(max(logit(text, row, e) - top.value - top.logarithm, -87.0));
        }
        for (var e = 0u; e < p.experts; e++) {
            var d = 0.0;
            if text < texts {
                let gate = exp(max(logit(text, row, e) - top.value - top.logarithm, -87.0));
                d = gate * (even * (share(e) - mean) + growth * lse);
            }
            set_dframe_logits(row * p.experts + e, d);
        }
    }
}
