//! Ops made for these tests: what the planner must refuse, and where it must not overwrite.

mod graphs;

use graphs::*;
use moviola::engine::backend::cpu::Call;
use moviola::engine::backend::null::prove;
use moviola::engine::graph::{Graph, Value};
use moviola::engine::op::{
    Arg, Ctx, KernelDef, Launch, Op, Operands, Params, Sample, Site, Target, groups, read, update, write,
};
use moviola::engine::scheduler::plan::{Command, Plan, StateLayout, plan};
use moviola::engine::tensor::{Counts, HostTensor, Meta};
use moviola::error::{Error, Result};

/// y = 2x in two launches: the first copies x into y, the second adds x to it. The pair (0, 0) is declared, as if
/// each launch alone had been thought of.
#[derive(Clone, Debug)]
struct Twice {
    /// Reads its input in the second launch again, or the first launch's copy in scratch memory.
    scratch: bool,
    /// Breaks one promise.
    broken: Broken,
}

#[derive(Copy, Clone, Debug, PartialEq)]
enum Broken {
    Nothing,
    NoLaunch,
    InputThatIsNone,
    ScratchOutOfBounds,
    ScratchUnaligned,
    TooManyArguments,
    TooManyGroups,
}

static COPY: KernelDef =
    KernelDef { name: "test_copy", operands: &[read("x"), write("y")], cpu: Some(copy), wgsl: None, cuda: None };
static ADD: KernelDef =
    KernelDef { name: "test_add", operands: &[read("x"), update("y")], cpu: Some(sum), wgsl: None, cuda: None };
static BOTH: KernelDef = KernelDef {
    name: "test_copy_twice",
    operands: &[read("x"), write("y"), write("z")],
    cpu: Some(copy_twice),
    wgsl: None,
    cuda: None,
};

fn copy(call: &mut Call) {
    let [x, mut y] = call.args();
    if !x.is_overwritten() {
        y.f32_mut().copy_from_slice(x.f32());
    }
}

fn sum(call: &mut Call) {
    let [x, mut y] = call.args();
    y.f32_mut().iter_mut().zip(x.f32()).for_each(|(y, x)| *y += x);
}

fn copy_twice(call: &mut Call) {
    let [x, mut y, mut z] = call.args();
    if x.is_overwritten() {
        z.f32_mut().copy_from_slice(y.f32());
    } else {
        y.f32_mut().copy_from_slice(x.f32());
        z.f32_mut().copy_from_slice(x.f32());
    }
}

impl Op for Twice {
    fn name(&self) -> &'static str {
        "twice"
    }
    fn infer(&self, ins: &[Meta]) -> Result<Vec<Meta>> {
        Ok(vec![ins[0].clone()])
    }
    fn reference(&self, ins: &[HostTensor], _: &Counts) -> Vec<HostTensor> {
        vec![HostTensor::f64(&ins[0].shape, ins[0].x().iter().map(|x| 2.0 * x).collect())]
    }
    fn grad(&self, _: &mut Graph, _: Site, _: &[Option<Value>]) -> Result<Vec<Option<Value>>> {
        Ok(vec![None])
    }
    fn inplace(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
    }
    fn kernels(&self) -> Vec<&'static KernelDef> {
        vec![&COPY, &ADD, &BOTH]
    }
    fn workspace(&self, ins: &[Meta], _: &Ctx) -> u64 {
        if self.scratch { ins[0].bytes() } else { 0 }
    }
    fn launch(&self, o: &Operands, _: &Ctx) -> Vec<Launch> {
        let bytes = o.ins[0].bytes();
        let [x, y, work] = [Arg::In(0), Arg::Out(0), Arg::Work { offset: 0, bytes }];
        let launch = |kernel, args: Vec<Arg>| Launch { kernel, params: Params::new(), groups: groups(1, 1), args };
        let mut launches = match self.scratch {
            true => vec![launch(&BOTH, vec![x, y, work]), launch(&ADD, vec![work, y])],
            false => vec![launch(&COPY, vec![x, y]), launch(&ADD, vec![x, y])],
        };
        match self.broken {
            Broken::Nothing => {}
            Broken::NoLaunch => launches.clear(),
            Broken::InputThatIsNone => launches[0].args[0] = Arg::In(1),
            Broken::ScratchOutOfBounds => launches[1].args[0] = Arg::Work { offset: 256, bytes },
            Broken::ScratchUnaligned => launches[1].args[0] = Arg::Work { offset: 4, bytes: 4 },
            Broken::TooManyArguments => launches[0].args.push(Arg::Absent),
            Broken::TooManyGroups => launches[0].groups[1] = 65_536,
        }
        launches
    }
    fn samples(&self) -> Vec<Sample> {
        vec![]
    }
}

fn twice(scratch: bool) -> Twice {
    Twice { scratch, broken: Broken::Nothing }
}

#[track_caller]
fn proven(g: &Graph) -> Plan {
    let p = plan("test", g, &StateLayout::of([g]).unwrap(), &ctx()).unwrap();
    prove(g, &p, &ctx()).unwrap_or_else(|e| panic!("{e}\n{}", p.dump()));
    assert_eq!(run_plan(&mut Runner::new(), g, &p, seed()).unwrap(), None, "{}", p.dump());
    p
}

#[test]
fn an_input_that_a_later_launch_reads_is_not_overwritten_by_an_earlier() {
    let mut g = Graph::new();
    let x = g.input("x", f32s(&[70]));
    let a = g.apply(affine(3.0, 0.0), &[x]).unwrap();
    let y = g.apply(twice(false), &[a]).unwrap();
    let z = g.apply(affine(1.0, 1.0), &[y]).unwrap();
    g.output("z", z);
    assert_eq!(proven(&g).bytes.arena, 1024, "two buffers of 70 words");
    // With a copy in scratch memory the second launch does not need the input.
    let mut g = Graph::new();
    let x = g.input("x", f32s(&[70]));
    let a = g.apply(affine(3.0, 0.0), &[x]).unwrap();
    let y = g.apply(twice(true), &[a]).unwrap();
    let z = g.apply(affine(1.0, 1.0), &[y]).unwrap();
    g.output("z", z);
    assert_eq!(proven(&g).bytes.arena, 1024, "one buffer and one of scratch");
}

#[test]
fn a_state_that_a_later_launch_reads_is_not_overwritten_by_an_earlier() {
    for scratch in [false, true] {
        let mut g = Graph::new();
        let s = g.state("s", f32s(&[70]));
        let y = g.apply(twice(scratch), &[s]).unwrap();
        g.assign(s, y).unwrap();
        let copies = proven(&g).commands.iter().filter(|c| matches!(c, Command::Copy { .. })).count();
        assert_eq!(copies, usize::from(!scratch));
    }
}

#[test]
fn an_op_without_a_kernel_for_the_target_is_an_error_that_names_both() {
    let mut g = Graph::new();
    let x = g.input("x", f32s(&[3]));
    let y = g.apply(twice(false), &[x]).unwrap();
    g.output("y", y);
    let wgsl = Ctx { target: Target::Wgsl, ..ctx() };
    let e = plan("", &g, &StateLayout::default(), &wgsl).unwrap_err();
    assert!(matches!(&e, Error::Unsupported { op, backend } if op == "twice" && backend == "wgsl"), "{e:?}");
    assert!(e.to_string().starts_with("twice has no kernel for the wgsl back end"), "{e}");
    assert!(plan("", &g, &StateLayout::default(), &ctx()).is_ok());
}

#[test]
fn launches_that_do_not_fit_their_kernel_are_refused() {
    let broken = [
        Broken::NoLaunch,
        Broken::InputThatIsNone,
        Broken::ScratchOutOfBounds,
        Broken::ScratchUnaligned,
        Broken::TooManyArguments,
        Broken::TooManyGroups,
    ];
    for broken in broken {
        let mut g = Graph::new();
        let x = g.input("x", f32s(&[70]));
        let y = g.apply(Twice { scratch: true, broken }, &[x]).unwrap();
        g.output("y", y);
        let e = plan("", &g, &StateLayout::default(), &ctx()).expect_err(&format!("{broken:?} is planned"));
        assert!(e.to_string().contains("twice"), "{broken:?}: {e}");
    }
}
