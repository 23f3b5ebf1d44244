// segment_spread: x[r] = y[n] (divided by the number of rows for a mean) where row r takes part in segment n, else 0.
// Floor: 4 bytes an element of x; bound by bandwidth.
// Layout: a workgroup of 64 a row; every invocation finds the row's segment by bisection in a table that stays cached.
struct P { rows: u32, n: u32, cols: u32, kind: u32, tail: u32 }

@compute @workgroup_size(64)
fn main(
    @builtin(local_invocation_index) lane: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let rows = size(p.rows);
    for (var row = group.x; row < rows; row += groups.x) {
        let segment = segment_at(row);
        var share = 0.0;
        if segment < size(p.n) {
            let taking_part = members(segment);
            let is_last = row + 1u == whole(segment).y;
            let inside = row >= taking_part.x && row < taking_part.y;
            let number = f32(max(taking_part.y - taking_part.x, 1u));
            if select(inside, is_last, p.kind == 2u) { share = select(1.0, 1.0 / number, p.kind == 1u); }
        }
        for (var c = lane; c < p.cols; c += 64u) {
            var value = 0.0;
            if share > 0.0 { value = share * y(segment * p.cols + c); }
            set_x(row * p.cols + c, value);
        }
    }
}
