//! What the system says: memory, disk, clock. What it does not say is `None`.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use super::Memory;

/// Where a system shows its control groups.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Seconds since 1970-01-01 UTC, by this computer's clock.
pub fn unix_s() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}

/// The directory of the control group that limits this process's memory: of version 1 there is a hierarchy for memory, of version 2 one
/// for all (cgroups(7)).
pub fn own_cgroup() -> Option<PathBuf> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = group_of(&groups)?;
    Some(Path::new(CGROUPS).join(path))
}

/// Below where groups are shown.
fn group_of(groups: &str) -> Option<String> {
    let of_memory = |line: &str| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let is_it = controllers
            .split(',')
            .any(|controller| controller == "memory");
        is_it.then(|| format!("memory{path}"))
    };
    let of_all = |line: &str| line.strip_prefix("0::/").map(str::to_owned);
    let first = groups.lines().find_map(of_memory);
    first.or_else(|| groups.lines().find_map(of_all))
}

/// What is used of the memory that the control group may use; the nearest limit, for a group above may have a lower one.
pub fn memory(cgroup: &Path) -> Option<Memory> {
    let limited = cgroup.ancestors().filter_map(memory_of);
    limited.max_by_key(|memory| memory.percent())
}

/// Names of files: the limit, what is used, and what of that goes before anybody is killed: pages of files that nobody uses.
const FILES: [[&str; 3]; 2] = [
    ["memory.max", "memory.current", "inactive_file "],
    [
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file ",
    ],
];

fn memory_of(cgroup: &Path) -> Option<Memory> {
    FILES.into_iter().find_map(|[limit, current, idle]| {
        let number = |file: &str| -> Option<u64> {
            let text = fs::read_to_string(cgroup.join(file)).ok()?;
            text.trim().parse().ok()
        };
        // "max" is no number, and no limit; nor is what version 1 says in its place, a number of bytes that nobody has.
        let limit_bytes = number(limit).filter(|bytes| *bytes < u64::MAX / 4)?;
        let current = number(current)?;
        let statistics = fs::read_to_string(cgroup.join("memory.stat")).unwrap_or_default();
        let idle = statistics
            .lines()
            .find_map(|line| line.strip_prefix(idle))
            .and_then(|bytes| bytes.trim().parse().ok())
            .unwrap_or(0);
        Some(Memory {
            used_bytes: current.saturating_sub(idle),
            limit_bytes,
        })
    })
}

/// What anybody may still write where `file` is, or will be, bytes.
#[allow(
    clippy::useless_conversion,
    reason = "counts are narrower on some systems"
)]
pub fn disk_free_bytes(file: &Path) -> Option<u64> {
    let there = file.ancestors().skip(1).find_map(|directory| {
        let directory = if directory.as_os_str().is_empty() {
            Path::new(".")
        } else {
            directory
        };
        nix::sys::statvfs::statvfs(directory).ok()
    })?;
    let blocks = u64::from(there.blocks_available());
    // Some file systems have no number of files, and say so by having none at all.
    let has_files = there.files() == 0 || there.files_available() > 0;
    Some(if has_files {
        blocks.saturating_mul(there.fragment_size())
    } else {
        0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_limit_counts_and_pages_of_files_do_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let (above, own) = (directory.path(), directory.path().join("pod"));
        fs::create_dir(&own).expect("made");
        let write = |group: &Path, file: &str, text: &str| {
            fs::write(group.join(file), text).expect("written");
        };
        assert_eq!(memory(&own), None, "no control group");
        write(&own, "memory.max", "max\n");
        write(&own, "memory.current", "1000\n");
        assert_eq!(memory(&own), None, "no limit");
        write(&own, "memory.max", "4000\n");
        write(&own, "memory.stat", "anon 1\ninactive_file 200\nfile 3\n");
        let of_its_own = Memory {
            used_bytes: 800,
            limit_bytes: 4000,
        };
        assert_eq!(memory(&own), Some(of_its_own));
        write(above, "memory.max", "5000\n");
        write(above, "memory.current", "4900\n");
        let of_all = Memory {
            used_bytes: 4900,
            limit_bytes: 5000,
        };
        assert_eq!(memory(&own), Some(of_all));
    }

    #[test]
    fn groups_of_the_first_version_count_too() {
        let first = "8:pids:/a\n4:cpu,memory:/a/b\n0::/c\n";
        assert_eq!(group_of(first).as_deref(), Some("memory/a/b"));
        assert_eq!(group_of("1:name=systemd:/\n0::/c\n").as_deref(), Some("c"));
        assert_eq!(group_of("no group"), None);
        let directory = tempfile::tempdir().expect("a directory");
        let write = |file: &str, text: &str| {
            fs::write(directory.path().join(file), text).expect("written");
        };
        write("memory.limit_in_bytes", "9223372036854771712\n");
        write("memory.usage_in_bytes", "1000\n");
        assert_eq!(memory(directory.path()), None, "no limit");
        write("memory.limit_in_bytes", "4000\n");
        write(
            "memory.stat",
            "inactive_file 100\ntotal_inactive_file 200\n",
        );
        let expected = Memory {
            used_bytes: 800,
            limit_bytes: 4000,
        };
        // Below it, where a container does not see its own group.
        let below = directory.path().join("kubepods/pod7");
        assert_eq!(memory(&below), Some(expected));
    }

    #[test]
    fn a_disk_says_what_is_free_where_a_file_will_be() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("not/yet/relay.key");
        assert!(disk_free_bytes(&file).is_some());
        assert!(disk_free_bytes(Path::new("relay.key")).is_some());
    }
}
