// segment_lse: the log-sum-exp of the rows of each segment that take part; -1e30 where there are none.
// Floor: 4 bytes a row; bound by latency at our sizes (some thousand rows).
// Layout: an invocation a segment, which holds some dozen rows.
struct P { rows: u32, n: u32, tail: u32 }

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    for (var i = id.x; i < size(p.n); i += groups.x * 64u) {
        let rows = members(i);
        var largest = -1e30;
        for (var row = rows.x; row < rows.y; row++) { largest = max(largest, x(row)); }
        var sum = 0.0;
        for (var row = rows.x; row < rows.y; row++) { sum += exp(x(row) - largest); }
        var value = -1e30;
        if rows.x < rows.y { value = largest + log(sum); }
        set_lse(i, value);
    }
}
