//! Which part of which region a launch binds, and where its operands lie in it.
//!
//! A device offers few bindings (8 everywhere) and bounds their size (128 MiB everywhere). A region that fits is bound
//! whole, so that launches share bind groups; of a larger one, neighbouring operands share a window.

use crate::engine::op::{Access, Formal};
use crate::engine::scheduler::plan::{ALIGN, Region, RegionBytes, Span};
use crate::engine::tensor::DType;
use crate::error::{Error, Result};

/// Bytes of a region that a launch binds. The slot's input is never written and is bound read-only; whatever else is
/// bound read-write, since one buffer may not be both in one dispatch.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    pub region: Region,
    pub offset: u64,
    pub bytes: u64,
}

/// What of a window the text of a kernel depends on.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    pub read_only: bool,
    /// `F32` if every operand in it is; else words, which accessors reinterpret.
    pub dtype: DType,
}

/// An operand in its window.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    pub window: usize,
    /// In elements from the window's begin.
    pub offset: u32,
}

/// The bindings of one launch. Operands that are absent or empty have no place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bindings {
    pub windows: Vec<Window>,
    pub shapes: Vec<Shape>,
    pub places: Vec<Option<Place>>,
}

/// What a device allows.
#[derive(Copy, Clone, Debug)]
pub struct BindingLimits {
    /// Most bytes of one binding.
    pub bytes: u64,
    /// Most storage bindings of one kernel.
    pub count: usize,
}

/// Covers the arguments of a launch of `kernel` with as few windows as they need.
///
/// # Errors
/// When one operand is larger than a binding, or when the operands need more bindings than there are.
pub fn cover(
    kernel: &str,
    operands: &[Formal],
    args: &[Option<Span>],
    bytes: &RegionBytes,
    limits: BindingLimits,
) -> Result<Bindings> {
    let mut b = Bindings { places: vec![None; operands.len()], ..Bindings::default() };
    for region in [Region::State, Region::Arena, Region::In, Region::Out] {
        let mut here: Vec<(usize, Span)> = (args.iter().enumerate())
            .filter_map(|(i, a)| a.filter(|s| s.region == region && s.bytes > 0).map(|s| (i, s)))
            .collect();
        here.sort_by_key(|(_, s)| (s.offset, s.bytes));
        let whole = bytes.of(region);
        let first = b.windows.len();
        for (i, span) in here {
            // What is filled may begin at any element; a binding may not.
            let begin = span.offset - span.offset % ALIGN;
            let end = span.offset + span.bytes;
            if end - begin > limits.bytes {
                let name = operands[i].name;
                return Err(Error::Memory {
                    what: format!("operand {name} of {kernel}, in one binding,"),
                    needed: span.bytes,
                    available: limits.bytes,
                    fix: "use smaller batches or tiles, or another --device".into(),
                });
            }
            match b.windows[first..].last_mut() {
                Some(w) if end.max(w.offset + w.bytes) - w.offset <= limits.bytes => {
                    w.bytes = w.bytes.max(end - w.offset);
                }
                _ => {
                    let fits = whole <= limits.bytes;
                    let (offset, bytes) = if fits { (0, whole) } else { (begin, end - begin) };
                    b.windows.push(Window { region, offset, bytes });
                    b.shapes.push(Shape { read_only: region == Region::In, dtype: DType::F32 });
                }
            }
            let window = b.windows.len() - 1;
            if operands[i].dtype != DType::F32 {
                b.shapes[window].dtype = DType::U32;
            }
            let offset = u32::try_from((span.offset - b.windows[window].offset) / 4).map_err(|_| Error::Memory {
                what: format!("region {region:?}, addressed by 32-bit element numbers,"),
                needed: whole,
                available: 4 << 32,
                fix: "use smaller batches".into(),
            })?;
            b.places[i] = Some(Place { window, offset });
            if region == Region::In && operands[i].access != Access::Read {
                return Err(Error::shape(kernel, format!("{} writes to the slot's input", operands[i].name)));
            }
        }
    }
    if b.windows.len() > limits.count {
        return Err(Error::Memory {
            what: format!("a launch of {kernel} with {} bindings of at most {} bytes", b.windows.len(), limits.bytes),
            needed: b.windows.iter().map(|w| w.bytes).sum(),
            available: limits.bytes.saturating_mul(limits.count as u64),
            fix: "use smaller batches or tiles, so that operands lie closer together".into(),
        });
    }
    Ok(b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::op::{read, read_u32, write};

    const MIB: u64 = 1 << 20;

    fn span(region: Region, offset: u64, bytes: u64) -> Option<Span> {
        Some(Span { region, offset, bytes })
    }

    fn limits(bytes: u64) -> BindingLimits {
        BindingLimits { bytes, count: 8 }
    }

    #[test]
    fn a_region_that_fits_is_bound_whole() {
        let bytes = RegionBytes { arena: 4 * MIB, input: MIB, ..RegionBytes::default() };
        let args = [span(Region::In, 512, 256), span(Region::Arena, 256, 1024), span(Region::Arena, 2 * MIB, 1024)];
        let b = cover("k", &[read("a"), read("b"), write("y")], &args, &bytes, limits(4 * MIB)).unwrap();
        assert_eq!(
            b.windows,
            [
                Window { region: Region::Arena, offset: 0, bytes: 4 * MIB },
                Window { region: Region::In, offset: 0, bytes: MIB }
            ]
        );
        assert_eq!(b.shapes.iter().map(|s| s.read_only).collect::<Vec<_>>(), [false, true]);
        assert_eq!(b.places[0], Some(Place { window: 1, offset: 128 }));
        assert_eq!(b.places[2], Some(Place { window: 0, offset: (2 * MIB / 4) as u32 }));
    }

    #[test]
    fn neighbours_share_a_window_and_distant_operands_do_not() {
        let bytes = RegionBytes { arena: 64 * MIB, ..RegionBytes::default() };
        let args = [
            span(Region::Arena, 40 * MIB, MIB),
            span(Region::Arena, 10 * MIB, MIB),
            span(Region::Arena, 11 * MIB, MIB),
            None,
            span(Region::Arena, 12 * MIB, 0),
        ];
        let operands = [read("a"), read("b"), write("y"), read("absent"), read("empty")];
        let b = cover("k", &operands, &args, &bytes, limits(4 * MIB)).unwrap();
        assert_eq!(
            b.windows,
            [
                Window { region: Region::Arena, offset: 10 * MIB, bytes: 2 * MIB },
                Window { region: Region::Arena, offset: 40 * MIB, bytes: MIB }
            ]
        );
        assert_eq!(b.places[0], Some(Place { window: 1, offset: 0 }));
        assert_eq!(b.places[2], Some(Place { window: 0, offset: (MIB / 4) as u32 }));
        assert_eq!(b.places[3..], [None, None]);
    }

    #[test]
    fn a_window_begins_where_a_binding_may() {
        let bytes = RegionBytes { arena: 64 * MIB, ..RegionBytes::default() };
        let args = [span(Region::Arena, MIB + 260, 508)];
        let b = cover("k", &[write("y")], &args, &bytes, limits(MIB)).unwrap();
        assert_eq!(b.windows, [Window { region: Region::Arena, offset: MIB + 256, bytes: 512 }]);
        assert_eq!(b.places, [Some(Place { window: 0, offset: 1 })]);
    }

    #[test]
    fn a_window_of_mixed_types_is_words() {
        let bytes = RegionBytes { input: MIB, output: MIB, ..RegionBytes::default() };
        let args = [span(Region::In, 0, 4), span(Region::In, 256, 4), span(Region::Out, 0, 4)];
        let b = cover("k", &[read("a"), read_u32("ids"), write("y")], &args, &bytes, limits(MIB)).unwrap();
        assert_eq!(b.shapes.iter().map(|s| s.dtype).collect::<Vec<_>>(), [DType::U32, DType::F32]);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_numbers() {
        let bytes = RegionBytes { arena: 64 * MIB, ..RegionBytes::default() };
        let large = cover("k", &[read("a")], &[span(Region::Arena, 0, 9 * MIB)], &bytes, limits(8 * MIB));
        assert!(large.unwrap_err().to_string().contains("9.0 MiB and 8.0 MiB"));
        let operands = [read("a"), read("b"), write("y")];
        let args = [0, 20, 40].map(|at| span(Region::Arena, at * MIB, MIB));
        let few = BindingLimits { bytes: 2 * MIB, count: 2 };
        assert!(cover("k", &operands, &args, &bytes, few).unwrap_err().to_string().contains("3 bindings"));
        let input = RegionBytes { input: MIB, ..RegionBytes::default() };
        assert!(cover("k", &[write("y")], &[span(Region::In, 0, 4)], &input, few).is_err());
    }
}
