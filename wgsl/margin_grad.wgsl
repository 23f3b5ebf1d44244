// margin_grad: on the diagonals dlow_ii = dloss w_i / sum of the weights where the margin is not kept, dhigh_ii = -dlow_ii;
// 0 elsewhere; and dweight_i = dloss (relu_i - loss) / sum of the weights.
// Floor: 8 bytes written an element; bound by bandwidth.
// Layout: a workgroup of 256 a row; neighbours take neighbouring columns.
struct P { rows: u32, cols: u32, stride: u32, has_weight: u32, margin: f32, wants_weight: u32 }

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) lane: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let n = min(size(p.rows), size(p.cols));
    let whole = total(0u);
    var share = 0.0;
    if whole != 0.0 { share = dloss(0u) / whole; }
    for (var i = group.x; i < n; i += groups.x) {
        let own = i * p.stride + i;
        let lacking = p.margin + (low(own) - high(own));
        var slope = select(0.0, share, lacking > 0.0);
        if p.has_weight == 1u { slope *= weight(i); }
        for (var j = lane; j < n; j += 256u) {
            set_dlow(i * p.stride + j, select(0.0, slope, i == j));
            set_dhigh(i * p.stride + j, select(0.0, -slope, i == j));
        }
        if lane == 0u && p.wants_weight == 1u {
            set_dweight(i, share * (select(lacking, 0.0, lacking < 0.0) - loss(0u)));
        }
    }
}
