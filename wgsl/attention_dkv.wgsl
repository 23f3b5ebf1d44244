// attention_dkv: dk_j = scale sum_i dl_ij q_i, dv_j = sum_i p_ij dy_i and, a head, the share sum_i dl_ij of the gradient
// of a key's log-weight.
// Floor: 4 bytes an element of q, k, v, dy, dk and dv, 8 d FLOPs a query, key and head; bound by bandwidth.
// Layout: attention_dq turned round: a workgroup takes a head of a segment and tiles of 4 keys, and goes through the
// queries 256 at a time, in their order. An invocation makes p and dl of a query with all 4 keys; then an invocation a
// column adds the queries up (two columns where a head has more than 64).
struct P {
    q_rows: u32, k_rows: u32, n: u32, heads: u32, d: u32, keys: u32, scale: f32, causal: u32, weighted: u32,
    q_stride: u32, k_stride: u32, wants_dk: u32, wants_dv: u32, wants_shares: u32,
}

var<workgroup> own_keys: array<f32, 512>;
var<workgroup> own_values: array<f32, 512>;
var<workgroup> weights: array<f32, 1024>;
var<workgroup> slopes: array<f32, 1024>;

@compute @workgroup_size(64)
fn main(
    @builtin(local_invocation_index) lane: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let cols = p.heads * p.d;
    for (var problem = group.x; problem < (size(p.n) + 1u) * p.heads; problem += groups.x) {
        let head = problem % p.heads;
        find_keys(lane, problem / p.heads);
        let rows = workgroupUniformLoad(&stretch);
        let left = head * p.d;
        if group.y == 0u {
            for (var row = rows.x + lane; row < rows.y; row += 64u) {
                for (var c = 0u; c < p.d; c++) {
                    if p.wants_dk == 1u { set_dk(row * cols + left + c, 0.0); }
                    if p.wants_dv == 1u { set_dv(row * cols + left + c, 0.0); }
                }
                if p.wants_shares == 1u { set_shares(head * p.k_stride + row, 0.0); }
            }
        }
        let some = workgroupUniformLoad(&taking_part);
        for (var first = rows.y + 4u * group.y; first < rows.z; first += 4u * groups.y) {
            for (var i = lane; i < 4u * p.d; i += 64u) {
                let row = first + i / p.d;
                var values = vec2(0.0);
                if row < rows.z { values = vec2(k(row * cols + left + i % p.d), v(row * cols + left + i % p.d)); }
                own_keys[i] = values.x;
                own_values[i] = values.y;
            }
            var offsets = vec4(-1e30);
            for (var i = 0u; i < min(4u, rows.z - first); i++) {
                offsets[i] = 0.0;
                if p.weighted == 1u { offsets[i] = log_weights(first + i); }
            }
            let excluded = offsets <= vec4(-1e29);
            offsets = select(offsets, vec4(0.0), excluded);
            var dk_sums = array<vec4<f32>, 2>();
            var dv_sums = array<vec4<f32>, 2>();
            var share = 0.0;
            workgroupBarrier();
            for (var begin = some.x; begin < some.y; begin += 256u) {
                let number = min(256u, some.y - begin);
                for (var i = lane; i < number; i += 64u) {
                    let row = begin + i;
                    let start = row * cols + left;
                    var logits = vec4(0.0);
                    var along = vec4(0.0);
                    for (var c = 0u; c < p.d; c++) {
                        let at = vec4(own_keys[c], own_keys[p.d + c], own_keys[2u * p.d + c], own_keys[3u * p.d + c]);
                        logits = fma(vec4(q(start + c)), at, logits);
                        let to = vec4(
                            own_values[c], own_values[p.d + c], own_values[2u * p.d + c], own_values[3u * p.d + c],
                        );
                        along = fma(vec4(dy(start + c)), to, along);
                    }
                    let offset = lse(row * p.heads + head);
                    let exponent = fma(logits, vec4(p.scale), offsets) - offset;
                    let late = vec4(p.causal == 1u) & (vec4(first - rows.y) + vec4(0u, 1u, 2u, 3u) > vec4(row - some.x));
                    // Of a query to which no key means anything, every key is excluded.
                    let probability = select(exp(exponent), vec4(0.0), excluded | late | vec4(offset <= -1e29));
                    let slope = probability * (along - delta(head * p.q_stride + row));
                    for (var j = 0u; j < 4u; j++) {
                        weights[256u * j + i] = probability[j];
                        slopes[256u * j + i] = slope[j];
                    }
                }
                workgroupBarrier();
                for (var half = 0u; half < 2u; half++) {
                    let c = lane + 64u * half;
                    if c < p.d {
                        var dk_sum = dk_sums[half];
                        var dv_sum = dv_sums[half];
                        for (var i = 0u; i < number; i++) {
                            let start = (begin + i) * cols + left + c;
                            let at = vec4(slopes[i], slopes[256u + i], slopes[512u + i], slopes[768u + i]);
                            dk_sum = fma(vec4(q(start)), at, dk_sum);
                            let to = vec4(weights[i], weights[256u + i], weights[512u + i], weights[768u + i]);
                            dv_sum = fma(vec4(dy(start)), to, dv_sum);
                        }
                        dk_sums[half] = dk_sum;
                        dv_sums[half] = dv_sum;
                    }
                }
                if p.wants_shares == 1u && lane < 4u {
                    for (var i = 0u; i < number; i++) { share += slopes[256u * lane + i]; }
                }
                workgroupBarrier();
            }
            for (var half = 0u; half < 2u; half++) {
                let c = lane + 64u * half;
                if c < p.d {
                    for (var j = 0u; j < min(4u, rows.z - first); j++) {
                        let to = (first + j) * cols + left + c;
                        if p.wants_dk == 1u { set_dk(to, dk_sums[half][j] * p.scale); }
                        if p.wants_dv == 1u { set_dv(to, dv_sums[half][j]); }
                    }
                }
            }
            if p.wants_shares == 1u && lane < 4u && first + lane < rows.z {
                set_shares(head * p.k_stride + first + lane, share);
            }
            workgroupBarrier();
        }
        workgroupBarrier();
    }
}
