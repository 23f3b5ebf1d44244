// balance: the losses from the sums of the parts: K sum_k f_k P_k, the mean square of the log-sum-exps, the shares f.
// Floor: 8 K bytes a part; one small workgroup, bound by latency.
// Layout: an invocation a number of a part, which adds the parts in their order; the first one adds what is left.
struct P { rows: u32, texts: u32, experts: u32, wants_share: u32, wants_frames: u32 }

var<workgroup> sums: array<f32, 130>;

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) lane: u32) {
    let count = (size(p.rows) + 255u) / 256u;
    let numbers = 2u * p.experts + 2u;
    if lane < numbers {
        var sum = 0.0;
        for (var i = 0u; i < count; i++) { sum += parts(i * numbers + lane); }
        sums[lane] = sum;
    }
    workgroupBarrier();
    let all = sums[2u * p.experts + 1u];
    let n = max(all, 1.0);
    if lane < p.experts && p.wants_share == 1u { set_share(lane, sums[p.experts + lane] / n); }
    if lane == 0u {
        var even = 0.0;
        for (var e = 0u; e < p.experts; e++) { even += (sums[p.experts + e] / n) * (sums[e] / n); }
        set_balance(0u, f32(p.experts) * even);
        set_z(0u, sums[2u * p.experts] / n);
        if p.wants_frames == 1u { set_frames(0u, all); }
    }
}
