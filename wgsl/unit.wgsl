// unit: y = x / |x| row by row, and 1 / |x|. A row shorter than 1e-6 gives zeros.
// Floor: 8 bytes an element; bound by bandwidth. The row's second reading comes from cache.
// Layout: a workgroup of 64 a row; neighbours read neighbouring columns. y may lie in x's place: each invocation
// rewrites only what it has read itself.
struct P { rows: u32, cols: u32, wanted: u32 }

@compute @workgroup_size(64)
fn main(
    @builtin(local_invocation_index) lane: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let rows = size(p.rows);
    let cols = size(p.cols);
    for (var row = group.x; row < rows; row += groups.x) {
        var squares = 0.0;
        for (var c = lane; c < cols; c += 64u) {
            let value = x(row * cols + c);
            squares = fma(value, value, squares);
        }
        let norm = sqrt(add_up(lane, squares));
        let inverse = select(1.0 / max(norm, 1e-6), 0.0, norm < 1e-6);
        for (var c = lane; c < cols; c += 64u) { set_y(row * cols + c, x(row * cols + c) * inverse); }
        if lane == 0u && p.wanted == 1u { set_inv_norm(row, inverse); }
    }
}
