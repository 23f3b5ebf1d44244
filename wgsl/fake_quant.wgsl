// fake_quant: y = code scale, row by row, with scale = m / 127 for the row's largest magnitude m; rows with m <= 1e-30
// become 0. |code| is the number of k in 0..127 with (k + 1/2) m < 127 |x|, or = where k is odd. Division may be off by
// some units in the last place; it only says which code it is up to a step, and products, which are the same bits
// everywhere, say which it is.
// Floor: 8 bytes an element; bound by bandwidth. The row's second reading comes from cache.
// Layout: a workgroup of 64 a row. y may lie in x's place: each invocation rewrites only what it has read itself.
struct P { rows: u32, cols: u32 }

var<workgroup> lanes: array<f32, 64>;

@compute @workgroup_size(64)
fn main(
    @builtin(local_invocation_index) lane: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    for (var row = group.x; row < size(p.rows); row += groups.x) {
        var largest = 0.0;
        for (var c = lane; c < p.cols; c += 64u) { largest = max(largest, abs(x(row * p.cols + c))); }
        let m = greatest(lane, largest);
        for (var c = lane; c < p.cols; c += 64u) {
            var value = 0.0;
            if m > 1e-30 { value = code(x(row * p.cols + c), m) * (m * (1.0 / 127.0)); }
            set_y(row * p.cols + c, value);
        }
    }
}

fn code(x: f32, m: f32) -> f32 {
    let at = abs(x) * 127.0;
    let near = round(at / m);
    let odd = (u32(near) & 1u) == 1u;
    let above = (near + 0.5) * m;
    let below = (near - 0.5) * m;
    // A tie belongs to the even code of the two.
    var number = near;
    if above < at || (above == at && odd) { number += 1.0; }
    if below > at || (below == at && odd) { number -= 1.0; }
    return select(number, -number, x < 0.0);
}

fn greatest(lane: u32, value: f32) -> f32 {
    lanes[lane] = value;
    workgroupBarrier();
    for (var half = 32u; half > 0u; half >>= 1u) {
        if lane < half { lanes[lane] = max(lanes[lane], lanes[lane + half]); }
        workgroupBarrier();
    }
    let largest = lanes[0];
    workgroupBarrier();
    return largest;
}
