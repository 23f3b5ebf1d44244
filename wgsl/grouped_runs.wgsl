// Part of several kernels: the slots that meet an expert, its run.

// Where the run of expert e begins in `order`, and how long it is. Without an order every row meets all experts.
fn run_of(e: u32) -> vec2<u32> {
    if p.dispatched == 0u { return vec2(0u, size(p.rows)); }
    let begin = offsets(e);
    return vec2(begin, offsets(e + 1u) - begin);
}

// Slot i of the run that begins at `begin`.
fn slot_of(e: u32, begin: u32, i: u32) -> u32 {
    if p.dispatched == 0u { return i * p.slots + e; }
    return order(begin + i);
}
