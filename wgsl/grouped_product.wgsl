// grouped_product: y[slot] = W_e x[slot] for the slots of every expert e; backwards W_e transposed.
//
// Floor: 2·R·k·I·O FLOPs, and with O = 16 as many bytes from memory as 4·R·k·(I + O): bound by bandwidth there.
// Layout: the runs of all experts are divided into tiles of 64 slots; a workgroup of 16 x 16 finds its tile by walking
// over the runs, then computes 64 slots x 64 columns as `linear` does: rows are gathered on the way into workgroup
// memory and scattered when they are stored.
//
//   runs   | expert 0: 3 tiles | expert 1: 1 tile | ... |     at most slots / 64 + experts tiles
//
// A tile is 64 wide also where a product has 16 columns: three quarters of its arithmetic are then in vain. To try:
// tiles of 256 x 16.
struct P {
    rows: u32, slots: u32, experts: u32, depth: u32, width: u32,
    x_shared: u32, forward: u32, combined: u32, dispatched: u32,
}

const TILE = 64u;
const DEPTH = 16u;

var<workgroup> sa: array<f32, 1024>;
var<workgroup> sb: array<f32, 1024>;
var<workgroup> tile_slots: array<u32, 64>;
// Expert, first slot of the tile in its run, where the run begins, its length; length 0 where there is no tile.
var<workgroup> found: vec4<u32>;

fn find(tile: u32) -> vec4<u32> {
    var rest = tile;
    for (var e = 0u; e < p.experts; e++) {
        let run = run_of(e);
        let tiles = (run.y + TILE - 1u) / TILE;
        if rest < tiles { return vec4(e, rest * TILE, run.x, run.y); }
        rest -= tiles;
    }
    return vec4(0u);
}

@compute @workgroup_size(16, 16)
fn main(
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let bound = size(p.rows) * p.slots / TILE + p.experts;
    for (var tile = group.y; tile < bound; tile += groups.y) {
        if lane == 0u { found = find(tile); }
        let here = workgroupUniformLoad(&found);
        if here.w == 0u { break; }
        let rows = min(TILE, here.w - here.y);
        if lane < rows { tile_slots[lane] = slot_of(here.x, here.z, here.y + lane); }
        workgroupBarrier();
        for (var col0 = group.x * TILE; col0 < p.width; col0 += groups.x * TILE) {
            var sum: array<array<f32, 4>, 4>;
            for (var k0 = 0u; k0 < p.depth; k0 += DEPTH) {
                for (var i = lane; i < TILE * DEPTH; i += 256u) {
                    let r = i / DEPTH;
                    let k = k0 + i % DEPTH;
                    var left = 0.0;
                    if r < rows && k < p.depth {
                        let slot = tile_slots[r];
                        left = x(select(slot, slot / p.slots, p.x_shared == 1u) * p.depth + k);
                    }
                    sa[i % DEPTH * TILE + r] = left;
                    // Neighbouring lanes read neighbouring addresses, whichever way the matrix lies.
                    let bc = select(i % TILE, i / DEPTH, p.forward == 1u);
                    let bk = select(i / TILE, i % DEPTH, p.forward == 1u);
                    let c = col0 + bc;
                    let d = k0 + bk;
                    var right = 0.0;
                    if c < p.width && d < p.depth {
                        let at = select(d * p.width + c, c * p.depth + d, p.forward == 1u);
                        right = weight(here.x * p.width * p.depth + at);
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
                let r = local.y * 4u + i;
                for (var j = 0u; j < 4u; j++) {
                    let c = col0 + local.x + 16u * j;
                    if r < rows && c < p.width { set_y(tile_slots[r] * p.width + c, sum[i][j]); }
                }
            }
        }
        workgroupBarrier();
    }
}
