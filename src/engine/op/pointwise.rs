//! Element by element: `unary` with its gradient, `binary`, and rows times numbers.

use super::super::backend::cpu::pointwise as cpu;
use super::super::graph::{Graph, Value};
use super::super::tensor::{Axis, Counts, DType, Dim, HostTensor, Meta};
use super::{
    Class, Cost, Ctx, Form, Gradient, KernelDef, Launch, Op, Operands, Params, Sample, Site, expect_dtype,
    expect_fixed, expect_rank, expect_same, groups, ptx, read, write,
};
use crate::error::{Error, Result};

/// A function of one number. Its number is what kernels switch on.
#[derive(Copy, Clone, Debug, PartialEq)]
pub enum UnaryKind {
    /// `a·x + b`
    Affine {
        a: f32,
        b: f32,
    },
    Relu,
    /// `x Φ(x)` in its tanh form (Hendrycks and Gimpel 2016).
    GeluTanh,
    /// `x σ(1.702 x)`, the form of OpenAI's CLIP.
    QuickGelu,
    /// `x Φ(x)` with the distribution function Φ of a normal number (Hendrycks and Gimpel 2016): the form of BERT.
    Gelu,
    Sigmoid,
    Tanh,
    Exp,
    /// `ln(1 + eˣ)`
    Softplus,
}

impl UnaryKind {
    fn code(self) -> (usize, f32, f32) {
        match self {
            UnaryKind::Affine { a, b } => (0, a, b),
            UnaryKind::Relu => (1, 0.0, 0.0),
            UnaryKind::GeluTanh => (2, 0.0, 0.0),
            UnaryKind::QuickGelu => (3, 0.0, 0.0),
            UnaryKind::Gelu => (4, 0.0, 0.0),
            UnaryKind::Sigmoid => (5, 0.0, 0.0),
            UnaryKind::Tanh => (6, 0.0, 0.0),
            UnaryKind::Exp => (7, 0.0, 0.0),
            UnaryKind::Softplus => (8, 0.0, 0.0),
        }
    }

    /// The function and its derivative at `x`.
    pub(super) fn value(self, x: f64) -> (f64, f64) {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        match self {
            UnaryKind::Affine { a, b } => (f64::from(a) * x + f64::from(b), f64::from(a)),
            UnaryKind::Relu => (x.max(0.0), if x > 0.0 { 1.0 } else { 0.0 }),
            UnaryKind::GeluTanh => {
                let c = (2.0 / std::f64::consts::PI).sqrt();
                let t = (c * (x + 0.044715 * x.powi(3))).tanh();
                let dt = (1.0 - t * t) * c * (1.0 + 3.0 * 0.044715 * x * x);
                (0.5 * x * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * x * dt)
            }
            UnaryKind::QuickGelu => {
                let s = sigmoid(1.702 * x);
                (x * s, s + x * 1.702 * s * (1.0 - s))
            }
            UnaryKind::Sigmoid => {
                let s = sigmoid(x);
                (s, s * (1.0 - s))
            }
            UnaryKind::Tanh => (x.tanh(), 1.0 - x.tanh().powi(2)),
            UnaryKind::Exp => (x.exp(), x.exp()),
            UnaryKind::Gelu => {
                let below = 0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2);
                let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
                (x * below, below + x * density)
            }
            UnaryKind::Softplus => (x.max(0.0) + (-x.abs()).exp().ln_1p(), sigmoid(x)),
        }
    }

    const ALL: [UnaryKind; 9] = [
        UnaryKind::Affine { a: -1.5, b: 0.25 },
        UnaryKind::Relu,
        UnaryKind::GeluTanh,
        UnaryKind::QuickGelu,
        UnaryKind::Sigmoid,
        UnaryKind::Tanh,
        UnaryKind::Exp,
        UnaryKind::Gelu,
        UnaryKind::Softplus,
    ];
}

/// `y = f(x)`; shapes `[R, ..]`, the first dimension may be ragged.
#[derive(Clone, Debug)]
pub struct Unary {
    pub kind: UnaryKind,
}

pub static UNARY: Unary = Unary { kind: UnaryKind::Relu };

static UNARY_KERNEL: KernelDef = KernelDef {
    name: "unary",
    operands: &[read("x"), write("y")],
    cpu: Some(cpu::unary),
    wgsl: Some(include_str!("../../../wgsl/unary.wgsl")),
    cuda: Some(&ptx::POINTWISE),
};

fn elementwise(kernel: &'static KernelDef, params: Params, m: &Meta, o: &Operands) -> Vec<Launch> {
    vec![Launch { kernel, params, groups: groups(m.elements(), 256), args: o.all() }]
}

fn same(op: &str, ins: &[Meta]) -> Result<Vec<Meta>> {
    if let Some(m) = ins.iter().find(|m| m.dims().iter().skip(1).any(|d| matches!(d, Dim::Ragged(..)))) {
        return Err(Error::shape(op, format!("only the first dimension may be ragged and an operand is {m}")));
    }
    match ins {
        [a, rest @ ..] if rest.iter().all(|b| a == b) => Ok(vec![a.clone()]),
        _ => Err(Error::shape(op, format!("operands must have one shape and have {ins:?}"))),
    }
}

impl Op for Unary {
    fn name(&self) -> &'static str {
        "unary"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        expect_rank(self.name(), ins, &[ins.first().map_or(0, Meta::rank)])?;
        same(self.name(), ins)
    }
    fn reference(&self, ins: &[HostTensor], _: &Counts) -> Vec<HostTensor> {
        vec![HostTensor::f64(&ins[0].shape, ins[0].x().iter().map(|x| self.kind.value(*x).0).collect())]
    }
    fn grad(&self, g: &mut Graph, n: Site, dout: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        let Some(dy) = dout[0] else { return Ok(vec![None]) };
        Ok(vec![Some(g.apply(UnaryGrad { kind: self.kind }, &[n.ins[0], dy])?)])
    }
    fn inplace(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
    }
    fn form(&self) -> Form {
        Form::Unary(self.kind)
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        vec![&UNARY_KERNEL]
    }
    fn launch(&self, o: &Operands, _: &Ctx) -> Vec<Launch> {
        let (kind, a, b) = self.kind.code();
        let params = Params::new().elements(&o.ins[0]).u32(kind).f32(a).f32(b);
        elementwise(&UNARY_KERNEL, params, &o.ins[0], o)
    }
    fn samples(&self) -> Vec<Sample> {
        UnaryKind::ALL.into_iter().flat_map(|kind| shapes(&Unary { kind }, &format!("{kind:?}"), 1)).collect()
    }
}

/// `dx = f'(x) · dy`
#[derive(Clone, Debug)]
pub struct UnaryGrad {
    pub kind: UnaryKind,
}

pub static UNARY_GRAD: UnaryGrad = UnaryGrad { kind: UnaryKind::Relu };

static UNARY_GRAD_KERNEL: KernelDef = KernelDef {
    name: "unary_grad",
    operands: &[read("x"), read("dy"), write("dx")],
    cpu: Some(cpu::unary_grad),
    wgsl: Some(include_str!("../../../wgsl/unary_grad.wgsl")),
    cuda: Some(&ptx::POINTWISE),
};

impl Op for UnaryGrad {
    fn name(&self) -> &'static str {
        "unary_grad"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        if ins.len() != 2 {
            return Err(Error::shape(self.name(), "takes two operands"));
        }
        same(self.name(), ins)
    }
    fn reference(&self, ins: &[HostTensor], _: &Counts) -> Vec<HostTensor> {
        let dx = ins[0].x().iter().zip(ins[1].x()).map(|(x, dy)| self.kind.value(*x).1 * dy).collect();
        vec![HostTensor::f64(&ins[0].shape, dx)]
    }
    fn grad(&self, _: &mut Graph, _: Site, _: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        Err(Error::shape(self.name(), "has no gradient of its own: no model differentiates twice"))
    }
    fn inplace(&self) -> &'static [(usize, usize)] {
        &[(1, 0), (0, 0)]
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        vec![&UNARY_GRAD_KERNEL]
    }
    fn launch(&self, o: &Operands, _: &Ctx) -> Vec<Launch> {
        let (kind, a, b) = self.kind.code();
        let params = Params::new().elements(&o.ins[0]).u32(kind).f32(a).f32(b);
        elementwise(&UNARY_GRAD_KERNEL, params, &o.ins[0], o)
    }
    fn samples(&self) -> Vec<Sample> {
        let none = Gradient::None("is itself a gradient");
        (UnaryKind::ALL.into_iter())
            .flat_map(|kind| shapes(&UnaryGrad { kind }, &format!("{kind:?}"), 2))
            .map(|s| s.gradient(none))
            .collect()
    }
}

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum BinaryKind {
    Add,
    Sub,
    Mul,
}

/// `y = a ∘ b`; both of one shape, the first dimension may be ragged.
#[derive(Clone, Debug)]
pub struct Binary {
    pub kind: BinaryKind,
}

pub static BINARY: Binary = Binary { kind: BinaryKind::Add };

static BINARY_KERNEL: KernelDef = KernelDef {
    name: "binary",
    operands: &[read("a"), read("b"), write("y")],
    cpu: Some(cpu::binary),
    wgsl: Some(include_str!("../../../wgsl/binary.wgsl")),
    cuda: Some(&ptx::POINTWISE),
};

impl Op for Binary {
    fn name(&self) -> &'static str {
        "binary"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        if ins.len() != 2 {
            return Err(Error::shape(self.name(), "takes two operands"));
        }
        // Score matrices have two ragged dimensions, and gradients of theirs are added.
        let [a, b] = ins else { return same(self.name(), ins) };
        if a == b && a.rank() == 2 { Ok(vec![a.clone()]) } else { same(self.name(), ins) }
    }
    fn reference(&self, ins: &[HostTensor], _: &Counts) -> Vec<HostTensor> {
        let f = |a: f64, b: f64| match self.kind {
            BinaryKind::Add => a + b,
            BinaryKind::Sub => a - b,
            BinaryKind::Mul => a * b,
        };
        let y = ins[0].x().iter().zip(ins[1].x()).map(|(a, b)| f(*a, *b)).collect();
        vec![HostTensor::f64(&ins[0].shape, y)]
    }
    fn grad(&self, g: &mut Graph, n: Site, dout: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        let Some(dy) = dout[0] else { return Ok(vec![None, None]) };
        Ok(match self.kind {
            BinaryKind::Add => vec![Some(dy), Some(dy)],
            BinaryKind::Sub => {
                let dims = g.meta(dy).dims().to_vec();
                let minus = if dims.iter().skip(1).any(|d| matches!(d, Dim::Ragged(..))) {
                    let nothing = g.fill(0.0, &dims)?;
                    g.apply(Binary { kind: BinaryKind::Sub }, &[nothing, dy])?
                } else {
                    g.apply(Unary { kind: UnaryKind::Affine { a: -1.0, b: 0.0 } }, &[dy])?
                };
                vec![Some(dy), Some(minus)]
            }
            BinaryKind::Mul => vec![
                Some(g.apply(Binary { kind: BinaryKind::Mul }, &[dy, n.ins[1]])?),
                Some(g.apply(Binary { kind: BinaryKind::Mul }, &[dy, n.ins[0]])?),
            ],
        })
    }
    fn inplace(&self) -> &'static [(usize, usize)] {
        &[(0, 0), (1, 0)]
    }
    fn form(&self) -> Form {
        Form::Binary(self.kind)
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        vec![&BINARY_KERNEL]
    }
    fn launch(&self, o: &Operands, _: &Ctx) -> Vec<Launch> {
        let m = &o.ins[0];
        // Rows, columns, and from row to row; what lies without gaps is one row.
        let params = match m.dims() {
            [rows, cols @ Dim::Ragged(..)] => Params::new().size(*rows).size(*cols).u32(cols.cap()),
            _ => Params::new().u32(1).elements(m).u32(0),
        };
        elementwise(&BINARY_KERNEL, params.u32(self.kind as usize), m, o)
    }
    fn samples(&self) -> Vec<Sample> {
        let kinds = [BinaryKind::Add, BinaryKind::Sub, BinaryKind::Mul];
        let mut samples: Vec<Sample> =
            kinds.into_iter().flat_map(|kind| shapes(&Binary { kind }, &format!("{kind:?}"), 2)).collect();
        for (rows, cols) in [(5, 7), (0, 3), (4, 0), (131, 67)] {
            let dims = [Dim::Ragged(Axis(0), rows + 2), Dim::Ragged(Axis(1), cols + 3)];
            let counts = Counts::default().with(Axis(0), rows).with(Axis(1), cols);
            let sample = Sample::new(format!("both ragged {rows} x {cols}"), Binary { kind: BinaryKind::Sub });
            samples.push(sample.counts(counts).normal(&dims, 8).normal(&dims, 9));
        }
        samples
    }
}

/// `y_r = w_r x_r`: rows times numbers. Operands x `[R, D]`, w `[R]`, R may be ragged; output y `[R, D]`.
#[derive(Clone, Debug)]
pub struct ScaleRows;

pub static SCALE_ROWS: ScaleRows = ScaleRows;

static SCALE_ROWS_KERNEL: KernelDef = KernelDef {
    name: "scale_rows",
    operands: &[read("x"), read("w"), write("y")],
    cpu: Some(cpu::scale_rows),
    wgsl: Some(include_str!("../../../wgsl/scale_rows.wgsl")),
    cuda: Some(&ptx::POINTWISE),
};

impl Op for ScaleRows {
    fn name(&self) -> &'static str {
        "scale_rows"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        expect_rank(self.name(), ins, &[2, 1])?;
        expect_dtype(self.name(), ins, 0, DType::F32)?;
        expect_dtype(self.name(), ins, 1, DType::F32)?;
        expect_fixed(self.name(), "columns", ins[0].dim(1))?;
        expect_same(self.name(), "rows and numbers", ins[0].dim(0), ins[1].dim(0))?;
        Ok(vec![ins[0].clone()])
    }
    fn reference(&self, ins: &[HostTensor], _: &Counts) -> Vec<HostTensor> {
        let cols = ins[0].dim(1).max(1);
        let y = ins[0].x().iter().enumerate().map(|(i, x)| x * ins[1].x()[i / cols]).collect();
        vec![HostTensor::f64(&ins[0].shape, y)]
    }
    fn grad(&self, g: &mut Graph, n: Site, dout: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        let Some(dy) = dout[0] else { return Ok(vec![None, None]) };
        let dx = g.apply(ScaleRows, &[dy, n.ins[1]])?;
        Ok(vec![Some(dx), Some(g.apply(RowDot, &[n.ins[0], dy])?)])
    }
    fn inplace(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        vec![&SCALE_ROWS_KERNEL]
    }
    fn launch(&self, o: &Operands, _: &Ctx) -> Vec<Launch> {
        rowwise(&SCALE_ROWS_KERNEL, o)
    }
    fn samples(&self) -> Vec<Sample> {
        let sample = |(name, dims, class): (&str, [Dim; 2], Class)| {
            Sample::new(name, ScaleRows).class(class).counts(row_counts()).normal(&dims, 11).normal(&dims[..1], 12)
        };
        row_shapes().into_iter().map(sample).collect()
    }
}

/// `y_r = ⟨a_r, b_r⟩`. Operands a `[R, D]`, b `[R, D]`, R may be ragged; output y `[R]`.
#[derive(Clone, Debug)]
pub struct RowDot;

pub static ROW_DOT: RowDot = RowDot;

static ROW_DOT_KERNEL: KernelDef = KernelDef {
    name: "row_dot",
    operands: &[read("a"), read("b"), write("y")],
    cpu: Some(cpu::row_dot),
    wgsl: Some(concat!(include_str!("../../../wgsl/row_dot.wgsl"), include_str!("../../../wgsl/sum64.wgsl"))),
    cuda: Some(&ptx::POINTWISE),
};

impl Op for RowDot {
    fn name(&self) -> &'static str {
        "row_dot"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        expect_rank(self.name(), ins, &[2, 2])?;
        expect_dtype(self.name(), ins, 0, DType::F32)?;
        expect_dtype(self.name(), ins, 1, DType::F32)?;
        expect_fixed(self.name(), "columns", ins[0].dim(1))?;
        same(self.name(), ins)?;
        Ok(vec![Meta::f32(&[ins[0].dim(0)])?])
    }
    fn reference(&self, ins: &[HostTensor], _: &Counts) -> Vec<HostTensor> {
        let [rows, cols] = [ins[0].dim(0), ins[0].dim(1)];
        let row = |i: usize, r: usize| ins[i].x()[r * cols..][..cols].iter();
        let y = (0..rows).map(|r| row(0, r).zip(row(1, r)).map(|(a, b)| a * b).sum()).collect();
        vec![HostTensor::f64(&[rows], y)]
    }
    fn grad(&self, g: &mut Graph, n: Site, dout: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        let Some(dy) = dout[0] else { return Ok(vec![None, None]) };
        let [da, db] = [n.ins[1], n.ins[0]].map(|other| g.apply(ScaleRows, &[other, dy]));
        Ok(vec![Some(da?), Some(db?)])
    }
    fn cost(&self, ins: &[Meta], outs: &[Meta]) -> Cost {
        Cost { flops: 2 * ins[0].elements(), ..Cost::traffic(ins, outs) }
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        vec![&ROW_DOT_KERNEL]
    }
    fn launch(&self, o: &Operands, _: &Ctx) -> Vec<Launch> {
        rowwise(&ROW_DOT_KERNEL, o)
    }
    fn samples(&self) -> Vec<Sample> {
        let sample = |(name, dims, class): (&str, [Dim; 2], Class)| {
            Sample::new(name, RowDot).class(class).counts(row_counts()).normal(&dims, 11).normal(&dims, 12)
        };
        row_shapes().into_iter().map(sample).collect()
    }
}

/// A launch over the rows of operand 0.
fn rowwise(kernel: &'static KernelDef, o: &Operands) -> Vec<Launch> {
    let [rows, cols] = [o.ins[0].dim(0), o.ins[0].dim(1)];
    let params = Params::new().size(rows).size(cols);
    vec![Launch { kernel, params, groups: groups(rows.cap() as u64, 1), args: o.all() }]
}

fn row_counts() -> Counts {
    Counts::default().with(Axis(0), 7)
}

/// The shapes that break row-wise kernels.
fn row_shapes() -> [(&'static str, [Dim; 2], Class); 7] {
    let fixed = Dim::Fixed;
    [
        ("empty", [fixed(0), fixed(3)], Class::Tiny),
        ("no columns", [fixed(3), fixed(0)], Class::Tiny),
        ("one", [fixed(1), fixed(1)], Class::Tiny),
        ("prime", [fixed(31), fixed(37)], Class::Tiny),
        ("ragged", [Dim::Ragged(Axis(0), 11), fixed(20)], Class::Tiny),
        ("large", [fixed(1031), fixed(515)], Class::Full),
        ("24576x512", [fixed(24_576), fixed(512)], Class::Bench),
    ]
}

/// The shapes that break elementwise kernels: none, one, a prime, ragged, more than one dispatch covers.
fn shapes(op: &(impl Op + Clone + 'static), label: &str, operands: u64) -> Vec<Sample> {
    let fixed = Dim::Fixed;
    let counts = Counts::default().with(Axis(1), 5);
    let cases: [(&str, Vec<Dim>, Class); 5] = [
        ("empty", vec![fixed(0), fixed(3)], Class::Tiny),
        ("one", vec![fixed(1)], Class::Tiny),
        ("prime", vec![fixed(31), fixed(7)], Class::Tiny),
        ("ragged", vec![Dim::Ragged(Axis(1), 9), fixed(5)], Class::Tiny),
        ("large", vec![fixed(517), fixed(1031)], Class::Full),
    ];
    (cases.into_iter())
        .map(|(name, dims, class)| {
            let sample = Sample::new(format!("{label} {name}"), op.clone()).class(class).counts(counts);
            (0..operands).fold(sample, |s, i| s.normal(&dims, 11 + i))
        })
        .collect()
}
