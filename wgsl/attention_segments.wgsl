// Part of the kernels of attention: what problem i of the segments works on.

// Of the rows that are written: where the stretch before the segment begins, where the segment begins, where it ends.
var<workgroup> stretch: vec3<u32>;
// The rows that are gone through for them.
var<workgroup> taking_part: vec2<u32>;

fn of_queries(i: u32) -> vec2<u32> {
    let rows = size(p.q_rows);
    let begin = min(q_segments(2u * i), rows);
    return vec2(begin, max(min(q_segments(2u * i + 1u), rows), begin));
}

// The keys that take part.
fn of_keys(i: u32) -> vec2<u32> {
    let rows = size(p.k_rows);
    let begin = min(k_segments(2u * i), rows);
    return vec2(begin, begin + min(max(min(k_segments(2u * i + 1u), rows), begin) - begin, p.keys));
}

// Fills `stretch` with queries and `taking_part` with keys. Behind the last segment there is an empty one.
fn find(lane: u32, i: u32) {
    if lane == 0u {
        var queries = vec2(size(p.q_rows));
        var keys = vec2(0u);
        if i < size(p.n) {
            queries = of_queries(i);
            keys = of_keys(i);
        }
        var before = 0u;
        if i > 0u { before = of_queries(i - 1u).y; }
        stretch = vec3(min(before, queries.x), queries);
        taking_part = keys;
    }
    workgroupBarrier();
}

// The same the other way round.
fn find_keys(lane: u32, i: u32) {
    if lane == 0u {
        var queries = vec2(0u);
        var keys = vec2(size(p.k_rows));
        if i < size(p.n) {
            queries = of_queries(i);
            keys = of_keys(i);
        }
        var before = 0u;
        if i > 0u { before = of_keys(i - 1u).y; }
        stretch = vec3(min(before, keys.x), keys);
        taking_part = queries;
    }
    workgroupBarrier();
}
