//! Kernels of `route` and `route_grad`.
//!
//! # Notebook
//! A row of 16 logits is one line of the cache: each slot looks at all of them for the largest that comes after the
//! slot before, which needs no list of what is taken. The order is one count and one placement by one thread: 32,768
//! slots take less than starting the tasks that would share them.

use super::Call;
use crate::engine::op::route::MOST_EXPERTS;
use rayon::prelude::*;

/// Rows one task works on.
const ROWS: usize = 256;

/// A number in the order of the logits: a NaN stands below everything, −0 equals 0.
fn ordered(logit: f32) -> u32 {
    if logit.is_nan() {
        return 0;
    }
    let bits = (logit + 0.0).to_bits();
    if bits >> 31 == 0 { bits | 1 << 31 } else { !bits }
}

/// Fills the slots of a row.
fn pick(logits: &[f32], picked: &mut [f32], table: &mut [u32]) {
    // A key is larger for a larger logit and, of equal ones, for a lower expert; all of a row differ.
    let mut keys = [0u64; MOST_EXPERTS];
    for (e, (key, logit)) in keys.iter_mut().zip(logits).enumerate() {
        *key = u64::from(ordered(*logit)) << 32 | u64::from(!(e as u32));
    }
    let mut before = u64::MAX;
    for (picked, table) in picked.iter_mut().zip(table) {
        let mut best = 0;
        for key in &keys[..logits.len().min(MOST_EXPERTS)] {
            best = if *key < before { best.max(*key) } else { best };
        }
        let expert = !(best as u32);
        *picked = logits.get(expert as usize).copied().unwrap_or(0.0);
        *table = expert;
        before = best;
    }
}

pub fn route(call: &mut Call) {
    let (rows, experts, slots) = (call.size(0), call.u32(1) as usize, call.u32(2) as usize);
    let [logits, mut picked, mut table] = call.args();
    let logits = logits.f32()[..rows * experts].par_chunks(ROWS * experts);
    let picked = picked.f32_mut()[..rows * slots].par_chunks_mut(ROWS * slots);
    let table = table.u32_mut()[..rows * slots].par_chunks_mut(ROWS * slots);
    logits.zip(picked.zip(table)).for_each(|(logits, (picked, table))| {
        let rows = picked.chunks_exact_mut(slots).zip(table.chunks_exact_mut(slots));
        logits.chunks_exact(experts).zip(rows).for_each(|(logits, (picked, table))| pick(logits, picked, table));
    });
}

pub fn route_order(call: &mut Call) {
    let (rows, experts, slots) = (call.size(0), call.u32(1) as usize, call.u32(2) as usize);
    let [table, mut order, mut offsets] = call.args();
    let table = &table.u32()[..rows * slots];
    // Where the run of each expert begins; what is beyond the experts would come last.
    let mut begins = [0u32; MOST_EXPERTS + 2];
    let run = |e: u32| (e as usize).min(experts).min(MOST_EXPERTS);
    table.iter().for_each(|e| begins[run(*e) + 1] += 1);
    for e in 0..=MOST_EXPERTS {
        begins[e + 1] += begins[e];
    }
    offsets.u32_mut().iter_mut().zip(begins).for_each(|(offset, begin)| *offset = begin);
    let order = order.u32_mut();
    if order.is_empty() {
        return;
    }
    for (slot, e) in table.iter().enumerate() {
        let next = &mut begins[run(*e)];
        order[*next as usize] = slot as u32;
        *next += 1;
    }
}

pub fn route_grad(call: &mut Call) {
    let (rows, experts, slots) = (call.size(0), call.u32(1) as usize, call.u32(2) as usize);
    let [dpicked, table, mut dlogits] = call.args();
    let given = dpicked.f32()[..rows * slots].par_chunks(ROWS * slots);
    let given = given.zip(table.u32()[..rows * slots].par_chunks(ROWS * slots));
    let tasks = dlogits.f32_mut()[..rows * experts].par_chunks_mut(ROWS * experts).zip(given);
    tasks.for_each(|(dlogits, (dpicked, table))| {
        dlogits.fill(0.0);
        for (i, (d, e)) in dpicked.iter().zip(table).enumerate() {
            let row = &mut dlogits[i / slots * experts..][..experts];
            if let Some(at) = row.get_mut(*e as usize) {
                *at += d;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_nothing_but_nan_still_names_experts() {
        let (mut picked, mut table) = ([0.0; 3], [9; 3]);
        pick(&[f32::NAN, -f32::NAN, f32::NAN], &mut picked, &mut table);
        assert_eq!(table, [0, 1, 2]);
        assert!(picked.iter().all(|p| p.is_nan()));
        pick(&[f32::NAN, f32::NEG_INFINITY, -0.0, 0.0], &mut picked, &mut table);
        assert_eq!(table, [2, 3, 1]);
    }
}
