// hard_negatives: ln(weight) for the negatives of each row that are most similar to it, 0 for the rest; of equal ones the
// lower column comes first, and a NaN behind every number.
// Floor: 8 bytes an element. In fact some 45 readings of a row, all but the first from cache: bound by latency.
// Layout: a workgroup of 256 a row. Scores are compared as words in the same order, 0 for what is no negative. The word of
// the last one that is wanted is found bit by bit from the top, a count over the row each; if there are more of that
// word than are wanted, the column of the last is found in the same way.
// To try: the digits of top_k, 8 bits at a time, where rows are long.
struct P {
    rows: u32, cols: u32, stride: u32, has_video: u32, has_caption: u32, items: u32, share: f32, log: f32,
}

fn ordered(score: f32) -> u32 {
    let bits = bitcast<u32>(score);
    if is_nan(score) { return 1u; }
    if bits == 0x80000000u { return 0x80000000u; }
    return select(bits | 0x80000000u, ~bits, (bits >> 31u) == 1u);
}

fn key(i: u32, j: u32) -> u32 {
    let same_video = p.has_video == 1u && video_key(i) == video_key(j);
    let same_caption = p.has_caption == 1u && caption_key(i) == caption_key(j);
    if i == j || same_video || same_caption { return 0u; }
    return ordered(similarity(i * p.stride + j));
}

// How many columns of a row have a word of at least `bound`.
fn at_least(lane: u32, i: u32, n: u32, bound: u32) -> u32 {
    var count = 0u;
    for (var j = lane; j < n; j += 256u) { count += select(0u, 1u, key(i, j) >= bound); }
    return u32(add_up(lane, f32(count)));
}

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) lane: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let n = min(size(p.rows), size(p.cols));
    for (var i = group.x; i < n; i += groups.x) {
        let negatives = at_least(lane, i, n, 1u);
        var wanted = p.items;
        if p.share > 0.0 { wanted = u32(ceil(p.share * f32(negatives))); }
        wanted = min(wanted, negatives);
        var bound = 0u;
        for (var bit = 0u; bit < 32u; bit++) {
            let higher = bound | (0x80000000u >> bit);
            if at_least(lane, i, n, higher) >= wanted { bound = higher; }
        }
        let equal = wanted - min(at_least(lane, i, n, bound + 1u), wanted);
        // The last column of that word that is taken: fewer than `equal` stand before it.
        var last = 0u;
        for (var bit = 0x80000000u >> countLeadingZeros(n); bit > 0u; bit >>= 1u) {
            let further = last | bit;
            var count = 0u;
            for (var j = lane; j < min(further, n); j += 256u) { count += select(0u, 1u, key(i, j) == bound); }
            if u32(add_up(lane, f32(count))) < equal { last = further; }
        }
        for (var j = lane; j < n; j += 256u) {
            let word = key(i, j);
            let taken = wanted > 0u && word > 0u && (word > bound || (word == bound && j <= last && equal > 0u));
            set_log_weight(i * p.stride + j, select(0.0, p.log, taken));
        }
    }
}
