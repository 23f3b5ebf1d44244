// Part of the kernels of balance: which text a frame belongs to, and the frame's logits.

// The text whose video has the row, or their number if none has: segments are in order.
fn text_of(row: u32, texts: u32) -> u32 {
    var low = 0u;
    var high = texts;
    while low < high {
        let middle = (low + high) / 2u;
        if segments(2u * middle + 1u) <= row { low = middle + 1u; } else { high = middle; }
    }
    if low < texts && segments(2u * low) <= row { return low; }
    return texts;
}

fn logit(text: u32, row: u32, expert: u32) -> f32 {
    return text_logits(text * p.experts + expert) + frame_logits(row * p.experts + expert);
}

// The largest logit, the logarithm of the sum of exponentials above it, and whose it is.
struct Top { value: f32, logarithm: f32, expert: u32 }

fn top_of(text: u32, row: u32) -> Top {
    var top = Top(logit(text, row, 0u), 0.0, 0u);
    for (var e = 1u; e < p.experts; e++) {
        let l = logit(text, row, e);
        if l > top.value { top = Top(l, 0.0, e); }
    }
    var total = 0.0;
    for (var e = 0u; e < p.experts; e++) { total += exp(max(logit(text, row, e) - top.value, -87.0)); }
    top.logarithm = log(total);
    return top;
}
