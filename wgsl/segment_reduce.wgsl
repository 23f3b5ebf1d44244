// segment_reduce: y[n] = sum (0), mean (1) or last row (2) of segment n; 0 for an empty one.
// Floor: 4 bytes an element of x; bound by bandwidth.
// Layout: an invocation a column of a segment; neighbours read neighbouring columns.
struct P { rows: u32, n: u32, cols: u32, kind: u32, tail: u32 }

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let items = size(p.n) * p.cols;
    for (var item = id.x; item < items; item += groups.x * 64u) {
        let c = item % p.cols;
        var rows = members(item / p.cols);
        if p.kind == 2u {
            let all = whole(item / p.cols);
            rows = vec2(max(all.y, all.x + 1u) - 1u, all.y);
        }
        var sum = 0.0;
        for (var row = rows.x; row < rows.y; row++) { sum += x(row * p.cols + c); }
        if p.kind == 1u { sum /= f32(max(rows.y - rows.x, 1u)); }
        set_y(item, sum);
    }
}
