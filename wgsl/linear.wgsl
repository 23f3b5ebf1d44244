// linear: y = act(A·B + bias) + residual, any of A and B transposed.
//
// Floor: 2·m·n·k FLOPs; at our sizes (k >= 128) bound by arithmetic.
// Layout: a workgroup of 16 x 16 computes a tile of 64 x 64, each invocation 4 x 4 (columns 16 apart, so that
// neighbours store side by side); A and B pass through workgroup memory 16 deep.
//
//        n ->  64
//   m  +--------+      sa[16][64]   sb[16][64]
//   64 | 4x4 ...|
//      +--------+
struct P {
    m: u32, n: u32, k: u32, lda: u32, ldb: u32, ldy: u32,
    a_t: u32, b_t: u32, activation: u32, has_bias: u32, has_residual: u32,
}

const TILE = 64u;
const DEPTH = 16u;

var<workgroup> sa: array<f32, 1024>;
var<workgroup> sb: array<f32, 1024>;

@compute @workgroup_size(16, 16)
fn main(
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let m = size(p.m);
    let n = size(p.n);
    let k = size(p.k);
    for (var row0 = group.y * TILE; row0 < m; row0 += groups.y * TILE) {
        for (var col0 = group.x * TILE; col0 < n; col0 += groups.x * TILE) {
            var sum: array<array<f32, 4>, 4>;
            for (var k0 = 0u; k0 < k; k0 += DEPTH) {
                for (var i = lane; i < TILE * DEPTH; i += 256u) {
                    // Neighbouring lanes read neighbouring addresses, whichever way the matrix lies.
                    let ar = select(i / DEPTH, i % TILE, p.a_t == 1u);
                    let ak = select(i % DEPTH, i / TILE, p.a_t == 1u);
                    var left = 0.0;
                    if row0 + ar < m && k0 + ak < k {
                        left = a(select((row0 + ar) * p.lda + k0 + ak, (k0 + ak) * p.lda + row0 + ar, p.a_t == 1u));
                    }
                    sa[ak * TILE + ar] = left;
                    let bc = select(i % TILE, i / DEPTH, p.b_t == 1u);
                    let bk = select(i / TILE, i % DEPTH, p.b_t == 1u);
                    var right = 0.0;
                    if col0 + bc < n && k0 + bk < k {
                        right = b(select((k0 + bk) * p.ldb + col0 + bc, (col0 + bc) * p.ldb + k0 + bk, p.b_t == 1u));
                    }
                    sb[bk * TILE + bc] = right;
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
                        var value = sum[i][j];
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
