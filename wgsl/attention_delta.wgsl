// attention_delta: delta[h, i] = <y_i, dy_i> over the columns of head h: what every key's probability loses in the soft-max.
// Floor: 8 bytes an element; bound by bandwidth.
// Layout: an invocation a head of a row: some dozen columns, of which it reads whole cache lines.
struct P { rows: u32, heads: u32, d: u32, stride: u32 }

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    for (var item = id.x; item < size(p.rows) * p.heads; item += groups.x * 64u) {
        var sum = 0.0;
        for (var c = 0u; c < p.d; c++) { sum = fma(y(item * p.d + c), dy(item * p.d + c), sum); }
        set_delta(item % p.heads * p.stride + item / p.heads, sum);
    }
}
