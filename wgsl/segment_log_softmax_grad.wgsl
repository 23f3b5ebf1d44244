// segment_log_softmax_grad: dx = dy - exp(y) total of its segment; 0 in rows that take no part.
// Floor: 12 bytes a row; bound by bandwidth.
// Layout: an invocation a row; it finds its segment by bisection in a table that stays cached. dx may lie in dy's place.
struct P { rows: u32, n: u32, tail: u32 }

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    for (var row = id.x; row < size(p.rows); row += groups.x * 256u) {
        let segment = segment_at(row);
        var value = 0.0;
        if segment < size(p.n) {
            let taking_part = members(segment);
            if row >= taking_part.x && row < taking_part.y { value = dy(row) - exp(y(row)) * total(segment); }
        }
        set_dx(row, value);
    }
}
