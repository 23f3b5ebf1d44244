// decorrelate_grad: the gradient of the mean squared cosine for each element of the Gram matrices.
// Floor: 8 bytes an element; bound by bandwidth. An invocation an element; those on the diagonal look at all pairs of
// their slot.
struct P { rows: u32, slots: u32 }

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let k = p.slots;
    let items = size(p.rows) * k * k;
    let by = dloss(0u) / f32(max(size(p.rows) * k * (k - 1u), 1u));
    for (var item = id.x; item < items; item += groups.x * 256u) {
        let first = item / (k * k) * k * k;
        let s = (item - first) / k;
        let own = gram(first + s * (k + 1u));
        var d = 0.0;
        for (var t = 0u; t < k; t++) {
            let product = own * gram(first + t * (k + 1u));
            if t == s || product <= 1e-12 { continue; }
            let dot = gram(first + s * k + t);
            if (item - first) % k == t { d = 2.0 * by * dot / product; }
            if (item - first) % k == s {
                let mirror = gram(first + t * k + s);
                d -= by * (dot * dot + mirror * mirror) / product / own;
            }
        }
        set_dgram(item, d);
    }
}
