// consistency_columns: what consistency_rows computes, for every column.
// Floor: 8 bytes an element (the second and third reading come from cache) and some 60 FLOPs; both bind about equally.
// Layout: a workgroup takes 16 columns, 16 invocations each, which go over every 16th row; then they fold in a tree.
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
    for (var first = group.x * 16u; first < cols; first += groups.x * 16u) {
        let j = first + lane % 16u;
        let end = select(0u, rows, j < cols);
        var a = -1e30;
        var b = -1e30;
        for (var i = lane / 16u; i < end; i += 16u) {
            a = max(a, goal(i * p.stride + j));
            b = max(b, perturbed(i * p.stride + j));
        }
        let goal_top = largest_in_column(lane, a);
        let top = largest_in_column(lane, b);
        a = 0.0;
        b = 0.0;
        for (var i = lane / 16u; i < end; i += 16u) {
            a += exp(max(scale * (goal(i * p.stride + j) - goal_top), -87.0));
            b += exp(max(scale * (perturbed(i * p.stride + j) - top), -87.0));
        }
        a = sum_of_column(lane, a);
        b = sum_of_column(lane, b);
        let line = line_of(scale, goal_top, top, a, b);
        var sums = vec2(0.0);
        for (var i = lane / 16u; i < end; i += 16u) {
            sums += terms_of(line, scale, goal(i * p.stride + j), perturbed(i * p.stride + j));
        }
        let js = sum_of_column(lane, sums.x);
        let kl = sum_of_column(lane, sums.y);
        if lane < 16u && j < cols {
            set_stats(3u * j, select(scale * top + line.log, 0.0, rows == 0u));
            set_stats(3u * j + 1u, select(line.above, 0.0, rows == 0u));
            set_stats(3u * j + 2u, kl);
            set_terms(j, js);
        }
    }
}
