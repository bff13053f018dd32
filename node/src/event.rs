//! What a person or a script is told, step by step, and what they may say. `--json` prints one object a line; fields may be added, never renamed.

use std::{net::SocketAddr, time::Duration};

/// What passes between the helper and the sharer's broker.
pub mod elevated;

use remora_proto::{
    elevation::Order,
    identity::{Profile, Role},
    org::{
        ended::SessionName,
        permission::Permission,
        verdict::{Limit, Verdict, Warning},
    },
    path::machine::WhyRelayed,
    rendezvous::CodeEnd,
    sas::Words,
    session::{
        Cause, Check, Command, Event as SessionEvent, Method, Mode, Receipt, Refusal, SasState,
        Shield,
    },
    wire::message::session::InputEvent,
};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::exchange::{Told, Wish, grants_json};

/// How the inner connection's packets go just now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PathSnapshot {
    /// The relay's name.
    pub relay: String,
    /// Round-trip time between the two nodes.
    pub rtt: Duration,
    /// UDP payload of the inner connection, sent and received.
    pub bytes: u64,
    /// What of it was received.
    pub received: u64,
    /// The other node's address, when packets go there and not through the relay.
    pub direct: Option<SocketAddr>,
    /// Why they do not.
    pub why_relayed: Option<WhyRelayed>,
    /// Relayed, and the relay is reached by TCP.
    pub is_by_tcp: bool,
}

impl PathSnapshot {
    /// The kind of path, for where a number that changes every second would be in the way.
    pub fn kind(&self) -> &'static str {
        if self.direct.is_some() {
            "direct"
        } else {
            "relayed"
        }
    }

    /// The same when the relay is reached by a stream, or is not: then that is why nothing goes directly.
    pub(crate) fn reached(self, by_stream: bool) -> Self {
        let is_by_tcp = by_stream && self.direct.is_none();
        let why_relayed = match self.why_relayed {
            Some(why) if is_by_tcp && why != WhyRelayed::PolicyRelayOnly => {
                Some(WhyRelayed::UdpBlocked)
            }
            why => why,
        };
        Self {
            is_by_tcp,
            why_relayed,
            ..self
        }
    }

    /// The badge: `direct 203.0.113.7:41641 (8 ms)`, `relayed via fra-1 (31 ms)`, `relayed via fra-1 over TCP (31 ms)`.
    pub fn badge(&self) -> String {
        let rtt = about(self.rtt);
        match self.direct {
            Some(address) => format!("direct {address} ({rtt})"),
            None if self.is_by_tcp => format!("relayed via {} over TCP ({rtt})", self.relay),
            None => format!("relayed via {} ({rtt})", self.relay),
        }
    }

    /// The same for scripts; `why_relayed` is null when packets go directly.
    pub fn json(&self) -> Value {
        json!({
            "path": self.kind(), "transport": if self.is_by_tcp { "tcp" } else { "udp" }, "relay": self.relay, "rtt_ms": milliseconds(self.rtt),
            "address": self.direct.map(|address| address.to_string()),
            "why_relayed": self.why_relayed.map(WhyRelayed::name),
        })
    }
}

/// What somebody wants of a running session, and wants to be told.
#[derive(Debug)]
pub enum Asked {
    /// How long the way takes, measured, when the other node has answered.
    Way(oneshot::Sender<PathSnapshot>),
    /// That its machine does this, and whether it may be.
    Command(Command, oneshot::Sender<Result<(), Refusal>>),
}

/// What a person tells a running session.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// Helper, while waiting: draw another code.
    NewCode,
    /// Packets are to go through the relay for now, both ways; or, `false`, by the best path.
    Relayed(bool),
    /// To the session's machine. Leaving also ends the wait.
    Session(Command),
    /// Helper: keys and pointer for the sharer's screen.
    Keys(Vec<InputEvent>),
    /// About clipboard and files.
    Exchange(Wish),
    /// Helper, elevated: for the sharer's broker.
    Order(Order),
}

/// An event of a node.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Of several relays the node is at this one, from now on.
    Home {
        /// Its name.
        relay: String,
        /// `HOST:PORT`
        address: String,
        /// There and back.
        rtt: Duration,
    },
    /// Helper: this is the code.
    Code {
        /// As it is shown.
        code: String,
        /// How long it is valid.
        valid: Duration,
    },
    /// Helper: somebody tried another code.
    WrongCode {
        /// Before it burns.
        tries_left: u32,
    },
    /// Helper: whose device is invited, and what to know of it.
    Device {
        /// Of its person.
        profile: Profile,
        /// Its name, if it is enrolled.
        name: Option<String>,
        /// What is to be thought of that.
        verdict: Box<Verdict>,
    },
    /// Helper: how the invitation fares.
    Notification(Notified),
    /// Helper: the code admits nobody any more.
    CodeEnded(CodeEnd),
    /// The inner connection stands.
    Connected(PathSnapshot),
    /// Its packets go another way now.
    Moved(PathSnapshot),
    /// Who of the two wants packets to go through the relay for now; they do while anybody does.
    RelayWish {
        /// This side.
        ours: bool,
        /// The other.
        theirs: bool,
    },
    /// The relay wants to be left by then.
    RelayDraining(Duration),
    /// Helper: the relay where the code waits is gone; one that takes it is looked for, for as long as the code lives.
    RelayLost,
    /// Helper: there is one.
    RelayBack {
        /// Its name.
        relay: String,
        /// The code is the one that was shown before.
        same_code: bool,
    },
    /// From the session's machine.
    Session(SessionEvent),
    /// Of clipboard and files.
    Exchange(Told),
    /// Sharer: the person pressed Chat on the bar.
    ChatWanted,
    /// The person wanted something that is not possible, or not now.
    NotPossible {
        /// `BAD_STATE`, `MODE_NOT_PERMITTED`, `UNATTENDED_NO_LOCAL_END` …
        code: &'static str,
        /// The same for people.
        text: String,
    },
}

/// How the invitation of a device fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notified {
    /// A relay has taken it to the device.
    Sent,
    /// People there can open it.
    Delivered {
        /// How many.
        agents: u32,
        /// For so long.
        within: Duration,
    },
    /// Sent, and nobody has received it yet.
    NotReceived,
    /// Somebody has opened it.
    Opened,
}

impl Notified {
    fn json(self) -> Value {
        let (state, rest) = match self {
            Self::Sent => ("sent", json!({})),
            Self::Delivered { agents, within } => (
                "delivered",
                json!({"agents": agents, "within_s": seconds(within)}),
            ),
            Self::NotReceived => ("not_received", json!({})),
            Self::Opened => ("opened", json!({})),
        };
        let mut object = with_event("notification", rest);
        object["state"] = state.into();
        object
    }
}

/// For scripts: milliseconds, to the microsecond; what is beyond that nobody has measured.
pub fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// For people: whole milliseconds, and nothing takes none.
pub fn about(duration: Duration) -> String {
    match (duration.as_secs_f64() * 1e3).round() {
        ms if ms < 1.0 => "<1 ms".into(),
        ms => format!("{ms} ms"),
    }
}

fn with_event(name: &str, mut object: Value) -> Value {
    object["event"] = name.into();
    object
}

fn seconds(duration: Duration) -> u64 {
    duration.as_secs()
}

/// A trust card's fields.
pub(crate) fn card(profile: &Profile, verdict: &Verdict) -> Value {
    json!({
        "full_name": profile.full_name, "job_title": profile.job_title,
        "company": profile.company, "domain": profile.domain, "verified": verdict.verified,
    })
}

/// What the helper may do with this sharer; `limit` says why that is nothing.
fn permitted(verdict: &Verdict) -> Value {
    let permissions = verdict.permissions.iter().map(Permission::name);
    let mode = verdict.permitted().map(|mode| mode.to_string());
    json!({
        "permissions": permissions.collect::<Vec<_>>(), "mode": mode,
        "limit": verdict.limit.map(Limit::name), "text": verdict.limit.map(|limit| limit.to_string()),
    })
}

fn warnings(verdict: &Verdict) -> Vec<Value> {
    let warning = |warning: &Warning| json!({"code": warning.name(), "text": warning.to_string()});
    verdict.warnings.iter().map(warning).collect()
}

/// A role's stable name.
pub fn role_name(role: Role) -> &'static str {
    match role {
        Role::Helper => "helper",
        Role::Sharer => "sharer",
    }
}

/// A receipt's fields.
pub fn receipt_json(receipt: &Receipt) -> Value {
    json!({
        "event": "ended", "end_reason": receipt.reason.name(),
        "duration_s": milliseconds(receipt.duration).round() / 1e3,
        "mode": receipt.mode.map(|mode| mode.to_string()),
        "consent": receipt.consent.map(Method::name), "elevated": receipt.elevated,
        "why": Some(receipt.why.as_str()).filter(|why| !why.is_empty()),
        "chat_sent": receipt.chat_sent, "chat_received": receipt.chat_received,
        "sas": match receipt.sas {
            SasState::Unverified => "unverified",
            SasState::Verified => "verified",
            SasState::Mismatch => "mismatch",
        },
    })
}

fn trust_json(
    event: &str,
    peer: &Profile,
    verdict: &Verdict,
    words: &Words,
    alone: bool,
    name: SessionName,
) -> Value {
    json!({
        "event": event, "peer": card(peer, verdict), "words": words.words(), "alone": alone, "session": name.to_string(),
        "permitted": permitted(verdict), "warnings": warnings(verdict),
    })
}

fn session_json(event: &SessionEvent) -> Value {
    let mode_json = |name: &str, mode: &Mode| json!({"event": name, "mode": mode.to_string()});
    match event {
        SessionEvent::Trust {
            peer,
            verdict,
            words,
            alone,
            name,
        } => trust_json("trust", peer, verdict, words, *alone, *name),
        SessionEvent::Returned {
            peer,
            verdict,
            words,
            name,
        } => trust_json("returned", peer, verdict, words, false, *name),
        SessionEvent::Judged(verdict) => json!({
            "event": "judged", "verified": verdict.verified,
            "permitted": permitted(verdict), "warnings": warnings(verdict),
        }),
        SessionEvent::PeerCheckedSas(same) => json!({"event": "peer_checked_words", "same": same}),
        SessionEvent::ConsentPrompt {
            mode,
            within,
            upgrade,
        } => {
            json!({"event": "consent_prompt", "mode": mode.to_string(), "within_s": seconds(*within), "upgrade": upgrade})
        }
        SessionEvent::AwaitingConsent { within } => {
            json!({"event": "awaiting_consent", "within_s": seconds(*within)})
        }
        SessionEvent::Countdown { mode, within } => {
            json!({"event": "countdown", "mode": mode.to_string(), "within_s": seconds(*within)})
        }
        SessionEvent::Starting { mode } => mode_json("starting", mode),
        SessionEvent::Started { mode } => mode_json("started", mode),
        SessionEvent::ModeChanged { mode, by } => {
            json!({"event": "mode_changed", "mode": mode.to_string(), "by": role_name(*by)})
        }
        SessionEvent::Paused(true) => json!({"event": "paused"}),
        SessionEvent::Paused(false) => json!({"event": "resumed"}),
        SessionEvent::Media(_) | SessionEvent::Exchange(_) => json!({"event": "media"}),
        SessionEvent::Granted(grants) => {
            json!({"event": "granted", "granted": grants_json(*grants)})
        }
        SessionEvent::GrantWanted(grants) => {
            json!({"event": "grant_wanted", "wanted": grants_json(*grants)})
        }
        SessionEvent::UpgradeDeclined => json!({"event": "upgrade_declined"}),
        SessionEvent::Refused(refusal) => {
            json!({"event": "refused", "code": refusal.code(), "text": refusal.to_string()})
        }
        SessionEvent::ElevationPrompt { within } => {
            json!({"event": "elevation_prompt", "within_s": seconds(*within)})
        }
        SessionEvent::ElevationGranted => json!({"event": "elevation_granted"}),
        SessionEvent::ElevationDeclined => json!({"event": "elevation_declined"}),
        SessionEvent::ElevationReleased => json!({"event": "elevation_released"}),
        SessionEvent::RestartPrompt { within } => {
            json!({"event": "restart_prompt", "within_s": seconds(*within)})
        }
        SessionEvent::RestartDeclined => json!({"event": "restart_declined"}),
        SessionEvent::NoRestart(refusal) => {
            json!({"event": "no_restart", "code": refusal.code(), "text": refusal.to_string()})
        }
        SessionEvent::HandoverPrompt { within } => {
            json!({"event": "handover_prompt", "within_s": seconds(*within)})
        }
        // Not the code.
        SessionEvent::HandingOver { .. } => json!({"event": "handing_over"}),
        SessionEvent::HandoverDeclined => json!({"event": "handover_declined"}),
        SessionEvent::HandoverFailed => json!({"event": "handover_failed"}),
        SessionEvent::Covered(prompt) => json!({
            "event": "screen_covered", "covered": prompt.is_some(),
            "takes_keys": prompt.is_some_and(|prompt| prompt.takes_keys),
        }),
        SessionEvent::Shield { shield, within } => {
            let shield = match shield {
                Shield::Off => "off",
                Shield::Shielded => "shielded",
                Shield::Frozen => "frozen",
            };
            json!({"event": "shield", "shield": shield, "within_s": seconds(*within)})
        }
        SessionEvent::Check {
            check,
            within,
            ours,
        } => {
            json!({"event": "check", "why": check_name(*check), "within_s": seconds(*within), "ours": ours})
        }
        SessionEvent::GoesOn => json!({"event": "goes_on"}),
        SessionEvent::Elevated(body) => elevated::json(body),
        SessionEvent::LeaveWarning { signs_out } => {
            json!({"event": "leave_warning", "signs_out": signs_out})
        }
        SessionEvent::Stayed => json!({"event": "stayed"}),
        SessionEvent::Interrupted { cause, within } => {
            let why = match cause {
                Cause::Lost => "lost",
                Cause::Restarting => "restarting",
            };
            json!({"event": "interrupted", "why": why, "within_s": seconds(*within)})
        }
        SessionEvent::Resumed { mode } => mode_json("reconnected", mode),
        SessionEvent::Act(_) => json!({"event": "act"}),
        SessionEvent::Chat { id, text } => json!({"event": "chat", "id": id, "text": text}),
        SessionEvent::Ended(receipt) => receipt_json(receipt),
    }
}

/// Why somebody is asked whether the session is to go on.
fn check_name(check: Check) -> &'static str {
    match check {
        Check::Reconfirm => "reconfirm",
        Check::MaxDuration => "max_duration",
        Check::Idle => "idle",
    }
}

/// Stable name of a code's end.
pub fn code_end_name(end: CodeEnd) -> &'static str {
    match end {
        CodeEnd::Used => "CODE_USED",
        CodeEnd::Burned => "CODE_BURNED",
        CodeEnd::Expired => "CODE_EXPIRED",
        CodeEnd::Cancelled => "HELPER_CANCELLED",
    }
}

impl Event {
    /// As `--json` prints it.
    pub fn to_json(&self) -> Value {
        match self {
            Self::Home {
                relay,
                address,
                rtt,
            } => {
                json!({"event": "relay", "relay": relay, "address": address, "rtt_ms": milliseconds(*rtt)})
            }
            Self::Code { code, valid } => {
                json!({"event": "code", "code": code, "valid_s": seconds(*valid)})
            }
            Self::WrongCode { tries_left } => {
                json!({"event": "wrong_code", "tries_left": tries_left})
            }
            Self::Device {
                profile,
                name,
                verdict,
            } => json!({
                "event": "device", "peer": card(profile, verdict), "name": name,
                "permitted": permitted(verdict), "warnings": warnings(verdict),
            }),
            Self::Notification(notified) => notified.json(),
            Self::CodeEnded(end) => json!({"event": "code_ended", "why": code_end_name(*end)}),
            Self::Connected(path) => with_event("connected", path.json()),
            Self::Moved(path) => with_event("path_moved", path.json()),
            Self::RelayWish { ours, theirs } => {
                json!({"event": "relay_wish", "ours": ours, "theirs": theirs})
            }
            Self::RelayDraining(within) => {
                json!({"event": "relay_draining", "within_s": seconds(*within)})
            }
            Self::RelayLost => json!({"event": "relay_lost"}),
            Self::RelayBack { relay, same_code } => {
                json!({"event": "relay_back", "relay": relay, "same_code": same_code})
            }
            Self::Session(event) => session_json(event),
            Self::Exchange(told) => told.to_json(),
            Self::ChatWanted => json!({"event": "chat_wanted"}),
            Self::NotPossible { code, text } => {
                json!({"event": "not_possible", "code": code, "text": text})
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_said_as_precisely_as_somebody_can_use_it() {
        for (us, ms, words) in [
            (0, 0.0, "<1 ms"),
            (499, 0.499, "<1 ms"),
            (500, 0.5, "1 ms"),
            (31_400, 31.4, "31 ms"),
            (1_234_567, 1234.567, "1235 ms"),
        ] {
            let duration = Duration::from_micros(us);
            assert_eq!(
                json!(milliseconds(duration)).to_string(),
                json!(ms).to_string()
            );
            assert_eq!(about(duration), words);
        }
        let uneven = Duration::from_nanos(646_264);
        assert_eq!(json!(milliseconds(uneven)).to_string(), "0.646");
    }

    #[test]
    fn why_nothing_goes_directly_is_that_udp_does_not_unless_it_is_not_wanted() {
        let relayed = |why_relayed| PathSnapshot {
            relay: "fra-1".to_owned(),
            why_relayed,
            ..PathSnapshot::default()
        };
        let path = relayed(Some(WhyRelayed::Probing)).reached(true);
        assert_eq!(path.badge(), "relayed via fra-1 over TCP (<1 ms)");
        let json = path.json();
        assert_eq!(
            (&json["transport"], &json["why_relayed"]),
            (&"tcp".into(), &"UDP_BLOCKED".into())
        );
        let path = relayed(Some(WhyRelayed::PolicyRelayOnly)).reached(true);
        assert_eq!(path.why_relayed, Some(WhyRelayed::PolicyRelayOnly));
        let path = relayed(Some(WhyRelayed::Probing)).reached(false);
        assert_eq!(path.json()["transport"], "udp");
        let direct = PathSnapshot {
            direct: Some(([192, 0, 2, 1], 7).into()),
            ..relayed(None)
        };
        let direct = direct.reached(true);
        assert_eq!((direct.is_by_tcp, direct.why_relayed), (false, None));
    }
}
