//! Ports below 1024, for a relay that runs as nobody: its file may be permitted to use them (`setcap cap_net_bind_service=p FILE`), and
//! who is permitted to has to say so.
//!
//! With `=ep` the system would say it; but then the program does not even start where the right is withheld (capabilities(7), "Safety
//! checking for capability-dumb binaries"), and a relay at 4433 can do without.

/// Lets this thread, and those that it starts from now on, listen there, if the system permits it; what it does not, it will say when
/// a port is asked for.
#[cfg(target_os = "linux")]
pub fn allow() {
    use caps::{CapSet, Capability::CAP_NET_BIND_SERVICE};
    if caps::has_cap(None, CapSet::Permitted, CAP_NET_BIND_SERVICE).unwrap_or(false) {
        caps::raise(None, CapSet::Effective, CAP_NET_BIND_SERVICE).ok();
    }
}

/// Other systems keep no ports back, or have other ways.
#[cfg(not(target_os = "linux"))]
pub fn allow() {}
