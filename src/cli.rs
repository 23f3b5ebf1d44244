//! The `moviola` program: one file a command. Results go to standard output, everything else to standard error.

mod bench;
mod claims;
mod completions;
mod data;
mod demo;
mod device;
mod doctor;
mod encode;
mod eval;
mod explain;
mod index;
mod output;
mod plan;
mod progress;
mod query;
mod score;
mod search;
mod settings;
mod split;
mod stills;
mod train;

use crate::engine::op::Precision;
use crate::error::{Error, Result};
use clap::{Args, Parser, Subcommand};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

/// Set by Ctrl-C; long work looks at it, keeps what is done and ends.
static STOP: AtomicBool = AtomicBool::new(false);

/// Finds the videos for a text and the texts for a video, and shows why.
#[derive(Parser)]
#[command(name = "moviola", version, about, arg_required_else_help = true, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  moviola demo                                            everything in one go, on data it makes
  moviola data world --out world                          a small generated data set
  moviola train --data world --model token-interaction --out run
  moviola eval retrieval --model run --data world
  moviola search --model run --data world --caption event7
  moviola index clips --encoder clip-vit-base-patch32 --out library
  moviola search 'a dog jumps into a lake' --index library --out hits.html
  moviola doctor                                          what this machine can do";

/// What `--precision` takes.
#[derive(clap::ValueEnum, Copy, Clone, Debug)]
enum Products {
    F32,
    Bf16,
    Int8,
}

impl From<Products> for Precision {
    fn from(p: Products) -> Precision {
        match p {
            Products::F32 => Precision::F32,
            Products::Bf16 => Precision::Bf16,
            Products::Int8 => Precision::Int8,
        }
    }
}

/// Flags that every command has.
#[derive(Args, Clone)]
pub(crate) struct Common {
    /// Where to compute: auto, cpu, cuda, cuda:N, wgpu or wgpu:N. auto takes a real GPU if there is one, else the CPU.
    #[arg(long, global = true, default_value = "auto", value_name = "DEVICE")]
    device: String,
    /// How matrix products are computed: bf16 takes tensor cores (cuda only); int8 is for products with weights, and not for
    /// training; all else stays f32.
    #[arg(long, global = true, default_value = "f32")]
    precision: Products,
    /// CPU threads; 0 means all cores. Results do not depend on it.
    #[arg(long, global = true, default_value_t = 0, value_name = "N")]
    threads: usize,
    /// Print the result as JSON on standard output.
    #[arg(long, global = true)]
    json: bool,
    /// No progress bars and no notes.
    #[arg(long, short, global = true)]
    quiet: bool,
}

#[derive(Subcommand)]
enum Command {
    Demo(demo::Demo),
    Train(train::Train),
    Eval(eval::Eval),
    Score(score::Score),
    Search(search::Search),
    Explain(explain::Explain),
    Data(data::Data),
    Encode(encode::Encode),
    Index(index::IndexCommand),
    Claims(claims::Claims),
    Bench(bench::Bench),
    Plan(plan::PlanCommand),
    Doctor(doctor::Doctor),
    Completions(completions::Completions),
}

/// Runs the program with the process's arguments.
pub fn main() -> ExitCode {
    let cli = Cli::try_parse().unwrap_or_else(|e| {
        if e.use_stderr() && std::env::args().any(|a| a == "--json") {
            let _ = output::line(&serde_json::json!({ "error": e.to_string().trim_end() }).to_string());
        }
        e.exit()
    });
    // A second Ctrl-C ends the process at once; without a handler the first one does, which loses nothing either.
    let _ = ctrlc::set_handler(|| {
        if STOP.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
        eprintln!("\nstopping; what is done is kept (press again to end at once)");
    });
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Error::Stopped) => {
            eprintln!("moviola: {}", Error::Stopped);
            ExitCode::from(130)
        }
        Err(e) => {
            // Standard output is one document: where the result itself says what is wrong, it stays alone.
            if cli.common.json && !output::is_told() {
                // The exit status says it in any case.
                let _ = output::line(&serde_json::json!({ "error": e.to_string() }).to_string());
            }
            eprintln!("moviola: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    let common = &cli.common;
    match &cli.command {
        Command::Demo(c) => c.run(common),
        Command::Train(c) => c.run(common),
        Command::Eval(c) => c.run(common),
        Command::Score(c) => c.run(common),
        Command::Search(c) => c.run(common),
        Command::Explain(c) => c.run(common),
        Command::Data(c) => c.run(common),
        Command::Encode(c) => c.run(common),
        Command::Index(c) => c.run(common),
        Command::Claims(c) => c.run(common),
        Command::Bench(c) => c.run(common),
        Command::Plan(c) => c.run(common),
        Command::Doctor(c) => c.run(common),
        Command::Completions(c) => c.run(),
    }
}
