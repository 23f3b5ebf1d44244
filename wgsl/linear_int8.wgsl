// linear_int8: y = act(scale_a scale_b (codes of a · codes of b) + bias) + residual for each row of a and of b; four
// codes a word, sums in i32.
//
// Floor: 2·m·n·4·words operations; dot4I8Packed is one instruction where the device has it (DP4A and its like), and
// about ten where the compiler plays it.
// Layout: that of linear: a workgroup of 16 x 16 computes a tile of 64 x 64, each invocation 4 x 4 (columns 16 apart);
// 16 words, 64 codes, of both sides pass through workgroup memory at a time.
struct P { m: u32, n: u32, words: u32, ldy: u32, activation: u32, has_bias: u32, has_residual: u32 }

const TILE = 64u;
const DEPTH = 16u;

var<workgroup> sa: array<u32, 1024>;
var<workgroup> sb: array<u32, 1024>;

@compute @workgroup_size(16, 16)
fn main(
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let m = size(p.m);
    let n = size(p.n);
    for (var row0 = group.y * TILE; row0 < m; row0 += groups.y * TILE) {
        for (var col0 = group.x * TILE; col0 < n; col0 += groups.x * TILE) {
            var sum: array<array<i32, 4>, 4>;
            for (var k0 = 0u; k0 < p.words; k0 += DEPTH) {
                for (var i = lane; i < TILE * DEPTH; i += 256u) {
                    let r = i / DEPTH;
                    let k = i % DEPTH;
                    var left = 0u;
                    if row0 + r < m && k0 + k < p.words { left = a((row0 + r) * p.words + k0 + k); }
                    sa[k * TILE + r] = left;
                    var right = 0u;
                    if col0 + r < n && k0 + k < p.words { right = b((col0 + r) * p.words + k0 + k); }
                    sb[k * TILE + r] = right;
                }
                workgroupBarrier();
                for (var d = 0u; d < DEPTH; d++) {
                    var left: array<u32, 4>;
                    for (var i = 0u; i < 4u; i++) { left[i] = sa[d * TILE + local.y * 4u + i]; }
                    for (var j = 0u; j < 4u; j++) {
                        let right = sb[d * TILE + local.x + 16u * j];
                        for (var i = 0u; i < 4u; i++) { sum[i][j] += dot4I8Packed(left[i], right); }
                    }
                }
                workgroupBarrier();
            }
            for (var i = 0u; i < 4u; i++) {
                let r = row0 + local.y * 4u + i;
                for (var j = 0u; j < 4u; j++) {
                    let c = col0 + local.x + 16u * j;
                    if r < m && c < n {
                        var value = f32(sum[i][j]) * (scales_a(r) * scales_b(c));
                        if p.has_bias == 1u { value += bias(c); }
                        if p.activation != 0u { value = unary(p.activation, value, 0.0, 0.0); }
                        if p.has_residual == 1u { value += residual(r * p.ldy + c); }
                        set_y(r * p.ldy + c, value);
                    }
                }
            }
        }
    }
}
