//! What a kernel did wrong.

/// The kind, as the driver reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    IllegalAddress,
    IllegalInstruction,
    MisalignedAddress,
    LaunchFailed,
}

impl Kind {
    /// The CUresult.
    pub fn code(self) -> u32 {
        match self {
            Kind::IllegalAddress => 700,
            Kind::IllegalInstruction => 715,
            Kind::MisalignedAddress => 716,
            Kind::LaunchFailed => 719,
        }
    }
}

/// An error of one lane, before it is known where it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub kind: Kind,
    pub lane: u32,
    pub what: String,
}

#[cold]
pub fn fault<T>(kind: Kind, lane: u32, what: impl Into<String>) -> Result<T, Box<Fault>> {
    Err(Box::new(Fault { kind, lane, what: what.into() }))
}

/// An error with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub kind: Kind,
    pub kernel: String,
    pub block: [u32; 3],
    pub thread: u32,
    pub line: u32,
    pub instruction: String,
    pub what: String,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [x, y, z] = self.block;
        write!(
            f,
            "kernel {}, block ({x},{y},{z}), thread {}, PTX line {} \"{}\": {}",
            self.kernel, self.thread, self.line, self.instruction, self.what
        )
    }
}
