//! What other relays are asked: in order within an exchange, again when there is no answer, and not for ever.

use std::collections::{BTreeMap, VecDeque};

use futures_util::{
    FutureExt as _,
    future::BoxFuture,
    stream::{FuturesUnordered, StreamExt as _},
};
use remora_proto::id::{ExchangeId, RelayId};

use super::registry::Call;
use crate::mesh::{AskError, Mesh};

/// Calls of one exchange that wait for the one before; an introduction has three.
const MAX_WAITING: usize = 16;

/// Calls under way, and those behind them.
#[derive(Debug)]
pub struct Calls {
    mesh: Mesh,
    /// An entry for each call under way.
    waiting: BTreeMap<(RelayId, ExchangeId), VecDeque<Call>>,
    under_way: FuturesUnordered<BoxFuture<'static, Called>>,
}

/// A call, and how it ended.
#[derive(Debug)]
pub struct Called {
    /// What was asked.
    pub call: Call,
    /// Whether it was done.
    pub result: Result<(), AskError>,
}

impl Calls {
    /// No calls yet.
    pub fn new(mesh: Mesh) -> Self {
        Self {
            mesh,
            waiting: BTreeMap::new(),
            under_way: FuturesUnordered::new(),
        }
    }

    /// Makes a call when those before it have been answered; or gives back one that there is no room for.
    pub fn make(&mut self, call: Call) -> Option<Called> {
        match self.waiting.get_mut(&(call.relay, call.exchange)) {
            Some(waiting) if waiting.len() >= MAX_WAITING => Some(Called {
                call,
                result: Err(AskError::Unreachable),
            }),
            Some(waiting) => {
                waiting.push_back(call);
                None
            }
            None => {
                self.waiting
                    .insert((call.relay, call.exchange), VecDeque::new());
                self.begin(call);
                None
            }
        }
    }

    /// Whether all have been answered, or given up.
    pub fn is_empty(&self) -> bool {
        self.under_way.is_empty()
    }

    fn begin(&self, call: Call) {
        let mesh = self.mesh.clone();
        let called = async move {
            let answered = mesh.insist(call.relay, call.ask.clone()).await;
            Called {
                call,
                result: answered.map(drop),
            }
        };
        self.under_way.push(called.boxed());
    }

    /// Waits for the next that ends; for ever when there is none.
    pub async fn next(&mut self) -> Called {
        let Some(called) = self.under_way.next().await else {
            return std::future::pending().await;
        };
        let key = (called.call.relay, called.call.exchange);
        let next = self.waiting.get_mut(&key).and_then(VecDeque::pop_front);
        match next {
            Some(next) => self.begin(next),
            None => drop(self.waiting.remove(&key)),
        }
        called
    }
}
