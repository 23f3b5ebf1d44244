// gram_grad: de[r, s] = sum over t of (dG[s, t] + dG[t, s]) e[r, t].
// Floor: 8 bytes an element of e; bound by bandwidth for few slots. An invocation an element; the other slots' elements
// of its column come from cache.
struct P { rows: u32, cols: u32, slots: u32 }

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let items = size(p.rows) * p.slots * p.cols;
    for (var item = id.x; item < items; item += groups.x * 256u) {
        let column = item % p.cols;
        let slot = item / p.cols;
        let first = slot / p.slots * p.slots;
        var sum = 0.0;
        for (var t = 0u; t < p.slots; t++) {
            let by = dgram(slot * p.slots + t) + dgram((first + t) * p.slots + slot - first);
            sum = fma(by, e((first + t) * p.cols + column), sum);
        }
        set_de(item, sum);
    }
}
