//! What logind does: signing out, which ends all that belongs to the login, and restarting. `org.freedesktop.login1` on the system's
//! bus, spoken to by systemd's own `busctl`.

use std::{
    collections::BTreeSet,
    io,
    process::{Command, Stdio},
};

use serde_json::Value;

use super::super::{Restart, SignOut, Undone};

const SERVICE: &str = "org.freedesktop.login1";
const MANAGER: &str = "/org/freedesktop/login1";
const MANAGER_INTERFACE: &str = "org.freedesktop.login1.Manager";
const SESSION_INTERFACE: &str = "org.freedesktop.login1.Session";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
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
            .map_err(undone)
    }
}

/// Restarting, which logind permits this user without asking anybody.
#[derive(Debug)]
pub(super) struct Reboot;

impl Reboot {
    /// `None`: there is no logind, or it does not.
    pub(super) fn find() -> Option<Self> {
        let answer = call(MANAGER, MANAGER_INTERFACE, "CanReboot", &[]).ok()?;
        (answer == Value::from(vec!["yes"])).then_some(Self)
    }

    /// Whether somebody else is logged in, too (guide, E-13). A greeter is nobody; who cannot be told counts.
    pub(super) fn is_multi_user() -> bool {
        users().is_none_or(|users| users.len() > 1)
    }
}

impl Restart for Reboot {
    fn restart(&mut self) -> Result<(), Undone> {
        // Somebody may have come since the helper was told.
        if Self::is_multi_user() {
            return Err(Undone("somebody else is logged in".to_owned()));
        }
        call(MANAGER, MANAGER_INTERFACE, "Reboot", &["b", "false"])
            .map(drop)
            .map_err(undone)
    }
}

/// Whether no person has a login here: not at a screen, nor from elsewhere. What is not known counts as somebody.
pub(super) fn is_nobody_signed_in() -> bool {
    users().is_some_and(|users| users.is_empty())
}

/// Who is logged in, by number; `None`: logind does not say.
fn users() -> Option<BTreeSet<u64>> {
    let answer = call(MANAGER, MANAGER_INTERFACE, "ListSessions", &[]).ok()?;
    let mut users = BTreeSet::new();
    for (user, path) in sessions(&answer)? {
        let arguments = ["ss", SESSION_INTERFACE, "Class"];
        let Ok(class) = call(&path, PROPERTIES, "Get", &arguments) else {
            // It has just ended.
            continue;
        };
        // Also `user-early` and its like, which are as much somebody's.
        if class[0]["data"]
            .as_str()
            .is_none_or(|it| it.starts_with("user"))
        {
            users.insert(user);
        }
    }
    Some(users)
}

/// User and path of each, of `[[["3",1000,"maria","seat0","/org/freedesktop/login1/session/_33"], …]]`.
fn sessions(answer: &Value) -> Option<Vec<(u64, String)>> {
    let session = |session: &Value| {
        let path = object_path(&Value::from(vec![session[4].clone()]))?;
        Some((session[1].as_u64()?, path))
    };
    answer[0].as_array()?.iter().map(session).collect()
}

fn undone(error: io::Error) -> Undone {
    Undone(format!("logind: {error}"))
}

/// What was answered: the values, in their order.
fn call(path: &str, interface: &str, method: &str, arguments: &[&str]) -> io::Result<Value> {
    let output = Command::new("busctl")
        .args(["--system", "--json=short", TIMEOUT])
        .args(["call", SERVICE, path, interface, method])
        .args(arguments)
        .stdin(Stdio::null())
        .output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(io::Error::other(said));
    }
    // Nothing is said of an answer without values.
    let mut answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    Ok(answer["data"].take())
}

/// Of `["/org/freedesktop/login1/session/_33"]`.
fn object_path(answer: &Value) -> Option<String> {
    let path = answer[0].as_str()?;
    path.starts_with(MANAGER).then(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_session_of_logind_is_one() {
        let path = "/org/freedesktop/login1/session/_33";
        assert_eq!(object_path(&json!([path])).as_deref(), Some(path));
        for other in [json!(null), json!([]), json!([""]), json!(["/org/else"])] {
            assert_eq!(object_path(&other), None);
        }
        let listed = json!([[["3", 1000, "maria", "seat0", path]]]);
        assert_eq!(sessions(&listed), Some(vec![(1000, path.to_owned())]));
        for other in [
            json!(null),
            json!([[["3"]]]),
            json!([[["3", 1000, "maria", "", "/"]]]),
        ] {
            assert_eq!(sessions(&other), None);
        }
    }
}
