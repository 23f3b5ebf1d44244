// contrast_columns: the log-sum-exp of every column of logits, and how far it lies above the pair's logit.
// Floor: 4 bytes an element (the second reading comes from cache); bound by bandwidth.
// Layout: a workgroup takes 16 columns, 16 invocations each, which go over every 16th row; then they fold in a tree.
//
//      16 columns
//     +--------+
//     | 0 0 .. |  row strips 0..15, then 0..15 again, ...
//     | 1 1 .. |
//     +--------+
struct P { rows: u32, cols: u32, stride: u32, has_video: u32, has_caption: u32, has_weight: u32 }

var<workgroup> strips: array<f32, 256>;

@compute @workgroup_size(16, 16)
fn main(
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let n = min(size(p.rows), size(p.cols));
    let scale = exp(log_scale(0u));
    for (var first = group.x * 16u; first < n; first += groups.x * 16u) {
        let j = first + local.x;
        var best = -1e30;
        if j < n {
            for (var i = local.y; i < n; i += 16u) { best = max(best, logit(i, j, scale)); }
        }
        strips[lane] = best;
        workgroupBarrier();
        for (var half = 128u; half >= 16u; half >>= 1u) {
            if lane < half { strips[lane] = max(strips[lane], strips[lane + half]); }
            workgroupBarrier();
        }
        let largest = strips[local.x];
        workgroupBarrier();
        var sum = 0.0;
        if j < n {
            for (var i = local.y; i < n; i += 16u) { sum += share_of(logit(i, j, scale) - largest); }
        }
        strips[lane] = sum;
        workgroupBarrier();
        for (var half = 128u; half >= 16u; half >>= 1u) {
            if lane < half { strips[lane] += strips[lane + half]; }
            workgroupBarrier();
        }
        if local.y == 0u && j < n {
            let logarithm = log(strips[local.x]);
            set_lse(j, largest + logarithm);
            set_terms(j, (largest - logit(j, j, scale)) + logarithm);
        }
        workgroupBarrier();
    }
}
