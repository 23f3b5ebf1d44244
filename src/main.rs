//! The `moviola` program.

fn main() -> std::process::ExitCode {
    moviola::cli::main()
}
