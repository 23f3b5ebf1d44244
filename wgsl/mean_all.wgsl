// mean_all: the sum of the parts' sums, divided by the number of elements; 0 when there are none.
// Floor: 4 bytes a part; one small workgroup.
struct P { n: u32, part: u32 }

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) lane: u32) {
    let n = size(p.n);
    var sum = 0.0;
    for (var i = lane; i < (n + p.part - 1u) / p.part; i += 256u) { sum += sums(i); }
    let all = add_up(lane, sum);
    if lane == 0u { set_y(0u, all / f32(max(n, 1u))); }
}
