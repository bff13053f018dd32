//! How many files and sockets this process may have open: systems begin with a few, and let each process ask for more.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// A stream's own two: its TCP connection, and the UDP socket that stands for it.
pub const PER_STREAM: u64 = 2;
/// Everything else: ports, workers, the log, metrics that are read.
pub const BESIDE: u64 = 128;

/// Asks for as many as the system allows, and says how many that is; `None` when the system does not say.
pub fn raise() -> Option<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    let raised = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    Some(if raised.is_ok() { hard } else { soft })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_as_many_as_the_system_allows() {
        let raised = raise().expect("the system says");
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the system says");
        assert_eq!((soft, soft), (raised, hard));
    }
}
