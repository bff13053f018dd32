use std::net::SocketAddr;

use prometheus::Registry as MetricsRegistry;
use proptest::prelude::*;
use remora_proto::{
    id::Side,
    wire::message::{
        control::{Allocated, Dismiss, Offer, Rejoin, Released, Signal},
        mesh::{self as wire, Reason as RelayReason, request::Body as RelayAsk},
    },
};

use super::{rejoin::WAIT, *};
use crate::{
    control::message::ReleaseCause,
    datapath::{DropReason, leg::FarEnd},
    mesh::{self, AskError, Neighbour},
    rate::Rate,
};

const HOST: ConnectionNumber = ConnectionNumber(1);
const JOINER: ConnectionNumber = ConnectionNumber(2);
const STRANGER: ConnectionNumber = ConnectionNumber(3);
const ME: RelayId = RelayId([0xa; 32]);
const OTHER: RelayId = RelayId([0xb; 32]);
const KEY: RecordKey = RecordKey([7; 32]);
const DRAIN: Duration = Duration::from_secs(60);

/// A registry with its table, and `now`.
struct Bench {
    registry: Registry,
    table: Arc<Table>,
    now: Instant,
}

fn source(number: ConnectionNumber) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], u16::try_from(number.0).expect("few")))
}

fn leg(number: ConnectionNumber) -> Leg {
    Leg {
        end: FarEnd::Node,
        remote: source(number),
        local: None,
    }
}

fn payload(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

impl Bench {
    fn new(max_nodes: usize, max_sessions: usize) -> Self {
        let now = Instant::now();
        let rate = Rate::per_second(1 << 20, 1 << 20);
        let table = Arc::new(Table::new(rate, max_sessions, now));
        let metrics = Arc::new(Metrics::new(&MetricsRegistry::new()).expect("new names"));
        let limits = Limits {
            max_nodes,
            max_sessions,
            session_rate_bytes_per_s: 1 << 20,
        };
        let registry = Registry::new(
            ME,
            limits,
            Drain::new(DRAIN),
            Arc::clone(&table),
            metrics,
            Random::seeded(1),
        );
        Self {
            registry,
            table,
            now,
        }
    }

    /// Host, joiner and stranger, the host waiting under [`KEY`].
    fn three() -> Self {
        let mut bench = Self::new(100, 100);
        for number in [HOST, JOINER, STRANGER] {
            bench.attach(number).expect("room");
        }
        bench
            .ask(
                HOST,
                Demand::Host {
                    key: KEY,
                    kind: Kind::Host,
                    live_for: Duration::from_secs(600),
                },
            )
            .expect("hosted");
        bench
    }

    fn attach(&mut self, number: ConnectionNumber) -> Result<(), Refusal> {
        self.registry
            .attach(number, NodeId([1; 32]), leg(number), self.now)
    }

    fn ask(&mut self, number: ConnectionNumber, demand: Demand) -> Answer {
        match self.registry.handle(number, demand, self.now) {
            Outcome::Answered(answer) => answer,
            Outcome::Later(_) => panic!("no other relay is needed"),
        }
    }

    /// The other relay is in touch.
    fn meet(&mut self) {
        self.meet_at(4433, 1);
    }

    fn meet_at(&mut self, port: u64, met: u64) {
        self.meet_by(Some(leg(ConnectionNumber(port))), met, 1);
    }

    fn meet_by(&mut self, leg: Option<Leg>, met: u64, run: u64) {
        let neighbour = Neighbour {
            leg,
            met,
            run,
            advertised: None,
            name: "other".into(),
        };
        let all = [(OTHER, neighbour)].into();
        self.registry.meet(Neighbours(all));
    }

    fn hear(&mut self, ask: RelayAsk) -> Result<(), RelayReason> {
        let answer = self.registry.handle_relay(OTHER, ask, self.now);
        if let wire::response::Body::Refused(refused) = &answer {
            return Err(refused.reason());
        }
        assert_eq!(answer, mesh::done());
        Ok(())
    }

    fn later(&mut self, number: ConnectionNumber, demand: Demand) -> ExchangeId {
        match self.registry.handle(number, demand, self.now) {
            Outcome::Later(exchange) => exchange,
            Outcome::Answered(answer) => panic!("answered: {answer:?}"),
        }
    }

    fn calls(&mut self) -> Vec<Call> {
        std::iter::from_fn(|| self.registry.poll_call()).collect()
    }

    fn answers(&mut self) -> Vec<(ExchangeId, ConnectionNumber, Answer)> {
        std::iter::from_fn(|| self.registry.poll_answer()).collect()
    }

    /// A joiner of the other relay tries the host's code.
    fn offered(&mut self) -> ExchangeId {
        let exchange = self.registry.new_exchange_id();
        assert_eq!(self.hear(offer_of(exchange)), Ok(()));
        assert!(matches!(self.notices()[..], [(HOST, Reply::Offer(_))]));
        exchange
    }

    fn refused(&mut self, number: ConnectionNumber, demand: Demand) -> Reason {
        self.ask(number, demand).expect_err("refused").reason
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.registry.handle_timeout(self.now);
    }

    fn notices(&mut self) -> Vec<(ConnectionNumber, Reply)> {
        std::iter::from_fn(|| self.registry.poll_notice()).collect()
    }

    fn try_join(&mut self, joiner: ConnectionNumber) -> Answer {
        self.ask(
            joiner,
            Demand::Join {
                key: KEY,
                relay: ME,
                payload: payload("hello"),
            },
        )
    }

    fn join(&mut self, joiner: ConnectionNumber) -> ExchangeId {
        let Ok(Reply::Started(started)) = self.try_join(joiner) else {
            panic!("not started")
        };
        ExchangeId(started.exchange)
    }

    fn admit(&mut self, exchange: ExchangeId) -> SessionId {
        let answer = self.ask(
            HOST,
            Demand::Admit {
                exchange,
                payload: payload("welcome"),
            },
        );
        let Ok(Reply::Allocated(allocated)) = answer else {
            panic!("not allocated")
        };
        SessionId(allocated.session)
    }

    fn session(&mut self) -> SessionId {
        let exchange = self.join(JOINER);
        let session = self.admit(exchange);
        self.notices();
        session
    }

    fn frame(
        &self,
        session: SessionId,
        side: Side,
        from: ConnectionNumber,
    ) -> Result<Leg, DropReason> {
        let (from, now) = (source(from).into(), self.table.moment(self.now));
        let to = self.table.charge(session, side, (1, 100), from, now);
        to.map(Leg::from)
    }

    fn is_empty(&self) -> bool {
        self.registry.exchanges.is_empty()
            && self.registry.allocations.is_empty()
            && self.registry.hosting_by_locator.is_empty()
            && self.registry.deadlines.is_empty()
            && self.table.is_empty()
    }
}

fn released(session: SessionId, cause: ReleaseCause) -> Reply {
    Reply::Released(Released {
        session: session.0,
        cause: cause.into(),
        why: String::new(),
    })
}

fn over(exchange: ExchangeId) -> Reply {
    Reply::Dismissed(Dismiss {
        exchange: exchange.0,
        payload: Bytes::new(),
        wrong_secret: false,
    })
}

fn rejoin(key: u8, side: Side) -> Demand {
    let asked = Rejoin {
        key: Bytes::from(vec![key; 32]),
        side: side as u32,
    };
    let (key, side) = RejoinKey::parse(&asked).expect("well-formed");
    Demand::Rejoin { key, side }
}

#[test]
fn two_with_the_same_key_get_a_session_whoever_comes_first() {
    for first in [Side::Host, Side::Joiner] {
        let mut bench = Bench::three();
        let [one, other] = match first {
            Side::Host => [HOST, JOINER],
            Side::Joiner => [JOINER, HOST],
        };
        assert_eq!(bench.ask(one, rejoin(1, first)), Ok(done()));
        bench.pass(WAIT / 2);
        assert_eq!(bench.ask(one, rejoin(1, first)), Ok(done()), "again");
        bench.pass(WAIT / 2);
        assert_eq!(bench.ask(STRANGER, rejoin(2, first.peer())), Ok(done()));
        let stranger = bench.refused(STRANGER, rejoin(1, first));
        assert_eq!(stranger, Reason::BadState);
        let Ok(Reply::Allocated(answer)) = bench.ask(other, rejoin(1, first.peer())) else {
            panic!("not allocated")
        };
        let [(to, Reply::Allocated(notice))] = &bench.notices()[..] else {
            panic!("not told")
        };
        let key = Bytes::from(vec![1; 32]);
        assert_eq!((*to, notice.session), (one, answer.session));
        assert_eq!([&notice.rejoin, &answer.rejoin], [&key, &key]);
        assert_eq!(
            [notice.side, answer.side],
            [first as u32, first.peer() as u32]
        );
        let session = SessionId(answer.session);
        assert_eq!(bench.frame(session, Side::Host, HOST), Ok(leg(JOINER)));
        assert_eq!(bench.frame(session, Side::Joiner, JOINER), Ok(leg(HOST)));
        // The key is good for one session: who asks again is told the same, and nobody else anything.
        for (node, side, told) in [(one, first, notice), (other, first.peer(), &answer)] {
            let again = bench.ask(node, rejoin(1, side));
            assert_eq!(again, Ok(Reply::Allocated(told.clone())));
        }
        assert_eq!(
            bench.refused(one, rejoin(1, first.peer())),
            Reason::BadState
        );
        assert_eq!(bench.refused(STRANGER, rejoin(1, first)), Reason::BadState);
        assert_eq!((bench.registry.sessions(), bench.notices()), (1, vec![]));
        bench
            .ask(one, Demand::Release { session })
            .expect("released");
        assert_eq!(bench.ask(one, rejoin(1, first)), Ok(done()), "anew");
    }
}

#[test]
fn nobody_waits_for_ever_for_the_other_nor_with_many_keys() {
    let mut bench = Bench::three();
    for key in 0..16 {
        assert_eq!(bench.ask(HOST, rejoin(key, Side::Host)), Ok(done()));
    }
    assert_eq!(bench.refused(HOST, rejoin(16, Side::Host)), Reason::Full);
    assert!(bench.registry.check_park(HOST).is_err());
    bench.pass(WAIT);
    assert!(bench.registry.check_park(HOST).is_ok());
    assert_eq!(bench.ask(JOINER, rejoin(0, Side::Joiner)), Ok(done()));
    bench.registry.detach(JOINER);
    assert_eq!(bench.ask(HOST, rejoin(0, Side::Host)), Ok(done()));
    assert_eq!(bench.registry.sessions(), 0);
    bench.ask(STRANGER, rejoin(0, Side::Joiner)).expect("met");
    bench.registry.begin_drain(bench.now);
    assert_eq!(bench.refused(HOST, rejoin(1, Side::Host)), Reason::Draining);
}

fn offer_of(exchange: ExchangeId) -> RelayAsk {
    RelayAsk::Offer(wire::Offer {
        exchange: exchange.0,
        locator_key: Bytes::copy_from_slice(&KEY.0),
        payload: Bytes::new(),
    })
}

fn dismiss_of(exchange: ExchangeId) -> RelayAsk {
    RelayAsk::Dismiss(wire::Dismiss {
        exchange: exchange.0,
        payload: Bytes::new(),
        wrong_secret: false,
    })
}

fn join_there() -> Demand {
    Demand::Join {
        key: KEY,
        relay: OTHER,
        payload: payload("hello"),
    }
}

#[test]
fn two_nodes_meet_and_part() {
    let mut bench = Bench::three();
    let exchange = bench.join(JOINER);
    let offer = Offer {
        exchange: exchange.0,
        locator_key: Bytes::copy_from_slice(&KEY.0),
        payload: payload("hello"),
    };
    assert_eq!(bench.notices(), [(HOST, Reply::Offer(offer))]);

    for (from, to) in [(HOST, JOINER), (JOINER, HOST)] {
        bench
            .ask(
                from,
                Demand::Signal {
                    exchange,
                    payload: payload("pake"),
                },
            )
            .expect("passed on");
        let signal = Signal {
            exchange: exchange.0,
            payload: payload("pake"),
        };
        assert_eq!(bench.notices(), [(to, Reply::Signal(signal))]);
    }

    let session = bench.admit(exchange);
    let allocated = Allocated {
        exchange: exchange.0,
        payload: payload("welcome"),
        session: session.0,
        side: 1,
        rate_bytes_per_s: 1 << 20,
        rejoin: Bytes::new(),
    };
    assert_eq!(bench.notices(), [(JOINER, Reply::Allocated(allocated))]);
    assert_eq!(bench.frame(session, Side::Host, HOST), Ok(leg(JOINER)));
    assert_eq!(bench.frame(session, Side::Joiner, JOINER), Ok(leg(HOST)));
    assert_eq!(
        bench.refused(
            HOST,
            Demand::Signal {
                exchange,
                payload: Bytes::new()
            }
        ),
        Reason::PeerGone
    );

    assert_eq!(bench.ask(JOINER, Demand::Release { session }), Ok(done()));
    assert_eq!(
        bench.notices(),
        [(HOST, released(session, ReleaseCause::PeerReleased))]
    );
    assert_eq!(
        bench.frame(session, Side::Host, HOST),
        Err(DropReason::UnknownSession)
    );
    assert_eq!(
        bench.refused(HOST, Demand::Release { session }),
        Reason::BadState
    );
    bench.registry.detach(HOST);
    bench.registry.detach(JOINER);
    assert!(bench.is_empty());
}

#[test]
fn a_third_party_has_no_part_in_an_exchange_or_a_session() {
    let mut bench = Bench::three();
    let exchange = bench.join(JOINER);
    bench.notices();
    for unknown in [exchange, ExchangeId(exchange.0 ^ 1)] {
        let who = if unknown == exchange { STRANGER } else { HOST };
        let payload = payload("me too");
        for demand in [
            Demand::Signal {
                exchange: unknown,
                payload: payload.clone(),
            },
            Demand::Admit {
                exchange: unknown,
                payload: payload.clone(),
            },
            Demand::Dismiss {
                exchange: unknown,
                payload,
                wrong_secret: true,
            },
        ] {
            assert_eq!(bench.refused(who, demand), Reason::PeerGone);
        }
    }
    let (none, wrong_secret) = (Bytes::new(), false);
    assert_eq!(
        bench.refused(
            JOINER,
            Demand::Admit {
                exchange,
                payload: none.clone()
            }
        ),
        Reason::BadState
    );
    let dismiss = Demand::Dismiss {
        exchange,
        payload: none,
        wrong_secret,
    };
    assert_eq!(bench.refused(JOINER, dismiss), Reason::BadState);
    let session = bench.admit(exchange);
    assert_eq!(
        bench.refused(STRANGER, Demand::Release { session }),
        Reason::BadState
    );
    assert_eq!(
        bench.frame(session, Side::Host, STRANGER),
        Err(DropReason::WrongSource)
    );
    assert_eq!(
        bench.refused(
            HOST,
            Demand::Join {
                relay: ME,
                key: KEY,
                payload: Bytes::new()
            }
        ),
        Reason::BadState
    );
}

#[test]
fn a_wrong_secret_is_told_to_the_joiner_and_the_host_goes_on() {
    let mut bench = Bench::three();
    let exchange = bench.join(JOINER);
    bench.notices();
    let demand = Demand::Dismiss {
        exchange,
        payload: payload("wrong"),
        wrong_secret: true,
    };
    assert_eq!(bench.ask(HOST, demand), Ok(done()));
    let dismiss = Dismiss {
        exchange: exchange.0,
        payload: payload("wrong"),
        wrong_secret: true,
    };
    assert_eq!(bench.notices(), [(JOINER, Reply::Dismissed(dismiss))]);
    bench.join(JOINER);
}

#[test]
fn an_exchange_ends_after_thirty_seconds_for_both() {
    let mut bench = Bench::three();
    let exchange = bench.join(JOINER);
    bench.notices();
    bench.pass(exchange::LIFE - Duration::from_millis(1));
    assert_eq!(bench.notices(), []);
    bench.pass(Duration::from_millis(1));
    assert_eq!(
        bench.notices(),
        [(HOST, over(exchange)), (JOINER, over(exchange))]
    );
}

#[test]
fn the_loss_of_a_node_is_told_to_those_it_had_to_do_with() {
    let mut bench = Bench::three();
    let session = bench.session();
    let exchange = bench.join(STRANGER);
    bench.notices();
    bench.registry.detach(HOST);
    assert_eq!(
        bench.notices(),
        [
            (STRANGER, over(exchange)),
            (JOINER, released(session, ReleaseCause::PeerLost))
        ]
    );
    assert_eq!(
        bench.try_join(JOINER).expect_err("nobody there").reason,
        Reason::PeerGone
    );
    assert!(bench.is_empty());
}

#[test]
fn tries_have_caps() {
    let mut bench = Bench::new(1000, 10);
    bench.attach(HOST).expect("room");
    bench
        .ask(
            HOST,
            Demand::Host {
                key: KEY,
                kind: Kind::Host,
                live_for: Duration::from_secs(600),
            },
        )
        .expect("hosted");
    let mut started = 0;
    for n in 0..100 {
        let joiner = ConnectionNumber(100 + n);
        bench.attach(joiner).expect("room");
        let tries = (0..10)
            .take_while(|_| bench.try_join(joiner).is_ok())
            .count();
        assert!(tries <= exchange::MAX_PER_JOINER);
        started += tries;
    }
    assert_eq!(started, exchange::MAX_PER_RECORD);
    bench.pass(exchange::LIFE);
    bench.join(ConnectionNumber(100));
}

#[test]
fn nodes_and_sessions_have_caps() {
    let mut bench = Bench::new(2, 1);
    bench.attach(HOST).expect("room");
    bench.attach(JOINER).expect("room");
    assert_eq!(
        bench.attach(STRANGER).expect_err("full").reason,
        Reason::Full
    );
    bench
        .ask(
            HOST,
            Demand::Host {
                key: KEY,
                kind: Kind::Host,
                live_for: Duration::from_secs(600),
            },
        )
        .expect("hosted");
    let session = bench.session();
    let exchange = bench.join(JOINER);
    let demand = Demand::Admit {
        exchange,
        payload: Bytes::new(),
    };
    assert_eq!(bench.refused(HOST, demand.clone()), Reason::Full);
    bench
        .ask(HOST, Demand::Release { session })
        .expect("released");
    bench.ask(HOST, demand).expect("room again");
    bench.registry.detach(HOST);
    bench.attach(STRANGER).expect("room again");
}

#[test]
fn a_session_without_frames_is_idle_after_a_minute() {
    let mut bench = Bench::three();
    let session = bench.session();
    bench.pass(Duration::from_secs(40));
    bench.frame(session, Side::Host, HOST).expect("forwarded");
    bench.pass(Duration::from_secs(59));
    assert_eq!(bench.notices(), []);
    assert!(bench.frame(session, Side::Host, STRANGER).is_err());
    bench.pass(Duration::from_secs(1));
    let idle = released(session, ReleaseCause::Idle);
    assert_eq!(bench.notices(), [(HOST, idle.clone()), (JOINER, idle)]);
    assert_eq!(bench.registry.sessions(), 0);
    assert!(bench.table.is_empty());
}

#[test]
fn frames_follow_a_node_that_moves() {
    let mut bench = Bench::three();
    let session = bench.session();
    bench.registry.move_node(JOINER, leg(ConnectionNumber(9)));
    assert_eq!(
        bench.frame(session, Side::Host, HOST),
        Ok(leg(ConnectionNumber(9)))
    );
    assert_eq!(
        bench.frame(session, Side::Joiner, JOINER),
        Err(DropReason::WrongSource)
    );
    assert_eq!(
        bench.frame(session, Side::Joiner, ConnectionNumber(9)),
        Ok(leg(HOST))
    );
}

#[test]
fn a_code_that_moved_to_another_connection_is_not_lost_with_the_old_one() {
    let mut bench = Bench::three();
    bench
        .ask(
            STRANGER,
            Demand::Host {
                key: KEY,
                kind: Kind::Host,
                live_for: Duration::from_secs(600),
            },
        )
        .expect("hosted");
    bench.registry.detach(HOST);
    bench.join(JOINER);
    assert!(matches!(bench.notices()[..], [(STRANGER, Reply::Offer(_))]));
    bench
        .ask(JOINER, Demand::Unhost { key: KEY })
        .expect("nothing of its own");
    bench.join(JOINER);
    bench.pass(Duration::from_secs(600));
    assert_eq!(
        bench.try_join(JOINER).expect_err("over").reason,
        Reason::PeerGone
    );
}

#[test]
fn a_drain_tells_everybody_refuses_what_is_new_and_waits_for_sessions() {
    let mut bench = Bench::three();
    let session = bench.session();
    let exchange = bench.join(JOINER);
    bench.notices();
    bench.registry.begin_drain(bench.now);
    bench.registry.begin_drain(bench.now);
    let draining = |deadline_ms| Reply::Draining(Draining { deadline_ms });
    assert_eq!(
        bench.notices(),
        [HOST, JOINER, STRANGER].map(|node| (node, draining(60_000)))
    );
    assert_eq!(
        bench.try_join(STRANGER).expect_err("draining").reason,
        Reason::Draining
    );
    bench.pass(Duration::from_secs(1));
    bench
        .attach(ConnectionNumber(4))
        .expect("may see for itself");
    assert_eq!(bench.notices(), [(ConnectionNumber(4), draining(59_000))]);

    let last = bench.admit(exchange);
    // Whoever did not know what to do about it then is told again, after it has heard of its session.
    let told = bench.notices();
    assert!(matches!(told[0], (JOINER, Reply::Allocated(_))));
    assert_eq!(
        told[1..],
        [HOST, JOINER].map(|node| (node, draining(59_000)))
    );
    bench
        .ask(HOST, Demand::Release { session })
        .expect("released");
    assert!(matches!(bench.registry.state(), State::Draining { .. }));
    bench
        .ask(HOST, Demand::Release { session: last })
        .expect("released");
    assert_eq!(bench.registry.state(), State::Done);
}

#[test]
fn the_deadline_of_a_drain_ends_what_is_left() {
    let mut bench = Bench::three();
    let session = bench.session();
    bench.registry.begin_drain(bench.now);
    bench.notices();
    for _ in 0..6 {
        bench
            .frame(session, Side::Host, HOST)
            .expect("forwarded while draining");
        bench.pass(DRAIN / 6);
    }
    let drained = released(session, ReleaseCause::RelayDrained);
    assert_eq!(
        bench.notices(),
        [(HOST, drained.clone()), (JOINER, drained)]
    );
    assert_eq!(bench.registry.state(), State::Done);
}

#[test]
fn a_host_that_admits_somebody_who_has_just_left_is_answered() {
    let mut bench = Bench::three();
    bench.meet();
    for crossing in [0, 1, 2] {
        let exchange = bench.offered();
        let signal = Demand::Signal {
            exchange,
            payload: payload("pake"),
        };
        bench.ask(HOST, signal).expect("under way");
        let admit = Demand::Admit {
            exchange,
            payload: payload("welcome"),
        };
        assert_eq!(bench.later(HOST, admit), exchange);
        let calls = bench.calls();
        assert_eq!(calls.len(), 2);
        match crossing {
            0 => assert_eq!(bench.hear(dismiss_of(exchange)), Ok(())),
            1 => {
                let failed = Err(AskError::Unreachable);
                bench.registry.handle_called(&calls[0], failed, bench.now);
            }
            _ => bench.pass(exchange::LIFE),
        }
        let answers = bench.answers();
        assert_eq!(answers, [(exchange, HOST, Err(PEER_GONE))]);
        assert_eq!(bench.notices(), [], "the answer says it");
        // The other relay may have let its joiner in, or be about to.
        let calls_after = bench.calls();
        assert!(matches!(calls_after[0].ask, RelayAsk::Release(_)));
        // And it does not know that a signal did not come.
        let told: Vec<_> = calls_after[1..]
            .iter()
            .map(|call| call.ask.clone())
            .collect();
        let expected = (crossing == 1).then(|| dismiss_of(exchange));
        assert_eq!(told, Vec::from_iter(expected));
        assert!(bench.table.is_empty());
        bench.registry.handle_called(&calls[1], Ok(()), bench.now);
        assert_eq!(bench.answers(), [], "once");
    }
}

#[test]
fn exchanges_go_with_the_relay_of_their_other_node_and_sessions_stay() {
    let mut bench = Bench::three();
    bench.meet();
    let exchange = bench.offered();
    let admit = Demand::Admit {
        exchange,
        payload: Bytes::new(),
    };
    bench.later(HOST, admit);
    let calls = bench.calls();
    bench.registry.handle_called(&calls[0], Ok(()), bench.now);
    let session = *bench.registry.allocations.keys().next().expect("one");
    bench.answers();
    // One that is offered, one that is not answered yet, one that is.
    let offered = bench.offered();
    let asked = bench.later(STRANGER, join_there());
    let started = bench.later(JOINER, join_there());
    let calls = bench.calls();
    bench.registry.handle_called(&calls[1], Ok(()), bench.now);
    bench.answers();
    // It was away for a moment, and is elsewhere.
    bench.meet_at(4434, 2);
    assert_eq!(bench.answers(), [(asked, STRANGER, Err(PEER_GONE))]);
    let mut told = bench.notices();
    told.sort_by_key(|(number, _)| *number);
    let expected = [(HOST, over(offered)), (JOINER, over(started))];
    assert_eq!(told, expected);
    assert!(bench.registry.exchanges.is_empty());
    let there = leg(ConnectionNumber(4434));
    assert_eq!(bench.frame(session, Side::Host, HOST), Ok(there));
    bench.registry.meet(Neighbours::default());
    assert_eq!(bench.notices(), []);
    assert_eq!(bench.registry.sessions(), 1);
}

#[test]
fn no_session_begins_by_way_of_a_relay_that_is_not_heard() {
    let mut bench = Bench::three();
    bench.meet_by(None, 1, 1);
    let exchange = bench.registry.new_exchange_id();
    assert_eq!(bench.hear(offer_of(exchange)), Err(RelayReason::Busy));
    assert_eq!(bench.notices(), [], "no try is spent on it");
    bench.meet();
    assert_eq!(bench.hear(offer_of(exchange)), Ok(()));
    // It goes silent after that: of what was begun nothing ends, but nothing is let in.
    let session = bench.session();
    let (started, admit) = (bench.later(JOINER, join_there()), payload("welcome"));
    let calls = bench.calls();
    bench.registry.handle_called(&calls[0], Ok(()), bench.now);
    bench.answers();
    bench.notices();
    bench.meet_by(None, 1, 1);
    let demand = Demand::Admit {
        exchange,
        payload: admit.clone(),
    };
    assert_eq!(bench.refused(HOST, demand.clone()), Reason::PeerGone);
    let admitted = RelayAsk::Admit(wire::Admit {
        exchange: started.0,
        payload: admit,
        session: 7,
    });
    assert_eq!(bench.hear(admitted.clone()), Err(RelayReason::Busy));
    assert_eq!((bench.notices(), bench.registry.sessions()), (vec![], 1));
    bench.meet();
    assert_eq!(bench.hear(admitted), Ok(()));
    assert_eq!(bench.later(HOST, demand), exchange);
    assert_eq!(bench.registry.sessions(), 3);
    assert!(bench.frame(session, Side::Host, HOST).is_ok());
}

#[test]
fn sessions_with_the_nodes_of_a_relay_go_when_it_is_another_process() {
    let mut bench = Bench::three();
    bench.meet();
    let exchange = bench.offered();
    let demand = Demand::Admit {
        exchange,
        payload: Bytes::new(),
    };
    bench.later(HOST, demand);
    let calls = bench.calls();
    bench.registry.handle_called(&calls[0], Ok(()), bench.now);
    bench.answers();
    let session = *bench.registry.allocations.keys().next().expect("one");
    let here = bench.session();
    let there = Some(leg(ConnectionNumber(4433)));
    // Away and back, and not.
    bench.registry.meet(Neighbours::default());
    bench.meet_by(there, 2, 1);
    assert_eq!((bench.notices(), bench.registry.sessions()), (vec![], 2));
    bench.registry.meet(Neighbours::default());
    bench.meet_by(None, 3, 2);
    let lost = released(session, ReleaseCause::PeerLost);
    assert_eq!(bench.notices(), [(HOST, lost)]);
    assert_eq!(bench.table.len(), 1);
    assert!(bench.frame(here, Side::Host, HOST).is_ok());
}

#[test]
fn what_another_relay_did_not_hear_ends_there_too() {
    let mut bench = Bench::three();
    bench.meet();
    for error in [AskError::Unreachable, AskError::Refused(RelayReason::Full)] {
        let exchange = bench.offered();
        let demand = Demand::Admit {
            exchange,
            payload: Bytes::new(),
        };
        bench.later(HOST, demand);
        let calls = bench.calls();
        bench
            .registry
            .handle_called(&calls[0], Err(error), bench.now);
        let asks: Vec<_> = bench.calls().into_iter().map(|call| call.ask).collect();
        let [RelayAsk::Release(_), dismiss] = &asks[..] else {
            panic!("{asks:?}")
        };
        assert_eq!(dismiss, &dismiss_of(exchange), "its joiner waits");
        assert_eq!(bench.answers().len(), 1);
        assert_eq!(bench.registry.sessions(), 0);
    }
}

#[test]
fn a_relay_that_was_cut_off_hears_of_the_end_of_a_session_when_it_is_back() {
    let mut bench = Bench::three();
    bench.meet();
    let exchange = bench.offered();
    let demand = Demand::Admit {
        exchange,
        payload: Bytes::new(),
    };
    bench.later(HOST, demand);
    let admitted = bench.calls().remove(0);
    bench.registry.handle_called(&admitted, Ok(()), bench.now);
    let [(_, HOST, Ok(Reply::Allocated(allocated)))] = &bench.answers()[..] else {
        panic!("not allocated")
    };
    let session = SessionId(allocated.session);
    assert_eq!(bench.ask(HOST, Demand::Release { session }), Ok(done()));
    let release = bench.calls().remove(0);
    assert!(matches!(release.ask, RelayAsk::Release(_)));
    let cut_off = Err(AskError::Unreachable);
    bench.registry.handle_called(&release, cut_off, bench.now);
    bench.registry.meet(Neighbours::default());
    assert_eq!(bench.calls(), []);
    for met in [2, 3] {
        bench.meet_at(4433, met);
        assert_eq!(bench.calls(), std::slice::from_ref(&release), "again");
        let heard = if met == 2 { cut_off } else { Ok(()) };
        bench.registry.handle_called(&release, heard, bench.now);
    }
    bench.meet_at(4433, 4);
    assert_eq!(bench.calls(), []);
    // One that knows better is not told again.
    let known = Err(AskError::Refused(RelayReason::Malformed));
    bench.registry.handle_called(&release, known, bench.now);
    bench.meet_at(4433, 5);
    assert_eq!(bench.calls(), []);
}

#[test]
fn an_offer_that_was_taken_back_before_it_came_is_none() {
    let mut bench = Bench::three();
    bench.meet();
    let exchange = bench.registry.new_exchange_id();
    assert_eq!(bench.hear(dismiss_of(exchange)), Ok(()));
    assert_eq!(bench.hear(offer_of(exchange)), Ok(()));
    assert_eq!(bench.notices(), []);
    assert!(bench.registry.exchanges.is_empty());
}

#[test]
fn a_host_whose_locator_is_anothers_is_told_and_nobody_is_sent_to_it() {
    let mut bench = Bench::three();
    let exchange = bench.join(JOINER);
    bench.notices();
    bench.registry.displace(RecordKey([8; 32]));
    bench.registry.displace(KEY);
    bench.registry.displace(KEY);
    let locator_key = Bytes::copy_from_slice(&KEY.0);
    assert_eq!(
        bench.notices(),
        [(HOST, Reply::Taken(Taken { locator_key }))]
    );
    assert_eq!(
        bench.try_join(STRANGER).expect_err("nobody").reason,
        Reason::PeerGone
    );
    // Whoever is there already has the right code.
    bench.admit(exchange);
}

#[test]
fn a_host_that_goes_while_its_record_is_put_is_let_go() {
    let mut bench = Bench::three();
    let live_for = Duration::from_secs(600);
    bench.registry.detach(JOINER);
    for (key, let_go) in [(RecordKey([8; 32]), true), (KEY, false)] {
        let demand = Demand::Host {
            key,
            kind: Kind::Host,
            live_for,
        };
        assert_eq!(bench.refused(JOINER, demand), Reason::BadState);
        // Another one hosts it meanwhile, or nobody does.
        assert_eq!(bench.registry.poll_let_go(), let_go.then_some(key));
    }
}

#[test]
fn an_offer_that_comes_again_is_no_second_try() {
    let mut bench = Bench::three();
    bench.meet();
    let exchange = bench.offered();
    let demand = Demand::Dismiss {
        exchange,
        payload: payload("wrong"),
        wrong_secret: true,
    };
    for _ in 0..2 {
        assert_eq!(bench.hear(offer_of(exchange)), Ok(()));
        assert_eq!(bench.notices(), []);
        bench.ask(HOST, demand.clone()).ok();
    }
    assert!(bench.registry.exchanges.is_empty());
    bench.offered();
}

#[test]
fn what_a_host_says_does_not_overtake_that_it_was_asked() {
    let mut bench = Bench::three();
    bench.meet();
    let exchange = bench.later(JOINER, join_there());
    assert_eq!(bench.hear(dismiss_of(exchange)), Err(RelayReason::Busy));
    let calls = bench.calls();
    bench.registry.handle_called(&calls[0], Ok(()), bench.now);
    let [(_, JOINER, Ok(Reply::Started(_)))] = &bench.answers()[..] else {
        panic!("not started")
    };
    assert_eq!(bench.hear(dismiss_of(exchange)), Ok(()));
    assert_eq!(bench.notices(), [(JOINER, over(exchange))]);
    // Nor does a joiner's end of the session overtake that there is one.
    let exchange = bench.offered();
    let admit = Demand::Admit {
        exchange,
        payload: Bytes::new(),
    };
    bench.later(HOST, admit);
    let calls = bench.calls();
    let RelayAsk::Admit(admit) = &calls[0].ask else {
        panic!("not admitted")
    };
    let release = RelayAsk::Release(wire::Release {
        session: admit.session,
        cause: ReleaseCause::PeerReleased.into(),
        why: String::new(),
    });
    assert_eq!(bench.hear(release.clone()), Err(RelayReason::Busy));
    bench.registry.handle_called(&calls[0], Ok(()), bench.now);
    assert!(matches!(
        bench.answers()[..],
        [(_, HOST, Ok(Reply::Allocated(_)))]
    ));
    assert_eq!(bench.hear(release), Ok(()));
    assert!(matches!(bench.notices()[..], [(HOST, Reply::Released(_))]));
    assert!(bench.table.is_empty());
}

#[derive(Clone, Debug)]
enum Step {
    Attach(u64),
    Detach(u64),
    Ask(u64, u8, usize),
    /// The other relay asks.
    Hear(u8, usize),
    /// It answers.
    Called(usize, u8),
    Frame(u64, usize),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => (0..6_u64).prop_map(Step::Attach),
        1 => (0..6_u64).prop_map(Step::Detach),
        8 => (0..6_u64, 0..9_u8, any::<usize>()).prop_map(|(node, what, which)| Step::Ask(node, what, which)),
        4 => (0..5_u8, any::<usize>()).prop_map(|(what, which)| Step::Hear(what, which)),
        4 => (any::<usize>(), 0..3_u8).prop_map(|(which, how)| Step::Called(which, how)),
        2 => (0..6_u64, any::<usize>()).prop_map(|(node, which)| Step::Frame(node, which)),
        1 => (0..40_u64).prop_map(Step::Pass),
    ]
}

fn pick<T: Copy>(items: &[T], which: usize) -> Option<T> {
    (!items.is_empty()).then(|| items[which % items.len()])
}

/// What is open between nodes, the registry and the other relay.
#[derive(Default)]
struct Open {
    /// Calls without an answer.
    calls: VecDeque<Call>,
    /// Nodes' requests without one.
    later: BTreeMap<ExchangeId, ConnectionNumber>,
}

impl Open {
    fn take(&mut self, bench: &mut Bench) -> Result<(), TestCaseError> {
        self.calls.extend(bench.calls());
        for (exchange, number, _) in bench.answers() {
            prop_assert_eq!(self.later.remove(&exchange), Some(number));
        }
        bench.notices();
        Ok(())
    }
}

fn ask_of(bench: &Bench, what: u8, which: usize) -> RelayAsk {
    let exchanges: Vec<_> = bench.registry.exchanges.keys().copied().collect();
    let exchange = pick(&exchanges, which).unwrap_or(ExchangeId(1));
    let sessions: Vec<_> = bench.registry.allocations.keys().copied().collect();
    let session = pick(&sessions, which).unwrap_or(SessionId(1)).0;
    let key = [u8::try_from(which % 3).expect("small"); 32];
    let payload = Bytes::new();
    match what {
        0 => RelayAsk::Offer(wire::Offer {
            exchange: which as u64,
            locator_key: Bytes::copy_from_slice(&key),
            payload,
        }),
        1 => RelayAsk::Signal(wire::Signal {
            exchange: exchange.0,
            sequence: 1 + u32::try_from(which % 3).expect("small"),
            payload,
        }),
        2 => RelayAsk::Admit(wire::Admit {
            exchange: exchange.0,
            payload,
            session: if which.is_multiple_of(3) {
                session
            } else {
                which as u64
            },
        }),
        3 => dismiss_of(exchange),
        _ => RelayAsk::Release(wire::Release {
            session,
            cause: ReleaseCause::PeerReleased.into(),
            why: String::new(),
        }),
    }
}

proptest! {
    /// Whatever nodes and another relay do in whatever order: table and allocations agree, what a node holds exists, whoever
    /// waits for an answer gets one, and when all are gone nothing is left.
    #[test]
    fn nothing_is_left_behind(steps in prop::collection::vec(step(), 1..200)) {
        let (mut bench, mut open) = (Bench::new(5, 3), Open::default());
        bench.meet();
        for step in steps {
            match step {
                Step::Attach(node) if !bench.registry.nodes.contains_key(&ConnectionNumber(node)) => {
                    bench.attach(ConnectionNumber(node)).ok();
                }
                Step::Attach(_) => {}
                Step::Detach(node) => bench.registry.detach(ConnectionNumber(node)),
                Step::Ask(node, what, which) => {
                    let exchanges: Vec<_> = bench.registry.exchanges.keys().copied().collect();
                    let exchange = pick(&exchanges, which).unwrap_or(ExchangeId(1));
                    let sessions: Vec<_> = bench.registry.allocations.keys().copied().collect();
                    let session = pick(&sessions, which).unwrap_or(SessionId(1));
                    let key = RecordKey([u8::try_from(which % 3).expect("small"); 32]);
                    let payload = Bytes::new();
                    let kind = if which % 3 == 2 { Kind::Device } else { Kind::Host };
                    let demand = match what {
                        0 => Demand::Host { key, kind, live_for: Duration::from_secs(100) },
                        1 => Demand::Unhost { key },
                        2 | 3 => {
                            let relay = if what == 2 { ME } else { OTHER };
                            match kind {
                                Kind::Host => Demand::Join { key, relay, payload },
                                Kind::Device => Demand::Ring { key, relay, payload },
                            }
                        }
                        4 => Demand::Signal { exchange, payload },
                        5 | 6 => Demand::Admit { exchange, payload },
                        7 => Demand::Dismiss { exchange, payload, wrong_secret: which % 2 == 0 },
                        _ => Demand::Release { session },
                    };
                    let number = ConnectionNumber(node);
                    if let Outcome::Later(exchange) = bench.registry.handle(number, demand, bench.now) {
                        prop_assert_eq!(open.later.insert(exchange, number), None);
                    }
                }
                Step::Hear(what, which) => {
                    let ask = ask_of(&bench, what, which);
                    bench.hear(ask).ok();
                }
                Step::Called(which, how) => {
                    // In order, as they are made.
                    let exchanges: Vec<_> = open.calls.iter().map(|call| call.exchange).collect();
                    if let Some(exchange) = pick(&exchanges, which)
                        && let Some(first) = exchanges.iter().position(|one| *one == exchange)
                        && let Some(call) = open.calls.remove(first)
                    {
                        let result = match how {
                            0 => Ok(()),
                            1 => Err(AskError::Unreachable),
                            _ => Err(AskError::Refused(RelayReason::PeerGone)),
                        };
                        bench.registry.handle_called(&call, result, bench.now);
                    }
                }
                Step::Frame(node, which) => {
                    let sessions: Vec<_> = bench.registry.allocations.keys().copied().collect();
                    if let Some(session) = pick(&sessions, which) {
                        bench.frame(session, Side::Host, ConnectionNumber(node)).ok();
                    }
                }
                Step::Pass(secs) => bench.pass(Duration::from_secs(secs)),
            }
            open.take(&mut bench)?;
            check(&bench, &open)?;
        }
        for node in 0..6 {
            bench.registry.detach(ConnectionNumber(node));
        }
        open.take(&mut bench)?;
        prop_assert!(bench.is_empty() && open.later.is_empty());
    }
}

fn check(bench: &Bench, open: &Open) -> Result<(), TestCaseError> {
    let registry = &bench.registry;
    let waiting = registry.exchanges.iter().filter_map(|(id, exchange)| {
        let number = exchange.waiting()?;
        Some((*id, number))
    });
    prop_assert_eq!(&waiting.collect::<BTreeMap<_, _>>(), &open.later);
    prop_assert_eq!(bench.table.len(), registry.allocations.len());
    prop_assert!(registry.allocations.len() <= 3 && registry.nodes.len() <= 5);
    let deadlines =
        registry.allocations.len() + registry.exchanges.len() + registry.hosting_by_locator.len();
    prop_assert_eq!(registry.deadlines.len(), deadlines);
    for node in registry.nodes.values() {
        prop_assert!(
            node.sessions
                .iter()
                .all(|id| registry.allocations.contains_key(id))
        );
        prop_assert!(
            node.exchanges
                .iter()
                .all(|id| registry.exchanges.contains_key(id))
        );
        prop_assert!(
            node.locators
                .iter()
                .all(|key| registry.hosting_by_locator.contains_key(key))
        );
    }
    let held: usize = registry
        .nodes
        .values()
        .map(|node| node.sessions.len())
        .sum();
    let parties = registry.allocations.values().flat_map(|one| one.parties);
    let here = parties.filter(|party| matches!(party, Party::Here(_)));
    prop_assert_eq!(held, here.count());
    Ok(())
}
