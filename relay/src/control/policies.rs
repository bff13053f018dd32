//! Policies of organisations: signed, the newest of each, and who wants to hear of a newer one.
//!
//! The relay can tell which of two is newer, and whose it is; it reads no more of it and can forge none. Anybody may bring one, for
//! only its issuer can have made it. They are in memory: a member that has a newer one than the relay brings it along, and the relays
//! of a fleet have them from each other (see `errands`).

// Machine: what has to be told to other relays, and fetched from them.
mod errands;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use remora_proto::{
    id::{OrgId, RelayId},
    org::signed::{CLOCK_TOLERANCE_S, MAX_POLICY_BYTES, PolicyHeader},
    wire::message::{
        MAX_POLICY_PART_BYTES,
        control::{FetchPolicy, PolicyChanged, PolicyPart, PutPolicy},
        mesh::{
            PolicyNews, Reason as RelayReason, request::Body as Ask, response::Body as RelayAnswer,
        },
    },
};

use self::errands::Errands;
use super::{
    message::{self, Answer, Reason, Refusal, Reply},
    registry::ConnectionNumber,
};
use crate::mesh;

pub use self::errands::{Errand, Fetched, Purpose};

/// Organisations at once: with the largest policies, 16 MiB.
const MAX_POLICIES: usize = 256;
/// Nodes that are in the middle of bringing one: 4 MiB at most. An administrator takes a second.
const MAX_BRINGING: usize = 64;

/// What is asked about policies.
#[derive(Debug)]
pub enum Question {
    /// A part of one, and to be told of the next.
    Fetch(FetchPolicy),
    /// To take a part of one.
    Put(PutPolicy),
}

/// See the module.
#[derive(Debug, Default)]
pub struct Policies {
    kept: BTreeMap<OrgId, (PolicyHeader, Bytes)>,
    readers: BTreeMap<OrgId, BTreeSet<ConnectionNumber>>,
    reads: BTreeMap<ConnectionNumber, OrgId>,
    bringing: BTreeMap<ConnectionNumber, Vec<u8>>,
    notices: VecDeque<(ConnectionNumber, Reply)>,
    errands: Errands,
}

const FULL: Refusal = Refusal::new(Reason::Full, "no more policies fit here");

impl Policies {
    /// Answers at once.
    pub fn handle(&mut self, number: ConnectionNumber, question: Question, unix_s: u64) -> Answer {
        match question {
            Question::Fetch(fetch) => self.fetch(number, &fetch),
            Question::Put(put) => self.put(number, put, unix_s),
        }
    }

    /// The next thing that somebody wants to hear.
    pub fn poll_notice(&mut self) -> Option<(ConnectionNumber, Reply)> {
        self.notices.pop_front()
    }

    /// Whether it has one of this organisation.
    pub fn knows(&self, org: OrgId) -> bool {
        self.kept.contains_key(&org)
    }

    /// The connection is gone.
    pub fn detach(&mut self, number: ConnectionNumber) {
        self.bringing.remove(&number);
        if let Some(org) = self.reads.remove(&number)
            && let Some(readers) = self.readers.get_mut(&org)
        {
            readers.remove(&number);
            if readers.is_empty() {
                self.readers.remove(&org);
            }
        }
    }

    /// The node has another number now: it was parked, or is back.
    pub fn renumber(&mut self, from: ConnectionNumber, to: ConnectionNumber) {
        let org = self.reads.get(&from).copied();
        self.detach(from);
        if let Some(org) = org {
            self.read(to, org);
        }
    }

    /// These relays are in touch, each since a number of its own. What somebody here reads may be newer at those that are new.
    pub fn meet(&mut self, relays: BTreeMap<RelayId, u64>) {
        let (kept, readers) = (&self.kept, &self.readers);
        let read = readers.keys().map(|&org| (org, number_of(kept, org)));
        self.errands.meet(relays, read);
    }

    /// What is to be told to another relay, or fetched from it.
    pub fn poll_errand(&mut self) -> Option<Errand> {
        self.errands.poll()
    }

    /// An errand has ended.
    pub fn fetched(&mut self, fetched: Fetched, unix_s: u64) {
        self.errands.done(&fetched.by);
        if let Some(bytes) = fetched.policy {
            // No policy, or none that is newer than what has come meanwhile: nothing is lost.
            self.keep(bytes, unix_s).ok();
        }
    }

    /// What another relay asks about policies is answered; anything else is not.
    pub fn handle_relay(&mut self, from: RelayId, ask: &Ask) -> Option<RelayAnswer> {
        let answered = match ask {
            Ask::FetchPolicy(fetch) => self.part(fetch).map(RelayAnswer::PolicyPart),
            Ask::PolicyNews(news) => self.hear(from, news).map(|()| mesh::done()),
            Ask::Hello(_)
            | Ask::Keep(_)
            | Ask::Forget(_)
            | Ask::Find(_)
            | Ask::Offer(_)
            | Ask::Signal(_)
            | Ask::Admit(_)
            | Ask::Dismiss(_)
            | Ask::Release(_)
            | Ask::FetchQueue(_) => return None,
        };
        Some(answered.unwrap_or_else(|_| mesh::refused(RelayReason::Malformed)))
    }

    fn hear(&mut self, from: RelayId, news: &PolicyNews) -> Result<(), Refusal> {
        let org = org_id(&news.org)?;
        let have = number_of(&self.kept, org);
        let is_wanted = self.kept.contains_key(&org) || self.readers.contains_key(&org);
        if is_wanted && news.number > have {
            self.errands.fetch(from, org, have);
        }
        Ok(())
    }

    fn read(&mut self, number: ConnectionNumber, org: OrgId) {
        if self.reads.get(&number) == Some(&org) {
            return;
        }
        self.detach(number);
        self.reads.insert(number, org);
        let readers = self.readers.entry(org).or_default();
        if readers.is_empty() {
            let have = number_of(&self.kept, org);
            self.errands.fetch_anywhere(org, have);
        }
        readers.insert(number);
    }

    fn fetch(&mut self, number: ConnectionNumber, fetch: &FetchPolicy) -> Answer {
        self.read(number, org_id(&fetch.org)?);
        self.part(fetch).map(Reply::PolicyPart)
    }

    fn part(&self, fetch: &FetchPolicy) -> Result<PolicyPart, Refusal> {
        let org = org_id(&fetch.org)?;
        let Some((header, bytes)) = self.kept.get(&org) else {
            return Ok(PolicyPart::default());
        };
        let begin = usize::try_from(fetch.offset).unwrap_or(usize::MAX);
        let begin = begin.min(bytes.len());
        let end = bytes.len().min(begin + MAX_POLICY_PART_BYTES);
        let is_wanted = header.number > fetch.have;
        Ok(PolicyPart {
            number: header.number,
            size: u32::try_from(bytes.len()).unwrap_or(u32::MAX),
            part: match is_wanted {
                true => bytes.slice(begin..end),
                false => Bytes::new(),
            },
        })
    }

    fn put(&mut self, number: ConnectionNumber, put: PutPolicy, unix_s: u64) -> Answer {
        let malformed = Refusal::new(Reason::Malformed, "parts of a policy that do not fit");
        let size = usize::try_from(put.size).unwrap_or(usize::MAX);
        let offset = usize::try_from(put.offset).unwrap_or(usize::MAX);
        if offset == 0 {
            if self.bringing.len() >= MAX_BRINGING && !self.bringing.contains_key(&number) {
                return Err(FULL);
            }
            self.bringing.insert(number, Vec::new());
        }
        let bringing = self.bringing.get_mut(&number).ok_or(malformed)?;
        let fits = size <= MAX_POLICY_BYTES
            && offset == bringing.len()
            && !put.part.is_empty()
            && put.part.len() <= MAX_POLICY_PART_BYTES
            && offset + put.part.len() <= size;
        if !fits {
            self.bringing.remove(&number);
            return Err(malformed);
        }
        bringing.extend_from_slice(&put.part);
        if bringing.len() < size {
            return Ok(message::done());
        }
        let bytes = self.bringing.remove(&number).unwrap_or_default();
        if let Some((org, number)) = self.keep(bytes.into(), unix_s)? {
            self.errands.tell_all(org, number);
        }
        Ok(message::done())
    }

    /// What is new now, if anything is.
    fn keep(&mut self, bytes: Bytes, unix_s: u64) -> Result<Option<(OrgId, u64)>, Refusal> {
        const BAD: Refusal = Refusal::new(Reason::BadRecord, "not a policy that its issuer signed");
        const OLD: Refusal = Refusal::new(Reason::Taken, "a newer policy is known here");
        let header = PolicyHeader::open(&bytes).map_err(|_| BAD)?;
        if header.expires.saturating_add(CLOCK_TOLERANCE_S) <= unix_s {
            return Err(BAD);
        }
        match self.kept.get(&header.issuer) {
            Some((_, kept)) if *kept == bytes => return Ok(None),
            Some((kept, _)) if kept.number >= header.number => return Err(OLD),
            Some(_) => {}
            None => self.make_room(unix_s)?,
        }
        let news = (header.issuer, header.number);
        self.kept.insert(header.issuer, (header, bytes));
        let readers = self.readers.get(&header.issuer).into_iter().flatten();
        self.notices.extend(readers.map(|&reader| {
            let number = header.number;
            (reader, Reply::PolicyChanged(PolicyChanged { number }))
        }));
        Ok(Some(news))
    }

    /// What has expired falls out; then what nobody here reads, the one that expires first. Of those that are read none makes way.
    fn make_room(&mut self, unix_s: u64) -> Result<(), Refusal> {
        if self.kept.len() < MAX_POLICIES {
            return Ok(());
        }
        self.kept
            .retain(|_, (header, _)| header.expires.saturating_add(CLOCK_TOLERANCE_S) > unix_s);
        if self.kept.len() < MAX_POLICIES {
            return Ok(());
        }
        let unread = self
            .kept
            .iter()
            .filter(|(org, _)| !self.readers.contains_key(org));
        let first = unread.min_by_key(|(_, (header, _))| header.expires);
        let org = first.map(|(org, _)| *org).ok_or(FULL)?;
        self.kept.remove(&org);
        Ok(())
    }
}

fn org_id(bytes: &[u8]) -> Result<OrgId, Refusal> {
    const MALFORMED: Refusal =
        Refusal::new(Reason::Malformed, "an organisation has a key of 32 bytes");
    Ok(OrgId(bytes.try_into().map_err(|_| MALFORMED)?))
}

/// Of the newest that is known; 0 for none.
fn number_of(kept: &BTreeMap<OrgId, (PolicyHeader, Bytes)>, org: OrgId) -> u64 {
    kept.get(&org).map_or(0, |(header, _)| header.number)
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use remora_proto::{
        org::signed::Issuer,
        wire::message::{control::Refused, org as schema},
    };

    use super::*;

    const NOW: u64 = 1_000_000;

    fn number(serial: u32) -> ConnectionNumber {
        ConnectionNumber::new(serial, 0)
    }

    fn org(seed: u8) -> OrgId {
        Issuer::from_bytes(&[seed; 32]).id()
    }

    /// Signed; with so much in it that it takes several parts.
    fn policy(seed: u8, number: u64, expires: u64) -> Bytes {
        let issuer = Issuer::from_bytes(&[seed; 32]);
        let body: Bytes = schema::Policy {
            version: 1,
            issuer: Bytes::copy_from_slice(&issuer.id().0),
            number,
            issued: NOW - 10,
            expires,
            company: "x".repeat(8000),
            domain: "contoso.com".into(),
            ..Default::default()
        }
        .encode_to_vec()
        .into();
        issuer.sign_policy_body(body)
    }

    fn small(size: usize) -> u32 {
        u32::try_from(size).expect("small")
    }

    fn put(policies: &mut Policies, from: u32, bytes: &Bytes) -> Answer {
        let mut last = Err(FULL);
        for (n, part) in bytes.chunks(MAX_POLICY_PART_BYTES).enumerate() {
            let put = PutPolicy {
                size: small(bytes.len()),
                offset: small(n * MAX_POLICY_PART_BYTES),
                part: Bytes::copy_from_slice(part),
            };
            last = policies.handle(number(from), Question::Put(put), NOW);
            if last.is_err() {
                break;
            }
        }
        last
    }

    fn fetch(policies: &mut Policies, from: u32, org: OrgId, have: u64) -> (u64, Bytes) {
        let (mut bytes, mut got) = (Vec::new(), 0);
        loop {
            let fetch = FetchPolicy {
                org: Bytes::copy_from_slice(&org.0),
                have,
                offset: small(bytes.len()),
            };
            let answer = policies.handle(number(from), Question::Fetch(fetch), NOW);
            let Ok(Reply::PolicyPart(part)) = answer else {
                panic!("{answer:?}")
            };
            bytes.extend_from_slice(&part.part);
            got = part.number.max(got);
            if part.part.is_empty() || bytes.len() >= usize::try_from(part.size).expect("small") {
                return (got, bytes.into());
            }
        }
    }

    fn told(policies: &mut Policies) -> Vec<u32> {
        let notices = std::iter::from_fn(|| policies.poll_notice());
        let mut told: Vec<_> = notices.map(|(to, _)| to).collect();
        told.sort();
        (0..100).filter(|&n| told.contains(&number(n))).collect()
    }

    fn refused(answer: Answer, reason: Reason) {
        let refusal = answer.expect_err("refused");
        let Reply::Refused(Refused { reason: said, .. }) = refusal.into_reply() else {
            panic!("{refusal:?}")
        };
        assert_eq!(said, i32::from(reason));
    }

    #[test]
    fn a_newer_policy_is_passed_on_and_its_readers_are_told_wherever_they_are() {
        let mut policies = Policies::default();
        assert_eq!(fetch(&mut policies, 1, org(7), 0), (0, Bytes::new()));
        fetch(&mut policies, 2, org(7), 0);
        fetch(&mut policies, 3, org(8), 0);
        fetch(&mut policies, 4, org(7), 0);
        policies.detach(number(4));
        policies.renumber(number(2), number(20));
        let first = policy(7, 1, NOW + 100);
        assert!(first.len() > 2 * MAX_POLICY_PART_BYTES);
        put(&mut policies, 9, &first).expect("kept");
        assert_eq!(told(&mut policies), [1, 20]);
        assert_eq!(fetch(&mut policies, 1, org(7), 0), (1, first.clone()));
        assert_eq!(fetch(&mut policies, 1, org(7), 1), (1, Bytes::new()));
        put(&mut policies, 9, &first).expect("it is known");
        assert!(told(&mut policies).is_empty());
        let second = policy(7, 2, NOW + 100);
        put(&mut policies, 1, &second).expect("kept");
        assert_eq!(told(&mut policies), [1, 20]);
        refused(put(&mut policies, 9, &first), Reason::Taken);
        refused(
            put(&mut policies, 9, &policy(7, 2, NOW + 101)),
            Reason::Taken,
        );
        assert_eq!(fetch(&mut policies, 1, org(7), 1), (2, second));
    }

    #[test]
    fn what_no_issuer_has_signed_is_not_kept() {
        let mut policies = Policies::default();
        let good = policy(7, 1, NOW + 100);
        for at in [0, 40, good.len() / 2, good.len() - 1] {
            let mut forged = good.to_vec();
            forged[at] ^= 1;
            refused(put(&mut policies, 1, &forged.into()), Reason::BadRecord);
        }
        let expired = policy(7, 1, NOW - CLOCK_TOLERANCE_S);
        refused(put(&mut policies, 1, &expired), Reason::BadRecord);
        let part = |size, offset, part: &'static [u8]| {
            Question::Put(PutPolicy {
                size,
                offset,
                part: Bytes::from_static(part),
            })
        };
        for bad in [
            part(10, 5, b"x"),
            part(10, 0, b""),
            part(1, 0, b"xx"),
            part(70_000, 0, b"x"),
        ] {
            refused(policies.handle(number(1), bad, NOW), Reason::Malformed);
        }
        assert!(policies.kept.is_empty() && policies.bringing.is_empty());
    }

    #[test]
    fn what_nobody_reads_makes_way_and_what_somebody_reads_does_not() {
        let mut policies = Policies::default();
        for n in 0..MAX_POLICIES {
            let header = PolicyHeader {
                issuer: OrgId(std::array::from_fn(|at| {
                    if at < 2 { n.to_be_bytes()[6 + at] } else { 0 }
                })),
                number: 1,
                issued: NOW,
                expires: NOW + 1000 + n as u64,
            };
            policies.kept.insert(header.issuer, (header, Bytes::new()));
        }
        let orgs: Vec<_> = policies.kept.keys().copied().collect();
        fetch(&mut policies, 1, orgs[0], 9);
        put(&mut policies, 9, &policy(7, 1, NOW + 100)).expect("there is room");
        assert!(policies.kept.contains_key(&orgs[0]), "it is read");
        assert!(!policies.kept.contains_key(&orgs[1]), "it expires first");
        for (n, org) in (2..).zip(policies.kept.keys().copied().collect::<Vec<_>>()) {
            fetch(&mut policies, n, org, 9);
        }
        refused(
            put(&mut policies, 9, &policy(8, 1, NOW + 100)),
            Reason::Full,
        );
    }

    #[test]
    fn nodes_that_bring_half_a_policy_hold_little_memory() {
        let mut policies = Policies::default();
        let half = || {
            Question::Put(PutPolicy {
                size: 100,
                offset: 0,
                part: Bytes::from_static(b"x"),
            })
        };
        for n in 0..u32::try_from(MAX_BRINGING).expect("small") {
            policies.handle(number(n), half(), NOW).expect("taken");
        }
        refused(policies.handle(number(1000), half(), NOW), Reason::Full);
        policies.detach(number(0));
        policies.handle(number(1000), half(), NOW).expect("taken");
    }

    fn relay(n: u8) -> RelayId {
        RelayId([n; 32])
    }

    /// What is to be done, in order; each has ended with nothing.
    fn errands(policies: &mut Policies) -> Vec<(RelayId, Purpose)> {
        let mut errands = Vec::new();
        while let Some(errand) = policies.poll_errand() {
            errands.push((errand.relay, errand.purpose));
            let fetched = Fetched {
                by: errand,
                policy: None,
            };
            policies.fetched(fetched, NOW);
        }
        errands
    }

    fn news(org: OrgId, number: u64) -> Ask {
        let org = Bytes::copy_from_slice(&org.0);
        Ask::PolicyNews(PolicyNews { org, number })
    }

    #[test]
    fn who_reads_and_who_brings_is_why_other_relays_are_asked_and_told() {
        let mut policies = Policies::default();
        policies.meet([(relay(1), 1)].into());
        assert!(errands(&mut policies).is_empty(), "nobody reads anything");
        // The first reader.
        fetch(&mut policies, 1, org(7), 0);
        assert_eq!(errands(&mut policies), [(relay(1), Purpose::Fetch(0))]);
        fetch(&mut policies, 2, org(7), 0);
        assert!(errands(&mut policies).is_empty());
        // A relay that has come, and one that has begun anew.
        policies.meet([(relay(1), 1), (relay(2), 2)].into());
        assert_eq!(errands(&mut policies), [(relay(2), Purpose::Fetch(0))]);
        policies.meet([(relay(1), 3), (relay(2), 2)].into());
        assert_eq!(errands(&mut policies), [(relay(1), Purpose::Fetch(0))]);
        // One that a node has brought.
        put(&mut policies, 9, &policy(7, 4, NOW + 100)).expect("kept");
        let told = [(relay(1), Purpose::Tell(4)), (relay(2), Purpose::Tell(4))];
        assert_eq!(errands(&mut policies), told);
        // What others say that they have.
        for (org, number, follows) in [(org(7), 4, 0), (org(7), 5, 1), (org(8), 5, 0)] {
            let answer = policies.handle_relay(relay(2), &news(org, number));
            assert_eq!(answer, Some(mesh::done()));
            assert_eq!(errands(&mut policies).len(), follows, "{org:?} {number}");
        }
        let bad = Ask::PolicyNews(PolicyNews::default());
        let answer = policies.handle_relay(relay(2), &bad);
        assert_eq!(answer, Some(mesh::refused(RelayReason::Malformed)));
    }

    #[test]
    fn what_a_relay_brings_counts_as_much_as_what_anybody_brings() {
        let mut policies = Policies::default();
        policies.meet([(relay(1), 1)].into());
        fetch(&mut policies, 1, org(7), 0);
        let good = policy(7, 1, NOW + 100);
        let mut forged = good.to_vec();
        forged[40] ^= 1;
        let others = policy(8, 9, NOW + 100);
        for (policy, kept) in [(forged.into(), 0), (others, 0), (good, 1)] {
            let by = Errand {
                relay: relay(1),
                org: org(7),
                purpose: Purpose::Fetch(0),
            };
            let policy = Some(policy);
            policies.fetched(Fetched { by, policy }, NOW);
            assert_eq!(number_of(&policies.kept, org(7)), kept);
        }
        assert_eq!(told(&mut policies), [1]);
        let asked = errands(&mut policies);
        assert!(
            asked
                .iter()
                .all(|(_, purpose)| matches!(purpose, Purpose::Fetch(_)))
        );
    }

    #[test]
    fn a_fleet_cannot_fill_a_relay_with_errands() {
        let mut policies = Policies::default();
        policies.meet((0..200).map(|n| (relay(n), 1)).collect());
        for n in 0..100 {
            fetch(
                &mut policies,
                n,
                OrgId([u8::try_from(n).expect("small"); 32]),
                0,
            );
        }
        let mut under_way = Vec::new();
        under_way.extend(std::iter::from_fn(|| policies.poll_errand()));
        assert_eq!(under_way.len(), 16);
        for by in under_way {
            policies.fetched(Fetched { by, policy: None }, NOW);
        }
        assert_eq!(errands(&mut policies).len(), 4096 - 16);
        policies.meet(BTreeMap::new());
        assert!(errands(&mut policies).is_empty());
    }
}
