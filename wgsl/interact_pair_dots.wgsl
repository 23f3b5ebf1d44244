// interact_pair_dots: dot products of the frames (rows) and words (columns) of listed pairs, each pair at a place of
// its own in the workspace, `max_frames` rows (times the slots) of `max_words` columns.
//
// Floor: (L + T)·D·4 bytes a pair if neither text nor video is met again; bound by bandwidth.
// Layout: a workgroup of 16 x 16 takes pairs in turn and computes tiles of 32 x 32, each invocation 2 x 2, 16 apart.
const TILE = 32u;
const DEPTH = 16u;

var<workgroup> sa: array<f32, 512>;
var<workgroup> sb: array<f32, 512>;
var<workgroup> pair_rows: vec4<u32>;

// (first frame, frames, first word, words); none of a pair that names no text or no video.
fn rows_of(index: u32) -> vec4<u32> {
    let i = pairs(2u * index);
    let j = pairs(2u * index + 1u);
    if i >= size(p.texts) || j >= size(p.videos) { return vec4<u32>(0u, 0u, 0u, 0u); }
    return vec4<u32>(video_rows(j) * p.slots, text_rows(i));
}

@compute @workgroup_size(16, 16)
fn main(
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let count = min(p.text_count, max(size(p.listed), p.first_text) - p.first_text);
    for (var pair = group.x; pair < count; pair += groups.x) {
        if lane == 0u { pair_rows = rows_of(p.first_text + pair); }
        let bounds = workgroupUniformLoad(&pair_rows);
        let m = bounds.y;
        let n = bounds.w;
        for (var row0 = 0u; row0 < m; row0 += TILE) {
            for (var col0 = 0u; col0 < n; col0 += TILE) {
                var sum: array<f32, 4>;
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
                        let a0 = sa[d * TILE + local.y];
                        let a1 = sa[d * TILE + local.y + 16u];
                        let b0 = sb[d * TILE + local.x];
                        let b1 = sb[d * TILE + local.x + 16u];
                        sum[0] = fma(a0, b0, sum[0]);
                        sum[1] = fma(a0, b1, sum[1]);
                        sum[2] = fma(a1, b0, sum[2]);
                        sum[3] = fma(a1, b1, sum[3]);
                    }
                    workgroupBarrier();
                }
                for (var i = 0u; i < 4u; i++) {
                    let r = row0 + local.y + 16u * (i / 2u);
                    let c = col0 + local.x + 16u * (i % 2u);
                    if r < m && c < n { set_dots((pair * p.pair_rows + r) * p.max_words + c, sum[i]); }
                }
            }
        }
    }
}
