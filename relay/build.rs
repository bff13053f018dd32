//! Which commit this is: said by whoever builds a package (`REMORA_COMMIT`), else by git, where there is one.
//!
//! Git is asked when this runs, which is in a tree that was built before not at every commit: all that depends on the relay would be
//! compiled again.

use std::{env, process::Command};

const VARIABLE: &str = "REMORA_COMMIT";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={VARIABLE}");
    let said = env::var(VARIABLE).ok().filter(|said| is_commit(said));
    let commit = said.or_else(of_git).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env={VARIABLE}={commit}");
}

fn of_git() -> Option<String> {
    let asked = Command::new("git")
        .args(["rev-parse", "--short=12", "HEAD"])
        .output();
    let said = String::from_utf8(asked.ok()?.stdout).ok()?;
    Some(said.trim().to_owned()).filter(|said| is_commit(said))
}

/// A label is a few characters that need no escape.
fn is_commit(text: &str) -> bool {
    (7..=64).contains(&text.len()) && text.chars().all(|c| c.is_ascii_alphanumeric())
}
