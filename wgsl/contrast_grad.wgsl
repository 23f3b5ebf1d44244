// contrast_grad: dz = dloss / 2N (exp(z - row_lse) + exp(z - col_lse) - 2 on the diagonal); dscores = scale dz,
// dlog_weight = dz, and each row's part of the gradient of log_scale.
// Floor: 8 bytes an element; bound by bandwidth.
// Layout: a workgroup of 256 a row; neighbours take neighbouring columns. dscores may lie in the place of scores: each
// invocation rewrites only what it has read itself.
struct P { rows: u32, cols: u32, stride: u32, has_video: u32, has_caption: u32, has_weight: u32, wants_weight: u32 }

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) lane: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let n = min(size(p.rows), size(p.cols));
    let scale = exp(log_scale(0u));
    let share = dloss(0u) / f32(max(2u * n, 1u));
    for (var i = group.x; i < n; i += groups.x) {
        var sum = 0.0;
        for (var j = lane; j < n; j += 256u) {
            let at = i * p.stride + j;
            let z = logit(i, j, scale);
            let dz = share * (share_of(z - row_lse(i)) + share_of(z - col_lse(j)) - select(0.0, 2.0, i == j));
            sum = fma(dz, scores(at), sum);
            set_dscores(at, scale * dz);
            if p.wants_weight == 1u { set_dlog_weight(at, dz); }
        }
        let all = add_up(lane, sum);
        if lane == 0u { set_terms(i, scale * all); }
    }
}
