// segment_total: the sum of dy over the rows of each segment that take part.
// Floor: 4 bytes a row; bound by latency at our sizes (some thousand rows).
// Layout: an invocation a segment, which holds some dozen rows.
struct P { rows: u32, n: u32, tail: u32 }

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    for (var i = id.x; i < size(p.n); i += groups.x * 64u) {
        let rows = members(i);
        var sum = 0.0;
        for (var row = rows.x; row < rows.y; row++) { sum += dy(row); }
        set_total(i, sum);
    }
}
