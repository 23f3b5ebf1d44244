// Part of the kernels of the convolution.

// The rows of the segment that a row lies in, or none: the first segment that ends behind it, by bisection.
fn segment_of(row: u32) -> vec2<u32> {
    var low = 0u;
    var high = size(p.n);
    while low < high {
        let middle = (low + high) / 2u;
        if segments(2u * middle + 1u) <= row { low = middle + 1u; } else { high = middle; }
    }
    if low >= size(p.n) || segments(2u * low) > row { return vec2(0u); }
    return vec2(segments(2u * low), min(segments(2u * low + 1u), size(p.rows)));
}

// The row that tap w reads for a row of a segment.
fn tap(row: u32, w: u32, mine: vec2<u32>) -> u32 {
    let half = p.width / 2u;
    return clamp(max(row + w, half) - half, mine.x, mine.y - 1u);
}
