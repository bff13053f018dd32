//! Whether a device is there.
//!
//! Whoever keeps its record knows which relay it is at, and that relay knows whether it is there: so a relay that died is not believed to
//! have its devices still, and nobody has to be told at once that one has gone.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use remora_proto::{
    id::RelayId,
    record::RecordKey,
    wire::message::mesh::{Find, request::Body as Ask, response::Body as Answer},
};
use tokio::time;

use super::{AGREED, FIND_ANSWER_TIMEOUT, FIND_TIMEOUT, Fleet};
use crate::{
    control::request::unix_ms,
    mesh::AskError,
    rendezvous::{Sighting, shelf::ended},
};

impl Fleet {
    /// What is known of the device: within [`FIND_TIMEOUT`] and [`FIND_ANSWER_TIMEOUT`] after that.
    pub(super) async fn sight(&self, key: RecordKey) -> Option<Sighting> {
        let mut newest = self.shelf.sight(key);
        if newest.is_some_and(|here| self.is_here(&here)) {
            return newest;
        }
        // When time is over, what was heard until then counts.
        let looked = time::timeout(FIND_TIMEOUT, self.sight_elsewhere(key, &mut newest));
        looked.await.ok();
        Some(self.confirmed(key, newest?).await)
    }

    /// Whether it is there, at this relay.
    fn is_here(&self, sighting: &Sighting) -> bool {
        sighting.relay == self.shelf.relay() && sighting.gone_unix_ms.is_none()
    }

    async fn sight_elsewhere(&self, key: RecordKey, newest: &mut Option<Sighting>) {
        let mut asked = BTreeSet::new();
        for is_exact in [false, true] {
            let relays = self.others(key, is_exact).await;
            let new: Vec<_> = relays
                .into_iter()
                .filter(|&relay| asked.insert(relay))
                .collect();
            self.sight_at_all(key, &new, newest).await;
            if newest.is_some() {
                return;
            }
        }
    }

    /// Until two have the same.
    async fn sight_at_all(
        &self,
        key: RecordKey,
        relays: &[RelayId],
        newest: &mut Option<Sighting>,
    ) {
        let asked = relays.iter().map(|&relay| self.sight_at(key, relay));
        let mut asked: FuturesUnordered<_> = asked.collect();
        let mut agreed = 0;
        while let Some(answered) = asked.next().await {
            let Ok(Some(sighting)) = answered else {
                continue;
            };
            let counts = newest.map_or(sighting, |newest| newest.or_newer(sighting));
            agreed = if *newest == Some(counts) {
                agreed + usize::from(sighting == counts)
            } else {
                1
            };
            *newest = Some(counts);
            if agreed >= AGREED {
                return;
            }
        }
    }

    /// What that relay knows.
    async fn sight_at(&self, key: RecordKey, relay: RelayId) -> Result<Option<Sighting>, AskError> {
        let find = Find {
            locator_key: Bytes::copy_from_slice(&key.0),
        };
        let asked = self.mesh.ask(relay, Ask::Find(find));
        let answered = time::timeout(FIND_ANSWER_TIMEOUT, asked).await;
        let Answer::Found(found) = answered.map_err(|_| AskError::Unreachable)?? else {
            return Ok(None);
        };
        let gone = ended(found.ended()).map(|why| (why, found.seen_unix_ms));
        Ok(Sighting::new(key, &found.record, gone, unix_ms()))
    }

    /// The word of the relay that it is at.
    async fn confirmed(&self, key: RecordKey, newest: Sighting) -> Sighting {
        let said = if newest.relay == self.shelf.relay() {
            None
        } else {
            self.sight_at(key, newest.relay).await.ok().flatten()
        };
        match said {
            Some(said) if said.is_as_new_as(&newest) => said,
            Some(_) | None => newest.unconfirmed(),
        }
    }

    /// Whether one of these relays has something that the device of `record` has said later.
    pub(super) async fn has_newer(
        &self,
        key: RecordKey,
        record: &Bytes,
        relays: &[RelayId],
    ) -> bool {
        let Some(ours) = Sighting::new(key, record, None, unix_ms()) else {
            return true;
        };
        let mut newest = None;
        self.sight_at_all(key, relays, &mut newest).await;
        newest.is_some_and(|newest| !ours.is_as_new_as(&newest))
    }
}
