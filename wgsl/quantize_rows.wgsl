// quantize_rows: codes of int8, four a word, and a scale m / 127 for each row with largest magnitude m; rows with
// m <= 1e-30 have codes and scale 0, a row with a NaN a scale of NaN. The codes are those of fake_quant, see there:
// products that are the same bits everywhere say which code a number has.
// Floor: 5 bytes an element; bound by bandwidth. The row's second reading comes from cache.
// Layout: a workgroup of 64 a row, an invocation a word at a time.
struct P { rows: u32, cols: u32 }

var<workgroup> lanes: array<f32, 64>;

@compute @workgroup_size(64)
fn main(
    @builtin(local_invocation_index) lane: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let words = (p.cols + 3u) / 4u;
    for (var row = group.x; row < size(p.rows); row += groups.x) {
        var largest = 0.0;
        var none = 0.0;
        for (var c = lane; c < p.cols; c += 64u) {
            let value = x(row * p.cols + c);
            if is_nan(value) { none = 1.0; } else { largest = max(largest, abs(value)); }
        }
        let m = greatest(lane, largest);
        let any_none = greatest(lane, none);
        for (var w = lane; w < words; w += 64u) {
            var word = 0u;
            for (var i = 0u; i < 4u; i++) {
                let c = 4u * w + i;
                if m > 1e-30 && c < p.cols { word |= (code(x(row * p.cols + c), m) & 0xffu) << (8u * i); }
            }
            set_codes(row * words + w, word);
        }
        if lane == 0u {
            var scale = 0.0;
            if m > 1e-30 { scale = m * (1.0 / 127.0); }
            if any_none > 0.0 { scale = bitcast<f32>(p.rows | 0x7fc00000u); }
            set_scales(row, scale);
        }
    }
}

fn code(x: f32, m: f32) -> u32 {
    let at = abs(x) * 127.0;
    let near = round(at / m);
    let odd = (u32(near) & 1u) == 1u;
    let above = (near + 0.5) * m;
    let below = (near - 0.5) * m;
    // A tie belongs to the even code of the two.
    var number = near;
    if above < at || (above == at && odd) { number += 1.0; }
    if below > at || (below == at && odd) { number -= 1.0; }
    return u32(select(i32(number), -i32(number), x < 0.0));
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
