// segment_log_softmax: y = x - lse of its segment; -1e30 in rows that take no part.
// Floor: 8 bytes a row; bound by bandwidth.
// Layout: an invocation a row; it finds its segment by bisection in a table that stays cached. y may lie in x's place.
struct P { rows: u32, n: u32, tail: u32 }

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    for (var row = id.x; row < size(p.rows); row += groups.x * 256u) {
        let segment = segment_at(row);
        var value = -1e30;
        if segment < size(p.n) {
            let taking_part = members(segment);
            if row >= taking_part.x && row < taking_part.y { value = x(row) - lse(segment); }
        }
        set_y(row, value);
    }
}
