//! The alerts, by the names that they have in the rules and in the runbook; and what sets each off.

use clap::ValueEnum;

use super::people::Deed;

/// An alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
#[value(rename_all = "PascalCase")]
pub enum Alert {
    /// One of two relays is killed
    RelayDown,
    /// A relay shows a certificate that has ended
    RelayNotReady,
    /// A relay is to drain, and a session stays
    DrainStuck,
    /// A relay with one worker gets more frames than that can forward
    WorkerSaturated,
    /// A relay is held still again and again while datagrams come
    ReceiveBufferOverflow,
    /// A session sends more than it may
    FramesDropped,
    /// A relay has used nearly all the memory that it may
    MemoryNearLimit,
    /// A relay's certificate ends tomorrow
    CertificateExpiring,
    /// The clock of a relay is ten minutes ahead
    ClockSkew,
    /// One of three relays has another fleet key
    MeshSplit,
    /// Two of three relays do not answer while codes are made
    DhtLookupErrors,
    /// Helpers go away while somebody joins them
    IntroductionErrors,
    /// Helpers' computers take two seconds to answer
    IntroductionSlow,
    /// Computers vanish from their sessions
    SessionsLost,
    /// Joiners have a code's place right and its secret wrong
    CodeGuessing,
    /// More nodes come than a relay lets in
    AdmissionSpike,
    /// Sessions find no direct path any more, as most did a week ago
    DirectRatioFell,
    /// As IntroductionErrors: helpers go away while somebody joins them
    IntroductionErrorsBurnFast,
    /// As IntroductionErrors: helpers go away while somebody joins them
    IntroductionErrorsBurnSlow,
    /// As IntroductionSlow: helpers' computers take two seconds to answer
    IntroductionLatencyBurnFast,
    /// As IntroductionSlow: helpers' computers take two seconds to answer
    IntroductionLatencyBurnSlow,
    /// As SessionsLost: computers vanish from their sessions
    SessionContinuityBurnFast,
    /// As SessionsLost: computers vanish from their sessions
    SessionContinuityBurnSlow,
}

impl Alert {
    /// As it stands in the rules.
    pub fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// What is done.
    pub fn what(self) -> String {
        let help = self.to_possible_value();
        let help = help.and_then(|value| value.get_help().map(ToString::to_string));
        help.unwrap_or_default()
    }

    /// What sets it off; some have the same.
    pub fn cause(self) -> Cause {
        match self {
            Self::RelayDown => Cause::Killed,
            Self::RelayNotReady => Cause::CertificateEnded,
            Self::DrainStuck => Cause::StaysInSession,
            Self::WorkerSaturated => Cause::Flooded,
            Self::ReceiveBufferOverflow => Cause::HeldStill,
            Self::FramesDropped => Cause::People(Deed::Overflow),
            Self::MemoryNearLimit => Cause::LittleMemory,
            Self::CertificateExpiring => Cause::CertificateEnding,
            Self::ClockSkew => Cause::ClockAhead,
            Self::MeshSplit => Cause::Stranger,
            Self::DhtLookupErrors => Cause::SilentOthers,
            Self::IntroductionErrors
            | Self::IntroductionErrorsBurnFast
            | Self::IntroductionErrorsBurnSlow => Cause::People(Deed::Desert),
            Self::IntroductionSlow
            | Self::IntroductionLatencyBurnFast
            | Self::IntroductionLatencyBurnSlow => Cause::People(Deed::Hesitate),
            Self::SessionsLost
            | Self::SessionContinuityBurnFast
            | Self::SessionContinuityBurnSlow => Cause::People(Deed::Vanish),
            Self::CodeGuessing => Cause::People(Deed::Guess),
            Self::AdmissionSpike => Cause::People(Deed::Knock),
            Self::DirectRatioFell => Cause::People(Deed::StayRelayed),
        }
    }

    /// What people's computers do to set it off, if they can.
    pub fn deed(self) -> Option<Deed> {
        match self.cause() {
            Cause::People(deed) => Some(deed),
            Cause::Killed
            | Cause::CertificateEnded
            | Cause::CertificateEnding
            | Cause::StaysInSession
            | Cause::Flooded
            | Cause::HeldStill
            | Cause::LittleMemory
            | Cause::ClockAhead
            | Cause::Stranger
            | Cause::SilentOthers => None,
        }
    }

    /// Whether it takes so much of the machine that others are set off by that.
    pub fn is_heavy(self) -> bool {
        matches!(self.cause(), Cause::Flooded | Cause::HeldStill)
    }
}

/// What sets an alert off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// A relay is killed.
    Killed,
    /// Its certificate has ended.
    CertificateEnded,
    /// Its certificate ends soon.
    CertificateEnding,
    /// A session stays at one that drains.
    StaysInSession,
    /// More comes than it can do.
    Flooded,
    /// It is held still.
    HeldStill,
    /// It may have hardly more memory than it has.
    LittleMemory,
    /// Its clock is ahead.
    ClockAhead,
    /// It has another key than its fleet.
    Stranger,
    /// Its fleet does not answer it.
    SilentOthers,
    /// What people's computers do.
    People(Deed),
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::provoke::rules;

    #[test]
    fn every_alert_of_the_rules_can_be_provoked_and_no_other() {
        let ours = Alert::value_variants().iter().map(|alert| alert.name());
        let ours: BTreeSet<_> = ours.collect();
        let theirs = rules::alerts(rules::OURS).into_iter();
        let theirs: BTreeSet<_> = theirs.map(str::to_owned).collect();
        assert_eq!(ours, theirs);
    }

    #[test]
    fn each_says_what_is_done() {
        let what = |alert: &Alert| alert.what();
        assert!(
            Alert::value_variants()
                .iter()
                .map(what)
                .all(|what| what.len() > 20)
        );
    }
}
