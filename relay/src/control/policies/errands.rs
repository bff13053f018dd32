//! What has to be told to other relays about policies, and fetched from them.
//!
//! ```text
//!  a node brings a newer policy ─▶ PolicyNews to all ─▶ whoever keeps or reads that organisation's: fetches it here
//!  a first node reads an organisation's ─▶ all are asked for a newer one
//!  a relay comes ─▶ is asked for newer ones of all that nodes read here
//! ```
//!
//! What was fetched is not passed on, for whoever brought it has told all that were in touch with its relay; a relay that was not
//! is asked as soon as it is. An errand that fails is not tried again: members bring theirs along all the same.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use remora_proto::{
    id::{OrgId, RelayId},
    org::signed::MAX_POLICY_BYTES,
    wire::message::{
        control::FetchPolicy,
        mesh::{PolicyNews, request::Body as Ask, response::Body as Answer},
    },
};

use crate::mesh::Mesh;

/// Errands under way: each holds a policy of 64 KiB at most.
const MAX_UNDER_WAY: usize = 16;
/// Errands that wait; further ones fall out.
const MAX_WAITING: usize = 4096;

/// What one relay is asked or told about one organisation's policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errand {
    /// Whom.
    pub relay: RelayId,
    /// Whose policy.
    pub org: OrgId,
    /// What for.
    pub purpose: Purpose,
}

/// What an errand is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// To get one with a higher number than this.
    Fetch(u64),
    /// To say that the one with this number is here.
    Tell(u64),
}

/// How an errand has ended.
#[derive(Debug)]
pub struct Fetched {
    /// Which.
    pub by: Errand,
    /// What was brought back; nothing has been checked.
    pub policy: Option<Bytes>,
}

impl Errand {
    /// Does it; within a few seconds, whatever the other relay does.
    pub async fn run(self, mesh: Mesh) -> Fetched {
        let policy = match self.purpose {
            Purpose::Tell(number) => {
                let org = Bytes::copy_from_slice(&self.org.0);
                let news = Ask::PolicyNews(PolicyNews { org, number });
                // It may be gone, or of a version that has no policies.
                mesh.insist(self.relay, news).await.ok();
                None
            }
            Purpose::Fetch(have) => fetch(&mesh, self.relay, self.org, have).await,
        };
        Fetched { by: self, policy }
    }
}

/// All parts of one policy; nothing when there is none, or it is replaced by another meanwhile, of which there will be news.
async fn fetch(mesh: &Mesh, relay: RelayId, org: OrgId, have: u64) -> Option<Bytes> {
    let (mut policy, mut number) = (Vec::new(), None);
    loop {
        let ask = Ask::FetchPolicy(FetchPolicy {
            org: Bytes::copy_from_slice(&org.0),
            have,
            offset: u32::try_from(policy.len()).ok()?,
        });
        let Answer::PolicyPart(part) = mesh.insist(relay, ask).await.ok()? else {
            return None;
        };
        let size = usize::try_from(part.size).ok()?;
        let fits = size <= MAX_POLICY_BYTES && policy.len() + part.part.len() <= size;
        if !fits || part.part.is_empty() || *number.get_or_insert(part.number) != part.number {
            return None;
        }
        policy.extend_from_slice(&part.part);
        if policy.len() == size {
            return Some(policy.into());
        }
    }
}

/// Machine: which errands there are.
#[derive(Debug, Default)]
pub(super) struct Errands {
    /// In touch, and since when: one that has begun anew is another.
    relays: BTreeMap<RelayId, u64>,
    waiting: BTreeMap<(RelayId, OrgId, Kind), Purpose>,
    under_way: BTreeSet<(RelayId, OrgId, Kind)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Fetch,
    Tell,
}

impl Purpose {
    fn kind(self) -> Kind {
        match self {
            Self::Fetch(_) => Kind::Fetch,
            Self::Tell(_) => Kind::Tell,
        }
    }
}

impl Errands {
    /// These relays are in touch, each since its number; of those that are new, what is `read` here is asked.
    pub(super) fn meet(
        &mut self,
        relays: BTreeMap<RelayId, u64>,
        read: impl Iterator<Item = (OrgId, u64)> + Clone,
    ) {
        self.waiting
            .retain(|(relay, _, _), _| relays.contains_key(relay));
        let before = std::mem::replace(&mut self.relays, relays);
        let is_new = |(relay, met): &(&RelayId, &u64)| before.get(relay) != Some(met);
        let new: Vec<_> = self
            .relays
            .iter()
            .filter(is_new)
            .map(|(relay, _)| *relay)
            .collect();
        for relay in new {
            for (org, have) in read.clone() {
                self.fetch(relay, org, have);
            }
        }
    }

    /// That relay has a newer one.
    pub(super) fn fetch(&mut self, relay: RelayId, org: OrgId, have: u64) {
        self.add(relay, org, Purpose::Fetch(have));
    }

    /// Any may have a newer one.
    pub(super) fn fetch_anywhere(&mut self, org: OrgId, have: u64) {
        self.add_all(org, Purpose::Fetch(have));
    }

    /// Here is a newer one.
    pub(super) fn tell_all(&mut self, org: OrgId, number: u64) {
        self.add_all(org, Purpose::Tell(number));
    }

    fn add_all(&mut self, org: OrgId, purpose: Purpose) {
        for relay in self.relays.keys().copied().collect::<Vec<_>>() {
            self.add(relay, org, purpose);
        }
    }

    fn add(&mut self, relay: RelayId, org: OrgId, purpose: Purpose) {
        let key = (relay, org, purpose.kind());
        if self.waiting.len() < MAX_WAITING || self.waiting.contains_key(&key) {
            self.waiting.insert(key, purpose);
        }
    }

    /// The next; of two about the same, the later waits until the earlier has ended.
    pub(super) fn poll(&mut self) -> Option<Errand> {
        if self.under_way.len() >= MAX_UNDER_WAY {
            return None;
        }
        let mut waiting = self.waiting.keys();
        let key = *waiting.find(|key| !self.under_way.contains(key))?;
        let purpose = self.waiting.remove(&key)?;
        self.under_way.insert(key);
        let (relay, org, _) = key;
        Some(Errand {
            relay,
            org,
            purpose,
        })
    }

    pub(super) fn done(&mut self, errand: &Errand) {
        let key = (errand.relay, errand.org, errand.purpose.kind());
        self.under_way.remove(&key);
    }
}
