// Stands before the kernels that mix a frame's experts for a text: the gates π and what makes the mixture as long as one.
// An expert that does not exist, and a logit of EXCLUDED or less, has gate 0.
const MAX_SLOTS = 16u;
// The squared length at or below which a mixture has no direction.
const LEAST_NORM = 1e-12;

struct Gates {
    pi: array<f32, 16>,
    // 1 / |Σ_s π_s E_s|, or 0.
    scale: f32,
}

fn expert_of(row: u32, slot: u32) -> u32 {
    if p.tabled == 0u { return slot; }
    return slot_table(row * p.slots + slot);
}

fn gate_logit(text: u32, row: u32, slot: u32) -> f32 {
    let expert = expert_of(row, slot);
    if expert >= p.experts { return FLOOR; }
    let logit = router_text(text * p.experts + expert) + router_frame(row * p.slots + slot);
    return select(logit, FLOOR, logit <= EXCLUDED);
}

// (G π)_s
fn toward(row: u32, slot: u32, a: ptr<function, Gates>) -> f32 {
    var sum = 0.0;
    for (var s = 0u; s < p.slots; s++) {
        sum = fma(gram((row * p.slots + slot) * p.slots + s), (*a).pi[s], sum);
    }
    return sum;
}

fn gates_of(text: u32, row: u32) -> Gates {
    var a: Gates;
    var logits: array<f32, 16>;
    for (var s = 0u; s < p.slots; s++) { logits[s] = gate_logit(text, row, s); }
    var most = FLOOR;
    for (var s = 0u; s < p.slots; s++) {
        var ahead = 0u;
        if p.kept > 0u {
            for (var other = 0u; other < p.slots; other++) {
                if logits[other] > logits[s] || (logits[other] == logits[s] && other < s) { ahead++; }
            }
        }
        a.pi[s] = select(logits[s], FLOOR, p.kept > 0u && ahead >= p.kept);
        most = max(most, a.pi[s]);
    }
    var total = 0.0;
    for (var s = 0u; s < p.slots; s++) {
        a.pi[s] = select(soft(a.pi[s] - most), 0.0, a.pi[s] <= EXCLUDED);
        total += a.pi[s];
    }
    // Where no slot takes part all gates stay 0.
    let inverse = select(1.0 / total, 0.0, total == 0.0);
    for (var s = 0u; s < p.slots; s++) { a.pi[s] *= inverse; }
    var squared = 0.0;
    for (var s = 0u; s < p.slots; s++) { squared = fma(a.pi[s], toward(row, s, &a), squared); }
    a.scale = select(1.0 / sqrt(max(squared, LEAST_NORM)), 0.0, squared <= LEAST_NORM);
    return a;
}
