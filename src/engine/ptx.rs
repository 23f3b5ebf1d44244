//! The kernels for NVIDIA GPUs as they ship: `kernels/*.cu`, compiled by `tools/ptx`.

/// The kernels of one file, as text that drivers compile for their device: PTX 7.1, which the assembler of CUDA 12.1
/// (drivers from 530 on) is seen to take and those from CUDA 11.1 on (455) should.
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
    ATTENTION = "attention",
    BALANCE = "balance",
    CONTRAST = "contrast",
    CONV = "conv",
    DIVERGENCE = "divergence",
    EXPERTS = "experts",
    GATES = "gates",
    GATHER = "gather",
    GROUPED = "grouped",
    INTERACT = "interact",
    LINEAR = "linear",
    MARGIN = "margin",
    NORM = "norm",
    OPTIM = "optim",
    POINTWISE = "pointwise",
    QUANT = "quant",
    REDUCE = "reduce",
    ROWS = "rows",
    SEGMENT = "segment",
    TOPK = "topk",
}
