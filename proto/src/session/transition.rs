//! The table of SESSION.md §1.4, row by row: a number beside an arm is the row's. Both sides run it, on what their own person says and
//! on what arrives; what only one side does about it (ask its person, tell its system, run the deciding clock) is in the rows'
//! methods below.
//!
//! Rows 1–8 are before there is a connection: `rendezvous` has them, for codes. Path (P1–P4) is `path`'s and never changes a state here.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "whatever is not listed is BAD_STATE and changes nothing"
)]

use std::time::{Duration, Instant};

use super::{
    Act, Cause, Check, Elevation, EndReason, Entry, Event, Grants, Kind, LocalEnd, Matter, Method,
    Mode, Pause, Refusal, Resumed, SasState, Session, Shield, T_CONSENT,
    state::{Ask, Before, Live, State as S},
    timers::Timer as T,
    word::{
        Happening::{self, Due, Says},
        Question, Word as W, World as Wo,
    },
};
use crate::{
    code::Code,
    id::Side,
    identity::Role::{self, Helper, Sharer},
    sas::{Nonce, Words},
};

type Done = Result<(), Refusal>;

const NOT_LISTED: Refusal = Refusal::BadState("that");

impl Session {
    /// Takes the one row that fits.
    ///
    /// # Errors
    /// None does, or its guard does not hold; nothing has changed.
    pub(super) fn happen(&mut self, what: Happening, now: Instant) -> Done {
        use Happening::World;
        let me = self.setup.role;
        let attended = self.setup.terms.kind == Kind::Attended;
        match (self.state, what) {
            // ---- 30: ENDING decides; whatever else happens, happens to the state before it ----
            (S::Ending(live, before), Says(Sharer, W::Stay)) => {
                self.timers.stop(&[T::Leave]);
                self.state = before.state(live);
                self.events.push_back(Event::Stayed);
            }
            // As with every question within a session, silence is a no.
            (S::Ending(..), Due(T::Leave)) => return self.say(W::Stay, now),
            (S::Ending(..), Says(Sharer, W::ConfirmLeave)) if attended => {
                self.events.push_back(Event::Act(Act::SignOut));
                self.end(EndReason::SharerLeftSignedOut, now);
            }
            (S::Ending(..), Says(Sharer, W::ConfirmLeave)) => self.end(EndReason::Reclaimed, now), // 27
            (S::Ending(..), Says(Sharer, W::Leave)) => return Err(NOT_LISTED),
            (S::Ending(live, before), what) => return self.meanwhile(live, before, what, now),

            // ---- 9, 10: JOINING ----
            (S::Joining, Says(Sharer, W::ByLink)) if me == Helper => self.by_link(),
            (S::Joining, Says(who, W::Reveal(nonce))) if who != me => self.row_9(&nonce, now),
            (S::Joining, Due(T::Join)) => self.end(EndReason::JoinTimeout, now), // 10

            // ---- 11: TRUST ----
            (S::Trust, Says(Helper, W::AskMode(mode))) => return self.row_11(mode, now),
            (S::Consent { .. } | S::Countdown { .. }, Says(Sharer, W::Prompted(within))) => {
                self.told_prompted(within);
            }
            (
                S::Consent { .. } | S::Countdown { .. },
                Says(Sharer, W::Refuse(Question::Mode, why)),
            ) => {
                self.timers.stop(&[T::Consent, T::Unattended]);
                self.timers.start(T::Mode, now);
                self.state = S::Trust;
                self.events.push_back(Event::Refused(why));
            }

            // ---- 12; also while starting and interrupted: who sees other words is not made to wait ----
            (
                S::Trust
                | S::Consent { .. }
                | S::Countdown { .. }
                | S::Starting { .. }
                | S::Active(_)
                | S::Interrupted(..),
                Says(who, W::SasChecked(same)),
            ) => self.row_12(who, same, now),

            // ---- 10, 13, 15, 17: somebody leaves before it starts (31: the helper, at any time) ----
            (S::Joining | S::Trust, Says(Sharer, W::Leave)) => self.end(EndReason::SharerLeft, now),
            (S::Consent { .. } | S::Countdown { .. }, Says(Sharer, W::Leave | W::DeclineMode)) => {
                self.end(EndReason::Declined, now);
            }
            (S::Trust, Due(T::Mode)) => self.end(EndReason::HelperTimeout, now),
            (S::Consent { .. }, Due(T::Consent)) => self.end(EndReason::ConsentTimeout, now),

            // ---- 14: only a person allows an attended session ----
            (S::Consent { asked }, Says(Sharer, W::Allow(mode, method @ Method::User)))
                if mode <= asked =>
            {
                self.allowed(mode, method, now);
            }
            // ---- 16: silence allows an unattended one ----
            (S::Countdown { asked }, Says(Sharer, W::Allow(mode, method))) if mode <= asked => {
                self.allowed(mode, method, now);
            }
            (S::Countdown { asked }, Due(T::Unattended)) if me == Sharer => {
                return self.say(W::Allow(asked, Method::Timeout), now);
            }
            (S::Countdown { .. }, Due(T::Unattended)) => self.end(EndReason::ConsentTimeout, now),

            // ---- 18, 19: STARTING ----
            (S::Starting { granted }, Says(Sharer, W::Started)) => self.row_18(granted, now),
            (S::Starting { .. }, Due(T::Start)) => self.end(EndReason::CaptureFailed, now),
            (
                S::Starting { .. } | S::Active(_) | S::Interrupted(..),
                Says(Sharer, W::CaptureFailed),
            ) => {
                self.end(EndReason::CaptureFailed, now); // 19; later it is lost
            }

            // ---- 20: ACTIVE.VIEW, more is asked for ----
            (S::Active(live), Says(Helper, W::AskMode(Mode::Control)))
                if live.mode == Mode::View && live.ask.is_none() && !live.handing_over =>
            {
                return self.row_20(now);
            }
            (S::Active(live), Says(Sharer, W::Prompted(within))) if live.waits() => {
                self.told_prompted(within);
            }
            (S::Active(live), Says(Sharer, W::Allow(Mode::Control, _)))
                if live.ask == Some(Ask::Control) =>
            {
                self.answered(Ask::Control);
                self.set_mode(Mode::Control, Sharer);
            }
            (S::Active(live) | S::Interrupted(live, _), Says(Sharer, W::DeclineMode))
                if live.ask == Some(Ask::Control) =>
            {
                self.answered(Ask::Control);
                self.events.push_back(Event::UpgradeDeclined);
            }
            // The helper does not wait any longer, or does not want to.
            (S::Active(live), Says(Helper, W::Drop)) if live.ask == Some(Ask::Control) => {
                self.answered(Ask::Control);
                self.events.push_back(Event::UpgradeDeclined);
            }
            (S::Active(_), Due(T::Upgrade)) => {
                let word = if me == Sharer {
                    W::DeclineMode
                } else {
                    W::Drop
                };
                return self.say(word, now);
            }

            // ---- 21: ACTIVE.CONTROL, back to VIEW ----
            (S::Active(live), Says(who, W::Drop)) if live.mode == Mode::Control => {
                self.drop_elevation();
                self.set_mode(Mode::View, who);
            }

            // Said before the other side knew; it is to be so afterwards, too.
            (S::Interrupted(live, _), Says(who, W::Drop))
                if who != me && live.mode == Mode::Control =>
            {
                self.set_mode(Mode::View, who);
            }

            // ---- 22: pause ----
            (S::Active(live), Says(Sharer, W::Pause(paused)))
                if attended && paused != (live.pause == Pause::Paused) =>
            {
                let pause = if paused { Pause::Paused } else { Pause::Live };
                self.change(|live| live.pause = pause);
                self.events.push_back(Event::Paused(paused));
            }

            // ---- 23: elevation ----
            (S::Active(live), Says(Helper, W::AskElevation))
                if live.mode == Mode::Control
                    && live.elevation == Elevation::None
                    && !live.handing_over =>
            {
                return self.row_23(now);
            }
            (S::Active(live), Says(Sharer, W::AllowElevation))
                if live.elevation == Elevation::Asked =>
            {
                self.elevated();
            }
            (S::Active(live), Says(Sharer, W::DeclineElevation))
                if live.elevation == Elevation::Asked =>
            {
                self.drop_elevation();
            }
            (S::Active(_), Due(T::Elevation)) => {
                let word = if me == Sharer {
                    W::DeclineElevation
                } else {
                    W::ReleaseElevation
                };
                return self.say(word, now);
            }
            // The sharer's terms, or its state, do not allow what the helper waits for.
            (S::Active(live), Says(Sharer, W::Refuse(question, why)))
                if live.waits_for(question) =>
            {
                self.refused(question, why);
            }

            // What passes between the helper and the broker; the sharer sees what the broker says, too.
            (S::Active(live), Says(who, W::Elevated(body)))
                if live.elevation == Elevation::Granted =>
            {
                if who != me || who == Sharer {
                    self.events.push_back(Event::Elevated(body));
                }
            }

            // ---- 24: a secure prompt ----
            (S::Active(_) | S::Interrupted(..), World(Wo::SecurePrompt(prompt)))
                if me == Sharer =>
            {
                self.change(|live| live.prompt = prompt);
            }
            (S::Active(_) | S::Interrupted(..), Says(Sharer, W::Covered(prompt)))
                if me == Helper =>
            {
                self.change(|live| live.prompt = prompt);
                self.events.push_back(Event::Covered(prompt));
            }

            // ---- 25: elevation ends (also 21, 33) ----
            // The helper also takes back what it has asked for; to that the sharer says no.
            (S::Active(live), Says(who, W::ReleaseElevation))
                if live.elevation == Elevation::Granted
                    || (live.elevation == Elevation::Asked && who == Helper) =>
            {
                self.drop_elevation();
            }

            // ---- 26: somebody touches a shielded computer ----
            (S::Active(live), World(Wo::LocalInput)) if live.shield == Shield::Shielded => {
                self.set_shield(Shield::Frozen, now);
            }
            // More of it does not make it longer.
            (S::Active(live), World(Wo::LocalInput)) if live.shield == Shield::Frozen => {}
            (S::Active(_) | S::Interrupted(..), Due(T::Freeze)) => {
                self.set_shield(Shield::Shielded, now);
            }
            (S::Active(_) | S::Interrupted(..), Says(Sharer, W::Shielded(shield, within)))
                if me == Helper && !attended =>
            {
                self.change(|live| live.shield = shield);
                self.events.push_back(Event::Shield { shield, within });
            }

            // ---- 27: nobody at an unattended computer ends the session, unless it may be reclaimed ----
            (S::Active(live), Says(Sharer, W::Leave))
                if !attended && self.setup.terms.local_end == LocalEnd::Reclaim =>
            {
                self.warn(live, Before::Active, false, now);
            }
            (S::Starting { .. } | S::Active(_) | S::Interrupted(..), Says(Sharer, W::Leave))
                if !attended =>
            {
                return Err(Refusal::NoLocalEnd);
            }

            // ---- 28, 29: the sharer leaves ----
            (S::Active(live), Says(Sharer, W::Leave)) if self.was_elevated() => {
                self.warn(live, Before::Active, true, now); // 29
            }
            (S::Interrupted(live, cause), Says(Sharer, W::Leave)) if self.was_elevated() => {
                self.warn(live, Before::Interrupted(cause), true, now); // 29
            }
            (S::Starting { .. } | S::Active(_) | S::Interrupted(..), Says(Sharer, W::Leave)) => {
                self.end(EndReason::SharerLeft, now); // 28
            }

            // ---- 33, 35: silence; before anything has started, there is nothing to wait for ----
            (S::Active(_), Due(T::Lost)) => self.interrupt(Cause::Lost, now),
            (
                S::Joining
                | S::Trust
                | S::Consent { .. }
                | S::Countdown { .. }
                | S::Starting { .. },
                Due(T::Lost),
            ) => self.end(EndReason::ConnectionLost, now),
            (S::Interrupted(..), Due(T::Resume | T::Restart)) => {
                self.end(EndReason::ConnectionLost, now);
            }

            // ---- 34: it is back ----
            (S::Interrupted(live, Cause::Lost), World(Wo::Heard)) => self.resume(live, now),
            // Until its computer is down, one that restarts is heard; it is back in another connection (`Session::resumed`).
            (S::Interrupted(_, Cause::Restarting), World(Wo::Heard)) => {}
            (
                S::Joining
                | S::Trust
                | S::Consent { .. }
                | S::Countdown { .. }
                | S::Starting { .. }
                | S::Active(_),
                World(Wo::Heard),
            ) => self.timers.start(T::Lost, now),

            // ---- 36: restart ----
            (S::Active(live), Says(Helper, W::AskRestart))
                if live.mode == Mode::Control && live.ask.is_none() && !live.handing_over =>
            {
                return self.row_36(live, now);
            }
            (S::Active(live), Says(Sharer, W::AllowRestart)) if live.ask == Some(Ask::Restart) => {
                if me == Sharer {
                    self.events.push_back(Event::Act(Act::Restart));
                }
                self.answered(Ask::Restart);
                self.interrupt(Cause::Restarting, now);
            }
            (S::Active(live) | S::Interrupted(live, _), Says(Sharer, W::DeclineRestart))
                if live.ask == Some(Ask::Restart) =>
            {
                self.answered(Ask::Restart);
                self.events.push_back(Event::RestartDeclined);
            }
            // Its system does not do it.
            (S::Interrupted(live, Cause::Restarting), Says(Sharer, W::DeclineRestart)) => {
                self.events.push_back(Event::RestartDeclined);
                self.resume(live, now);
            }
            (S::Active(_), Says(Sharer, W::NoRestart(why))) if me == Helper => {
                self.events.push_back(Event::NoRestart(why));
            }
            (S::Active(_), Due(T::RestartAnswer)) if me == Sharer => {
                return self.say(W::DeclineRestart, now);
            }
            (S::Active(_), Due(T::RestartAnswer)) => {
                self.answered(Ask::Restart);
                self.events.push_back(Event::RestartDeclined);
            }

            // ---- hand-over: no row of SESSION.md; the helper names another one's code, and the sharer decides ----
            (S::Active(live), Says(Helper, W::AskHandover(code)))
                if attended && live.ask.is_none() && !live.handing_over =>
            {
                self.asked_to_hand_over(code, now);
            }
            (S::Active(live), Says(Sharer, W::AllowHandover))
                if live.ask == Some(Ask::Handover) =>
            {
                let code = self.next_code.take();
                self.answered(Ask::Handover);
                self.change(|live| live.handing_over = true);
                self.events.push_back(Event::HandingOver { code });
            }
            (S::Active(live) | S::Interrupted(live, _), Says(Sharer, W::DeclineHandover))
                if live.ask == Some(Ask::Handover) =>
            {
                self.answered(Ask::Handover);
                self.events.push_back(Event::HandoverDeclined);
            }
            (S::Active(_), Due(T::HandoverAnswer)) if me == Sharer => {
                return self.say(W::DeclineHandover, now);
            }
            (S::Active(_), Due(T::HandoverAnswer)) => {
                self.answered(Ask::Handover);
                self.events.push_back(Event::HandoverDeclined);
            }
            // As long as the other session has not started, this one is as it was.
            (S::Active(live) | S::Interrupted(live, _), Says(Sharer, W::HandoverFailed))
                if live.handing_over =>
            {
                self.change(|live| live.handing_over = false);
                self.events.push_back(Event::HandoverFailed);
            }
            (S::Active(live) | S::Interrupted(live, _), Says(Sharer, W::HandedOver))
                if live.handing_over =>
            {
                self.end(EndReason::HandedOver, now);
            }

            // ---- 37: is it to go on? ----
            (S::Active(live), Due(due @ (T::Reconfirm | T::Max | T::Idle))) => {
                self.row_37(live, due, now);
            }
            // Asked once it is back.
            (S::Interrupted(..), Due(T::Reconfirm | T::Max | T::Idle)) => {}
            (S::Active(_), Says(Sharer, W::Check(check, within))) if me == Helper => {
                self.change(|live| live.check = Some(check));
                self.told_check(check, within);
            }
            (S::Active(live), Says(who, W::GoOn))
                if live.check.is_some_and(|check| self.may_go_on(who, check)) =>
            {
                self.goes_on(live.check, now);
            }
            (S::Active(live), Due(T::Answer)) => self.end(reason_of(live.check), now),
            (S::Active(_), World(Wo::Activity)) => self.was_active(now),

            // ---- 31, 32, 10: the end from any state; 38 follows ----
            (state, Says(Helper, W::Leave)) if state.is_open() => {
                self.end(EndReason::HelperLeft, now);
            }
            (state, World(Wo::Kill(why))) if state.is_open() => {
                self.receipt.why = why;
                self.admin_ended(now);
            }
            (state, World(Wo::OperatorEnd(why))) if state.is_open() => {
                self.receipt.why = why;
                self.end(EndReason::OperatorEnded, now);
            }
            (state, World(Wo::Judged)) if state.is_open() => self.row_32(state, now),
            (state, World(Wo::Malformed)) if state.is_open() => self.end(EndReason::Internal, now),
            (state, World(Wo::Gone)) if state.is_open() => {
                self.finish(EndReason::ConnectionLost, now);
            }
            (
                state,
                Says(
                    who,
                    W::Ended {
                        reason,
                        chat_sent,
                        why,
                    },
                ),
            ) if state.is_open() && who != me => {
                self.receipt.why = why;
                self.peer_ended(reason, chat_sent, now);
            }
            // ---- 38: the last chat messages ----
            (S::Flushing { reason, .. }, Due(T::Flush) | World(Wo::Gone | Wo::Malformed)) => {
                self.finish(reason, now);
            }
            (S::Flushing { reason, .. }, Says(who, W::Leave)) if who == me => {
                self.finish(reason, now);
            }

            // ---- a key that no keyboard has (guide, D-9) ----
            (S::Active(live), Says(Helper, W::PowerKey { long })) if live.mode == Mode::Control => {
                if self.is_sharer() {
                    return self.power_key(long);
                }
            }

            // ---- clipboard and files: each way is the sharer's to grant (§1.5) ----
            (S::Active(live) | S::Interrupted(live, _), Says(Sharer, W::Grant(grants)))
                if grants != live.grants =>
            {
                return self.grant(live, grants);
            }
            (S::Active(live), Says(Helper, W::AskGrant(grants))) if !live.grants.covers(grants) => {
                return self.grant_asked(live, grants);
            }
            // What is granted then the sharer says.
            (S::Active(live), Says(Helper, W::GiveBack(grants)))
                if live.grants.without(grants) != live.grants =>
            {
                if self.is_sharer() {
                    self.granted(live.grants.without(grants));
                }
            }
            (S::Active(_) | S::Interrupted(..), Says(who, W::Exchange(body))) => {
                if who != me {
                    self.events.push_back(Event::Exchange(body));
                }
            }

            // ---- the picture, once there is one ----
            (S::Active(_) | S::Interrupted(..), Says(who, W::Media(body))) => {
                if who != me {
                    self.events.push_back(Event::Media(body));
                }
            }
            _ => return Err(NOT_LISTED),
        }
        self.tell_cover();
        Ok(())
    }

    /// While the sharer thinks about leaving, all goes on.
    fn meanwhile(&mut self, live: Live, before: Before, what: Happening, now: Instant) -> Done {
        self.state = before.state(live);
        let done = self.happen(what, now);
        self.state = match self.state {
            S::Active(live) => S::Ending(live, Before::Active),
            S::Interrupted(live, cause) => S::Ending(live, Before::Interrupted(cause)),
            over => over,
        };
        done
    }

    fn is_sharer(&self) -> bool {
        self.setup.role == Sharer
    }

    fn change(&mut self, change: impl FnOnce(&mut Live)) {
        if let Some(live) = self.state.live_mut() {
            change(live);
        }
    }

    fn act(&mut self, act: Act) {
        if self.is_sharer() {
            self.events.push_back(Event::Act(act));
        }
    }

    // ---- trust and consent ---------------------------------------------------------------

    /// The sharer's machine does not go further, either (guide, E-6).
    fn by_link(&mut self) {
        self.terms.entry = Entry::Link;
        self.setup.terms.entry = Entry::Link;
        if let Ok(verdict) = &mut self.setup.verdict {
            *verdict = verdict.clone().by(Entry::Link);
        }
    }

    fn row_9(&mut self, nonce: &[u8], now: Instant) {
        let nonce =
            Nonce::from_bytes(nonce).filter(|nonce| self.setup.peer.commitment.opens_to(nonce));
        let Some(theirs) = nonce else {
            return self.end(EndReason::AuthFailed, now); // 10
        };
        let verdict = match &self.setup.verdict {
            Ok(verdict) => verdict.clone(),
            Err(refusal) => return self.end(refusal.end_reason(), now), // 10
        };
        let (host, joiner) = match self.setup.side {
            Side::Host => (&self.setup.nonce, &theirs),
            Side::Joiner => (&theirs, &self.setup.nonce),
        };
        let words = Words::new(&self.setup.handshake_hash, host, joiner);
        let peer = self.setup.peer.profile.clone();
        self.timers.stop(&[T::Join]);
        if let Some(resumed) = &self.resumed {
            let mode = resumed.mode;
            self.state = S::Starting { granted: mode };
            self.timers.start(T::Start, now);
            self.events.push_back(Event::Returned {
                peer,
                verdict,
                words,
                name: self.name(),
            });
            self.events.push_back(Event::Starting { mode });
            return;
        }
        self.state = S::Trust;
        self.timers.start(T::Mode, now);
        self.events.push_back(Event::Trust {
            peer,
            verdict,
            words,
            alone: self.setup.terms.is_alone(),
            name: self.name(),
        });
    }

    fn row_11(&mut self, mode: Mode, now: Instant) -> Done {
        self.setup.may_ask(mode)?;
        let terms = &self.setup.terms;
        if self.is_sharer() {
            terms.has_prerequisites()?;
        }
        let skips = terms.skip_wait && terms.nobody_there;
        self.timers.stop(&[T::Mode]);
        let timer = match terms.kind {
            Kind::Attended => {
                self.state = S::Consent { asked: mode };
                T::Consent
            }
            Kind::Unattended => {
                self.state = S::Countdown { asked: mode };
                T::Unattended
            }
        };
        self.timers.start(timer, now);
        if !self.is_sharer() {
            return Ok(());
        }
        if timer == T::Unattended && skips {
            return self.say(W::Allow(mode, Method::NoUser), now); // 16
        }
        let within = self.prompted(timer);
        self.events.push_back(match timer {
            T::Unattended => Event::Countdown { mode, within },
            _ => Event::ConsentPrompt {
                mode,
                within,
                upgrade: false,
            },
        });
        Ok(())
    }

    /// Tells the helper that the question is on the screen; how long it stands there.
    fn prompted(&mut self, timer: T) -> Duration {
        let within = self.timers.length(timer);
        self.tell(&W::Prompted(within));
        within
    }

    fn told_prompted(&mut self, within: Duration) {
        let within = within.min(T_CONSENT);
        self.events.push_back(Event::AwaitingConsent { within });
    }

    fn row_12(&mut self, who: Role, same: bool, now: Instant) {
        let ours = who == self.setup.role;
        if !ours {
            self.events.push_back(Event::PeerCheckedSas(same));
        }
        if !same {
            self.receipt.sas = SasState::Mismatch;
            self.end(EndReason::SasMismatch, now);
        } else if ours {
            self.receipt.sas = SasState::Verified;
        }
    }

    /// 14, 16
    fn allowed(&mut self, granted: Mode, method: Method, now: Instant) {
        self.timers.stop(&[T::Consent, T::Unattended]);
        self.timers.start(T::Start, now);
        self.receipt.consent = Some(method);
        self.state = S::Starting { granted };
        self.events.push_back(Event::Starting { mode: granted });
    }

    fn row_18(&mut self, granted: Mode, now: Instant) {
        self.timers.stop(&[T::Start]);
        self.state = S::Active(Live::new(granted));
        self.receipt.mode = self.receipt.mode.max(Some(granted));
        if self.is_sharer() {
            for timer in T::CHECKS {
                self.timers.start(timer, now);
            }
        }
        let resumed = self.resumed.clone();
        match resumed {
            None => self.events.push_back(Event::Started { mode: granted }),
            Some(resumed) => self.row_34(&resumed, now),
        }
        self.tell_no_restart();
        if self.setup.terms.kind == Kind::Unattended && self.is_sharer() {
            self.act(Act::Shield);
            self.set_shield(Shield::Shielded, now);
        }
    }

    /// In another connection: all is as it was, but for what was permitted then and is not now.
    fn row_34(&mut self, resumed: &Resumed, now: Instant) {
        let pause = if resumed.paused {
            Pause::Paused
        } else {
            Pause::Live
        };
        self.change(|live| live.pause = pause);
        self.timers.advance(T::Max, resumed.receipt.duration, now);
        let mode = resumed.mode;
        self.events.push_back(Event::Resumed { mode });
        if self.is_sharer() && self.setup.cap() < Some(mode) {
            self.row_32(self.state, now);
        }
    }

    /// Sharer: what need not be asked for. That its system cannot is said when it is, as of all else.
    fn tell_no_restart(&mut self) {
        let why = self.setup.terms.may_restart().err();
        if let Some(why @ Refusal::RestartUnavailable) = why.filter(|_| self.is_sharer()) {
            self.tell(&W::NoRestart(why));
        }
    }

    // ---- modes ---------------------------------------------------------------------------

    fn row_20(&mut self, now: Instant) -> Done {
        self.setup.may_ask(Mode::Control)?;
        self.change(|live| live.ask = Some(Ask::Control));
        self.timers.start(T::Upgrade, now);
        if self.is_sharer() {
            let within = self.prompted(T::Upgrade);
            self.events.push_back(Event::ConsentPrompt {
                mode: Mode::Control,
                within,
                upgrade: true,
            });
        }
        Ok(())
    }

    /// What was asked is no question any more.
    fn answered(&mut self, ask: Ask) {
        self.timers.stop(&[ask.timer()]);
        self.next_code = None;
        self.change(|live| live.ask = None);
    }

    fn set_mode(&mut self, mode: Mode, by: Role) {
        self.change(|live| live.mode = mode);
        self.receipt.mode = self.receipt.mode.max(Some(mode));
        self.events.push_back(Event::ModeChanged { mode, by });
    }

    fn refused(&mut self, question: Question, why: Refusal) {
        match question {
            Question::Mode => self.answered(Ask::Control),
            Question::Restart => self.answered(Ask::Restart),
            Question::Handover => self.answered(Ask::Handover),
            Question::Chat | Question::Grant | Question::SystemKey => {}
            Question::Elevation => {
                self.timers.stop(&[T::Elevation]);
                self.change(|live| live.elevation = Elevation::None);
            }
        }
        self.events.push_back(Event::Refused(why));
    }

    // ---- clipboard and files -------------------------------------------------------------

    /// Of the helper's own terms only what it must not take part in counts.
    fn may_grant(&self, matter: Matter) -> Result<(), Refusal> {
        self.setup.terms.may_exchange(matter)?;
        let vouched = self.setup.verdict.as_ref().is_ok_and(|it| it.verified);
        match self.is_sharer() && !vouched && self.receipt.sas != SasState::Verified {
            true => Err(Refusal::Unverified),
            false => Ok(()),
        }
    }

    fn grant(&mut self, live: Live, grants: Grants) -> Done {
        if self.is_sharer() {
            for (matter, _) in grants.without(live.grants).iter() {
                self.may_grant(matter)?;
            }
        }
        let permitted = grants.only(|matter| self.may_grant(matter).is_ok());
        self.change(|live| {
            live.grants = permitted;
            live.wanted = Grants::NONE;
        });
        self.events.push_back(Event::Granted(permitted));
        Ok(())
    }

    fn grant_asked(&mut self, live: Live, grants: Grants) -> Done {
        for (matter, _) in grants.iter() {
            self.may_grant(matter)?;
        }
        // What is asked for again is no news.
        let news = grants.without(live.grants).without(live.wanted);
        if self.is_sharer() && !news.is_empty() {
            self.change(|live| live.wanted = live.wanted | news);
            self.events.push_back(Event::GrantWanted(news));
        }
        Ok(())
    }

    /// Less is granted than before, and not because the sharer said so.
    fn granted(&mut self, grants: Grants) {
        self.change(|live| live.grants = grants);
        if self.is_sharer() {
            self.tell(&W::Grant(grants));
        }
        self.events.push_back(Event::Granted(grants));
    }

    // ---- elevation, shield, restart ------------------------------------------------------

    fn row_23(&mut self, now: Instant) -> Done {
        // Only the sharer knows its system and its policy.
        if self.is_sharer() {
            self.setup.may_elevate()?;
            let within = self.prompted(T::Elevation);
            self.events.push_back(Event::ElevationPrompt { within });
        }
        self.change(|live| live.elevation = Elevation::Asked);
        self.timers.start(T::Elevation, now);
        Ok(())
    }

    fn elevated(&mut self) {
        self.timers.stop(&[T::Elevation]);
        self.change(|live| live.elevation = Elevation::Granted);
        self.receipt.elevated = true;
        self.act(Act::Elevate);
        self.events.push_back(Event::ElevationGranted);
    }

    /// 21, 23, 25, 33: asked or granted, it is over.
    fn drop_elevation(&mut self) {
        let Some(live) = self.state.live().copied() else {
            return;
        };
        self.timers.stop(&[T::Elevation]);
        if live.ask == Some(Ask::Restart) {
            self.answered(Ask::Restart);
            self.events.push_back(Event::RestartDeclined);
        }
        self.change(|live| live.elevation = Elevation::None);
        match live.elevation {
            Elevation::None => {}
            Elevation::Asked => self.events.push_back(Event::ElevationDeclined),
            Elevation::Granted => {
                self.act(Act::Unelevate);
                self.events.push_back(Event::ElevationReleased);
            }
        }
    }

    /// The other side is told that what was asked or granted is over.
    fn withdraw_elevation(&mut self) {
        let asked = self
            .state
            .live()
            .is_some_and(|live| live.elevation == Elevation::Asked);
        let no = match asked && self.is_sharer() {
            true => W::DeclineElevation,
            false => W::ReleaseElevation,
        };
        self.tell(&no);
        self.drop_elevation();
    }

    /// Sharer: 18, 26.
    fn set_shield(&mut self, shield: Shield, now: Instant) {
        let mut within = Duration::ZERO;
        if shield == Shield::Frozen {
            self.timers.start(T::Freeze, now);
            within = self.timers.length(T::Freeze);
        }
        self.change(|live| live.shield = shield);
        self.tell(&W::Shielded(shield, within));
        self.events.push_back(Event::Shield { shield, within });
    }

    /// Sharer: 24. What covers the screen, whenever that has changed.
    fn tell_cover(&mut self) {
        if !self.is_sharer() {
            return;
        }
        let covered = self.state.live().and_then(Live::covered);
        if self.state.live().is_some() && covered != self.covered {
            self.covered = covered;
            self.tell(&W::Covered(covered));
            self.events.push_back(Event::Covered(covered));
        }
    }

    fn power_key(&mut self, long: bool) -> Done {
        if !self.setup.terms.platform.power_key {
            return Err(Refusal::Unsupported);
        }
        // As any other key.
        if self.rights().input_refusal().is_some() {
            return Err(NOT_LISTED);
        }
        self.act(Act::PowerKey { long });
        Ok(())
    }

    fn row_36(&mut self, live: Live, now: Instant) -> Done {
        if self.is_sharer() {
            self.setup.terms.may_restart()?;
            if live.elevation != Elevation::Granted {
                return Err(NOT_LISTED);
            }
        }
        self.change(|live| live.ask = Some(Ask::Restart));
        self.timers.start(T::RestartAnswer, now);
        if self.is_sharer() {
            let within = self.prompted(T::RestartAnswer);
            self.events.push_back(Event::RestartPrompt { within });
        }
        Ok(())
    }

    fn asked_to_hand_over(&mut self, code: Code, now: Instant) {
        self.change(|live| live.ask = Some(Ask::Handover));
        self.timers.start(T::HandoverAnswer, now);
        if self.is_sharer() {
            self.next_code = Some(code);
            let within = self.prompted(T::HandoverAnswer);
            self.events.push_back(Event::HandoverPrompt { within });
        }
    }

    // ---- leaving, silence ----------------------------------------------------------------

    /// In this session, or before it was handed over.
    fn was_elevated(&self) -> bool {
        self.receipt.elevated || self.setup.terms.elevated_before
    }

    /// 27, 29
    fn warn(&mut self, live: Live, before: Before, signs_out: bool, now: Instant) {
        self.timers.start(T::Leave, now);
        self.state = S::Ending(live, before);
        self.events.push_back(Event::LeaveWarning { signs_out });
    }

    /// 33, 36
    fn interrupt(&mut self, cause: Cause, now: Instant) {
        let Some(live) = self.state.live().copied() else {
            return;
        };
        if live.elevation != Elevation::None {
            self.withdraw_elevation(); // 25
        }
        let asked = self.state.live().and_then(|live| live.ask);
        if let Some(ask) = asked {
            if self.is_sharer() {
                // Whoever asked hears of it when it is back.
                self.tell(&ask.no());
                self.answered(ask);
                self.events.push_back(ask.declined());
            }
            self.timers.stop(&[ask.timer()]);
        }
        self.timers.stop(&[T::Lost, T::Answer]);
        self.change(|live| live.check = None);
        let timer = match cause {
            Cause::Lost => T::Resume,
            Cause::Restarting => T::Restart,
        };
        self.timers.start(timer, now);
        if let Some(live) = self.state.live().copied() {
            self.state = S::Interrupted(live, cause);
        }
        let within = self.timers.length(timer);
        self.events.push_back(Event::Interrupted { cause, within });
    }

    /// 34
    fn resume(&mut self, live: Live, now: Instant) {
        self.timers.stop(&[T::Resume, T::Restart]);
        self.timers.start(T::Lost, now);
        self.state = S::Active(live);
        if let Some(ask) = live.ask {
            self.timers.start(ask.timer(), now);
        }
        self.ask_again(now);
        self.events.push_back(Event::Resumed { mode: live.mode });
    }

    // ---- 37 ------------------------------------------------------------------------------

    /// Sharer: what ran out while nothing could be asked is asked now.
    fn ask_again(&mut self, now: Instant) {
        if self.is_sharer() {
            for timer in T::CHECKS {
                self.timers.overdue(timer, now);
            }
        }
    }

    fn row_37(&mut self, live: Live, due: T, now: Instant) {
        // One question at a time; this one follows.
        if live.check.is_some() {
            return;
        }
        let check = match due {
            T::Max => Check::MaxDuration,
            T::Idle => Check::Idle,
            _ => Check::Reconfirm,
        };
        self.change(|live| live.check = Some(check));
        self.timers.start(T::Answer, now);
        let within = self.timers.length(T::Answer);
        self.tell(&W::Check(check, within));
        self.told_check(check, within);
    }

    fn told_check(&mut self, check: Check, within: Duration) {
        let ours = self.may_go_on(self.setup.role, check);
        self.events.push_back(Event::Check {
            check,
            within,
            ours,
        });
    }

    /// It is the sharer's to say, or the helper's where nobody sits there; that somebody is still here, either's.
    pub(super) fn may_go_on(&self, who: Role, check: Check) -> bool {
        match (self.setup.terms.kind, who) {
            (Kind::Attended, Helper) => check == Check::Idle,
            (Kind::Unattended, Sharer) => false,
            (Kind::Attended, Sharer) | (Kind::Unattended, Helper) => true,
        }
    }

    fn goes_on(&mut self, check: Option<Check>, now: Instant) {
        self.timers.stop(&[T::Answer]);
        self.change(|live| live.check = None);
        if self.is_sharer() {
            if let Some(check) = check {
                self.timers.start(T::of_check(check), now);
            }
            self.ask_again(now);
        }
        self.events.push_back(Event::GoesOn);
    }

    /// Something was done: nobody is idle.
    pub(super) fn was_active(&mut self, now: Instant) {
        if self.timers.at(T::Idle).is_some() {
            self.timers.start(T::Idle, now);
        }
    }

    // ---- 32 ------------------------------------------------------------------------------

    /// Whether the sharer is signed out then is the policy's to say.
    fn admin_ended(&mut self, now: Instant) {
        if self.was_elevated() && self.setup.terms.sign_out_on_kill {
            self.act(Act::SignOut);
        }
        self.end(EndReason::AdminEnded, now);
    }

    /// What is not permitted any more is over; where less is still enough, that stays.
    fn row_32(&mut self, state: S, now: Instant) {
        let verdict = match &self.setup.verdict {
            Ok(verdict) => verdict.clone(),
            Err(_) => return self.admin_ended(now),
        };
        self.setup.terms = self.terms.under(&verdict);
        self.check_anew(now);
        self.events.push_back(Event::Judged(verdict));
        let cap = self.setup.cap();
        let most = match state {
            S::Consent { asked } | S::Countdown { asked } => Some(asked),
            S::Starting { granted } => Some(granted),
            state => state.live().map(|live| live.mode),
        };
        let is_live = state.live().is_some();
        if most.is_some_and(|most| {
            self.setup.may_ask(Mode::View).is_err() || (Some(most) > cap && !is_live)
        }) {
            return self.admin_ended(now);
        }
        let Some(live) = state.live() else { return };
        if Some(live.mode) > cap {
            self.tell(&W::Drop);
            self.drop_elevation(); // 21
            self.set_mode(Mode::View, self.setup.role);
        } else if live.elevation != Elevation::None && self.setup.may_elevate().is_err() {
            self.withdraw_elevation(); // 25
        }
        let permitted = live.grants.only(|matter| self.may_grant(matter).is_ok());
        if permitted != live.grants {
            self.granted(permitted);
        }
        // More than is permitted now cannot be allowed any more.
        let ask = self.state.live().and_then(|live| live.ask);
        let over = match ask {
            Some(Ask::Control) => self.setup.may_ask(Mode::Control).is_err(),
            Some(Ask::Restart) => self.setup.terms.may_restart().is_err(),
            Some(Ask::Handover) | None => false,
        };
        if let Some(ask) = ask.filter(|_| over && self.is_sharer()) {
            self.tell(&ask.no());
            self.answered(ask);
            self.events.push_back(ask.declined());
        }
        if matches!(self.state, S::Active(_)) {
            self.tell_no_restart();
        }
    }

    /// Sharer: a limit that is set otherwise counts from now.
    fn check_anew(&mut self, now: Instant) {
        let before = T::CHECKS.map(|timer| self.timers.length(timer));
        self.timers
            .set_durations(self.setup.terms.durations.clone());
        if !self.is_sharer() || self.state.live().is_none() {
            return;
        }
        for (timer, before) in T::CHECKS.into_iter().zip(before) {
            if self.timers.length(timer) != before {
                self.timers.stop(&[timer]);
                self.timers.start(timer, now);
            }
        }
    }

    // ---- the end -------------------------------------------------------------------------

    fn peer_ended(&mut self, reason: EndReason, chat_sent: u64, now: Instant) {
        if chat_sent > self.receipt.chat_received && self.state.live().is_some() {
            self.restore();
            self.timers.stop_all();
            self.timers.start(T::Flush, now);
            self.state = S::Flushing { reason, chat_sent };
        } else {
            self.finish(reason, now);
        }
    }

    /// Ends the session and tells the other side.
    pub(super) fn end(&mut self, reason: EndReason, now: Instant) {
        match self.state {
            S::Ended => return,
            S::Flushing { reason, .. } => return self.finish(reason, now),
            _ => {}
        }
        let chat_sent = self.receipt.chat_sent;
        let why = self.receipt.why.clone();
        self.tell(&W::Ended {
            reason,
            chat_sent,
            why,
        });
        self.finish(reason, now);
    }

    pub(super) fn finish(&mut self, reason: EndReason, now: Instant) {
        self.restore();
        self.timers.stop_all();
        self.state = S::Ended;
        self.receipt.reason = reason;
        self.events.push_back(Event::Ended(self.summary(now)));
    }

    /// The sharer's system is left as it was found.
    fn restore(&mut self) {
        self.drop_elevation();
        let shield = self.state.live().map(|live| live.shield);
        if shield.is_some_and(|shield| shield != Shield::Off) {
            self.change(|live| live.shield = Shield::Off);
            self.act(Act::Unshield);
        }
    }
}

fn reason_of(check: Option<Check>) -> EndReason {
    match check {
        Some(Check::MaxDuration) => EndReason::MaxDuration,
        Some(Check::Idle) => EndReason::Idle,
        Some(Check::Reconfirm) | None => EndReason::Reconfirm,
    }
}

impl Ask {
    fn timer(self) -> T {
        match self {
            Self::Control => T::Upgrade,
            Self::Restart => T::RestartAnswer,
            Self::Handover => T::HandoverAnswer,
        }
    }

    fn no(self) -> W {
        match self {
            Self::Control => W::DeclineMode,
            Self::Restart => W::DeclineRestart,
            Self::Handover => W::DeclineHandover,
        }
    }

    fn declined(self) -> Event {
        match self {
            Self::Control => Event::UpgradeDeclined,
            Self::Restart => Event::RestartDeclined,
            Self::Handover => Event::HandoverDeclined,
        }
    }
}

impl Live {
    /// The helper waits for an answer.
    fn waits(&self) -> bool {
        self.ask.is_some() || self.elevation == Elevation::Asked
    }

    fn waits_for(&self, question: Question) -> bool {
        match question {
            Question::Mode => self.ask == Some(Ask::Control),
            Question::Restart => self.ask == Some(Ask::Restart),
            Question::Handover => self.ask == Some(Ask::Handover),
            Question::Elevation => self.elevation == Elevation::Asked,
            Question::Chat | Question::Grant | Question::SystemKey => true,
        }
    }
}
