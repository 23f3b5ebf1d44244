// contrast_loss: half the mean of the rows' terms plus half the mean of the columns'; 0 for an empty batch.
// Floor: 8 bytes a row; one small workgroup.
struct P { rows: u32, cols: u32 }

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) lane: u32) {
    let n = min(size(p.rows), size(p.cols));
    var sum = 0.0;
    for (var i = lane; i < n; i += 256u) { sum += row_terms(i) + col_terms(i); }
    let all = add_up(lane, sum);
    if lane == 0u { set_loss(0u, all / f32(max(2u * n, 1u))); }
}
