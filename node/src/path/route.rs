//! Where a session's packets go just now: written by the path's task, read for each packet.

use std::{
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError, atomic::Ordering},
};

use remora_proto::path::machine::{Route, WhyRelayed};

use super::congestion::Generation;

/// See the module.
#[derive(Debug, Default)]
pub struct SharedRoute {
    current: Mutex<Current>,
    /// Changes with the way.
    generation: Generation,
}

#[derive(Clone, Copy, Debug, Default)]
struct Current {
    route: Route,
    why_relayed: Option<WhyRelayed>,
}

impl SharedRoute {
    /// Where packets go.
    pub fn get(&self) -> Route {
        self.lock().route
    }

    /// Where they go, and if through the relay, why.
    pub fn explain(&self) -> (Option<SocketAddr>, Option<WhyRelayed>) {
        let Current { route, why_relayed } = *self.lock();
        (route.direct.map(|way| way.to), why_relayed)
    }

    /// They go there from now on.
    pub fn set(&self, route: Route, why_relayed: Option<WhyRelayed>) {
        let mut current = self.lock();
        if current.route.direct != route.direct {
            self.generation.fetch_add(1, Ordering::Relaxed);
        }
        *current = Current { route, why_relayed };
    }

    /// What congestion control looks at.
    pub fn generation(&self) -> Generation {
        Generation::clone(&self.generation)
    }

    fn lock(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
