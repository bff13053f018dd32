//! What the rest of the relay wants to know: who is close to a key, and what another relay says.

use std::time::Instant;

use libp2p::{
    PeerId,
    kad::{self, KBucketKey, QueryId, QueryResult},
};
use remora_proto::{id::RelayId, record::RecordKey};

use super::{Query, Task};
use crate::{
    admin::metrics::{DhtKind, DhtResult},
    mesh::{
        Command,
        identity::{peer_id, relay_id},
    },
    rendezvous::shelf::REPLICAS,
};

impl Task {
    pub(super) fn handle_command(&mut self, command: Command) {
        let since = Instant::now();
        match command {
            Command::Ask {
                relay,
                request,
                answer,
            } => {
                if self.swarm.is_connected(&peer_id(relay)) {
                    self.send(relay, request, answer, since);
                } else {
                    let key = peer_id(relay).to_bytes();
                    let query = self.swarm.behaviour_mut().kademlia.get_closest_peers(key);
                    let query_of = Query::Where {
                        relay,
                        request,
                        answer,
                    };
                    self.queries.insert(query, query_of);
                }
            }
            Command::Closest {
                key,
                is_exact: false,
                answer,
            } => {
                answer.send(self.closest_known(key)).ok();
            }
            Command::Closest {
                key,
                is_exact: true,
                answer,
            } => {
                let kademlia = &mut self.swarm.behaviour_mut().kademlia;
                let query = kademlia.get_n_closest_peers(key.0.to_vec(), REPLICAS);
                self.queries
                    .insert(query, Query::Closest { key, since, answer });
            }
        }
    }

    pub(super) fn handle_query(&mut self, id: QueryId, result: QueryResult, now: Instant) {
        let Some(query) = self.queries.remove(&id) else {
            return;
        };
        let QueryResult::GetClosestPeers(closest) = result else {
            return;
        };
        let is_complete = closest.is_ok();
        let found = match closest {
            Ok(found) => found.peers,
            Err(kad::GetClosestPeersError::Timeout { peers, .. }) => peers,
        };
        match query {
            Query::Closest { key, since, answer } => {
                let seconds = now.saturating_duration_since(since).as_secs_f64();
                let result = match is_complete {
                    true => DhtResult::Ok,
                    false => DhtResult::Failed,
                };
                self.metrics.dht_query(DhtKind::Closest, result, seconds);
                let others = found.into_iter().map(|found| found.peer_id).collect();
                answer.send(self.nearest(key, others)).ok();
            }
            Query::Where {
                relay,
                request,
                answer,
            } => {
                let peer = peer_id(relay);
                for found in found.into_iter().filter(|found| found.peer_id == peer) {
                    for address in found.addrs {
                        self.swarm.add_peer_address(peer, address);
                    }
                }
                self.send(relay, request, answer, now);
            }
        }
    }

    /// By the distance to `key`, nearest first, this relay among them.
    fn closest_known(&mut self, key: RecordKey) -> Vec<RelayId> {
        let target = KBucketKey::new(key.0.to_vec());
        let kademlia = &mut self.swarm.behaviour_mut().kademlia;
        let others = kademlia.get_closest_local_peers(&target);
        let others: Vec<_> = others
            .map(|key| *key.preimage())
            .take(REPLICAS.get())
            .collect();
        self.nearest(key, others)
    }

    fn nearest(&self, key: RecordKey, others: Vec<PeerId>) -> Vec<RelayId> {
        let target = KBucketKey::new(key.0.to_vec());
        let mut all = others;
        all.push(peer_id(self.me));
        all.sort_by_cached_key(|&peer| KBucketKey::from(peer).distance(&target));
        all.dedup();
        all.truncate(REPLICAS.get());
        all.iter().filter_map(relay_id).collect()
    }
}
