//! The WGSL of a kernel with the bindings of a launch: what pipelines are keyed by and what validators check.
//!
//! Before the kernel's own text come the parameters `p`, the slot's `counts`, one array for each window, and for every
//! operand its accessors: `NAME(i)` reads element `i`, `set_NAME(i, v)` writes it. Absent operands read as zero. A kernel
//! that says `place_of_NAME()` gets one by which it can tell whether an output has taken an input's place. Names that begin
//! with `m_` belong to the text written here.

use super::windows::{Place, Shape};
use crate::engine::op::{Access, Formal, PARAM_WORDS, Params};
use crate::engine::tensor::DType;
use crate::error::{Error, Result};
use std::fmt::Write as _;

/// Operands that a kernel may have: their offsets fill the first half of a parameter block, the op's words the other.
pub const MAX_OPERANDS: usize = 32;

/// Bytes of a parameter block: what every device can address as a uniform with a dynamic offset.
pub const BLOCK: u64 = 256;

const COMMON: &str = include_str!("../../../../wgsl/common.wgsl");

/// The parameter block of a launch, in words.
pub fn block(params: &Params, places: &[Option<Place>]) -> [u32; (BLOCK / 4) as usize] {
    let mut words = [0; MAX_OPERANDS + PARAM_WORDS];
    for (word, place) in words.iter_mut().zip(places) {
        *word = place.map_or(0, |p| p.offset);
    }
    for (word, value) in words[MAX_OPERANDS..].iter_mut().zip(params.words()) {
        *word = *value;
    }
    words
}

/// # Errors
/// When the kernel has no `struct P`, or more operands than a block has offsets for.
pub fn generate(
    kernel: &str,
    body: &str,
    operands: &[Formal],
    places: &[Option<Place>],
    windows: &[Shape],
) -> Result<String> {
    if operands.len() > MAX_OPERANDS {
        return Err(Error::shape(kernel, format!("has {} operands and may have {MAX_OPERANDS}", operands.len())));
    }
    let (before, fields) = (body.split_once("struct P {"))
        .ok_or_else(|| Error::shape(kernel, "its WGSL declares no `struct P {`, the names of its parameters"))?;
    let mut text = format!("// {kernel}\n");
    text += "@group(0) @binding(0) var<uniform> p: P;\n";
    text += "@group(0) @binding(1) var<uniform> counts: array<vec4<u32>, 2>;\n";
    for (i, window) in windows.iter().enumerate() {
        let access = if window.read_only { "read" } else { "read_write" };
        let dtype = wgsl(window.dtype);
        let _ = writeln!(text, "@group(1) @binding({i}) var<storage, {access}> m_window{i}: array<{dtype}>;");
    }
    for (i, formal) in operands.iter().enumerate() {
        let place = places.get(i).copied().flatten().and_then(|p| windows.get(p.window).map(|w| (p.window, w.dtype)));
        accessors(&mut text, i, formal, place);
        if body.contains(&format!("place_of_{}()", formal.name)) {
            let window = place.map_or(u32::MAX, |p| p.0 as u32);
            let offset = format!("p.m_offsets[{}][{}]", i / 4, i % 4);
            let _ = writeln!(
                text,
                "fn place_of_{}() -> vec2<u32> {{ return vec2<u32>({window}u, {offset}); }}",
                formal.name
            );
        }
    }
    // The offsets lead, so that the op's own fields may be of any number.
    let _ = write!(text, "{COMMON}{before}struct P {{ m_offsets: array<vec4<u32>, {}>, {fields}", MAX_OPERANDS / 4);
    Ok(text)
}

fn wgsl(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "f32",
        DType::U32 => "u32",
    }
}

/// `Write` operands are readable too: an op with several phases in one kernel reads back what it wrote, and an input
/// in whose place the output is written is the same memory under another name.
fn accessors(text: &mut String, i: usize, formal: &Formal, place: Option<(usize, DType)>) {
    let (name, dtype) = (formal.name, wgsl(formal.dtype));
    let Some((window, held)) = place else {
        let _ = writeln!(text, "fn {name}(i: u32) -> {dtype} {{ return {dtype}(0); }}");
        if formal.access != Access::Read {
            let _ = writeln!(text, "fn set_{name}(i: u32, value: {dtype}) {{ }}");
        }
        return;
    };
    let at = format!("m_window{window}[p.m_offsets[{}][{}] + i]", i / 4, i % 4);
    let (load, store) = if held == formal.dtype {
        (at.clone(), "value".to_string())
    } else {
        (format!("bitcast<{dtype}>({at})"), format!("bitcast<{}>(value)", wgsl(held)))
    };
    let _ = writeln!(text, "fn {name}(i: u32) -> {dtype} {{ return {load}; }}");
    if formal.access != Access::Read {
        let _ = writeln!(text, "fn set_{name}(i: u32, value: {dtype}) {{ {at} = {store}; }}");
    }
}

#[cfg(test)]
mod tests {
    use super::super::{COPY, FILL};
    use super::*;
    use crate::engine::op::{KernelDef, OPS};
    use ::wgpu::naga;
    use naga::valid::{Capabilities, ValidationFlags, Validator};

    /// Every kernel for this back end, its own included, each once.
    fn kernels() -> Vec<&'static KernelDef> {
        let mut all: Vec<&'static KernelDef> = OPS.iter().flat_map(|op| op.kernels()).chain([&COPY, &FILL]).collect();
        all.retain(|k| k.wgsl.is_some());
        all.sort_by_key(|k| k.name);
        all.dedup_by_key(|k| k.name);
        all
    }

    /// A name, the places of the operands, and the windows.
    type Pattern = (&'static str, Vec<Option<Place>>, Vec<Shape>);

    /// Bindings as plans make them.
    fn patterns(k: &KernelDef) -> Vec<Pattern> {
        let f32s = k.operands.iter().all(|f| f.dtype == DType::F32);
        let dtype = if f32s { DType::F32 } else { DType::U32 };
        let arena = Shape { read_only: false, dtype };
        let input = Shape { read_only: true, dtype };
        let at = |f: &dyn Fn(usize, &Formal) -> Option<usize>| -> Vec<Option<Place>> {
            let window = |(i, formal)| f(i, formal).map(|window| Place { window, offset: 64 });
            k.operands.iter().enumerate().map(window).collect()
        };
        let written = |f: &Formal| f.access != Access::Read;
        let own = |f: &Formal| Shape { read_only: !written(f), dtype: f.dtype };
        vec![
            ("one arena", at(&|_, _| Some(0)), vec![arena]),
            ("arena of words", at(&|_, _| Some(0)), vec![Shape { dtype: DType::U32, ..arena }]),
            ("slot to arena", at(&|_, f| Some(usize::from(written(f)))), vec![input, arena]),
            ("each its own", at(&|i, _| Some(i)), k.operands.iter().map(own).collect()),
            ("all absent", at(&|_, _| None), vec![]),
        ]
    }

    fn validate(text: &str) -> std::result::Result<(naga::Module, naga::valid::ModuleInfo), String> {
        let module = naga::front::wgsl::parse_str(text).map_err(|e| e.emit_to_string(text))?;
        // No capability beyond what every device has.
        let mut validator = Validator::new(ValidationFlags::all(), Capabilities::empty());
        let info = validator.validate(&module).map_err(|e| e.emit_to_string(text))?;
        Ok((module, info))
    }

    #[test]
    fn the_text_of_every_kernel_is_valid_in_every_pattern() {
        let mut failures = vec![];
        for k in kernels() {
            for (pattern, places, windows) in patterns(k) {
                let text = generate(k.name, k.wgsl.unwrap(), k.operands, &places, &windows).unwrap();
                if let Err(e) = validate(&text) {
                    failures.push(format!("{} [{pattern}]: {e}", k.name));
                }
            }
        }
        assert!(failures.is_empty(), "{}", failures.join("\n"));
        assert!(kernels().len() > 5);
    }

    #[test]
    fn no_kernel_asks_for_more_than_every_device_has() {
        for k in kernels() {
            let (_, places, windows) = patterns(k).swap_remove(0);
            let text = generate(k.name, k.wgsl.unwrap(), k.operands, &places, &windows).unwrap();
            let (module, _) = validate(&text).unwrap_or_else(|e| panic!("{}: {e}", k.name));
            let [main] = &module.entry_points[..] else { panic!("{} has not one entry point", k.name) };
            assert_eq!(main.name, "main", "{}", k.name);
            let invocations: u32 = main.workgroup_size.iter().product();
            assert!(invocations <= 256, "{} has {invocations} invocations in a workgroup", k.name);
            let shared: u32 = (module.global_variables.iter())
                .filter(|(_, v)| v.space == naga::AddressSpace::WorkGroup)
                .map(|(_, v)| module.types[v.ty].inner.size(module.to_ctx()))
                .sum();
            assert!(shared <= 16 << 10, "{} takes {shared} bytes of workgroup memory", k.name);
        }
    }

    #[test]
    fn a_validator_that_accepts_everything_would_be_noticed() {
        let k = kernels()[0];
        let (_, places, windows) = patterns(k).swap_remove(0);
        let text = generate(k.name, k.wgsl.unwrap(), k.operands, &places, &windows).unwrap();
        assert!(validate(&text.replace("fn main(", "fn main(broken: u32, ")).is_err());
        assert!(validate(&format!("{text}\nfn broken() -> f32 {{ return 1u; }}")).is_err());
    }

    #[test]
    fn a_kernel_without_parameters_or_with_too_many_operands_is_refused() {
        assert!(generate("k", "fn main() {}", &[], &[], &[]).unwrap_err().to_string().contains("struct P"));
        let many = [crate::engine::op::read("a"); MAX_OPERANDS + 1];
        assert!(generate("k", "struct P { n: u32 }", &many, &[], &[]).is_err());
    }

    #[test]
    fn a_block_holds_offsets_then_parameters() {
        let words = block(&Params::new().u32(7).f32(1.5), &[None, Some(Place { window: 3, offset: 11 })]);
        assert_eq!(words[..3], [0, 11, 0]);
        assert_eq!(words[MAX_OPERANDS..MAX_OPERANDS + 3], [7, 1.5f32.to_bits(), 0]);
    }
}
