//! Tests in a process whose CUDA driver is the one that `tools/emulator` plays.
#![allow(dead_code)] // every test program uses a part

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Set in processes that these tests start.
const CHILD: &str = "MOVIOLA_TEST_EMULATED";

/// The folder with the emulator's `libcuda.so`, built if it must be.
pub fn emulator() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/emulator");
    let built = Command::new(env!("CARGO"))
        .args(["build", "--release", "--locked", "--quiet", "--manifest-path"])
        .arg(root.join("Cargo.toml"))
        .env_remove("CARGO_TARGET_DIR")
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    root.join("target/release")
}

pub fn words(out: &Output) -> String {
    String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
}

/// Runs `body` in a process of its own, which is this test again, with the emulator for a driver.
pub fn in_emulation(test: &str, body: impl FnOnce()) {
    in_emulation_with(test, &[], body);
}

/// [`in_emulation`] with environment variables for the emulator.
pub fn in_emulation_with(test: &str, settings: &[(&str, &str)], body: impl FnOnce()) {
    if std::env::var_os(CHILD).is_some() {
        // Never a real GPU: some of what is run here is broken on purpose.
        let devices = moviola::engine::backend::cuda::list();
        assert!(devices.len() == 1 && devices[0].description.contains("emulator"), "{devices:?}");
        return body();
    }
    let out = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(CHILD, "1")
        .envs(settings.iter().copied())
        .env("LD_LIBRARY_PATH", emulator())
        .output()
        .unwrap();
    let text = words(&out);
    assert!(out.status.success() && text.contains("1 passed"), "{text}");
    print!("{}", String::from_utf8_lossy(&out.stdout));
}
