// unit_grad: dx = inv_norm (dy - y <y, dy>) row by row.
// Floor: 12 bytes an element; bound by bandwidth. The second reading comes from cache.
// Layout: a workgroup of 64 a row. dx may lie in dy's place: each invocation rewrites only what it has read itself.
struct P { rows: u32, cols: u32 }

@compute @workgroup_size(64)
fn main(
    @builtin(local_invocation_index) lane: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let rows = size(p.rows);
    let cols = size(p.cols);
    for (var row = group.x; row < rows; row += groups.x) {
        var dots = 0.0;
        for (var c = lane; c < cols; c += 64u) { dots = fma(y(row * cols + c), dy(row * cols + c), dots); }
        let along = add_up(lane, dots);
        let inverse = inv_norm(row);
        for (var c = lane; c < cols; c += 64u) {
            let i = row * cols + c;
            set_dx(i, inverse * fma(y(i), -along, dy(i)));
        }
    }
}
