// divergence_loss: half the mean of the rows' terms plus half the mean of the columns'; 0 without any.
// Floor: 4 bytes a row and a column; one small workgroup.
struct P { rows: u32, cols: u32, stride: u32 }

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) lane: u32) {
    let rows = size(p.rows);
    let cols = size(p.cols);
    var of_rows = 0.0;
    var of_cols = 0.0;
    for (var i = lane; i < rows; i += 256u) { of_rows += row_terms(i); }
    for (var j = lane; j < cols; j += 256u) { of_cols += col_terms(j); }
    of_rows = add_up(lane, of_rows) / f32(max(rows, 1u));
    of_cols = add_up(lane, of_cols) / f32(max(cols, 1u));
    if lane == 0u { set_loss(0u, 0.5 * (of_rows + of_cols)); }
}
