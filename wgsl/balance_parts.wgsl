// balance_parts: for each 256 frames the sums of their gates, how often each expert has the largest logit, the sum of
// squared log-sum-exps, and how many frames belong to a text.
// Floor: 4 bytes a logit; bound by latency at the sizes of a batch (8192 frames of 16 experts are 0.5 MB).
// Layout: a workgroup of 256 takes 256 frames, an invocation each; then a sum over the workgroup for each number.
//
//   part: | sums of gates, K | counts of largest, K | squares | frames |
struct P { rows: u32, texts: u32, experts: u32 }

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) lane: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let rows = size(p.rows);
    let texts = size(p.texts);
    for (var part = group.x; part * 256u < rows; part += groups.x) {
        let row = part * 256u + lane;
        var text = texts;
        if row < rows { text = text_of(row, texts); }
        var top = Top(0.0, 0.0, 0u);
        let there = text < texts;
        if there { top = top_of(text, row); }
        let at = part * (2u * p.experts + 2u);
        for (var e = 0u; e < p.experts; e++) {
            var gate = 0.0;
            if there { gate = exp(max(logit(text, row, e) - top.value - top.logarithm, -87.0)); }
            let gates = add_up(lane, gate);
            let count = add_up(lane, select(0.0, 1.0, there && top.expert == e));
            if lane == 0u {
                set_parts(at + e, gates);
                set_parts(at + p.experts + e, count);
            }
        }
        let lse = top.value + top.logarithm;
        let squares = add_up(lane, lse * lse);
        let frames = add_up(lane, select(0.0, 1.0, there));
        if lane == 0u {
            set_parts(at + 2u * p.experts, squares);
            set_parts(at + 2u * p.experts + 1u, frames);
        }
    }
}
