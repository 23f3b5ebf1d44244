// scatter_add: x[r] = sum of dy[m] over index[m] = r, in the order of m: the same bits every time, without atomics.
// Floor: 4 bytes an element of x and of dy; in fact bound by the index, which every workgroup reads as a whole.
// Layout: a workgroup owns 32 rows and 64 columns of x and holds them in its memory; an invocation a column:
//
//        columns ->  64          for every m: r = index[m]
//   32  +-----------------+        if r is one of my rows: sums[r][c] += dy[m][c]
//       | one invocation  |
//       | goes down       |
//       +-----------------+
//
// Invocations never meet in a column, so no barrier is needed.
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
    let length = size(p.m);
    for (var first = group.y * ROWS; first < rows; first += groups.y * ROWS) {
        for (var c = group.x * 64u + lane; c < p.cols; c += groups.x * 64u) {
            for (var r = 0u; r < ROWS; r++) { sums[r * 64u + lane] = 0.0; }
            for (var item = 0u; item < length; item++) {
                let row = index(item);
                if row >= first && row - first < ROWS { sums[(row - first) * 64u + lane] += dy(item * p.cols + c); }
            }
            for (var r = 0u; r < min(ROWS, rows - first); r++) { set_x((first + r) * p.cols + c, sums[r * 64u + lane]); }
        }
    }
}
