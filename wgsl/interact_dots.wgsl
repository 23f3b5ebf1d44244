// interact_dots: dot products of all frames of a chunk (rows, one a slot) with all its words (columns), as linear computes them.
//
// Floor: 2·rows·columns·D FLOPs; bound by arithmetic from D = 128 on.
// Layout: a workgroup of 16 x 16 computes tiles of 64 x 64, each invocation 4 x 4, columns 16 apart; both operands
// pass through workgroup memory 16 deep.
//
//          words ->  64
//  frames +--------+      sa[16][64]   sb[16][64]
//   64    | 4x4 ...|
//         +--------+
// Learnt: the rows of a chunk are read from the segments, so bounds pass through workgroupUniformLoad before any
// loop that holds a barrier.
const TILE = 64u;
const DEPTH = 16u;

var<workgroup> sa: array<f32, 1024>;
var<workgroup> sb: array<f32, 1024>;
var<workgroup> chunk: vec4<u32>;

@compute @workgroup_size(16, 16)
fn main(
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    if lane == 0u { chunk = vec4<u32>(chunk_slot_rows(), chunk_word_rows()); }
    let bounds = workgroupUniformLoad(&chunk);
    let m = bounds.y;
    let n = bounds.w;
    for (var row0 = group.y * TILE; row0 < m; row0 += groups.y * TILE) {
        for (var col0 = group.x * TILE; col0 < n; col0 += groups.x * TILE) {
            var sum: array<array<f32, 4>, 4>;
            for (var k0 = 0u; k0 < p.width; k0 += DEPTH) {
                for (var i = lane; i < TILE * DEPTH; i += 256u) {
                    let r = i / DEPTH;
                    let k = k0 + i % DEPTH;
                    var left = 0.0;
                    if row0 + r < m && k < p.width { left = frames((bounds.x + row0 + r) * p.width + k); }
                    var right = 0.0;
                    if col0 + r < n && k < p.width { right = words((bounds.z + col0 + r) * p.width + k); }
                    sa[(i % DEPTH) * TILE + r] = left;
                    sb[(i % DEPTH) * TILE + r] = right;
                }
                workgroupBarrier();
                for (var d = 0u; d < DEPTH; d++) {
                    var left: array<f32, 4>;
                    for (var i = 0u; i < 4u; i++) { left[i] = sa[d * TILE + local.y * 4u + i]; }
                    for (var j = 0u; j < 4u; j++) {
                        let right = sb[d * TILE + local.x + 16u * j];
                        for (var i = 0u; i < 4u; i++) { sum[i][j] = fma(left[i], right, sum[i][j]); }
                    }
                }
                workgroupBarrier();
            }
            for (var i = 0u; i < 4u; i++) {
                let r = row0 + local.y * 4u + i;
                for (var j = 0u; j < 4u; j++) {
                    let c = col0 + local.x + 16u * j;
                    if r < m && c < n { set_dots(r * chunk_stride() + c, sum[i][j]); }
                }
            }
        }
    }
}
