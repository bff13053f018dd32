//! The system's tools, in a namespace.

use std::{
    io::Write as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, bail, ensure};

/// What the lab is made with, and the Debian package that has it.
const TOOLS: [(&str, &str); 2] = [("nft", "nftables"), ("ip", "iproute2")];
/// Where Debian puts system tools; a user's `PATH` may lack it.
const SBIN: &str = "/usr/sbin";

/// Finds out whether they are there.
///
/// # Errors
/// One is not.
pub(crate) fn check() -> anyhow::Result<()> {
    for (tool, package) in TOOLS {
        if find(tool).is_none() {
            bail!("networks are made with `{tool}`: apt-get install {package}");
        }
    }
    Ok(())
}

fn find(tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([PathBuf::from(SBIN)]);
    let mut places = folders.map(|folder| folder.join(tool));
    places.find(|place| place.is_file())
}

/// Runs one with `input` wherever `spawn` does, and returns what it says.
///
/// # Errors
/// It is missing, or does not like what it is told: why, it has said on standard error.
pub(crate) fn run(
    spawn: impl FnOnce(Command) -> anyhow::Result<Child>,
    tool: &str,
    args: &[&str],
    input: &str,
) -> anyhow::Result<String> {
    let path = find(tool).with_context(|| format!("`{tool}` is gone"))?;
    let mut command = Command::new(path);
    command.args(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = spawn(command)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    ensure!(
        output.status.success(),
        "`{tool}` cannot make a network: {}",
        output.status
    );
    Ok(String::from_utf8(output.stdout)?)
}
