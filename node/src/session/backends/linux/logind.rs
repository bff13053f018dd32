//! Signing out through logind, which ends all that belongs to the login: `org.freedesktop.login1` on the system's bus, spoken to
//! by systemd's own `busctl`.

use std::{
    io,
    process::{Command, Stdio},
};

use super::super::{SignOut, Undone};

const SERVICE: &str = "org.freedesktop.login1";
const MANAGER: &str = "/org/freedesktop/login1";
const MANAGER_INTERFACE: &str = "org.freedesktop.login1.Manager";
const SESSION_INTERFACE: &str = "org.freedesktop.login1.Session";
/// For a bus that does not answer; somebody waits.
const TIMEOUT: &str = "--timeout=5";

/// The login that this program belongs to.
#[derive(Debug)]
pub(super) struct Logind {
    /// Its path on the bus.
    session: String,
}

impl Logind {
    /// `None`: there is no logind, or this program belongs to nobody's login.
    pub(super) fn find() -> Option<Self> {
        let pid = std::process::id().to_string();
        let of_process = || call(MANAGER, MANAGER_INTERFACE, "GetSessionByPID", &["u", &pid]);
        // A service of the user's belongs to no login itself; to which one it does, is said there.
        let said = std::env::var("XDG_SESSION_ID").ok();
        let of_name = |id: String| call(MANAGER, MANAGER_INTERFACE, "GetSession", &["s", &id]);
        let answer = of_process().or_else(|error| said.map_or(Err(error), of_name));
        let session = object_path(&answer.ok()?)?;
        Some(Self { session })
    }
}

impl SignOut for Logind {
    fn sign_out(&mut self) -> Result<(), Undone> {
        call(&self.session, SESSION_INTERFACE, "Terminate", &[])
            .map(drop)
            .map_err(|error| Undone(format!("logind: {error}")))
    }
}

/// What `busctl` prints of the answer.
fn call(path: &str, interface: &str, method: &str, arguments: &[&str]) -> io::Result<String> {
    let output = Command::new("busctl")
        .args([
            "--system", TIMEOUT, "call", SERVICE, path, interface, method,
        ])
        .args(arguments)
        .stdin(Stdio::null())
        .output()?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(io::Error::other(
            String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        )),
    }
}

/// Of `o "/org/freedesktop/login1/session/_33"`.
fn object_path(answer: &str) -> Option<String> {
    let path = answer.trim().strip_prefix("o \"")?.strip_suffix('"')?;
    path.starts_with(MANAGER).then(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_session_of_logind_is_one() {
        let path = "/org/freedesktop/login1/session/_33";
        assert_eq!(
            object_path(&format!("o \"{path}\"\n")).as_deref(),
            Some(path)
        );
        for other in ["", "o \"\"", "s \"x\"", "o \"/org/else\""] {
            assert_eq!(object_path(other), None);
        }
    }
}
