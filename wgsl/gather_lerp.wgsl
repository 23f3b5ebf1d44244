// gather_lerp: y[m] = (1 - w[m]) x[first[m]] + w[m] x[second[m]]; an index beyond the rows there are is a row of 0.
// Floor: 12 bytes an element; bound by bandwidth.
// Layout: an invocation an element; neighbours read neighbouring columns.
struct P { rows: u32, m: u32, cols: u32 }

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let rows = size(p.rows);
    for (var item = id.x; item < size(p.m) * p.cols; item += groups.x * 256u) {
        let m = item / p.cols;
        let c = item % p.cols;
        let w = weight(m);
        var value = 0.0;
        if first(m) < rows { value = (1.0 - w) * x(first(m) * p.cols + c); }
        if second(m) < rows { value = fma(w, x(second(m) * p.cols + c), value); }
        set_y(item, value);
    }
}
