//! Two real nodes in a session, which say numbers to each other all the while: what has arrived, what has not, how long nothing came.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "some events are waited for among many"
)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use remora::{
    event::{Event, Input},
    node::{Node, Options, Running},
    share::desktop::Desktop,
};
use remora_proto::{
    id::RelayAddr,
    rendezvous::LIFETIME,
    session::{Command, EndReason, Event as SessionEvent, Mode},
};
use tokio::{
    runtime::Handle,
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval_at},
};

use crate::people::{name, person, until, wish};

/// A step of a session's beginning that takes longer has failed.
const STEP: Duration = Duration::from_secs(30);

/// What all are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Say numbers.
    Talk,
    /// The same; from the first such moment on it is noted how long nothing comes, and how long after the last it moves.
    Watched(Instant),
    /// Only listen.
    Listen,
    /// End the session.
    Leave,
}

/// What one of the two has said and heard.
#[derive(Debug, Default)]
pub struct Counts {
    /// Numbers said, from 1.
    said: AtomicU64,
    /// The highest that was heard.
    heard: AtomicU64,
}

/// What became of one of the two.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// Numbers that came twice.
    pub duplicated: u64,
    /// Numbers that were left out.
    pub skipped: u64,
    /// Since it was watched, nothing came for so long at most.
    pub gap: Duration,
    /// It was told so long after a relay was to stop that another one carries the session: each time.
    pub moves: Vec<Duration>,
    /// It ended before anybody wanted that.
    pub has_ended: Option<EndReason>,
    /// It was asked again whether it agrees.
    pub consents: u64,
}

/// A session: both sides, helper first.
#[derive(Debug)]
pub struct Pair {
    sides: [Running; 2],
    /// Of the relays that it began at, helper's first.
    pub relays: [String; 2],
    counts: [Arc<Counts>; 2],
    /// Where its sockets are.
    runtime: Handle,
}

impl Pair {
    /// Begins a session of two nodes, the helper's first, that know these relays, and stay at them even if others of the fleet have less to
    /// do.
    ///
    /// # Errors
    /// Which step failed.
    pub async fn begin(sides: [&[RelayAddr]; 2]) -> Result<Self, String> {
        let stays = Options {
            only_named: true,
            ..Options::relay_only()
        };
        Self::begin_with(sides, &stays).await
    }

    /// The same of nodes with these options.
    ///
    /// # Errors
    /// Which step failed.
    pub async fn begin_with(
        [helpers, sharers]: [&[RelayAddr]; 2],
        options: &Options,
    ) -> Result<Self, String> {
        let connect = async |relays| {
            let connecting = Node::at_nearest(relays, options.clone());
            connecting.await.map_err(name)
        };
        let helper = connect(helpers).await?;
        let mut helper = helper.invite(person("Sam")?, LIFETIME);
        let code = until(&mut helper, STEP, "CODE", |event| match event {
            Event::Code { code, .. } => Some(code.clone()),
            _ => None,
        })
        .await?;
        let mut joiner = connect(sharers).await?;
        let code = code.parse().map_err(|_| "CODE".to_owned())?;
        let introduced = joiner.try_code(code).await.map_err(name)?;
        // Nobody looks: what is said is what counts.
        let mut sharer = joiner.join(introduced, person("Maria")?, Desktop::None);
        let connected = |event: &Event| match event {
            Event::Connected(path) => Some(path.relay.clone()),
            _ => None,
        };
        let relays = [
            until(&mut helper, STEP, "CONNECTED", connected).await?,
            until(&mut sharer, STEP, "CONNECTED", connected).await?,
        ];
        let trust = |event: &Event| {
            matches!(event, Event::Session(SessionEvent::Trust { .. })).then_some(())
        };
        until(&mut helper, STEP, "TRUST", trust).await?;
        until(&mut sharer, STEP, "TRUST", trust).await?;
        wish(&helper, Command::AskMode(Mode::View)).await?;
        until(&mut sharer, STEP, "CONSENT", |event| {
            matches!(event, Event::Session(SessionEvent::ConsentPrompt { .. })).then_some(())
        })
        .await?;
        wish(&sharer, Command::Allow(Mode::View)).await?;
        let live = |event: &Event| {
            matches!(event, Event::Session(SessionEvent::Started { .. })).then_some(())
        };
        until(&mut sharer, STEP, "LIVE", live).await?;
        until(&mut helper, STEP, "LIVE", live).await?;
        Ok(Self {
            sides: [helper, sharer],
            relays,
            counts: Default::default(),
            runtime: Handle::current(),
        })
    }

    /// What is said and heard: to be looked at meanwhile.
    pub fn counts(&self) -> [Arc<Counts>; 2] {
        self.counts.clone()
    }

    /// Lets both talk, a number every so often, the first after `offset`; until the last phase. What is told is `session`'s.
    pub fn talk(
        self,
        session: usize,
        phase: &watch::Receiver<Phase>,
        every: Duration,
        offset: Duration,
        talking: &mut JoinSet<(usize, Told)>,
    ) {
        for (number, running) in self.sides.into_iter().enumerate() {
            let side = Side {
                running,
                counts: Arc::clone(&self.counts[number]),
                is_helper: number == 0,
                told: Told::default(),
                watched: None,
                heard_at: None,
            };
            let told = side.run(phase.clone(), every, offset);
            talking.spawn_on(async move { (session, told.await) }, &self.runtime);
        }
    }
}

/// Whether all that each has said was heard by the other.
pub fn is_all_heard([one, other]: &[Arc<Counts>; 2]) -> bool {
    lost([one, other]) == 0
}

/// How much that one has said was not heard by the other.
pub fn lost([one, other]: [&Arc<Counts>; 2]) -> u64 {
    let missing = |from: &Counts, to: &Counts| {
        let said = from.said.load(Ordering::Relaxed);
        said.saturating_sub(to.heard.load(Ordering::Relaxed))
    };
    missing(one, other) + missing(other, one)
}

/// How much both have said.
pub fn said(counts: &[Arc<Counts>; 2]) -> u64 {
    let said = counts
        .iter()
        .map(|count| count.said.load(Ordering::Relaxed));
    said.sum()
}

struct Side {
    running: Running,
    counts: Arc<Counts>,
    is_helper: bool,
    told: Told,
    watched: Option<Instant>,
    heard_at: Option<Instant>,
}

impl Side {
    async fn run(
        mut self,
        mut phase: watch::Receiver<Phase>,
        every: Duration,
        offset: Duration,
    ) -> Told {
        let mut ticks = interval_at(tokio::time::Instant::now() + offset, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut now, mut is_leaving) = (*phase.borrow_and_update(), false);
        loop {
            tokio::select! { biased;
                Ok(()) = phase.changed() => {
                    now = *phase.borrow_and_update();
                    match now {
                        Phase::Watched(at) => self.watch(at),
                        Phase::Listen => self.note_gap(Instant::now()),
                        Phase::Leave => {
                            is_leaving = true;
                            self.leave();
                        }
                        Phase::Talk => {}
                    }
                }
                event = self.running.events.recv() => match event {
                    Some(event) => self.handle(&event, is_leaving),
                    None => return self.told,
                },
                Some(_) = self.running.frames.recv() => {}
                _ = ticks.tick(), if matches!(now, Phase::Talk | Phase::Watched(_)) => self.speak(),
            }
        }
    }

    fn watch(&mut self, at: Instant) {
        if self.watched.replace(at).is_none() {
            self.told.gap = Duration::ZERO;
        }
    }

    fn leave(&self) {
        if self.is_helper {
            let leave = Input::Session(Command::Leave);
            // It may have ended by itself, which is noted.
            self.running.input.try_send(leave).ok();
        }
    }

    fn speak(&self) {
        let next = self.counts.said.load(Ordering::Relaxed) + 1;
        let words = Input::Session(Command::Chat(next.to_string()));
        // While the session waits for the network, a person would not type on either.
        if self.running.input.try_send(words).is_ok() {
            self.counts.said.store(next, Ordering::Relaxed);
        }
    }

    fn handle(&mut self, event: &Event, is_leaving: bool) {
        match event {
            Event::Session(SessionEvent::Chat { text, .. }) => self.hear(text),
            Event::Session(SessionEvent::ConsentPrompt { .. }) => self.told.consents += 1,
            Event::Session(SessionEvent::Ended(receipt)) if !is_leaving => {
                self.told.has_ended = Some(receipt.reason);
            }
            Event::Moved(_) => {
                let after = self.watched.map(|at| at.elapsed());
                self.told.moves.extend(after);
            }
            _ => {}
        }
    }

    /// Nothing has come until now. From the last phase on nothing is said, and nothing is missed.
    fn note_gap(&mut self, now: Instant) {
        if let (Some(heard_at), Some(_)) = (self.heard_at, self.watched) {
            self.told.gap = self.told.gap.max(now - heard_at);
        }
    }

    fn hear(&mut self, text: &str) {
        let now = Instant::now();
        self.note_gap(now);
        self.heard_at = Some(now);
        let Ok(number) = text.parse::<u64>() else {
            return;
        };
        let last = self.counts.heard.load(Ordering::Relaxed);
        if number <= last {
            self.told.duplicated += 1;
            return;
        }
        self.told.skipped += number - last - 1;
        self.counts.heard.store(number, Ordering::Relaxed);
    }
}
