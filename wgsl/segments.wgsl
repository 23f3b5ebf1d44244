// Part of the kernels over segments: (begin, end) of packed rows, clamped to the rows there are.

// All rows of segment i.
fn whole(i: u32) -> vec2<u32> {
    let rows = size(p.rows);
    let begin = min(segments(2u * i), rows);
    return vec2(begin, max(min(segments(2u * i + 1u), rows), begin));
}

// The rows of segment i that take part: all but the last `tail`.
fn members(i: u32) -> vec2<u32> {
    let all = whole(i);
    return vec2(all.x, all.y - min(p.tail, all.y - all.x));
}

// The first segment that ends behind `row`, by bisection, or the number of segments.
fn segment_at(row: u32) -> u32 {
    var low = 0u;
    var high = size(p.n);
    while low < high {
        let middle = (low + high) / 2u;
        if segments(2u * middle + 1u) <= row { low = middle + 1u; } else { high = middle; }
    }
    return low;
}
