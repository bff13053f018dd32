//! What the system knows of the process: memory, processor time, files.

use super::family::{Described, MetricKind, Register};

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
