//! How others see this node's sockets: what its NAT does, and the address that strangers may try. Pure.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

use remora_proto::{
    path::{
        nat::Nat,
        survey::{FRESH, Survey},
        way::{Base, SocketChange, Way},
    },
    random::Random,
    wire::reflect::{self, Reflection},
};

use super::mover::Arrived;

/// How often the relay is asked how it sees the main socket, once that is known: a NAT may have forgotten it.
const AGAIN: Duration = Duration::from_secs(25);
/// Questions for plans that wait for an answer; one that is lost is asked for again by the plan.
const MAX_ASKED: usize = 8;

/// A question to an observer.
pub(super) type Question = (Base, SocketAddr, [u8; reflect::LEN]);

/// See the module.
#[derive(Debug)]
pub(super) struct Seen {
    /// The relay first.
    observers: Vec<SocketAddr>,
    /// As it was found out before the session.
    nat: Nat,
    /// Finds it out, if nobody has.
    survey: Option<Survey>,
    main: Option<SocketAddr>,
    /// Beside the survey: transaction and socket.
    asked: VecDeque<(u64, Base)>,
    again: Instant,
    questions: VecDeque<Question>,
    /// Of a survey that was broken off.
    sockets: VecDeque<SocketChange>,
    random: Random,
}

impl Seen {
    /// The relay has seen the main socket as `main` already, and the NAT has been found out, or is unknown.
    pub(super) fn new(
        observers: Vec<SocketAddr>,
        main: Option<SocketAddr>,
        nat: Nat,
        mut random: Random,
        now: Instant,
    ) -> Self {
        let is_known = nat != Nat::default();
        let survey = (!is_known).then(|| Survey::new(&observers, &mut random, now));
        Self {
            observers,
            nat,
            survey,
            main,
            asked: VecDeque::new(),
            again: now + AGAIN,
            questions: VecDeque::new(),
            sockets: VecDeque::new(),
            random,
        }
    }

    /// Another network, another NAT.
    pub(super) fn restart(&mut self, now: Instant) {
        self.nat = Nat::default();
        self.sockets.extend(FRESH.map(SocketChange::Close));
        self.survey = Some(Survey::new(&self.observers, &mut self.random, now));
        self.main = None;
        self.again = now + AGAIN;
    }

    /// Others are asked from now on, the relay first.
    pub(super) fn ask_from_now_on(&mut self, observers: Vec<SocketAddr>) {
        self.observers = observers;
        self.asked.clear();
    }

    /// How an observer sees the main socket.
    pub(super) fn main(&self) -> Option<SocketAddr> {
        self.main
    }

    /// What the NAT does.
    pub(super) fn nat(&self) -> Nat {
        self.survey.as_ref().map_or(self.nat, Survey::nat)
    }

    /// The relay is asked how it sees a socket.
    pub(super) fn ask(&mut self, base: Base) {
        let Some(&relay) = self.observers.first() else {
            return;
        };
        let transaction = u64::from_be_bytes(self.random.bytes());
        self.asked.truncate(MAX_ASKED - 1);
        self.asked.push_front((transaction, base));
        self.questions
            .push_back((base, relay, reflect::request(transaction)));
    }

    /// An answer, maybe; what a plan has asked for is given back.
    pub(super) fn handle(&mut self, arrived: &Arrived, now: Instant) -> Option<(Base, SocketAddr)> {
        let Way { base, to: observer } = arrived.from?;
        let Reflection {
            transaction, seen, ..
        } = reflect::decode_response(&arrived.bytes)?;
        if let Some(survey) = &mut self.survey
            && survey.handle_response(base, observer, transaction, seen, now)
        {
            self.main = survey.reflexive().or(self.main);
            return None;
        }
        if self.observers.first() != Some(&observer) {
            return None;
        }
        let at = self
            .asked
            .iter()
            .position(|asked| *asked == (transaction, base))?;
        self.asked.remove(at);
        if base == Base::MAIN {
            self.main = Some(seen);
        }
        Some((base, seen))
    }

    /// Time has passed.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if let Some(survey) = &mut self.survey
            && survey.poll_timeout().is_some_and(|due| due <= now)
        {
            survey.handle_timeout(now);
        }
        if self.again <= now {
            self.again = now + AGAIN;
            self.ask(Base::MAIN);
        }
    }

    /// When [`Self::handle_timeout`] is due.
    pub(super) fn poll_timeout(&self) -> Instant {
        let survey = self.survey.as_ref().and_then(Survey::poll_timeout);
        survey.map_or(self.again, |survey| survey.min(self.again))
    }

    /// A socket to open or close, before anything is sent; call until `None`.
    pub(super) fn poll_socket(&mut self) -> Option<SocketChange> {
        let survey = self.survey.as_mut();
        self.sockets
            .pop_front()
            .or_else(|| survey.and_then(Survey::poll_socket))
    }

    /// A question to send; call until `None`.
    pub(super) fn poll_transmit(&mut self) -> Option<Question> {
        self.survey
            .as_mut()
            .and_then(Survey::poll_transmit)
            .or_else(|| self.questions.pop_front())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use remora_proto::{path::nat::Mapping, wire::reflect::Load};

    use super::*;

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([203, 0, 113, 7], port))
    }

    fn observers() -> Vec<SocketAddr> {
        [1, 2]
            .map(|port| SocketAddr::from(([198, 51, 100, 1], port)))
            .to_vec()
    }

    /// Answers all that is asked, the main socket being seen at the port that `seen` says of the observer's.
    fn answer(seen: &mut Seen, port: impl Fn(u16) -> u16, now: Instant) -> Vec<(Base, SocketAddr)> {
        let mut told = Vec::new();
        while let Some((base, observer, question)) = seen.poll_transmit() {
            let source = at(port(observer.port()));
            let answer = reflect::respond(&question, source, Load::default()).expect("a question");
            let from = Some(Way { base, to: observer });
            let bytes = Bytes::copy_from_slice(&answer);
            told.extend(seen.handle(&Arrived { from, bytes }, now));
        }
        told
    }

    #[test]
    fn the_address_is_known_at_once_and_kept_and_asked_for_again() {
        let now = Instant::now();
        let (random, unknown) = (Random::seeded(1), Nat::default());
        let mut seen = Seen::new(observers(), Some(at(9)), unknown, random, now);
        assert_eq!(seen.main(), Some(at(9)));
        assert_eq!(answer(&mut seen, |_| 7, now), []);
        assert_eq!(
            (seen.main(), seen.nat().mapping),
            (Some(at(7)), Mapping::Independent)
        );
        let later = seen.poll_timeout();
        seen.handle_timeout(later);
        assert_eq!(answer(&mut seen, |_| 8, later), [(Base::MAIN, at(8))]);
        assert_eq!(seen.main(), Some(at(8)), "the NAT has forgotten it");
        seen.restart(later);
        assert_eq!((seen.main(), seen.nat().mapping), (None, Mapping::Unknown));
    }

    #[test]
    fn what_is_known_is_asked_again_only_in_another_network() {
        let now = Instant::now();
        let mapping = Mapping::Independent;
        let mut seen = Seen::new(observers(), None, Nat { mapping }, Random::seeded(3), now);
        assert_eq!((seen.nat().mapping, seen.poll_transmit()), (mapping, None));
        seen.restart(now);
        assert_eq!(seen.nat().mapping, Mapping::Unknown);
        assert!(seen.poll_transmit().is_some());
    }

    #[test]
    fn a_plan_is_told_how_its_socket_is_seen_and_nobody_else_can_say() {
        let now = Instant::now();
        let (random, unknown) = (Random::seeded(2), Nat::default());
        let mut seen = Seen::new(observers(), None, unknown, random, now);
        answer(&mut seen, |observer| observer, now);
        let opened: Vec<_> = std::iter::from_fn(|| seen.poll_socket()).collect();
        assert_eq!(
            opened.len(),
            10,
            "fresh sockets, and away with them: {opened:?}"
        );
        assert!(matches!(seen.nat().mapping, Mapping::Dependent(_)));
        seen.ask(Base(3));
        let (base, relay, question) = seen.poll_transmit().expect("asked");
        assert_eq!((base, relay), (Base(3), observers()[0]));
        let bytes = reflect::respond(&question, at(4), Load::default()).expect("a question");
        let bytes = Bytes::copy_from_slice(&bytes);
        for (base, to) in [(Base(3), observers()[1]), (Base(2), relay)] {
            let from = Some(Way { base, to });
            let bytes = bytes.clone();
            assert_eq!(seen.handle(&Arrived { from, bytes }, now), None);
        }
        let from = Some(Way { base, to: relay });
        let told = seen.handle(&Arrived { from, bytes }, now);
        assert_eq!(told, Some((Base(3), at(4))));
    }
}
