// conv: y[t] = bias + sum over the taps w of weight[w] x[t + w - width / 2], the row clamped to the segment of t; 0 in
// rows that lie in no segment.
// Floor: 8 bytes an element; bound by bandwidth: neighbouring rows are read from cache, and so is the filter.
// Layout: a workgroup of 64 a row; every invocation finds the row's segment by bisection in a table that stays cached.
struct P { rows: u32, n: u32, cols: u32, width: u32, biased: u32 }

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
            if mine.x < mine.y {
                if p.biased == 1u { sum = bias(c); }
                for (var w = 0u; w < p.width; w++) {
                    sum = fma(weight(w * p.cols + c), x(tap(row, w, mine) * p.cols + c), sum);
                }
            }
            set_y(row * p.cols + c, sum);
        }
    }
}
