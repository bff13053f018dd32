//! The verbs that measure, one file each.

// Frames through sessions: CPU per frame, throughput, loss, latency.
pub mod forward;
