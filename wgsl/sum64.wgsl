// Part of several kernels: a sum over 64 invocations.
var<workgroup> lanes: array<f32, 64>;

// The sum over the workgroup, always in the same order.
fn add_up(lane: u32, value: f32) -> f32 {
    lanes[lane] = value;
    workgroupBarrier();
    for (var half = 32u; half > 0u; half >>= 1u) {
        if lane < half { lanes[lane] += lanes[lane + half]; }
        workgroupBarrier();
    }
    let sum = lanes[0];
    workgroupBarrier();
    return sum;
}
