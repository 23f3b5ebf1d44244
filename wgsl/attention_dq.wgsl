// attention_dq: dq_i = scale sum_j dl_ij k_j with dl_ij = p_ij (<dy_i, v_j> - delta_i) and p_ij = exp(l_ij - lse_i).
// Floor: 4 bytes an element of q, k, v, dy and dq, 6 d FLOPs a query, key and head; bound by bandwidth at some dozen keys.
// Layout: as in attention: a workgroup takes a head of a segment and tiles of 4 queries. An invocation makes the dl of
// a key with all 4; then an invocation a column adds the keys up.
struct P {
    q_rows: u32, k_rows: u32, n: u32, heads: u32, d: u32, keys: u32, scale: f32, causal: u32, weighted: u32,
    q_stride: u32, k_stride: u32,
}

var<workgroup> queries: array<f32, 512>;
var<workgroup> gradients: array<f32, 512>;
var<workgroup> slopes: array<f32, 2048>;

@compute @workgroup_size(64)
fn main(
    @builtin(local_invocation_index) lane: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let cols = p.heads * p.d;
    for (var problem = group.x; problem < (size(p.n) + 1u) * p.heads; problem += groups.x) {
        let head = problem % p.heads;
        find(lane, problem / p.heads);
        let rows = workgroupUniformLoad(&stretch);
        let left = head * p.d;
        if group.y == 0u {
            for (var row = rows.x + lane; row < rows.y; row += 64u) {
                for (var c = 0u; c < p.d; c++) { set_dq(row * cols + left + c, 0.0); }
            }
        }
        let some = workgroupUniformLoad(&taking_part);
        let number = some.y - some.x;
        for (var first = rows.y + 4u * group.y; first < rows.z; first += 4u * groups.y) {
            for (var i = lane; i < 4u * p.d; i += 64u) {
                let row = first + i / p.d;
                var values = vec2(0.0);
                if row < rows.z { values = vec2(q(row * cols + left + i % p.d), dy(row * cols + left + i % p.d)); }
                queries[i] = values.x;
                gradients[i] = values.y;
            }
            var offsets = vec4(0.0);
            var losses = vec4(0.0);
            for (var i = 0u; i < min(4u, rows.z - first); i++) {
                offsets[i] = lse((first + i) * p.heads + head);
                losses[i] = delta(head * p.q_stride + first + i);
            }
            workgroupBarrier();
            for (var j = lane; j < number; j += 64u) {
                let start = (some.x + j) * cols + left;
                var logits = vec4(0.0);
                var along = vec4(0.0);
                for (var c = 0u; c < p.d; c++) {
                    let at = vec4(queries[c], queries[p.d + c], queries[2u * p.d + c], queries[3u * p.d + c]);
                    logits = fma(vec4(k(start + c)), at, logits);
                    let to = vec4(gradients[c], gradients[p.d + c], gradients[2u * p.d + c], gradients[3u * p.d + c]);
                    along = fma(vec4(v(start + c)), to, along);
                }
                var weight = 0.0;
                if p.weighted == 1u { weight = log_weights(some.x + j); }
                let late = vec4(p.causal == 1u) & (vec4(j) > vec4(first - rows.y) + vec4(0u, 1u, 2u, 3u));
                let excluded = vec4(weight <= -1e29) | late;
                weight = select(weight, 0.0, weight <= -1e29);
                let probability = exp(fma(logits, vec4(p.scale), vec4(weight)) - offsets);
                let slope = select(probability * (along - losses), vec4(0.0), excluded);
                for (var i = 0u; i < 4u; i++) { slopes[512u * i + j] = slope[i]; }
            }
            workgroupBarrier();
            for (var c = lane; c < p.d; c += 64u) {
                var sums = vec4(0.0);
                for (var j = 0u; j < number; j++) {
                    let at = vec4(slopes[j], slopes[512u + j], slopes[1024u + j], slopes[1536u + j]);
                    sums = fma(vec4(k((some.x + j) * cols + left + c)), at, sums);
                }
                sums *= p.scale;
                for (var i = 0u; i < min(4u, rows.z - first); i++) { set_dq((first + i) * cols + left + c, sums[i]); }
            }
            workgroupBarrier();
        }
        workgroupBarrier();
    }
}
