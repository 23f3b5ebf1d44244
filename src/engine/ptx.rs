//! The kernels for NVIDIA GPUs as they ship: `kernels/*.cu`, compiled by `tools/ptx`.

/// The kernels of one file, as text that every driver since 455 compiles for its device.
#[derive(Debug)]
pub struct Ptx {
    pub family: &'static str,
    pub text: &'static str,
}

macro_rules! families {
    ($($name:ident = $family:literal),* $(,)?) => {
        $(pub static $name: Ptx = Ptx {
            family: $family,
            #[cfg(feature = "cuda")]
            text: include_str!(concat!("../../kernels/ptx/", $family, ".ptx")),
            #[cfg(not(feature = "cuda"))]
            text: "",
        };)*
        /// All of them.
        pub static FAMILIES: &[&Ptx] = &[$(&$name),*];
    };
}

families! {
    CONTRAST = "contrast",
    GATHER = "gather",
    INTERACT = "interact",
    LINEAR = "linear",
    NORM = "norm",
    OPTIM = "optim",
    POINTWISE = "pointwise",
    REDUCE = "reduce",
    SEGMENT = "segment",
    TOPK = "topk",
}
