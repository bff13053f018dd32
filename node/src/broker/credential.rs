//! Who may: polkit's rules for the one who asks, and an administrator's name and password for what is done.

use std::{
    fs, io,
    io::Write as _,
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::unistd::{Group, User};

/// What polkit is asked about.
const ACTION: &str = "org.remora.elevate";
/// Nobody: whom `su` asks for a password, as it would not ask root.
const NOBODY: u32 = 65_534;
/// For PAM to say yes or no; it takes its time over a no.
const LIMIT: Duration = Duration::from_secs(20);
/// How often one looks whether it has.
const LOOK: Duration = Duration::from_millis(20);

/// Whether polkit lets this process of this user ask for an elevation. It is not asked to ask anybody: the sharer's consent and the
/// helper's credential are ours to see to.
pub(super) fn polkit_permits(pid: i32, uid: u32) -> io::Result<bool> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // Field 22 of proc_pid_stat(5), of which the second may hold anything.
    let start = stat
        .rsplit_once(')')
        .and_then(|(_, rest)| rest.split_whitespace().nth(19));
    let Some(start) = start else {
        return Ok(false);
    };
    let status = system("pkcheck")
        .args(["--action-id", ACTION, "--process"])
        .arg(format!("{pid},{start},{uid}"))
        .stdin(Stdio::null())
        .status()?;
    Ok(status.success())
}

/// Whether the system counts this user among its administrators.
pub(super) fn is_administrator(name: &str, groups: &[String]) -> bool {
    let Ok(Some(user)) = User::from_name(name) else {
        return false;
    };
    let is_member = |group: &String| match Group::from_name(group) {
        Ok(Some(group)) => group.gid == user.gid || group.mem.iter().any(|member| member == name),
        Ok(None) | Err(_) => false,
    };
    user.uid.is_root() || groups.iter().any(is_member)
}

/// Whether that is the user's password, and the account may be used: by PAM, as `su` asks it. In a process of its own, whose
/// memory ends with it; PAM's modules keep copies.
pub(super) fn holds(name: &str, password: &[u8]) -> bool {
    match ask_su(name, password) {
        Ok(holds) => holds,
        Err(error) => {
            tracing::error!(%error, "no password can be checked");
            false
        }
    }
}

fn ask_su(name: &str, password: &[u8]) -> io::Result<bool> {
    let mut su = system("su")
        .args(["--shell", "/bin/sh", "--command", "exit 0", "--", name])
        .uid(NOBODY)
        .gid(NOBODY)
        .stdin(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = su.stdin.take() {
        // It may have ended already: then it says so.
        stdin.write_all(password).ok();
        stdin.write_all(b"\n").ok();
    }
    let until = Instant::now() + LIMIT;
    loop {
        match su.try_wait()? {
            Some(status) => return Ok(status.success()),
            None if Instant::now() > until => {
                // Root's by now: it can be killed.
                su.kill()?;
                su.wait()?;
                return Ok(false);
            }
            None => thread::sleep(LOOK),
        }
    }
}

/// A program of the system, that is told nothing but what it has to know.
fn system(program: &str) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", super::program::PATH)
        .env("LC_ALL", "C")
        .current_dir("/")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}
