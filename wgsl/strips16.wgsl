// Part of several kernels: folds over the 16 strips of rows of 16 columns; invocation `lane` has column lane % 16.
var<workgroup> strips: array<f32, 256>;

fn largest_in_column(lane: u32, value: f32) -> f32 {
    strips[lane] = value;
    workgroupBarrier();
    for (var half = 128u; half >= 16u; half >>= 1u) {
        if lane < half { strips[lane] = max(strips[lane], strips[lane + half]); }
        workgroupBarrier();
    }
    let largest = strips[lane % 16u];
    workgroupBarrier();
    return largest;
}

fn sum_of_column(lane: u32, value: f32) -> f32 {
    strips[lane] = value;
    workgroupBarrier();
    for (var half = 128u; half >= 16u; half >>= 1u) {
        if lane < half { strips[lane] += strips[lane + half]; }
        workgroupBarrier();
    }
    let sum = strips[lane % 16u];
    workgroupBarrier();
    return sum;
}
