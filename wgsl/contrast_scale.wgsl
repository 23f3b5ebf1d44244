// contrast_scale: the gradient of log_scale, from the rows' parts.
// Floor: 4 bytes a row; one small workgroup.
struct P { rows: u32, cols: u32 }

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) lane: u32) {
    let n = min(size(p.rows), size(p.cols));
    var sum = 0.0;
    for (var i = lane; i < n; i += 256u) { sum += terms(i); }
    let all = add_up(lane, sum);
    if lane == 0u { set_dlog_scale(0u, all); }
}
