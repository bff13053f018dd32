//! Where a session's packets go just now: written by the path's task, read for each packet.

use std::{
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError, atomic::Ordering},
};

use remora_proto::path::{
    candidate::Policy,
    machine::{Route, WhyRelayed},
};

use super::congestion::Generation;

/// See the module.
#[derive(Debug, Default)]
pub struct SharedRoute {
    current: Mutex<Current>,
    /// Changes with the way.
    generation: Generation,
}

/// Why a session goes through the relay when it begins.
pub fn why_at_first(policy: &Policy) -> WhyRelayed {
    if policy.relay_only {
        WhyRelayed::PolicyRelayOnly
    } else {
        WhyRelayed::Probing
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Current {
    route: Route,
    why_relayed: Option<WhyRelayed>,
    /// The relay is reached by a stream.
    is_by_stream: bool,
}

impl SharedRoute {
    /// Where packets go.
    pub fn get(&self) -> Route {
        self.lock().route
    }

    /// Where they go, and if through the relay, why.
    pub fn explain(&self) -> (Option<SocketAddr>, Option<WhyRelayed>) {
        let Current {
            route, why_relayed, ..
        } = *self.lock();
        (route.direct.map(|way| way.to), why_relayed)
    }

    /// They go there from now on, and to the relay by a stream or not.
    pub fn set(&self, route: Route, why_relayed: Option<WhyRelayed>, is_by_stream: bool) {
        let mut current = self.lock();
        let is_other_relayed = route.direct.is_none() && current.is_by_stream != is_by_stream;
        if current.route.direct != route.direct || is_other_relayed {
            self.generation.fetch_add(1, Ordering::Relaxed);
        }
        *current = Current {
            route,
            why_relayed,
            is_by_stream,
        };
    }

    /// Where they go through a relay, it is another one from now on.
    pub fn change_relay(&self) {
        if self.get().direct.is_none() {
            self.generation.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Before anything else was tried they go through the relay.
    pub fn begin(&self, policy: &Policy, is_by_stream: bool) {
        self.set(Route::default(), Some(why_at_first(policy)), is_by_stream);
    }

    /// What congestion control looks at.
    pub fn generation(&self) -> Generation {
        Generation::clone(&self.generation)
    }

    fn lock(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
