//! When a plan is run, and how far it is.
//!
//! ```text
//!  both NATs known, checks found nothing ─▶ attempt: (sample) ─▶ told ─▶ sends ─▶ rests ─┬─▶ the next
//!                       the other tells of one ─▶ (sample, told) ─▶ sends ─▶ rests ──────┴─▶ failed
//!                                                        a way that works ends it at any point
//! ```

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use super::{Choice, Plan, Role, volley::Volley};
use crate::{
    id::Side,
    path::{
        candidate::Attempt,
        nat::Nat,
        way::{Base, SocketChange, Way},
    },
    rate::{Rate, TokenBucket},
};

/// Checks of all plans of a session: two runs of the longest at once, then the same again in ten minutes, whatever the other side
/// says of its network.
const CHECKS: Rate = Rate::new(4096, Duration::from_secs(600), 4096);
/// So long checks alone are tried, from when both sides are known: by then packets of both have crossed once or twice.
const PATIENCE: Duration = Duration::from_millis(60);
/// The same before the longest plan: all checks of the first burst.
const PATIENCE_SPRAY: Duration = Duration::from_millis(300);
/// The same when something has been heard from the other side, and when a path has gone dark.
const PATIENCE_HEARD: Duration = Duration::from_secs(1);
/// Something came so lately that checks may do.
const HEARING: Duration = Duration::from_millis(500);
/// One that has failed is run again after so long, then after twice as long, and so on, up to the second: perhaps nothing got
/// through at all.
const AGAIN: [Duration; 2] = [Duration::from_secs(30), Duration::from_secs(600)];
/// When the relay is asked how a socket is seen.
const ASKED_MS: [u64; 3] = [0, 100, 300];
/// Then it does not answer.
const GIVEN_UP: Duration = Duration::from_millis(700);
/// After the last check of either side: they are told of by way of the relay, arrive and are answered.
const REST: Duration = Duration::from_millis(500);
/// The other side's sample, or its next attempt.
const HEARD_WITHIN: Duration = Duration::from_millis(1500);
/// Where numbers of a survey's sockets begin.
const END: u16 = 0xff00;

/// What a choice depends on. Another one is another network.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::path) struct Situation {
    pub(in crate::path) own: Nat,
    pub(in crate::path) own_ip: Option<IpAddr>,
    pub(in crate::path) peer: Nat,
    /// How a relay sees the other side.
    pub(in crate::path) peer_at: Option<SocketAddr>,
}

impl Situation {
    /// A port may be another one each time.
    fn is_like(&self, other: &Self) -> bool {
        let ip = |at: Option<SocketAddr>| at.map(|at| at.ip());
        (self.own, self.own_ip, self.peer, ip(self.peer_at))
            == (other.own, other.own_ip, other.peer, ip(other.peer_at))
    }
}

#[derive(Debug)]
enum Step {
    /// The relay is asked how this socket is seen.
    Sampling {
        base: Base,
        began: Instant,
        asked: usize,
    },
    /// The other side's sample is to come.
    Waiting {
        base: Base,
        until: Instant,
    },
    Sending(Volley),
    Resting {
        until: Instant,
    },
}

#[derive(Debug)]
struct Run {
    plan: Plan,
    role: Role,
    /// So many have begun, if we lead.
    attempts: u32,
    /// The attempt, or its checks.
    began: Instant,
    step: Step,
}

impl Run {
    fn new(plan: Plan, role: Role, attempts: u32, step: Step, now: Instant) -> Self {
        Self {
            plan,
            role,
            attempts,
            began: now,
            step,
        }
    }
}

/// The machine.
#[derive(Debug)]
pub(in crate::path) struct Planner {
    side: Side,
    situation: Situation,
    /// From here on one may begin; `None`: it has been tried in this situation.
    ready_at: Option<Instant>,
    has_failed: bool,
    /// Once one has failed, the next.
    again_after: Duration,
    run: Option<Run>,
    /// What the other side is told.
    told: Option<Attempt>,
    /// What it has told.
    heard: Option<Attempt>,
    /// Since when it is to be followed.
    pending: Option<Instant>,
    budget: TokenBucket,
    /// Of the current attempt: from here to `next`.
    first: u16,
    next: u16,
    open: Vec<Base>,
    sockets: VecDeque<SocketChange>,
    observe: VecDeque<Base>,
    ways: VecDeque<Way>,
}

impl Planner {
    pub(in crate::path) fn new(side: Side, now: Instant) -> Self {
        Self {
            side,
            situation: Situation::default(),
            ready_at: None,
            has_failed: false,
            run: None,
            told: None,
            heard: None,
            pending: None,
            again_after: AGAIN[0],
            budget: TokenBucket::new(now),
            first: 1,
            next: 1,
            open: Vec::new(),
            sockets: VecDeque::new(),
            observe: VecDeque::new(),
            ways: VecDeque::new(),
        }
    }

    // --- in ---

    /// What is known of both sides now.
    pub(in crate::path) fn handle_situation(&mut self, situation: Situation, now: Instant) {
        let is_like = self.situation.is_like(&situation);
        self.situation = situation;
        if !is_like {
            self.has_failed = false;
            self.again_after = AGAIN[0];
            self.run = None;
            self.ready_at = Some(now);
        }
    }

    /// The other side tells of an attempt.
    pub(in crate::path) fn handle_attempt(&mut self, attempt: Attempt, now: Instant) {
        if self.heard != Some(attempt) {
            self.heard = Some(attempt);
            self.pending = Some(now);
        }
    }

    /// How the relay sees one of the sockets.
    pub(in crate::path) fn handle_observed(&mut self, base: Base, seen: SocketAddr, now: Instant) {
        let Some(run) = &mut self.run else { return };
        if !matches!(run.step, Step::Sampling { base: sampled, .. } if sampled == base) {
            return;
        }
        let (plan, role) = (run.plan, run.role);
        match (plan, role) {
            (Plan::Bursts { peer, .. }, Role::Follows) => {
                let Some(heard) = self.heard else { return };
                let port = seen.port();
                self.told = Some(Attempt { port, ..heard });
                self.burst(base, heard.port, peer, now);
            }
            (Plan::Bursts { .. }, Role::Leads) => {
                let until = now + HEARD_WITHIN;
                run.step = Step::Waiting { base, until };
                self.tell(seen.port());
            }
            (Plan::Predict { .. } | Plan::Block { .. } | Plan::Spray, _) => {
                self.tell(seen.port());
                self.lead(plan, now);
            }
        }
    }

    /// There is a path: nothing of this is needed, but what it goes by.
    pub(in crate::path) fn handle_found(&mut self) {
        self.run = None;
        self.has_failed = false;
        self.ready_at = None;
        self.pending = None;
    }

    /// It has gone dark: whatever can be is tried again, checks first.
    pub(in crate::path) fn handle_lost(&mut self, now: Instant) {
        self.ready_at = Some(now + PATIENCE_HEARD);
    }

    /// Time has passed, while there is no path; from the other side something came at `heard_at`.
    pub(in crate::path) fn handle_timeout(&mut self, heard_at: Option<Instant>, now: Instant) {
        if self.start_at(heard_at).is_some_and(|at| at <= now)
            && let Choice::Plan(plan, Role::Leads) = self.choice()
        {
            self.ready_at = None;
            self.begin(plan, Role::Leads, 1, now);
        }
        if self.join_at(heard_at).is_some_and(|at| at <= now)
            && let Some(since) = self.pending.take()
        {
            self.join(now.saturating_duration_since(since), now);
        }
        while self.deadline().is_some_and(|at| at <= now) {
            self.advance(now);
        }
    }

    /// Closes what is of no attempt, and not to be kept.
    pub(in crate::path) fn tidy(&mut self, is_kept: impl Fn(Base) -> bool) {
        let current = match self.run {
            Some(_) => self.first..self.next,
            None => 0..0,
        };
        let sockets = &mut self.sockets;
        self.open.retain(|base| {
            let stays = current.contains(&base.0) || is_kept(*base);
            if !stays {
                sockets.push_back(SocketChange::Close(*base));
            }
            stays
        });
    }

    // --- out ---

    pub(in crate::path) fn poll_timeout(&self, heard_at: Option<Instant>) -> Option<Instant> {
        let all = [
            self.start_at(heard_at),
            self.join_at(heard_at),
            self.deadline(),
        ];
        all.into_iter().flatten().min()
    }

    pub(in crate::path) fn poll_socket(&mut self) -> Option<SocketChange> {
        self.sockets.pop_front()
    }

    pub(in crate::path) fn poll_observe(&mut self) -> Option<Base> {
        self.observe.pop_front()
    }

    /// The next way that a short question goes.
    pub(in crate::path) fn poll_way(&mut self) -> Option<Way> {
        self.ways.pop_front()
    }

    pub(in crate::path) fn told(&self) -> Option<Attempt> {
        self.told
    }

    pub(in crate::path) fn choice(&self) -> Choice {
        let Situation { own, peer, .. } = &self.situation;
        Plan::choose(own, peer, self.side)
    }

    /// Whether a plan is run, or will be.
    pub(in crate::path) fn is_running(&self) -> bool {
        self.run.is_some() || (!self.has_failed && self.start_at(None).is_some())
    }

    pub(in crate::path) fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// Whether a check that came by `way` may have come of a plan.
    pub(in crate::path) fn may_hit(&self, way: Way) -> bool {
        let ip = self.situation.peer_at.map(|at| at.ip());
        let is_planned = matches!(self.choice(), Choice::Plan(..));
        way.base != Base::MAIN || (is_planned && Some(way.to.ip()) == ip)
    }

    // --- within ---

    /// When one begins. What has been heard since it might have says that checks may do.
    fn start_at(&self, heard_at: Option<Instant>) -> Option<Instant> {
        let ready_at = self.ready_at.filter(|_| self.run.is_none())?;
        self.situation.peer_at?;
        let Choice::Plan(plan, Role::Leads) = self.choice() else {
            return None;
        };
        let patience = match plan {
            _ if heard_at >= Some(ready_at) => PATIENCE_HEARD,
            Plan::Spray => PATIENCE_SPRAY,
            Plan::Predict { .. } | Plan::Block { .. } | Plan::Bursts { .. } => PATIENCE,
        };
        Some(ready_at + patience)
    }

    /// When the other side is followed: not while something comes from it.
    fn join_at(&self, heard_at: Option<Instant>) -> Option<Instant> {
        let pending = self.pending?;
        Some(heard_at.map_or(pending, |heard| pending.max(heard + HEARING)))
    }

    fn deadline(&self) -> Option<Instant> {
        let run = self.run.as_ref()?;
        Some(match &run.step {
            Step::Sampling { began, asked, .. } => {
                let after = ASKED_MS.get(*asked);
                *began + after.map_or(GIVEN_UP, |&ms| Duration::from_millis(ms))
            }
            Step::Waiting { until, .. } | Step::Resting { until } => *until,
            // After its last check it rests at once.
            Step::Sending(volley) => volley.due().unwrap_or(run.began),
        })
    }

    /// A deadline has passed.
    fn advance(&mut self, now: Instant) {
        let Some(run) = &mut self.run else { return };
        match &mut run.step {
            Step::Sampling { base, asked, .. } => {
                if *asked < ASKED_MS.len() {
                    *asked += 1;
                    self.observe.push_back(*base);
                } else {
                    self.again(now);
                }
            }
            Step::Waiting { .. } | Step::Resting { .. } => self.again(now),
            Step::Sending(volley) => {
                if volley.due().is_none() {
                    let rest = match run.role {
                        Role::Leads => REST,
                        Role::Follows => HEARD_WITHIN,
                    };
                    let lasts = run.began + run.plan.lasts();
                    let until = lasts.max(now) + rest;
                    run.step = Step::Resting { until };
                } else if let Some(way) = volley.next(now) {
                    if self.budget.take(CHECKS, 1, now).is_ok() {
                        self.ways.push_back(way);
                    } else {
                        self.fail(now);
                    }
                }
            }
        }
    }

    /// The attempt is over.
    fn again(&mut self, now: Instant) {
        match &self.run {
            Some(run) if run.role == Role::Leads && run.attempts < run.plan.attempts() => {
                let (plan, attempts) = (run.plan, run.attempts + 1);
                self.begin(plan, Role::Leads, attempts, now);
            }
            _ => self.fail(now),
        }
    }

    fn fail(&mut self, now: Instant) {
        self.run = None;
        self.has_failed = true;
        self.ready_at = Some(now + self.again_after);
        self.again_after = (self.again_after * 2).min(AGAIN[1]);
    }

    /// An attempt of ours, or our part in one of the other side's.
    fn begin(&mut self, plan: Plan, role: Role, attempts: u32, now: Instant) {
        // Sockets and questions to the relay cost as checks do: the other side can make us begin.
        let cost = u64::from(plan.sockets()) + ASKED_MS.len() as u64;
        if self.budget.take(CHECKS, cost, now).is_err() {
            return self.fail(now);
        }
        self.first = self.next;
        if self.first >= END - plan.sockets() - 1 {
            (self.first, self.next) = (1, 1);
        }
        match plan {
            Plan::Predict { .. } | Plan::Bursts { .. } => {
                let base = self.open(1);
                let step = Step::Sampling {
                    base,
                    began: now,
                    asked: 0,
                };
                self.run = Some(Run::new(plan, role, attempts, step, now));
            }
            Plan::Block { .. } | Plan::Spray => {
                let step = Step::Resting { until: now };
                self.run = Some(Run::new(plan, role, attempts, step, now));
                self.tell(0);
                self.lead(plan, now);
            }
        }
    }

    fn tell(&mut self, port: u16) {
        let number = self.told.map_or(0, |told| told.number).wrapping_add(1);
        self.told = Some(Attempt { number, port });
    }

    /// The leading side sends.
    fn lead(&mut self, plan: Plan, now: Instant) {
        let Some(to) = self.situation.peer_at else {
            return;
        };
        let first = self.open(plan.sockets());
        self.send(Volley::lead(plan, first, to, now), now);
    }

    /// The other side has begun an attempt, or goes on with ours, `late` ago.
    fn join(&mut self, late: Duration, now: Instant) {
        let (Some(attempt), Some(at)) = (self.heard, self.situation.peer_at) else {
            return;
        };
        let Choice::Plan(plan, role) = self.choice() else {
            return;
        };
        match (plan, role) {
            _ if late > plan.lasts() => {}
            (Plan::Bursts { .. }, Role::Follows) => {
                self.begin(plan, role, 1, now);
            }
            (Plan::Predict { .. } | Plan::Block { .. } | Plan::Spray, Role::Follows) => {
                let volley = Volley::follow(plan, at.ip(), attempt.port, now);
                let step = Step::Sending(volley);
                self.run = Some(Run::new(plan, role, 1, step, now));
            }
            (Plan::Bursts { peer, .. }, Role::Leads) => {
                let is_ours = self.told.map(|told| told.number) == Some(attempt.number);
                if is_ours
                    && let Some(Run {
                        step: Step::Waiting { base, .. },
                        ..
                    }) = self.run
                {
                    self.burst(base, attempt.port, peer, now);
                }
            }
            (_, Role::Leads) => {}
        }
    }

    /// Both have samples.
    fn burst(&mut self, base: Base, port: u16, step: u16, now: Instant) {
        let Some(at) = self.situation.peer_at else {
            return;
        };
        let to = SocketAddr::new(at.ip(), port);
        self.send(Volley::burst(base, to, step, self.side, now), now);
    }

    fn send(&mut self, volley: Volley, now: Instant) {
        if let Some(run) = &mut self.run {
            (run.began, run.step) = (now, Step::Sending(volley));
        }
    }

    /// Sockets, of which the first is this one.
    fn open(&mut self, sockets: u16) -> Base {
        let first = self.next;
        self.next += sockets;
        let bases = (first..self.next).map(Base);
        for base in bases {
            self.open.push(base);
            self.sockets.push_back(SocketChange::Open(base));
        }
        Base(first)
    }
}
