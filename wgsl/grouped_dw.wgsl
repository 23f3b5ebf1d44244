// grouped_dw: for every expert and part of its run, the sum of dy[slot] x[slot] transposed: the first stage of the
// gradients of the matrices.
//
// Floor: 2·R·k·I·O FLOPs; with O = 16 bound by reading x once a slot.
// Layout: a workgroup of 16 x 16 computes a tile of 64 x 64 of one part's [O, I]; both factors are gathered 16 slots at
// a time. An expert has few tiles and thousands of slots: its run is divided into parts, so that there is work for
// everybody, and sum_rows adds the parts in their order.
struct P {
    rows: u32, slots: u32, experts: u32, inner: u32, outer: u32, x_shared: u32, dispatched: u32, parts: u32,
}

const TILE = 64u;
const DEPTH = 16u;

var<workgroup> sa: array<f32, 1024>;
var<workgroup> sb: array<f32, 1024>;
// Where the run begins, and its length.
var<workgroup> found: vec2<u32>;

@compute @workgroup_size(16, 16)
fn main(
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    for (var z = group.z; z < p.experts * p.parts; z += groups.z) {
        let e = z / p.parts;
        if lane == 0u { found = run_of(e); }
        let run = workgroupUniformLoad(&found);
        let length = (run.y + p.parts - 1u) / p.parts;
        let begin = min(run.y, z % p.parts * length);
        let depth = min(run.y - begin, length);
        for (var row0 = group.y * TILE; row0 < p.outer; row0 += groups.y * TILE) {
            for (var col0 = group.x * TILE; col0 < p.inner; col0 += groups.x * TILE) {
                var sum: array<array<f32, 4>, 4>;
                for (var k0 = 0u; k0 < depth; k0 += DEPTH) {
                    for (var i = lane; i < TILE * DEPTH; i += 256u) {
                        let at = i % TILE;
                        let k = k0 + i / TILE;
                        var left = 0.0;
                        var right = 0.0;
                        if k < depth {
                            let slot = slot_of(e, run.x, begin + k);
                            if row0 + at < p.outer { left = dy(slot * p.outer + row0 + at); }
                            let row = select(slot, slot / p.slots, p.x_shared == 1u);
                            if col0 + at < p.inner { right = x(row * p.inner + col0 + at); }
                        }
                        sa[i] = left;
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
                let matrix = (z % p.parts * p.experts + e) * p.outer;
                for (var i = 0u; i < 4u; i++) {
                    let r = row0 + local.y * 4u + i;
                    for (var j = 0u; j < 4u; j++) {
                        let c = col0 + local.x + 16u * j;
                        if r < p.outer && c < p.inner { set_dw((matrix + r) * p.inner + c, sum[i][j]); }
                    }
                }
            }
        }
    }
}
