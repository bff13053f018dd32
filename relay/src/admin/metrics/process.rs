//! What the system knows of the process: memory, processor time, files; and what its control group allows.

use std::{fs, path::Path};

use super::family::{Described, MetricKind, Register};

/// Where control groups are (cgroups(7)).
const CGROUPS: &str = "/sys/fs/cgroup";

/// What `prometheus`' own collector has, all of them gauges but the first.
const COLLECTED: [(&str, &str); 7] = [
    (
        "process_cpu_seconds_total",
        "Processor time of the process, whole seconds.",
    ),
    ("process_open_fds", "Open files and sockets."),
    ("process_max_fds", "How many there may be."),
    ("process_virtual_memory_bytes", "Addresses in use."),
    ("process_resident_memory_bytes", "Memory in use."),
    (
        "process_start_time_seconds",
        "When the process began, seconds since 1970.",
    ),
    ("process_threads", "Its threads."),
];

/// Registers what the system knows; nothing where it is not Linux.
///
/// # Errors
/// When a name is taken.
pub(super) fn register(on: &Register<'_>) -> prometheus::Result<()> {
    #[cfg(target_os = "linux")]
    on.collect(prometheus::process_collector::ProcessCollector::for_self())?;
    for (name, help) in COLLECTED {
        let kind = match name.ends_with("_total") {
            true => MetricKind::Counter,
            false => MetricKind::Gauge,
        };
        on.describe(Described {
            name: name.to_owned(),
            kind,
            labels: Vec::new(),
            help,
            moved: ("admin/metrics/process.rs", "ProcessCollector::for_self("),
        });
    }
    Ok(())
}

/// How many bytes the process's control group may have; `None` where nobody limits it, or nobody knows.
pub fn memory_limit() -> Option<i64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    limit(&groups, |path| {
        fs::read_to_string(Path::new(CGROUPS).join(path)).ok()
    })
}

/// The least of what the group and those above it allow. Of the second version there is one hierarchy, `0::/PATH`; of the first, one
/// for memory.
fn limit(groups: &str, read: impl Fn(&str) -> Option<String>) -> Option<i64> {
    let mut least = None;
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(of), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let (under, file) = match of {
            "" => ("", "memory.max"),
            "memory" => ("memory/", "memory.limit_in_bytes"),
            _ => continue,
        };
        let mut path = path.trim_matches('/');
        loop {
            let slash = if path.is_empty() { "" } else { "/" };
            let text = read(&format!("{under}{path}{slash}{file}"));
            // "max", or of the first version a number of pages that nobody has.
            let bytes = text.and_then(|text| text.trim().parse::<i64>().ok());
            let bytes = bytes.filter(|bytes| *bytes < i64::MAX / 2);
            least = least.into_iter().chain(bytes).min();
            if path.is_empty() {
                break;
            }
            path = path.rsplit_once('/').map_or("", |(above, _)| above);
        }
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_of_what_groups_allow_is_the_limit() {
        let read = |path: &str| match path {
            "a/b/memory.max" => Some("max\n".to_owned()),
            "a/memory.max" => Some("1048576\n".to_owned()),
            "memory.max" => Some("4194304\n".to_owned()),
            "memory/c/memory.limit_in_bytes" => Some("9223372036854771712\n".to_owned()),
            "memory/memory.limit_in_bytes" => Some("2097152".to_owned()),
            _ => None,
        };
        assert_eq!(limit("0::/a/b\n", read), Some(1 << 20));
        assert_eq!(limit("0::/\n", read), Some(4 << 20));
        assert_eq!(limit("5:cpu:/x\n4:memory:/c\n", read), Some(2 << 20));
        assert_eq!(limit("0::/d\n", |_| None), None);
        assert_eq!(limit("no group", read), None);
    }
}
