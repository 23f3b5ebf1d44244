// Part of the kernels of InfoNCE: logits z = exp(log_scale) scores + log_weight, -1e30 where a pair is left out.

fn left_out(i: u32, j: u32) -> bool {
    let same_video = p.has_video == 1u && video_key(i) == video_key(j);
    let same_caption = p.has_caption == 1u && caption_key(i) == caption_key(j);
    return i != j && (same_video || same_caption);
}

fn logit(i: u32, j: u32, scale: f32) -> f32 {
    var z = scale * scores(i * p.stride + j);
    if p.has_weight == 1u { z += log_weight(i * p.stride + j); }
    return select(z, -1e30, left_out(i, j));
}

// exp of what may be a floor.
fn share_of(difference: f32) -> f32 { return select(exp(max(difference, -87.0)), 0.0, difference < -87.0); }
