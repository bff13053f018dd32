//! Where a session's packets go just now: written by the path's task, read for each packet.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError, atomic::Ordering},
};

use remora_proto::path::{
    candidate::Policy,
    machine::{Route, WhyRelayed},
    way::Way,
};

use super::{congestion::WayNumber, lately::MAX_KNOWN};

/// See the module.
#[derive(Debug, Default)]
pub struct SharedRoute {
    current: Mutex<Current>,
    /// What congestion control looks at.
    number: WayNumber,
}

/// Where packets go, as far as it matters for what the network takes there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Path {
    Direct(Way),
    Relayed {
        /// So many relays have carried the session before this one.
        relay: u64,
        is_by_stream: bool,
    },
}

/// Why a session goes through the relay when it begins.
pub fn why_at_first(policy: &Policy) -> WhyRelayed {
    if policy.relay_only {
        WhyRelayed::PolicyRelayOnly
    } else {
        WhyRelayed::Probing
    }
}

#[derive(Debug)]
struct Current {
    route: Route,
    why_relayed: Option<WhyRelayed>,
    /// The relay is reached by a stream.
    is_by_stream: bool,
    /// Which one it is, see [`Path`].
    relay: u64,
    /// Paths that have a number, those that packets took last at the end; the one that they take now is one of them, unless
    /// nothing is known of it any more.
    numbered: VecDeque<(Path, u64)>,
    /// Numbers that were given.
    numbers: u64,
}

impl Default for Current {
    fn default() -> Self {
        let path = Path::Relayed {
            relay: 0,
            is_by_stream: false,
        };
        Self {
            route: Route::default(),
            why_relayed: None,
            is_by_stream: false,
            relay: 0,
            numbered: VecDeque::from([(path, 0)]),
            numbers: 0,
        }
    }
}

impl Current {
    fn path(&self) -> Path {
        let Self {
            relay,
            is_by_stream,
            ..
        } = *self;
        self.route.direct.map_or(
            Path::Relayed {
                relay,
                is_by_stream,
            },
            Path::Direct,
        )
    }

    /// The number of the path that packets take now.
    fn number(&mut self) -> u64 {
        let path = self.path();
        let known = self.numbered.iter().position(|(known, _)| *known == path);
        let number = known
            .and_then(|place| self.numbered.remove(place))
            .map_or_else(
                || {
                    self.numbers += 1;
                    self.numbers
                },
                |(_, number)| number,
            );
        self.numbered.push_back((path, number));
        if self.numbered.len() > MAX_KNOWN {
            self.numbered.pop_front();
        }
        number
    }
}

impl SharedRoute {
    /// Where packets go.
    pub fn get(&self) -> Route {
        self.lock().route
    }

    /// Where they go, and if through the relay, why.
    pub fn explain(&self) -> (Option<SocketAddr>, Option<WhyRelayed>) {
        let current = self.lock();
        let direct = current.route.direct.map(|way| way.to);
        (direct, current.why_relayed)
    }

    /// They go there from now on, and to the relay by a stream or not.
    pub fn set(&self, route: Route, why_relayed: Option<WhyRelayed>, is_by_stream: bool) {
        self.change(|current| {
            current.route = route;
            current.why_relayed = why_relayed;
            current.is_by_stream = is_by_stream;
        });
    }

    /// Where they go through a relay, it is another one from now on.
    pub fn change_relay(&self) {
        self.change(|current| current.relay += 1);
    }

    /// This machine is at another network: whatever was known of a path is not so any more.
    pub fn forget(&self) {
        self.change(|current| current.numbered.clear());
    }

    fn change(&self, change: impl FnOnce(&mut Current)) {
        let mut current = self.lock();
        let before = current.path();
        change(&mut current);
        if current.path() != before || current.numbered.is_empty() {
            self.number.store(current.number(), Ordering::Relaxed);
        }
    }

    /// Before anything else was tried they go through the relay.
    pub fn begin(&self, policy: &Policy, is_by_stream: bool) {
        self.set(Route::default(), Some(why_at_first(policy)), is_by_stream);
    }

    /// What congestion control looks at: the number of the path that packets take now.
    pub fn number(&self) -> WayNumber {
        WayNumber::clone(&self.number)
    }

    fn lock(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn direct(port: u16) -> Route {
        let to = SocketAddr::from(([192, 0, 2, 1], port));
        Route {
            direct: Some(Way::main(to)),
            ..Route::default()
        }
    }

    #[test]
    fn a_path_that_is_taken_again_has_the_number_it_had() {
        let route = SharedRoute::default();
        let number = || route.number().load(Ordering::Relaxed);
        let go = |to| {
            route.set(to, None, false);
            number()
        };
        let (relayed, first, other) = (go(Route::default()), go(direct(1)), go(direct(2)));
        assert!(relayed != first && first != other && relayed != other);
        assert_eq!(go(direct(1)), first);
        assert_eq!(go(Route::default()), relayed);
        route.set(Route::default(), None, true);
        assert_ne!(number(), relayed, "by a stream");
        assert_eq!(go(Route::default()), relayed);
        route.change_relay();
        assert_ne!(number(), relayed, "another relay");
        assert_eq!(go(direct(2)), other);
    }

    #[test]
    fn at_another_network_every_path_is_a_new_one() {
        let route = SharedRoute::default();
        let number = || route.number().load(Ordering::Relaxed);
        route.set(direct(1), None, false);
        let before = number();
        route.forget();
        let after = number();
        assert_ne!(after, before);
        route.set(Route::default(), None, false);
        route.set(direct(1), None, false);
        assert_eq!(number(), after);
    }

    #[test]
    fn paths_are_forgotten_when_there_are_too_many() {
        let route = SharedRoute::default();
        let number = || route.number().load(Ordering::Relaxed);
        route.set(direct(1), None, false);
        let first = number();
        for port in 2..100 {
            route.set(direct(port), None, false);
        }
        route.set(direct(1), None, false);
        assert_ne!(number(), first);
        assert!(route.lock().numbered.len() <= MAX_KNOWN);
    }
}
