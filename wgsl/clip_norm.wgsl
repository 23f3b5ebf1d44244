// clip_norm: the norm of all gradients from the norms of the parts, and the factor min(1, max / (norm + 1e-6)).
// Floor: 4 bytes a part; one small workgroup. A NaN is passed on: min would turn it into 1.
struct P { n: u32, part: u32, max_norm: f32 }

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) lane: u32) {
    var sum = 0.0;
    for (var i = lane; i < (size(p.n) + p.part - 1u) / p.part; i += 256u) {
        let part = norms(i);
        sum = fma(part, part, sum);
    }
    let all = sqrt(add_up(lane, sum));
    if lane == 0u {
        var factor = all;
        if !is_nan(all) { factor = min(1.0, p.max_norm / (all + 1e-6)); }
        set_scale(0u, factor);
        set_norm(0u, all);
    }
}
