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

/// Whether no person has a login here: not at a screen, nor from elsewhere. What is not known counts as somebody.
pub(super) fn is_nobody_signed_in() -> bool {
    let Ok(answer) = call(MANAGER, MANAGER_INTERFACE, "ListSessions", &[]) else {
        return false;
    };
    let Some(sessions) = sessions(&answer) else {
        return false;
    };
    sessions.iter().all(|session| {
        let class = busctl("get-property", session, SESSION_INTERFACE, "Class", &[]);
        class.is_ok_and(|class| is_nobody(&class))
    })
}

/// Of `a(susso) 1 "3" 1000 "maria" "seat0" "/org/freedesktop/login1/session/_33"`.
fn sessions(answer: &str) -> Option<Vec<String>> {
    let mut rest = answer.trim().strip_prefix("a(susso) ")?.split(' ');
    let count: usize = rest.next()?.parse().ok()?;
    let path = |word: &str| object_path(&format!("o {word}"));
    let sessions: Vec<_> = rest.filter_map(path).collect();
    (sessions.len() == count).then_some(sessions)
}

/// Of `s "greeter"`: a login that no person has.
fn is_nobody(class: &str) -> bool {
    let class = class
        .trim()
        .trim_start_matches("s \"")
        .trim_end_matches('"');
    ["greeter", "lock-screen", "background", "manager"].contains(&class)
}

/// What `busctl` prints of the answer.
fn call(path: &str, interface: &str, method: &str, arguments: &[&str]) -> io::Result<String> {
    busctl("call", path, interface, method, arguments)
}

fn busctl(
    verb: &str,
    path: &str,
    interface: &str,
    member: &str,
    arguments: &[&str],
) -> io::Result<String> {
    let output = Command::new("busctl")
        .args(["--system", TIMEOUT, verb, SERVICE, path, interface, member])
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
    fn who_is_signed_in_is_read_from_every_session_or_not_at_all() {
        let path = "/org/freedesktop/login1/session/_3";
        let one = format!("\"3\" 1000 \"maria\" \"seat0\" \"{path}3\"");
        let other = format!("\"c1\" 108 \"gdm\" \"seat0\" \"{path}4\"");
        assert_eq!(sessions("a(susso) 0\n"), Some(Vec::new()));
        let two = sessions(&format!("a(susso) 2 {one} {other}\n"));
        assert_eq!(two, Some(vec![format!("{path}3"), format!("{path}4")]));
        assert_eq!(sessions(&format!("a(susso) 2 {one}\n")), None);
        assert_eq!(sessions(""), None);
        assert!(is_nobody("s \"greeter\"\n") && is_nobody("s \"manager\"\n"));
        for class in ["s \"user\"\n", "s \"user-early\"\n", "", "s \"\""] {
            assert!(!is_nobody(class), "{class}");
        }
    }

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
