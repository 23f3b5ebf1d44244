// adam_w: one step of AdamW over a flat vector with settings by ranges of elements; see op/optim.rs.
// Floor: 28 bytes an element (four read, three written); bound by bandwidth.
// Layout: an invocation an element; it finds its range by bisection in a table that stays cached. All three outputs may
// lie in their inputs' places. The limits test for NaN on bits, so that a NaN stays one.
struct P { n: u32, groups: u32, beta1: f32, rest1: f32, beta2: f32, rest2: f32, eps: f32 }

// The first range that ends behind element i, or the number of ranges.
fn range_at(i: u32) -> u32 {
    var low = 0u;
    var high = size(p.groups);
    while low < high {
        let middle = (low + high) / 2u;
        if ranges(2u * middle + 1u) <= i { low = middle + 1u; } else { high = middle; }
    }
    return low;
}

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let n = size(p.n);
    for (var i = id.x; i < n; i += groups.x * 256u) {
        var weight = params(i);
        var first = m(i);
        var second = v(i);
        let range = range_at(i);
        if range < size(p.groups) && ranges(2u * range) <= i {
            let g = grads(i) * clip(0u);
            first = fma(p.beta1, first, p.rest1 * g);
            second = fma(p.beta2, second, p.rest2 * g * g);
            let step_size = first * scalars(1u) / (sqrt(second * scalars(2u)) + p.eps);
            let rate = scalars(0u) * factors(4u * range);
            weight = fma(fma(factors(4u * range + 1u), weight, step_size), -rate, weight);
            if !is_nan(weight) { weight = min(max(weight, factors(4u * range + 2u)), factors(4u * range + 3u)); }
        }
        set_new_params(i, weight);
        set_new_m(i, first);
        set_new_v(i, second);
    }
}
