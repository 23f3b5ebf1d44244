// gram: y[r, s, t] = <e[r, s], e[r, t]>.
// Floor: 4 bytes an element of e; bound by bandwidth up to some 20 slots, if a row is read once: its further readings
// come from cache.
// Layout: a workgroup of 64 a row; a pair of slots at a time, folded in a tree. A pair and its mirror are one product.
struct P { rows: u32, cols: u32, slots: u32 }

@compute @workgroup_size(64)
fn main(
    @builtin(local_invocation_index) lane: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let rows = size(p.rows);
    for (var row = group.x; row < rows; row += groups.x) {
        for (var s = 0u; s < p.slots; s++) {
            for (var t = s; t < p.slots; t++) {
                let left = (row * p.slots + s) * p.cols;
                let right = (row * p.slots + t) * p.cols;
                var part = 0.0;
                for (var c = lane; c < p.cols; c += 64u) { part = fma(e(left + c), e(right + c), part); }
                let product = add_up(lane, part);
                if lane == 0u {
                    set_y((row * p.slots + s) * p.slots + t, product);
                    if s != t { set_y((row * p.slots + t) * p.slots + s, product); }
                }
            }
        }
    }
}
