//! `remora status`: the relay, and the sessions on this computer. Each running session keeps a small file in the
//! user's runtime folder, which only the user can read; it holds no code and no key.

use std::{
    env, fs,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::PathBuf,
};

use remora_proto::identity::Role;
use serde_json::{Value, json};

use crate::{
    cli,
    config::File,
    control::unix_ms,
    error::{Exit, Failure},
    event::role_name,
    node::Node,
    share::preflight,
    terminal::{self, console::print_data, screen::Screen},
};

/// `$XDG_RUNTIME_DIR/remora`, or a folder of the user's own below the temporary one.
fn folder() -> PathBuf {
    match env::var_os("XDG_RUNTIME_DIR") {
        Some(runtime) => PathBuf::from(runtime).join("remora"),
        None => env::temp_dir().join(format!("remora-{}", nix::unistd::getuid())),
    }
}

/// What this process tells about its session; taken down when dropped.
#[derive(Debug)]
pub struct Board {
    path: PathBuf,
    role: Role,
    shown: Option<String>,
    since_unix_ms: u64,
}

impl Board {
    /// A board for this process.
    pub fn new(role: Role) -> Self {
        let path = folder().join(format!("{}.json", std::process::id()));
        Self {
            path,
            role,
            shown: None,
            since_unix_ms: unix_ms(),
        }
    }

    /// Shows what `screen` shows, when that has changed. Best effort: a full disk must not end a session.
    pub fn show(&mut self, screen: &Screen) {
        let Some(mut session) = screen.summary() else {
            return;
        };
        session["pid"] = std::process::id().into();
        session["role"] = role_name(self.role).into();
        session["since_unix_ms"] = self.since_unix_ms.into();
        let text = session.to_string();
        if self.shown.as_ref() == Some(&text) {
            return;
        }
        if let Err(error) = self.write(&text) {
            tracing::debug!(%error, "status file");
        }
        self.shown = Some(text);
    }

    fn write(&self, text: &str) -> std::io::Result<()> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder())?;
        let mut options = fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&self.path)?;
        std::io::Write::write_all(&mut file, text.as_bytes())
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        if self.shown.is_some()
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::debug!(%error, "status file");
        }
    }
}

/// Sessions of processes that are still there; what a killed process left behind is swept.
fn sessions() -> Vec<Value> {
    let Ok(entries) = fs::read_dir(folder()) else {
        return Vec::new();
    };
    let mut sessions: Vec<Value> = entries
        .flatten()
        .filter_map(|entry| live_session(&entry.path()))
        .collect();
    sessions.sort_by_key(|session| session["pid"].as_i64());
    sessions
}

fn live_session(path: &std::path::Path) -> Option<Value> {
    let session: Value = serde_json::from_str(&fs::read_to_string(path).ok()?).ok()?;
    let pid = nix::unistd::Pid::from_raw(i32::try_from(session["pid"].as_i64()?).ok()?);
    if nix::sys::signal::kill(pid, None).is_ok() {
        return Some(session);
    }
    if let Err(error) = fs::remove_file(path) {
        tracing::debug!(%error, "stale status file");
    }
    None
}

/// `remora status`
///
/// # Errors
/// The relay cannot be reached; the sessions are printed all the same.
pub async fn run(file: &File, args: cli::Status) -> Result<Exit, Failure> {
    let relay = file.relay(args.common.relay.clone())?;
    let node = Node::connect(&relay, terminal::options(&args.common)).await;
    let sessions = sessions();
    let report = match &node {
        Ok(node) => {
            let (control, welcome) = (node.control(), &node.control().welcome);
            json!({
                "v": 1, "relay": {
                    "address": relay.host_port, "name": welcome.relay_name, "reachable": true,
                    "rtt_ms": control.rtt().as_secs_f64() * 1e3, "observed_address": welcome.observed_address,
                    "transport": if node.is_by_tcp() { "tcp" } else { "udp" },
                    "realm": welcome.realm, "protocol": welcome.protocol,
                }, "sessions": sessions,
            })
        }
        Err(failure) => json!({
            "v": 1, "relay": {"address": relay.host_port, "reachable": false, "error": failure.code},
            "sessions": sessions,
        }),
    };
    if args.common.json {
        print_data(&report.to_string())?;
    } else {
        print_report(&report, node.as_ref().err())?;
    }
    node?.close().await;
    Ok(Exit::Ok)
}

/// `remora preflight`
///
/// # Errors
/// The screen cannot be shared: with what to do first.
pub fn preflight(args: &cli::Preflight) -> Result<Exit, Failure> {
    let findings = preflight::preflight(None);
    let can_share = preflight::can_share(&findings);
    if args.json {
        let list: Vec<Value> = findings
            .iter()
            .map(|found| {
                json!({"what": found.what, "ok": found.ok, "optional": found.optional,
                       "detail": found.detail, "fix": found.fix})
            })
            .collect();
        print_data(&json!({"v": 1, "can_share": can_share, "findings": list}).to_string())?;
    } else {
        for found in &findings {
            let mark = if found.ok { "ok     " } else { "missing" };
            print_data(&format!(
                "{mark}  {}  {}  {}",
                found.what, found.detail, found.fix
            ))?;
        }
    }
    let missing = findings.iter().find(|found| !found.ok && !found.optional);
    match missing {
        Some(found) => Err(Failure::new(
            Exit::Error,
            "PREFLIGHT",
            format!(
                "this screen cannot be shared: {} is missing; {}",
                found.what, found.fix
            ),
        )),
        None => Ok(Exit::Ok),
    }
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or("–")
}

/// In a word or two what is wrong with the relay; what to do about it is said after the report.
fn trouble(failure: &Failure) -> &'static str {
    match failure.code {
        "RELAY_KEY" => "answers with another key than its address says",
        "VERSION_MISMATCH" => "speaks another version of the protocol",
        "CLOCK_OFF" => "its clock and this computer's are far apart",
        _ if failure.exit == Exit::Offline => "not reachable",
        _ => "cannot be used",
    }
}

fn print_report(report: &Value, failure: Option<&Failure>) -> Result<(), Failure> {
    let relay = &report["relay"];
    match failure {
        Some(failure) => print_data(&format!(
            "relay {} · {}",
            text(relay, "address"),
            trouble(failure)
        ))?,
        None => print_data(&format!(
            "relay {} at {} · {:.1} ms · {} · seen as {} · realm {}",
            text(relay, "name"),
            text(relay, "address"),
            relay["rtt_ms"].as_f64().unwrap_or_default(),
            match text(relay, "transport") {
                "tcp" => "by tcp",
                _ => "udp ok",
            },
            text(relay, "observed_address"),
            text(relay, "realm"),
        ))?,
    }
    let sessions = report["sessions"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    if sessions.is_empty() {
        return print_data("no session on this computer");
    }
    for session in sessions {
        let seconds =
            unix_ms().saturating_sub(session["since_unix_ms"].as_u64().unwrap_or_default()) / 1000;
        print_data(&format!(
            "pid {}  as {}  with {}  {}  {}  {} bytes  {}:{:02}",
            session["pid"],
            text(session, "role"),
            text(session, "peer"),
            text(session, "mode"),
            text(session, "path"),
            session["bytes"],
            seconds / 60,
            seconds % 60,
        ))?;
    }
    Ok(())
}
