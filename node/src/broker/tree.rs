//! Processes below another one, and how to be rid of them.
//!
//! This process is a subreaper: whoever loses its parent becomes its child, so that a daemon is still below it. Only what another
//! service starts on demand (systemd, cron) is not.

use std::{
    collections::BTreeMap,
    fs, thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};

/// Who forks faster than it is killed is left to systemd, which kills the unit's control group.
const LIMIT: Duration = Duration::from_secs(10);
/// For the killed to be gone.
const ROUND: Duration = Duration::from_millis(2);

/// Kills all that is below `root`, and what appears there meanwhile.
pub(super) fn kill_below(root: Pid) {
    let until = Instant::now() + LIMIT;
    loop {
        let found = below(root);
        if found.is_empty() {
            return;
        }
        if Instant::now() > until {
            tracing::error!("programs are left behind");
            return;
        }
        for pid in found {
            kill_one(pid);
        }
        thread::sleep(ROUND);
    }
}

/// Kills `root`, and all that is below it.
pub(super) fn kill(root: Pid) {
    // Held, so that it starts no more.
    signal::kill(root, Signal::SIGSTOP).ok();
    kill_below(root);
    kill_one(root);
}

/// It may have ended just now.
fn kill_one(pid: Pid) {
    signal::kill(pid, Signal::SIGKILL).ok();
}

/// All that lives below `root`, of this moment.
fn below(root: Pid) -> Vec<Pid> {
    let mut children = BTreeMap::<i32, Vec<i32>>::new();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in processes {
        let name = process.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(process.path().join("stat")) else {
            continue;
        };
        if let Some(parent) = parent_of_living(&stat) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut next = vec![root.as_raw()];
    while let Some(parent) = next.pop() {
        for child in children.remove(&parent).unwrap_or_default() {
            found.push(Pid::from_raw(child));
            next.push(child);
        }
    }
    found
}

/// Of a line of `/proc/PID/stat` (proc_pid_stat(5)), whose second field may hold anything; `None` of the dead.
fn parent_of_living(stat: &str) -> Option<i32> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?;
    (!matches!(state, "Z" | "X"))
        .then(|| fields.next()?.parse().ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_hides_no_parent() {
        assert_eq!(parent_of_living("7 (a) Z 3) S 42 7 7 0"), Some(42));
        assert_eq!(parent_of_living("7 (a) Z 42 7"), None);
        assert_eq!(parent_of_living("7"), None);
    }
}
