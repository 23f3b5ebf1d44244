// conv_dx: dx[s] = sum over the taps w and the rows t that read row s by them of weight[w] dy[t]. That is one row a tap,
// and for the first and last row of a segment also the rows for which the filter reaches beyond it.
// Floor: 8 bytes an element; bound by bandwidth.
// Layout: a workgroup of 64 a row; every invocation finds the row's segment by bisection in a table that stays cached.
struct P { rows: u32, n: u32, cols: u32, width: u32 }

@compute @workgroup_size(64)
fn main(
    @builtin(local_invocation_index) lane: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    for (var row = group.x; row < size(p.rows); row += groups.x) {
        let mine = segment_of(row);
        for (var c = lane; c < p.cols; c += 64u) {
            var sum = 0.0;
            for (var w = 0u; w < p.width; w++) {
                let start = readers(row, w, mine);
                for (var t = start.x; t < start.y; t++) { sum = fma(weight(w * p.cols + c), dy(t * p.cols + c), sum); }
            }
            set_dx(row * p.cols + c, sum);
        }
    }
}

// The rows of the segment whose tap w reads this one.
fn readers(row: u32, w: u32, mine: vec2<u32>) -> vec2<u32> {
    if mine.x >= mine.y { return vec2(0u); }
    // Row t reads t + w - width / 2: of the rows [begin, end), shifted by width / 2 so that none is negative.
    let half = p.width / 2u;
    let same = row + half;
    var begin = max(same, mine.x + w) - w;
    var end = max(min(same + 1u, mine.y + w), w) - w;
    if row == mine.x { begin = mine.x; }
    if row + 1u == mine.y { end = mine.y; }
    return vec2(begin, end);
}
