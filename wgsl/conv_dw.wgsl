// conv_dw: for every part of `part` rows the sums of dy[t] x[the row that tap w reads for t], and of dy: the first stage
// of the gradients of filter and bias.
// Floor: 8 bytes an element, 2 width FLOPs; bound by bandwidth: a row of x is read from cache by all taps.
// Layout: an invocation a column of a part, tap by tap; filters[part][tap][column], biases[part][column].
struct P { rows: u32, n: u32, cols: u32, width: u32, part: u32, parts: u32 }

@compute @workgroup_size(64)
fn main(
    @builtin(global_invocation_id) id: vec3<u32>,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    for (var part = group.y; part < p.parts; part += groups.y) {
        let end = min(size(p.rows), (part + 1u) * p.part);
        for (var c = id.x; c < p.cols; c += groups.x * 64u) {
            for (var w = 0u; w <= p.width; w++) {
                var sum = 0.0;
                var mine = vec2(0u);
                for (var row = part * p.part; row < end; row++) {
                    if row >= mine.y { mine = segment_of(row); }
                    if row >= mine.x && row < mine.y {
                        var other = 1.0;
                        if w < p.width { other = x(tap(row, w, mine) * p.cols + c); }
                        sum = fma(dy(row * p.cols + c), other, sum);
                    }
                }
                if w < p.width { set_filters((part * p.width + w) * p.cols + c, sum); } else { set_biases(part * p.cols + c, sum); }
            }
        }
    }
}
