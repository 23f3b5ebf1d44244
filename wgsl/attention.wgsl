// attention: y_i = sum over the keys j of its segment of softmax_j(<q_i, k_j> scale + log_weight_j) v_j, head by head,
// and the log-sum-exp of the logits. Keys at or below -1e29, those behind the first `keys` ones and, if
// causal, those at a later place of their segment than the query take no part.
// Floor: 4 bytes an element of q, k, v and y, 4 d FLOPs a query, key and head; bound by bandwidth at some dozen keys.
// Layout: a workgroup takes a head of a segment and tiles of 4 queries; it holds all of their logits (512 keys at most),
// so that nothing is rescaled. Keys and values come from cache: every tile reads them again.
//
//   logits: an invocation a key, 4 queries      soft-max: 16 invocations a query      y: an invocation a column, 4 queries
//
// One problem more than there are segments: what lies between segments and behind the last one is written by who comes
// after it.
struct P {
    q_rows: u32, k_rows: u32, n: u32, heads: u32, d: u32, keys: u32, scale: f32, causal: u32, weighted: u32, wants_lse: u32,
}

var<workgroup> queries: array<f32, 512>;
var<workgroup> weights: array<f32, 2048>;
var<workgroup> folds: array<f32, 64>;

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
                for (var c = 0u; c < p.d; c++) { set_y(row * cols + left + c, 0.0); }
                if p.wants_lse == 1u { set_lse(row * p.heads + head, -1e30); }
            }
        }
        let some = workgroupUniformLoad(&taking_part);
        let number = some.y - some.x;
        for (var first = rows.y + 4u * group.y; first < rows.z; first += 4u * groups.y) {
            for (var i = lane; i < 4u * p.d; i += 64u) {
                let row = first + i / p.d;
                var value = 0.0;
                if row < rows.z { value = q(row * cols + left + i % p.d); }
                queries[i] = value;
            }
            workgroupBarrier();
            for (var j = lane; j < number; j += 64u) {
                let start = (some.x + j) * cols + left;
                var logits = vec4(0.0);
                for (var c = 0u; c < p.d; c++) {
                    let at = vec4(queries[c], queries[p.d + c], queries[2u * p.d + c], queries[3u * p.d + c]);
                    logits = fma(vec4(k(start + c)), at, logits);
                }
                var weight = 0.0;
                if p.weighted == 1u { weight = log_weights(some.x + j); }
                let late = vec4(p.causal == 1u) & (vec4(j) > vec4(first - rows.y) + vec4(0u, 1u, 2u, 3u));
                let excluded = vec4(weight <= -1e29) | late;
                logits = select(fma(logits, vec4(p.scale), vec4(weight)), vec4(-1e30), excluded);
                for (var i = 0u; i < 4u; i++) { weights[512u * i + j] = logits[i]; }
            }
            workgroupBarrier();
            let mine = lane / 16u;
            var largest = -1e30;
            for (var j = lane % 16u; j < number; j += 16u) { largest = max(largest, weights[512u * mine + j]); }
            largest = greatest_of_16(lane, largest);
            var total = 0.0;
            for (var j = lane % 16u; j < number; j += 16u) {
                let logit = weights[512u * mine + j];
                let weight = select(exp(logit - largest), 0.0, logit <= -1e29);
                weights[512u * mine + j] = weight;
                total += weight;
            }
            total = sum_of_16(lane, total);
            if lane % 16u == 0u {
                folds[mine] = select(1.0 / max(total, 1e-30), 0.0, total == 0.0);
                if p.wants_lse == 1u && first + mine < rows.z {
                    set_lse((first + mine) * p.heads + head, select(largest + log(max(total, 1e-30)), -1e30, total == 0.0));
                }
            }
            workgroupBarrier();
            let shares = vec4(folds[0], folds[1], folds[2], folds[3]);
            for (var c = lane; c < p.d; c += 64u) {
                var sums = vec4(0.0);
                for (var j = 0u; j < number; j++) {
                    let at = vec4(weights[j], weights[512u + j], weights[1024u + j], weights[1536u + j]);
                    sums = fma(vec4(v((some.x + j) * cols + left + c)), at, sums);
                }
                sums *= shares;
                for (var i = 0u; i < min(4u, rows.z - first); i++) { set_y((first + i) * cols + left + c, sums[i]); }
            }
            workgroupBarrier();
        }
        workgroupBarrier();
    }
}

fn sum_of_16(lane: u32, value: f32) -> f32 {
    folds[lane] = value;
    workgroupBarrier();
    for (var half = 8u; half > 0u; half >>= 1u) {
        if lane % 16u < half { folds[lane] += folds[lane + half]; }
        workgroupBarrier();
    }
    let sum = folds[lane / 16u * 16u];
    workgroupBarrier();
    return sum;
}

fn greatest_of_16(lane: u32, value: f32) -> f32 {
    folds[lane] = value;
    workgroupBarrier();
    for (var half = 8u; half > 0u; half >>= 1u) {
        if lane % 16u < half { folds[lane] = max(folds[lane], folds[lane + half]); }
        workgroupBarrier();
    }
    let largest = folds[lane / 16u * 16u];
    workgroupBarrier();
    return largest;
}
