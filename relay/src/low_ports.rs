//! Ports below 1024, for a relay that is nobody's root.
//!
//! A container's process that is not root has no right, whatever its container was given, but by its program's file: the image's
//! has CAP_NET_BIND_SERVICE as a right that may be taken up (`setcap cap_net_bind_service=+p`). As one that is had at once (`+ep`) the
//! program would not even start where it is withheld.

use caps::{CapSet, Capability, errors::CapsError};

/// Takes the right up, where there is one. Call before there are other threads: each has its own rights.
///
/// # Errors
/// What the system said; a relay on another port does not mind.
pub fn take_up() -> Result<(), CapsError> {
    let right = Capability::CAP_NET_BIND_SERVICE;
    if caps::has_cap(None, CapSet::Permitted, right)? {
        caps::raise(None, CapSet::Effective, right)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_right_that_was_given_is_taken_up_and_no_other() {
        let right = Capability::CAP_NET_BIND_SERVICE;
        let has = move |set| caps::has_cap(None, set, right).expect("the system says");
        // A thread of its own, which keeps what it lays down.
        let laid_down = thread::spawn(move || {
            caps::drop(None, CapSet::Effective, right).expect("nobody is kept from that");
            let is_given = has(CapSet::Permitted);
            take_up().expect("nothing to say against it");
            assert_eq!(has(CapSet::Effective), is_given);
            for set in [CapSet::Effective, CapSet::Permitted] {
                caps::drop(None, set, right).expect("nobody is kept from that");
            }
            take_up().expect("nothing to take up");
            assert!(!has(CapSet::Effective));
        });
        laid_down.join().expect("so it is");
    }
}
