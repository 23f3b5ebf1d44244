//! Which experts a row meets: its largest logits, and the rows in the order of their experts.

use super::super::backend::cpu::route as cpu;
use super::super::graph::{Graph, Value};
use super::super::tensor::{Axis, Counts, DType, Dim, HostTensor, Meta};
use super::{
    Class, Cost, Ctx, Gradient, KernelDef, Launch, Op, Operands, Params, Sample, Site, expect_dtype, expect_fixed,
    expect_rank, groups, no_gradient, noise, ptx, read, read_u32, write, write_u32,
};
use crate::error::{Error, Result};

/// The most experts there may be.
pub const MOST_EXPERTS: usize = 64;

/// The `slots` largest logits of each row, largest first; of equal ones the lower expert stands first, and a NaN behind
/// every number.
///
/// Operand `logits [R, K]`, slots ≤ K ≤ 64; R may be ragged. Outputs:
/// - `picked [R, k]`: those logits, the only output with a gradient;
/// - `table` u32 `[R, k]`: the expert of each slot;
/// - `order` u32 `[R, k]`: the slot numbers r·k + s sorted by expert, then by number: what dispatches rows to experts;
/// - `offsets` u32 `[K + 1]`: where each expert's run begins in `order`, and behind them R·k.
#[derive(Clone, Debug)]
pub struct Route {
    pub slots: usize,
}

pub static ROUTE: Route = Route { slots: 2 };

static ROUTE_KERNEL: KernelDef = KernelDef {
    name: "route",
    operands: &[read("logits"), write("picked"), write_u32("table")],
    cpu: Some(cpu::route),
    wgsl: Some(include_str!("../../../wgsl/route.wgsl")),
    cuda: Some(&ptx::EXPERTS),
};

static ROUTE_ORDER_KERNEL: KernelDef = KernelDef {
    name: "route_order",
    operands: &[read_u32("table"), write_u32("order"), write_u32("offsets")],
    cpu: Some(cpu::route_order),
    wgsl: Some(include_str!("../../../wgsl/route_order.wgsl")),
    cuda: Some(&ptx::EXPERTS),
};

/// That there are experts, and no more than all of them are picked.
pub(super) fn expect_experts(op: &str, experts: usize, slots: usize) -> Result<()> {
    if (1..=MOST_EXPERTS).contains(&experts) && (1..=experts).contains(&slots) {
        return Ok(());
    }
    let rule = format!("takes 1 to {MOST_EXPERTS} experts and as many slots at most");
    Err(Error::shape(op, format!("{rule}, and got {experts} experts and {slots} slots")))
}

impl Op for Route {
    fn name(&self) -> &'static str {
        "route"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        expect_rank(self.name(), ins, &[2])?;
        expect_dtype(self.name(), ins, 0, DType::F32)?;
        let experts = expect_fixed(self.name(), "experts", ins[0].dim(1))?;
        expect_experts(self.name(), experts, self.slots)?;
        let dims = [ins[0].dim(0), Dim::Fixed(self.slots)];
        let offsets = Meta::u32(&[Dim::Fixed(experts + 1)])?;
        Ok(vec![Meta::f32(&dims)?, Meta::u32(&dims)?, Meta::u32(&dims)?, offsets])
    }
    fn reference(&self, ins: &[HostTensor], _: &Counts) -> Vec<HostTensor> {
        let [rows, experts] = [ins[0].dim(0), ins[0].dim(1)];
        let (mut picked, mut table) = (vec![], vec![]);
        for logits in ins[0].x().chunks(experts) {
            let mut all: Vec<u32> = (0..experts as u32).collect();
            // Adding 0 makes −0 equal to 0; the sort is stable.
            let key = |e: &u32| logits[*e as usize] + 0.0;
            all.sort_by(|a, b| key(a).is_nan().cmp(&key(b).is_nan()).then(key(b).total_cmp(&key(a))));
            picked.extend(all[..self.slots].iter().map(|e| logits[*e as usize]));
            table.extend_from_slice(&all[..self.slots]);
        }
        let mut order: Vec<u32> = (0..table.len() as u32).collect();
        order.sort_by_key(|slot| table[*slot as usize]);
        let offsets = (0..=experts as u32).map(|e| table.iter().filter(|t| **t < e).count() as u32).collect();
        let dims = [rows, self.slots];
        vec![
            HostTensor::f64(&dims, picked),
            HostTensor::u32(&dims, table),
            HostTensor::u32(&dims, order),
            HostTensor::u32(&[experts + 1], offsets),
        ]
    }
    fn grad(&self, g: &mut Graph, n: Site, dout: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        let Some(dpicked) = dout[0] else { return Ok(vec![None]) };
        let experts = g.meta(n.ins[0]).dim(1).cap();
        Ok(vec![Some(g.apply(RouteGrad { experts }, &[dpicked, n.outs[1]])?)])
    }
    fn cost(&self, ins: &[Meta], outs: &[Meta]) -> Cost {
        Cost { flops: ins[0].elements() * self.slots as u64, ..Cost::traffic(ins, outs) }
    }
    fn optional(&self) -> &'static [usize] {
        &[2, 3]
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        vec![&ROUTE_KERNEL, &ROUTE_ORDER_KERNEL]
    }
    fn launch(&self, o: &Operands, _: &Ctx) -> Vec<Launch> {
        let [rows, experts] = [o.ins[0].dim(0), o.ins[0].dim(1)];
        let params = Params::new().size(rows).u32(experts.cap()).u32(self.slots);
        let mut launches = vec![Launch {
            kernel: &ROUTE_KERNEL,
            params: params.clone(),
            groups: groups(rows.cap() as u64, 256),
            args: vec![o.input(0), o.output(0), o.output(1)],
        }];
        let wanted = [2, 3].map(|i| !o.outs[i].is_absent());
        if wanted.contains(&true) {
            launches.push(Launch {
                kernel: &ROUTE_ORDER_KERNEL,
                params: params.u32(wanted[0] as usize).u32(wanted[1] as usize),
                groups: groups(experts.cap() as u64, 1),
                args: vec![o.output(1), o.output(2), o.output(3)],
            });
        }
        launches
    }
    fn samples(&self) -> Vec<Sample> {
        let mut samples: Vec<Sample> = (cases().into_iter())
            .map(|case| case.sample(Route { slots: case.slots }).normal(&case.dims(case.experts), 3))
            .collect();
        type Change = fn(usize, &mut f64);
        let awkward: [(&str, Change); 2] = [
            ("ties", |_, x| *x = (*x * 2.0).round() / 2.0),
            ("NaN among numbers", |i, x| {
                if i % 6 == 4 {
                    *x = f64::NAN;
                }
            }),
        ];
        for (name, change) in awkward {
            let sample = Sample::new(name, Route { slots: 4 }).gradient(Gradient::Surrogate);
            samples.push(sample.with(DType::F32, &[Dim::Fixed(301), Dim::Fixed(6)], |sizes| {
                let mut x = noise(sizes, 4);
                x.x_mut().iter_mut().enumerate().for_each(|(i, x)| change(i, x));
                x
            }));
        }
        samples
    }
}

/// `dlogits[r, table[r, s]] = dpicked[r, s]`, 0 elsewhere: the gradient of [`Route`]. Operands `dpicked [R, k]`, `table`
/// u32 `[R, k]`; output `[R, experts]`. An expert beyond those there are is passed over.
#[derive(Clone, Debug)]
pub struct RouteGrad {
    pub experts: usize,
}

pub static ROUTE_GRAD: RouteGrad = RouteGrad { experts: 4 };

static ROUTE_GRAD_KERNEL: KernelDef = KernelDef {
    name: "route_grad",
    operands: &[read("dpicked"), read_u32("table"), write("dlogits")],
    cpu: Some(cpu::route_grad),
    wgsl: Some(include_str!("../../../wgsl/route_grad.wgsl")),
    cuda: Some(&ptx::EXPERTS),
};

impl Op for RouteGrad {
    fn name(&self) -> &'static str {
        "route_grad"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        expect_rank(self.name(), ins, &[2, 2])?;
        expect_dtype(self.name(), ins, 0, DType::F32)?;
        let slots = expect_fixed(self.name(), "slots", ins[0].dim(1))?;
        expect_experts(self.name(), self.experts, slots)?;
        expect_table(self.name(), &ins[1], ins[0].dim(0), slots)?;
        Ok(vec![Meta::f32(&[ins[0].dim(0), Dim::Fixed(self.experts)])?])
    }
    fn reference(&self, ins: &[HostTensor], _: &Counts) -> Vec<HostTensor> {
        let [rows, slots] = [ins[0].dim(0), ins[0].dim(1)];
        let mut dlogits = HostTensor::zeros(&[rows, self.experts]);
        for (i, (d, e)) in ins[0].x().iter().zip(ins[1].u()).enumerate() {
            if (*e as usize) < self.experts {
                dlogits.x_mut()[i / slots * self.experts + *e as usize] += d;
            }
        }
        vec![dlogits]
    }
    fn grad(&self, _: &mut Graph, _: Site, _: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        no_gradient(self.name(), "no model differentiates twice")
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        vec![&ROUTE_GRAD_KERNEL]
    }
    fn launch(&self, o: &Operands, _: &Ctx) -> Vec<Launch> {
        let params = Params::new().size(o.ins[0].dim(0)).u32(self.experts).u32(o.ins[0].dim(1).cap());
        let items = o.outs[0].elements();
        vec![Launch { kernel: &ROUTE_GRAD_KERNEL, params, groups: groups(items, 256), args: o.all() }]
    }
    fn samples(&self) -> Vec<Sample> {
        (cases().into_iter())
            .map(|case| {
                let sample = case.sample(RouteGrad { experts: case.experts });
                let sample = sample.gradient(Gradient::None("is itself a gradient"));
                let dispatch = Dispatch::new(case.rows.len(&case.counts), case.experts, case.slots);
                sample.normal(&case.dims(case.slots), 5).with(DType::U32, &case.dims(case.slots), |_| dispatch.table)
            })
            .collect()
    }
}

/// That `table` names an expert for each of a row's slots.
pub(super) fn expect_table(op: &str, table: &Meta, rows: Dim, slots: usize) -> Result<()> {
    let wanted = Meta::u32(&[rows, Dim::Fixed(slots)])?;
    if *table == wanted { Ok(()) } else { Err(Error::shape(op, format!("the table must be {wanted} and is {table}"))) }
}

/// A routing for samples of the ops that follow it. The last expert is met by few rows, or by none.
pub(super) struct Dispatch {
    pub table: HostTensor,
    pub order: HostTensor,
    pub offsets: HostTensor,
}

impl Dispatch {
    pub fn new(rows: usize, experts: usize, slots: usize) -> Dispatch {
        let mut logits = noise(&[rows, experts], 41);
        logits.x_mut().iter_mut().skip(experts - 1).step_by(experts).for_each(|x| *x -= 3.0);
        let [_, table, order, offsets] =
            <[HostTensor; 4]>::try_from(Route { slots }.reference(&[logits], &Counts::default()))
                .unwrap_or_else(|_| std::array::from_fn(|_| HostTensor::absent()));
        Dispatch { table, order, offsets }
    }
}

/// A sample's sizes.
struct Case {
    name: &'static str,
    rows: Dim,
    experts: usize,
    slots: usize,
    counts: Counts,
    class: Class,
}

impl Case {
    fn sample(&self, op: impl Op + 'static) -> Sample {
        Sample::new(self.name, op).class(self.class).counts(self.counts).tolerance(0.0)
    }
    fn dims(&self, cols: usize) -> [Dim; 2] {
        [self.rows, Dim::Fixed(cols)]
    }
}

fn cases() -> [Case; 8] {
    let counts = Counts::default().with(Axis(0), 37);
    let case = |name, rows, experts, slots, class| Case { name, rows, experts, slots, counts, class };
    let fixed = Dim::Fixed;
    [
        case("nothing", fixed(0), 4, 2, Class::Tiny),
        case("one", fixed(1), 1, 1, Class::Tiny),
        case("prime", fixed(31), 7, 3, Class::Tiny),
        case("ragged", Dim::Ragged(Axis(0), 53), 5, 2, Class::Tiny),
        case("all of them", fixed(19), 4, 4, Class::Tiny),
        case("more rows than a block", fixed(263), 16, 4, Class::Tiny),
        case("large", fixed(2503), 64, 16, Class::Full),
        case("8192 rows, 4 of 16", fixed(8192), 16, 4, Class::Bench),
    ]
}
