// scatter_lerp: x[r] = sum of (1 - w[m]) dy[m] over first[m] = r and of w[m] dy[m] over second[m] = r, in the order of m,
// first before second: the same bits every time, without atomics.
// Floor: 4 bytes an element of x and of dy; in fact bound by the indices, which every workgroup reads as a whole.
// Layout: that of scatter_add: a workgroup owns 32 rows and 64 columns of x, an invocation a column.
struct P { rows: u32, m: u32, cols: u32 }

const ROWS = 32u;

var<workgroup> sums: array<f32, 2048>;

@compute @workgroup_size(64)
fn main(
    @builtin(local_invocation_index) lane: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let rows = size(p.rows);
    for (var begin = group.y * ROWS; begin < rows; begin += groups.y * ROWS) {
        for (var c = group.x * 64u + lane; c < p.cols; c += groups.x * 64u) {
            for (var r = 0u; r < ROWS; r++) { sums[r * 64u + lane] = 0.0; }
            for (var m = 0u; m < size(p.m); m++) {
                let start = first(m);
                let to = second(m);
                // Below `begin` the difference wraps round to a large number.
                if start - begin < ROWS { sums[(start - begin) * 64u + lane] += (1.0 - weight(m)) * dy(m * p.cols + c); }
                if to - begin < ROWS { sums[(to - begin) * 64u + lane] += weight(m) * dy(m * p.cols + c); }
            }
            for (var r = 0u; r < min(ROWS, rows - begin); r++) { set_x((begin + r) * p.cols + c, sums[r * 64u + lane]); }
        }
    }
}
