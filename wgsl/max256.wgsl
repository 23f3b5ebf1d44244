// Part of several kernels: a maximum over 256 invocations.
var<workgroup> tops: array<f32, 256>;

fn largest_of(lane: u32, value: f32) -> f32 {
    tops[lane] = value;
    workgroupBarrier();
    for (var half = 128u; half > 0u; half >>= 1u) {
        if lane < half { tops[lane] = max(tops[lane], tops[lane + half]); }
        workgroupBarrier();
    }
    let largest = tops[0];
    workgroupBarrier();
    return largest;
}
