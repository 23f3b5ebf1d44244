// consistency_rows: JS of the two soft-maxes over every row, and what the gradient needs: the log-sum-exp of the perturbed
// logits, how far it lies above the target's, and KL(q, m).
// Floor: 8 bytes an element (the second and third reading come from cache) and some 60 FLOPs; both bind about equally.
// Layout: a workgroup of 256 a row; an invocation goes over every 256th column: maxima, sums, divergences.
struct P { rows: u32, cols: u32, stride: u32 }

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) lane: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let rows = size(p.rows);
    let cols = size(p.cols);
    let scale = exp(log_scale(0u));
    for (var i = group.x; i < rows; i += groups.x) {
        let row = i * p.stride;
        var a = -1e30;
        var b = -1e30;
        for (var j = lane; j < cols; j += 256u) {
            a = max(a, goal(row + j));
            b = max(b, perturbed(row + j));
        }
        let goal_top = largest_of(lane, a);
        let top = largest_of(lane, b);
        a = 0.0;
        b = 0.0;
        for (var j = lane; j < cols; j += 256u) {
            a += exp(max(scale * (goal(row + j) - goal_top), -87.0));
            b += exp(max(scale * (perturbed(row + j) - top), -87.0));
        }
        a = add_up(lane, a);
        b = add_up(lane, b);
        let line = line_of(scale, goal_top, top, a, b);
        var sums = vec2(0.0);
        for (var j = lane; j < cols; j += 256u) {
            sums += terms_of(line, scale, goal(row + j), perturbed(row + j));
        }
        let js = add_up(lane, sums.x);
        let kl = add_up(lane, sums.y);
        if lane == 0u {
            set_stats(3u * i, select(scale * top + line.log, 0.0, cols == 0u));
            set_stats(3u * i + 1u, select(line.above, 0.0, cols == 0u));
            set_stats(3u * i + 2u, kl);
            set_terms(i, js);
        }
    }
}
