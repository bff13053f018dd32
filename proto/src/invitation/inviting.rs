//! The helper's side of an invitation, until somebody joins with its code (SESSION.md §1.4, rows 2 to 8).
//!
//! ```text
//!                  ┌────────────── retry, ≥ 5 s after the last, ≤ 10 ──────────────┐
//!                  ▼                                                               │
//!  new ──▶ NOTIFYING ── Delivered ──▶ DELIVERED(n), T_consent runs ────────────────┤
//!               │  └──── T_ack ─────▶ UNACKED: sent, not received ─────────────────┘
//!               ├── no device there, or it refuses ──▶ ENDED
//!  any of them ─┴── cancelled, declined by all, T_consent, the code's end, joined ──▶ ENDED or JOINING
//! ```
//!
//! It does not know how an offer travels: `Transmit::Offer` asks for it to be sent, once more from a relay's loss or a retry on, and
//! `handle_*` says what came of that.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::word::{Refusal, Withdrawal};
use crate::{rendezvous::CodeEnd, session::T_CONSENT};

/// From an offer's sending to its first delivery (`T_ack`).
pub const T_ACK: Duration = Duration::from_secs(10);
/// Between two sendings of one offer by hand.
pub const RETRY_AFTER: Duration = Duration::from_secs(5);
/// Retries of one invitation.
pub const MAX_RETRIES: u32 = 10;

/// How far an invitation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Sent, or about to be.
    Notifying,
    /// So many can open it.
    Delivered(u32),
    /// Sent, and nobody has received it.
    Unacked,
    /// Somebody has opened it and joins, or has joined.
    Joining,
    /// Over.
    Ended,
}

/// Why nobody will come of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The device is not there; how long ago it was, if a relay remembers.
    Offline(Option<Duration>),
    /// The device takes no such offer.
    Refused(Refusal),
    /// Nobody there wants it.
    Declined,
    /// Nobody opened it in time.
    ConsentTimeout,
    /// The helper, or the helper's code.
    Code(CodeEnd),
}

/// Something for the helper to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A relay has taken it to the device.
    Sent,
    /// So many can open it; they have this long.
    Delivered(u32, Duration),
    /// Nobody has received it: a retry may help.
    NotReceived,
    /// Somebody has opened it.
    Opened,
    /// Over.
    Ended(End),
}

/// Something for the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transmit {
    /// The offer, as it is now.
    Offer,
    /// It is nobody's any more.
    Withdraw(Withdrawal),
}

/// Why there is no retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRetry {
    /// Wait this long.
    #[error("the invitation has just been sent; try again in {} s", .0.as_secs() + 1)]
    TooSoon(Duration),
    /// It has been sent eleven times.
    #[error("it has been sent often enough; call the person, or invite them with a code")]
    TooOften,
    /// It is on its way, or somebody comes, or it is over.
    #[error("there is nothing to send again")]
    NotNow,
}

impl NoRetry {
    /// For scripts.
    pub fn name(self) -> &'static str {
        match self {
            Self::TooSoon(_) => "RATE_LIMITED",
            Self::TooOften => "FULL",
            Self::NotNow => "BAD_STATE",
        }
    }
}

/// The machine.
#[derive(Debug)]
pub struct Inviting {
    state: State,
    /// Nobody at the device is asked, and so nobody is late.
    is_unattended: bool,
    consent: Duration,
    sent_at: Instant,
    retries: u32,
    is_said_sent: bool,
    ack_until: Option<Instant>,
    consent_until: Option<Instant>,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
}

impl Inviting {
    /// Begins to notify; whoever is at the device then has `consent` to come.
    pub fn new(is_unattended: bool, consent: Duration, now: Instant) -> Self {
        let mut inviting = Self {
            state: State::Notifying,
            is_unattended,
            consent: consent.min(T_CONSENT),
            sent_at: now,
            retries: 0,
            is_said_sent: false,
            ack_until: None,
            consent_until: None,
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        };
        inviting.notify(now);
        inviting
    }

    /// Where it is.
    pub fn state(&self) -> State {
        self.state
    }

    /// What is next to be said to the device.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// What the helper is to be told next.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Self::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.ack_until, self.consent_until]
            .into_iter()
            .flatten()
            .min()
    }

    fn notify(&mut self, now: Instant) {
        self.state = State::Notifying;
        self.sent_at = now;
        self.ack_until = Some(now + T_ACK);
        self.transmits.push_back(Transmit::Offer);
    }

    fn is_inviting(&self) -> bool {
        match self.state {
            State::Notifying | State::Delivered(_) | State::Unacked => true,
            State::Joining | State::Ended => false,
        }
    }

    /// A relay has taken it to the device.
    pub fn handle_sent(&mut self) {
        if self.is_inviting() && !std::mem::replace(&mut self.is_said_sent, true) {
            self.events.push_back(Event::Sent);
        }
    }

    /// The way to the device is another one, or the code is: it is said once more, and counts as no retry. Whoever has not received it
    /// has no longer for that.
    pub fn handle_lost(&mut self, now: Instant) {
        match self.state {
            State::Delivered(_) => self.notify(now),
            State::Notifying | State::Unacked => {
                if self.transmits.is_empty() {
                    self.transmits.push_back(Transmit::Offer);
                }
            }
            State::Joining | State::Ended => {}
        }
    }

    /// Row 3.
    pub fn handle_delivered(&mut self, agents: u32, now: Instant) {
        if !self.is_inviting() || agents == 0 {
            return;
        }
        let is_news = self.state != State::Delivered(agents);
        if let State::Notifying | State::Unacked = self.state {
            // Shown on the device from now on, be it again.
            self.consent_until = (!self.is_unattended).then_some(now + self.consent);
        }
        self.ack_until = None;
        self.state = State::Delivered(agents);
        if is_news {
            let left = self
                .consent_until
                .map_or(self.consent, |until| until.saturating_duration_since(now));
            self.events.push_back(Event::Delivered(agents, left));
        }
    }

    /// Row 2e, as the relay says it.
    pub fn handle_offline(&mut self, seen_ago: Option<Duration>) {
        match self.state {
            // Begun anew, maybe: it was there a moment ago.
            State::Delivered(_) => {}
            State::Notifying | State::Unacked => self.end(End::Offline(seen_ago), None),
            State::Joining | State::Ended => {}
        }
    }

    /// Row 2e, as the device says it.
    pub fn handle_refused(&mut self, refusal: Refusal) {
        if self.is_inviting() {
            self.end(End::Refused(refusal), None);
        }
    }

    /// Nobody there wants it.
    pub fn handle_declined(&mut self) {
        if self.is_inviting() {
            self.end(End::Declined, None);
        }
    }

    /// Row 8, as the device says it: it is no proof, and time goes on.
    pub fn handle_opened(&mut self) {
        if self.is_inviting() {
            self.events.push_back(Event::Opened);
        }
    }

    /// Row 8: somebody has joined with the code. Nobody else can.
    pub fn handle_joined(&mut self) {
        if self.is_inviting() {
            self.stop(State::Joining);
            self.transmits
                .push_back(Transmit::Withdraw(Withdrawal::Taken));
        }
    }

    /// Row 6: the code admits nobody any more.
    pub fn handle_code_end(&mut self, end: CodeEnd) {
        if self.is_inviting() {
            let why = match end {
                CodeEnd::Used => Withdrawal::Taken,
                CodeEnd::Burned | CodeEnd::Cancelled => Withdrawal::Cancelled,
                CodeEnd::Expired => Withdrawal::Expired,
            };
            self.end(End::Code(end), Some(why));
        }
    }

    /// Row 5.
    ///
    /// # Errors
    /// [`NoRetry`]; nothing has changed.
    pub fn retry(&mut self, now: Instant) -> Result<(), NoRetry> {
        match self.state {
            State::Unacked | State::Delivered(_) => {}
            State::Notifying | State::Joining | State::Ended => return Err(NoRetry::NotNow),
        }
        let since = now.saturating_duration_since(self.sent_at);
        if since < RETRY_AFTER {
            return Err(NoRetry::TooSoon(RETRY_AFTER - since));
        }
        if self.retries >= MAX_RETRIES {
            return Err(NoRetry::TooOften);
        }
        self.retries += 1;
        self.notify(now);
        Ok(())
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.consent_until.is_some_and(|until| until <= now) {
            self.end(End::ConsentTimeout, Some(Withdrawal::Expired));
        } else if self.ack_until.is_some_and(|until| until <= now) {
            self.ack_until = None;
            self.state = State::Unacked;
            self.events.push_back(Event::NotReceived);
        }
    }

    fn stop(&mut self, state: State) {
        self.state = state;
        (self.ack_until, self.consent_until) = (None, None);
        self.transmits.clear();
    }

    fn end(&mut self, end: End, withdraw: Option<Withdrawal>) {
        self.stop(State::Ended);
        self.transmits.extend(withdraw.map(Transmit::Withdraw));
        self.events.push_back(Event::Ended(end));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);
    const TICK: Duration = Duration::from_millis(1);

    #[expect(clippy::disallowed_methods, reason = "any moment is a start")]
    fn start() -> Instant {
        Instant::now()
    }

    struct At {
        inviting: Inviting,
        now: Instant,
    }

    impl At {
        fn new() -> Self {
            let now = start();
            let mut at = Self {
                inviting: Inviting::new(false, T_CONSENT, now),
                now,
            };
            assert_eq!(at.said(), [Transmit::Offer]);
            at
        }

        fn delivered(agents: u32) -> Self {
            let mut at = Self::new();
            at.inviting.handle_delivered(agents, at.now);
            assert_eq!(at.told(), [Event::Delivered(agents, T_CONSENT)]);
            at
        }

        fn passes(&mut self, time: Duration) {
            self.now += time;
            let due = self.inviting.poll_timeout();
            if due.is_some_and(|due| due <= self.now) {
                self.inviting.handle_timeout(self.now);
            }
        }

        fn told(&mut self) -> Vec<Event> {
            std::iter::from_fn(|| self.inviting.poll_event()).collect()
        }

        fn said(&mut self) -> Vec<Transmit> {
            std::iter::from_fn(|| self.inviting.poll_transmit()).collect()
        }
    }

    #[test]
    fn t_02_an_invitation_is_sent_and_the_helper_hears_so_once() {
        let mut at = At::new();
        assert_eq!(at.inviting.state(), State::Notifying);
        at.inviting.handle_sent();
        at.inviting.handle_sent();
        assert_eq!(at.told(), [Event::Sent]);
        assert_eq!(at.inviting.state(), State::Notifying);
    }

    #[test]
    fn t_02e_what_the_device_or_a_relay_refuses_ends_it_with_that() {
        let mut at = At::new();
        at.inviting.handle_offline(Some(3 * S));
        assert_eq!(at.told(), [Event::Ended(End::Offline(Some(3 * S)))]);
        let mut at = At::new();
        let refusal = Refusal::LeaseHeld("Sam".into());
        at.inviting.handle_refused(refusal.clone());
        assert_eq!(at.told(), [Event::Ended(End::Refused(refusal))]);
        assert_eq!(at.said(), []);
        // It was there a moment ago, and may be back.
        let mut at = At::delivered(1);
        at.inviting.handle_offline(None);
        assert_eq!(at.inviting.state(), State::Delivered(1));
    }

    #[test]
    fn t_03_delivered_is_said_with_to_how_many_and_the_time_begins() {
        let mut at = At::delivered(2);
        at.passes(10 * S);
        at.inviting.handle_delivered(2, at.now);
        assert_eq!(at.told(), []);
        at.inviting.handle_delivered(3, at.now);
        assert_eq!(at.told(), [Event::Delivered(3, T_CONSENT - 10 * S)]);
        at.inviting.handle_delivered(0, at.now);
        assert_eq!(at.inviting.state(), State::Delivered(3));
    }

    #[test]
    fn t_04_what_nobody_acknowledges_in_ten_seconds_is_sent_and_not_received() {
        let mut at = At::new();
        at.passes(T_ACK - TICK);
        assert_eq!(at.told(), []);
        at.passes(TICK);
        assert_eq!(at.told(), [Event::NotReceived]);
        assert_eq!(at.inviting.state(), State::Unacked);
        // Late, but there.
        at.inviting.handle_delivered(1, at.now);
        assert_eq!(at.told(), [Event::Delivered(1, T_CONSENT)]);
    }

    #[test]
    fn t_05_a_retry_sends_again_after_five_seconds_ten_times_and_the_time_begins_anew() {
        let mut at = At::new();
        assert_eq!(at.inviting.retry(at.now), Err(NoRetry::NotNow));
        at.inviting.handle_delivered(1, at.now);
        at.told();
        at.passes(RETRY_AFTER - TICK);
        assert_eq!(at.inviting.retry(at.now), Err(NoRetry::TooSoon(TICK)));
        for _ in 0..MAX_RETRIES {
            at.passes(TICK);
            at.passes(RETRY_AFTER - TICK);
            assert_eq!(at.inviting.retry(at.now), Ok(()));
            assert_eq!(at.said(), [Transmit::Offer]);
            assert_eq!(at.inviting.state(), State::Notifying);
            at.inviting.handle_delivered(1, at.now);
            assert_eq!(at.told(), [Event::Delivered(1, T_CONSENT)]);
        }
        at.passes(RETRY_AFTER);
        assert_eq!(at.inviting.retry(at.now), Err(NoRetry::TooOften));
        at.passes(T_CONSENT - RETRY_AFTER - TICK);
        assert_eq!(at.told(), []);
        at.passes(TICK);
        assert_eq!(at.told(), [Event::Ended(End::ConsentTimeout)]);
    }

    #[test]
    fn t_06_every_end_withdraws_the_offer_and_is_the_only_one() {
        for (end, why) in [
            (CodeEnd::Cancelled, Withdrawal::Cancelled),
            (CodeEnd::Burned, Withdrawal::Cancelled),
            (CodeEnd::Expired, Withdrawal::Expired),
        ] {
            for mut at in [At::new(), At::delivered(1)] {
                at.inviting.handle_code_end(end);
                at.inviting.handle_declined();
                at.inviting.handle_joined();
                at.passes(2 * T_CONSENT);
                assert_eq!(at.told(), [Event::Ended(End::Code(end))]);
                assert_eq!(at.said(), [Transmit::Withdraw(why)]);
            }
        }
        let mut at = At::delivered(1);
        at.passes(T_CONSENT - TICK);
        assert_eq!(at.told(), []);
        at.passes(TICK);
        assert_eq!(at.told(), [Event::Ended(End::ConsentTimeout)]);
        assert_eq!(at.said(), [Transmit::Withdraw(Withdrawal::Expired)]);
        let mut at = At::delivered(1);
        at.inviting.handle_declined();
        assert_eq!(at.told(), [Event::Ended(End::Declined)]);
    }

    #[test]
    fn t_08_whoever_joins_with_the_code_takes_it_from_all_others() {
        let mut at = At::delivered(2);
        at.inviting.handle_opened();
        assert_eq!(at.told(), [Event::Opened]);
        // Said, and not proven.
        assert_eq!(at.inviting.state(), State::Delivered(2));
        at.inviting.handle_joined();
        assert_eq!(at.said(), [Transmit::Withdraw(Withdrawal::Taken)]);
        assert_eq!(at.inviting.state(), State::Joining);
        at.passes(2 * T_CONSENT);
        assert_eq!(at.told(), []);
    }

    #[test]
    fn t_08u_where_nobody_is_asked_nobody_is_late() {
        let now = start();
        let mut inviting = Inviting::new(true, T_CONSENT, now);
        inviting.handle_delivered(1, now);
        assert_eq!(inviting.poll_timeout(), None);
    }

    #[test]
    fn a_way_that_is_lost_is_no_retry() {
        let mut at = At::delivered(1);
        at.passes(S);
        at.inviting.handle_lost(at.now);
        assert_eq!(at.said(), [Transmit::Offer]);
        assert_eq!(at.inviting.state(), State::Notifying);
        // Lost once more: nobody waits longer for that.
        at.passes(T_ACK - S);
        at.inviting.handle_lost(at.now);
        assert_eq!(at.said(), [Transmit::Offer]);
        at.passes(S);
        assert_eq!(at.told(), [Event::NotReceived]);
        at.inviting.handle_joined();
        at.said();
        at.inviting.handle_lost(at.now);
        assert_eq!(at.said(), []);
    }
}
