// interact_accumulate: y (+)= G·W for the frames of a chunk (a row a slot), or y (+)= Gᵀ·E for its words.
//
// Floor: 2·frames·words·D FLOPs; bound by arithmetic.
// Layout: a workgroup of 16 x 16 computes tiles of 64 x 64 of y, each invocation 4 x 4; G and the rows it weighs pass
// through workgroup memory 16 deep. Chunks are launched in a fixed order, the first writes and the others add.
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
    if lane == 0u {
        // (rows of y, rows that are weighed): first row and number of rows of each.
        if p.transposed == 1u { chunk = vec4<u32>(chunk_word_rows(), chunk_slot_rows()); }
        else { chunk = vec4<u32>(chunk_slot_rows(), chunk_word_rows()); }
    }
    let bounds = workgroupUniformLoad(&chunk);
    let m = bounds.y;
    let depth = bounds.w;
    let n = p.width;
    for (var row0 = group.y * TILE; row0 < m; row0 += groups.y * TILE) {
        for (var col0 = group.x * TILE; col0 < n; col0 += groups.x * TILE) {
            var sum: array<array<f32, 4>, 4>;
            for (var k0 = 0u; k0 < depth; k0 += DEPTH) {
                for (var i = lane; i < TILE * DEPTH; i += 256u) {
                    // Neighbouring lanes read neighbouring columns of G, whichever way it is taken.
                    let r = select(i / DEPTH, i % TILE, p.transposed == 1u);
                    let k = select(i % DEPTH, i / TILE, p.transposed == 1u);
                    var left = 0.0;
                    if row0 + r < m && k0 + k < depth {
                        let frame = select(row0 + r, k0 + k, p.transposed == 1u);
                        let word = select(k0 + k, row0 + r, p.transposed == 1u);
                        left = g(frame * chunk_stride() + word);
                    }
                    sa[k * TILE + r] = left;
                    var right = 0.0;
                    if col0 + i % TILE < n && k0 + i / TILE < depth {
                        right = x((bounds.z + k0 + i / TILE) * n + col0 + i % TILE);
                    }
                    sb[i] = right;
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
                    if r < m && c < n {
                        let at = (bounds.x + r) * n + c;
                        var value = sum[i][j];
                        if p.add == 1u { value += y(at); }
                        set_y(at, value);
                    }
                }
            }
        }
    }
}
