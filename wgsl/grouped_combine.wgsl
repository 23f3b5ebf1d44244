// grouped_combine: y[r] = sum of the row's slots, in their order.
// Floor: 4 bytes an element of the slots and of y; bound by bandwidth. An invocation an element of y.
struct P { rows: u32, slots: u32, cols: u32 }

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let items = size(p.rows) * p.cols;
    for (var item = id.x; item < items; item += groups.x * 256u) {
        let first = item / p.cols * p.slots * p.cols + item % p.cols;
        var sum = 0.0;
        for (var s = 0u; s < p.slots; s++) { sum += slots(first + s * p.cols); }
        set_y(item, sum);
    }
}
