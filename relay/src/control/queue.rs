//! Who waits for help: of each organisation, the devices of this relay whose person has asked its help desk.
//!
//! ```text
//!  device ── QueueUp ──▶ a place, for as long as the connection
//!  helper ── FetchQueue ─▶ the places here, and those of all relays in touch ─▶ Queue, good for two seconds
//! ```
//!
//! A place is an organisation's key and that of a device which was made for this one request: the relay learns that somebody there
//! wants help, and for how long, and neither who nor why. That the device tells whom it wants to, under Noise, and whoever rings
//! at it has to show papers (`proto::invitation::asking`). So no relay needs to know who is a member, and none can put up a
//! request: what answers no ring is on nobody's list. It can keep one back, as it can any code.
//!
//! Places are where their nodes are, and nowhere else: when a relay is gone, so are they, and their nodes take one at another.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use remora_proto::{
    id::{DeviceId, OrgId, RelayId},
    wire::message::{
        control::{FetchQueue, Place as PlaceMessage, Queue as QueueMessage, QueueUp},
        mesh::{request::Body as Ask, response::Body as RelayAnswer},
    },
};
use tokio::time::timeout;

use super::{
    message::{self, Answer, Reason, Refusal},
    registry::ConnectionNumber,
};
use crate::mesh::Mesh;

/// Of one organisation in one answer, and at one relay: four thousand bytes hold as many. A desk with more of them at once lacks people.
const MAX_OF_ORG: usize = 64;
/// Of all organisations at one relay: 400 KiB.
const MAX_PLACES: usize = 4096;
/// How long an answer is good for others who ask. People look every few seconds, and each look is a question to all relays.
const FRESH: Duration = Duration::from_secs(2);
/// For all relays together; a person waits.
const GATHERING: Duration = Duration::from_millis(1500);

const MALFORMED: Refusal = Refusal::new(Reason::Malformed, "keys have 32 bytes");
const UNKNOWN_ORG: Refusal = Refusal {
    retry_after: Some(Duration::from_secs(1)),
    ..Refusal::new(
        Reason::BadState,
        "no policy of this organisation is here; bring it, and ask again",
    )
};
const FULL: Refusal = Refusal::new(
    Reason::Full,
    "as many wait here for help as may; try another relay",
);

/// What is asked about queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// For a place.
    Up {
        /// Whose desk.
        org: OrgId,
        /// Who waits.
        device: DeviceId,
    },
    /// Who waits.
    Look {
        /// For whose desk.
        org: OrgId,
    },
}

impl Question {
    /// A place in a queue.
    ///
    /// # Errors
    /// These are no keys.
    pub fn up(up: &QueueUp) -> Result<Self, Refusal> {
        Ok(Self::Up {
            org: org(&up.org)?,
            device: DeviceId(up.device[..].try_into().map_err(|_| MALFORMED)?),
        })
    }

    /// A look at one.
    ///
    /// # Errors
    /// This is no key.
    pub fn look(fetch: &FetchQueue) -> Result<Self, Refusal> {
        Ok(Self::Look {
            org: org(&fetch.org)?,
        })
    }

    /// Whose.
    pub fn org(self) -> OrgId {
        match self {
            Self::Up { org, .. } | Self::Look { org } => org,
        }
    }
}

fn org(bytes: &[u8]) -> Result<OrgId, Refusal> {
    Ok(OrgId(bytes.try_into().map_err(|_| MALFORMED)?))
}

/// A look at a queue.
#[derive(Clone, Debug, PartialEq)]
pub enum Look {
    /// This is what is seen.
    Seen(QueueMessage),
    /// All relays are being asked already.
    Wait,
    /// They are to be asked.
    Begin,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    device: DeviceId,
    since: Instant,
}

#[derive(Clone, Debug)]
enum Known {
    Gathering,
    Since(Instant, QueueMessage),
}

/// Machine: see the module.
#[derive(Debug, Default)]
pub struct Queues {
    /// Whose place is where: a connection has one.
    orgs: BTreeMap<ConnectionNumber, OrgId>,
    places: BTreeMap<OrgId, BTreeMap<ConnectionNumber, Place>>,
    /// What was seen lately; of organisations whose policy is here, and so of few.
    known: BTreeMap<OrgId, Known>,
}

impl Queues {
    /// Takes a place for the device of that connection; one that it has stays as old as it is.
    pub fn up(
        &mut self,
        number: ConnectionNumber,
        org: OrgId,
        device: DeviceId,
        now: Instant,
    ) -> Answer {
        let had = self.remove(number);
        let had = had.filter(|(of, place)| *of == org && place.device == device);
        let others = self.places.get(&org).map_or(0, BTreeMap::len);
        if others >= MAX_OF_ORG || self.orgs.len() >= MAX_PLACES {
            return Err(FULL);
        }
        let since = had.map_or(now, |(_, place)| place.since);
        self.put(number, org, Place { device, since });
        Ok(message::done())
    }

    fn put(&mut self, number: ConnectionNumber, org: OrgId, place: Place) {
        self.orgs.insert(number, org);
        self.places.entry(org).or_default().insert(number, place);
    }

    /// The connection is gone, and its place with it.
    pub fn detach(&mut self, number: ConnectionNumber) {
        self.remove(number);
    }

    fn remove(&mut self, number: ConnectionNumber) -> Option<(OrgId, Place)> {
        let org = self.orgs.remove(&number)?;
        let places = self.places.get_mut(&org)?;
        let place = places.remove(&number)?;
        if places.is_empty() {
            self.places.remove(&org);
        }
        Some((org, place))
    }

    /// The node has another number now: it was parked, or is back.
    pub fn renumber(&mut self, from: ConnectionNumber, to: ConnectionNumber) {
        if let Some((org, place)) = self.remove(from) {
            self.put(to, org, place);
        }
    }

    /// Who waits, as far as was seen a moment ago.
    pub fn look(&mut self, org: OrgId, now: Instant) -> Look {
        match self.known.get(&org) {
            Some(Known::Gathering) => return Look::Wait,
            Some(Known::Since(at, seen)) if now.saturating_duration_since(*at) < FRESH => {
                return Look::Seen(seen.clone());
            }
            Some(Known::Since(..)) | None => {}
        }
        self.known.retain(|_, known| match known {
            Known::Gathering => true,
            Known::Since(at, _) => now.saturating_duration_since(*at) < FRESH,
        });
        self.known.insert(org, Known::Gathering);
        Look::Begin
    }

    /// What all relays have said.
    pub fn gathered(
        &mut self,
        org: OrgId,
        others: Vec<QueueMessage>,
        now: Instant,
    ) -> QueueMessage {
        let seen = merge(std::iter::once(self.here(org, now)).chain(others));
        self.known.insert(org, Known::Since(now, seen.clone()));
        seen
    }

    /// Who waits at this relay: for another one.
    pub fn here(&self, org: OrgId, now: Instant) -> QueueMessage {
        let places = self.places.get(&org).into_iter().flatten();
        let places = places.map(|(_, place)| {
            let waited = now.saturating_duration_since(place.since);
            PlaceMessage {
                device: Bytes::copy_from_slice(&place.device.0),
                waited_ms: u64::try_from(waited.as_millis()).unwrap_or(u64::MAX),
            }
        });
        QueueMessage {
            places: oldest_first(places.collect()),
        }
    }
}

fn oldest_first(mut places: Vec<PlaceMessage>) -> Vec<PlaceMessage> {
    places.sort_by(|a, b| (b.waited_ms, &a.device).cmp(&(a.waited_ms, &b.device)));
    places
}

/// Of each relay the oldest, in turn, until there are as many as may be: one that makes some up does not crowd out the others'.
fn merge(all: impl Iterator<Item = QueueMessage>) -> QueueMessage {
    let mut all: Vec<_> = all
        .map(|queue| {
            let whole = queue.places.into_iter();
            let whole = whole.filter(|place| place.device.len() == 32);
            VecDeque::from(oldest_first(whole.take(MAX_OF_ORG).collect()))
        })
        .collect();
    let mut chosen = BTreeMap::new();
    while chosen.len() < MAX_OF_ORG && all.iter().any(|queue| !queue.is_empty()) {
        for queue in &mut all {
            if let Some(place) = queue.pop_front()
                && chosen.len() < MAX_OF_ORG
            {
                // A device that has just moved is at two: it has waited since the first.
                let waited: &mut u64 = chosen.entry(place.device).or_default();
                *waited = place.waited_ms.max(*waited);
            }
        }
    }
    let chosen = chosen.into_iter();
    let places = chosen.map(|(device, waited_ms)| PlaceMessage { device, waited_ms });
    QueueMessage {
        places: oldest_first(places.collect()),
    }
}

/// Asks these relays who waits there; within 1.5 seconds, whoever answers by then.
pub async fn gather(mesh: Mesh, relays: Vec<RelayId>, org: OrgId) -> Vec<QueueMessage> {
    let asked = relays.into_iter().map(|relay| {
        let fetch = Ask::FetchQueue(FetchQueue {
            org: Bytes::copy_from_slice(&org.0),
        });
        mesh.ask(relay, fetch)
    });
    let mut asked: FuturesUnordered<_> = asked.collect();
    let mut queues = Vec::new();
    let answered = async {
        while let Some(answer) = asked.next().await {
            // Of a version that has no queues, it refuses.
            if let Ok(RelayAnswer::Queue(queue)) = answer {
                queues.push(queue);
            }
        }
    };
    if timeout(GATHERING, answered).await.is_err() {
        tracing::debug!("not all relays have said who waits there");
    }
    queues
}

/// Only of an organisation that is known here: what nobody's policy names fills nothing.
///
/// # Errors
/// It is not.
pub fn check_known(is_known: bool) -> Result<(), Refusal> {
    match is_known {
        true => Ok(()),
        false => Err(UNKNOWN_ORG),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORG: OrgId = OrgId([7; 32]);

    fn number(serial: u32) -> ConnectionNumber {
        ConnectionNumber::new(serial, 0)
    }

    fn device(n: u8) -> DeviceId {
        DeviceId([n; 32])
    }

    fn seen(queue: &QueueMessage) -> Vec<(u8, u64)> {
        let places = queue.places.iter();
        places
            .map(|place| (place.device[0], place.waited_ms))
            .collect()
    }

    fn queue(places: impl IntoIterator<Item = (u8, u64)>) -> QueueMessage {
        let places = places.into_iter().map(|(n, waited_ms)| PlaceMessage {
            device: Bytes::copy_from_slice(&device(n).0),
            waited_ms,
        });
        QueueMessage {
            places: places.collect(),
        }
    }

    #[test]
    fn a_2_who_waits_longest_is_first_and_a_place_is_kept_for_as_long_as_its_node_is_there() {
        let (mut queues, now) = (Queues::default(), Instant::now());
        let at = |s| now + Duration::from_secs(s);
        queues.up(number(1), ORG, device(1), at(0)).expect("room");
        queues.up(number(2), ORG, device(2), at(1)).expect("room");
        queues
            .up(number(3), OrgId([8; 32]), device(3), at(1))
            .expect("room");
        assert_eq!(seen(&queues.here(ORG, at(2))), [(1, 2000), (2, 1000)]);
        // Said again, and parked, it is as old as it was.
        queues.up(number(1), ORG, device(1), at(3)).expect("room");
        queues.renumber(number(1), number(9));
        assert_eq!(seen(&queues.here(ORG, at(4))), [(1, 4000), (2, 3000)]);
        // For another desk it is a new one.
        queues
            .up(number(9), OrgId([8; 32]), device(1), at(4))
            .expect("room");
        assert_eq!(seen(&queues.here(ORG, at(5))), [(2, 4000)]);
        queues.detach(number(2));
        queues.detach(number(2));
        assert_eq!(seen(&queues.here(ORG, at(5))), []);
        assert_eq!(queues.places.len(), 1);
    }

    #[test]
    fn a_2_nobody_fills_a_relay_with_places() {
        let (mut queues, now) = (Queues::default(), Instant::now());
        let max = u32::try_from(MAX_OF_ORG).expect("small");
        for n in 0..max {
            queues.up(number(n), ORG, device(0), now).expect("room");
        }
        assert_eq!(queues.up(number(max), ORG, device(0), now), Err(FULL));
        assert!(queues.up(number(0), ORG, device(0), now).is_ok(), "its own");
        assert_eq!(queues.here(ORG, now).places.len(), MAX_OF_ORG);
        let other = OrgId([8; 32]);
        assert!(queues.up(number(max), other, device(0), now).is_ok());
        for bad in [
            QueueUp::default(),
            QueueUp {
                org: Bytes::from_static(&[0; 32]),
                device: Bytes::from_static(&[0; 31]),
            },
        ] {
            assert_eq!(Question::up(&bad), Err(MALFORMED));
        }
        assert_eq!(Question::look(&FetchQueue::default()), Err(MALFORMED));
    }

    #[test]
    fn many_who_look_at_once_are_one_question_to_the_fleet() {
        let (mut queues, now) = (Queues::default(), Instant::now());
        assert_eq!(queues.look(ORG, now), Look::Begin);
        assert_eq!(queues.look(ORG, now), Look::Wait);
        let all = queues.gathered(ORG, vec![queue([(1, 5)])], now);
        assert_eq!(seen(&all), [(1, 5)]);
        assert_eq!(queues.look(ORG, now), Look::Seen(all));
        assert_eq!(queues.look(OrgId([8; 32]), now), Look::Begin);
        assert_eq!(queues.look(ORG, now + FRESH), Look::Begin);
        queues.gathered(OrgId([8; 32]), Vec::new(), now);
        queues.gathered(ORG, Vec::new(), now + FRESH);
        queues.look(OrgId([9; 32]), now + 2 * FRESH);
        assert_eq!(queues.known.len(), 1, "what is old is forgotten");
    }

    #[test]
    fn a_relay_that_makes_some_up_does_not_crowd_out_the_others() {
        let one = queue([(1, 10), (2, 20)]);
        let two = queue([(2, 25), (3, 15)]);
        let mut odd = queue([(4, 1)]);
        odd.places[0].device = Bytes::from_static(b"short");
        let all = merge([one.clone(), two.clone(), odd].into_iter());
        assert_eq!(seen(&all), [(2, 25), (3, 15), (1, 10)]);
        let many = queue((100..200).map(|n| (n, 1_000_000)));
        let all = merge([many, one, two].into_iter());
        assert_eq!(all.places.len(), MAX_OF_ORG);
        for n in 1..=3 {
            assert!(seen(&all).iter().any(|(device, _)| *device == n), "{n}");
        }
        let bytes = prost::Message::encoded_len(&all);
        assert!(bytes < 4000, "{bytes}");
    }
}
