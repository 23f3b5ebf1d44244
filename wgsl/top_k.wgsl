// top_k: the k largest of each row in descending order, equal ones by the lower index, merged with an earlier result.
// Floor: 4 bytes a score; bound by bandwidth. In fact 3 to 9 readings of a row, all but the first from cache.
// Layout: a workgroup of 256 a row. A key is two words: the score as a number in the same order, then the inverted
// index, so that all keys differ and larger is better. Radix selection, 8 bits at a time from the top: a histogram of
// the keys that share the digits found so far, a suffix sum over it, and the digit in which the k-th best falls. It
// stops as soon as a digit holds exactly as many keys as are wanted; for noise that is after three or four digits.
// Keys at or above the threshold are collected in any order and sorted by a bitonic network.
//
//   scores --histogram--> digit --...--> threshold --collect--> keys[1024] --sort--> values, index
//
// The word pair (0, 0) means nobody: an empty place of the earlier result, or none at all. A NaN is (0, index).
struct P { rows: u32, cols: u32, stride: u32, k: u32, carried: u32 }

var<workgroup> bins: array<atomic<u32>, 256>;
var<workgroup> above: array<u32, 256>;
// (digit, keys in higher digits, keys in the digit, all keys)
var<workgroup> found: vec4<u32>;
var<workgroup> taken: atomic<u32>;
var<workgroup> high: array<u32, 1024>;
var<workgroup> low: array<u32, 1024>;

fn ordered(score: f32) -> u32 {
    let bits = bitcast<u32>(score);
    if is_nan(score) { return 0u; }
    if bits == 0x80000000u { return 0x80000000u; }
    return select(bits | 0x80000000u, ~bits, (bits >> 31u) == 1u);
}

fn score_of(word: u32) -> f32 {
    if word == 0u { return bitcast<f32>(0x7fc00000u | word); }
    return bitcast<f32>(select(~word, word & 0x7fffffffu, (word >> 31u) == 1u));
}

fn key(row: u32, i: u32) -> vec2<u32> {
    let cols = size(p.cols);
    if i < cols { return vec2(ordered(scores(row * p.stride + i)), ~(base(0u) + i)); }
    let at = row * p.k + i - cols;
    let place = carry_index(at);
    if place == 0xffffffffu { return vec2(0u); }
    return vec2(ordered(carry_values(at)), ~place);
}

fn less(a: vec2<u32>, b: vec2<u32>) -> bool { return a.x < b.x || (a.x == b.x && a.y < b.y); }

// Fills `found` for digit `digit` among the keys that agree with `threshold` in the digits before it.
fn histogram(lane: u32, row: u32, length: u32, digit: u32, threshold: vec2<u32>, wanted: u32) {
    atomicStore(&bins[lane], 0u);
    if lane == 0u { found = vec4(0u); }
    workgroupBarrier();
    let shift = 24u - 8u * (digit % 4u);
    for (var i = lane; i < length; i += 256u) {
        let word = key(row, i);
        let in_low = digit >= 4u;
        let now = select(word.x, word.y, in_low);
        let so_far = select(threshold.x, threshold.y, in_low);
        // Shifted twice, since a shift by 32 is not defined.
        let agrees = ((now ^ so_far) >> shift >> 8u) == 0u && (!in_low || word.x == threshold.x);
        if agrees && (word.x | word.y) != 0u { atomicAdd(&bins[(now >> shift) & 255u], 1u); }
    }
    workgroupBarrier();
    let own = atomicLoad(&bins[lane]);
    above[lane] = own;
    workgroupBarrier();
    for (var reach = 1u; reach < 256u; reach <<= 1u) {
        var more = 0u;
        if lane + reach < 256u { more = above[lane + reach]; }
        workgroupBarrier();
        above[lane] += more;
        workgroupBarrier();
    }
    let higher = above[lane] - own;
    if higher < wanted && above[lane] >= wanted { found = vec4(lane, higher, own, above[0]); }
    workgroupBarrier();
}

// Puts the keys at or above the threshold into high and low, in any order, and (0, 0) behind them.
fn collect(lane: u32, row: u32, length: u32, threshold: vec2<u32>) {
    if lane == 0u { atomicStore(&taken, 0u); }
    for (var i = lane; i < 1024u; i += 256u) {
        high[i] = 0u;
        low[i] = 0u;
    }
    workgroupBarrier();
    for (var i = lane; i < length; i += 256u) {
        let word = key(row, i);
        if (word.x | word.y) != 0u && !less(word, threshold) {
            let place = atomicAdd(&taken, 1u);
            if place < p.k {
                high[place] = word.x;
                low[place] = word.y;
            }
        }
    }
    workgroupBarrier();
}

// Sorts the first `length` keys, a power of two, in descending order.
fn sort(lane: u32, length: u32) {
    for (var run = 2u; run <= length; run <<= 1u) {
        for (var reach = run >> 1u; reach > 0u; reach >>= 1u) {
            for (var pair = lane; pair < length / 2u; pair += 256u) {
                let a = 2u * pair - (pair & (reach - 1u));
                let b = a + reach;
                let left = vec2(high[a], low[a]);
                let right = vec2(high[b], low[b]);
                let descending = (a & run) == 0u;
                if select(less(right, left), less(left, right), descending) {
                    high[a] = right.x;
                    low[a] = right.y;
                    high[b] = left.x;
                    low[b] = left.y;
                }
            }
            workgroupBarrier();
        }
    }
}

@compute @workgroup_size(256)
fn main(
    @builtin(local_invocation_index) lane: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let rows = size(p.rows);
    let length = size(p.cols) + select(0u, p.k, p.carried == 1u);
    var places = 1u;
    while places < p.k { places <<= 1u; }
    for (var row = group.x; row < rows; row += groups.x) {
        var threshold = vec2(0u);
        var wanted = p.k;
        for (var digit = 0u; digit < 8u; digit++) {
            histogram(lane, row, length, digit, threshold, wanted);
            let result = workgroupUniformLoad(&found);
            // Fewer keys than places: all of them.
            if result.w == 0u { break; }
            let shifted = result.x << (24u - 8u * (digit % 4u));
            if digit < 4u { threshold.x |= shifted; } else { threshold.y |= shifted; }
            wanted -= result.y;
            if result.z == wanted { break; }
        }
        collect(lane, row, length, threshold);
        sort(lane, places);
        for (var i = lane; i < p.k; i += 256u) {
            let none = (high[i] | low[i]) == 0u;
            set_values(row * p.k + i, select(score_of(high[i]), -1e30, none));
            set_index(row * p.k + i, select(~low[i], 0xffffffffu, none));
        }
        workgroupBarrier();
    }
}
