//! What a person sees and what their lines mean, without any terminal: events in, text out; lines in, wishes out.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "one stage among many; the rest show the same"
)]

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use remora_proto::{
    elevation::Order,
    identity::{Profile, Role},
    line::is_unsafe_in_line,
    org::{ended::SessionName, permission::Permissions, verdict::Verdict},
    rendezvous::CodeEnd,
    session::{
        Cause, Check, Command, EndReason, Event as SessionEvent, Grants, Mode, Receipt, Shield,
    },
    wire::message::session::control::Body,
};

use serde_json::Value;

use super::{exchange, style::Style};
use crate::{
    event::{Event, Input, Notified, PathSnapshot, about, elevated},
    exchange::signs,
    session::powers::NO_RIGHTS,
    status::order::What,
};

/// Where in a session the person is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Helper: the code is shown.
    Waiting,
    /// The other side is known, nothing is asked yet.
    Trust,
    /// Helper: the sharer is asked.
    Asked,
    /// Sharer: has to answer.
    Prompted(Mode),
    /// They talk.
    Active { mode: Mode, upgrade: bool },
    /// Over.
    Ended,
}

/// What `/allow` allows within a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    Control,
    Elevation,
    Restart,
    Handover,
}

/// What a typed line means.
#[derive(Clone, Debug, PartialEq)]
pub enum Meaning {
    /// For the session.
    Wish(Input),
    /// Helper: the invitation is to be sent to the device again.
    Retry,
    /// An administrator's name; the password is to be asked for, or is in that file.
    Credential(Credential),
    /// An answer to the person right away.
    Say(String),
    /// Nothing.
    Nothing,
}

/// Whose password it is, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// Of the administrator.
    pub name: String,
    /// `None`: it is typed.
    pub file: Option<PathBuf>,
}

/// One person's view of a session.
#[derive(Debug)]
pub struct Screen {
    role: Role,
    style: Style,
    stage: Stage,
    peer: String,
    /// By which an administrator may end it.
    name: Option<SessionName>,
    deadline: Option<Instant>,
    started: Option<Instant>,
    wanted: Option<Mode>,
    /// The most that the helper may ask for.
    permitted: Option<Mode>,
    /// Whether the person has said that the words are the same, or that they differ.
    checked: bool,
    /// Helper: a device is invited, and nobody reads out a code.
    is_call: bool,
    path: Option<PathSnapshot>,
    /// The other person wants the relay.
    peer_wants_relay: bool,
    /// Sharer: asked within the session.
    question: Option<Question>,
    /// What no answer is.
    silence: &'static str,
    /// Nothing is heard of the other side; until then it is waited for.
    back_until: Option<Instant>,
    elevated: bool,
    /// Administrator's rights are in use now.
    has_rights: bool,
    /// What else may leave either computer.
    granted: Grants,
}

fn wish(command: Command) -> Meaning {
    Meaning::Wish(Input::Session(command))
}

/// What a helper orders of the sharer's broker.
fn order(word: &str, rest: &str) -> Option<Meaning> {
    let order = match word {
        "run" => Order::Run(rest.to_owned()),
        "stop" => Order::Stop(rest.parse().ok()?),
        "credential" => {
            let (name, file) = match rest.split_once(char::is_whitespace) {
                Some((name, file)) => (name, Some(file.trim().into())),
                None => (rest, None),
            };
            let name = name.to_owned();
            return Some(Meaning::Credential(Credential { name, file }));
        }
        _ => return None,
    };
    Some(Meaning::Wish(Input::Order(order)))
}

/// `9:58`
fn clock(duration: Duration) -> String {
    let seconds = duration.as_secs();
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

/// Text of the other person, fenced so that it can neither move the cursor nor reorder our words: controls are
/// replaced, and it stands in a first-strong isolate (Unicode TR9 §2.4).
pub(super) fn fenced(text: &str) -> String {
    let clean: String = text
        .chars()
        .map(|c| if is_unsafe_in_line(c) { '\u{fffd}' } else { c })
        .collect();
    format!("\u{2068}{clean}\u{2069}")
}

impl Screen {
    /// The view of `role`; a helper who knows `wanted` is not asked for a mode.
    pub fn new(role: Role, wanted: Option<Mode>, style: Style) -> Self {
        let stage = match role {
            Role::Helper => Stage::Waiting,
            Role::Sharer => Stage::Trust,
        };
        Self {
            role,
            style,
            stage,
            peer: String::new(),
            name: None,
            deadline: None,
            started: None,
            wanted,
            permitted: None,
            checked: false,
            is_call: false,
            path: None,
            peer_wants_relay: false,
            question: None,
            silence: "no",
            back_until: None,
            elevated: false,
            has_rights: false,
            granted: Grants::NONE,
        }
    }

    /// For `remora status`: who with, how, over which path; `None` before anybody is there, and when it is over.
    pub fn summary(&self) -> Option<Value> {
        let path = self.path.as_ref().filter(|_| self.stage != Stage::Ended)?;
        let mode = match self.stage {
            Stage::Active { mode, .. } => mode.to_string(),
            _ => "waiting".into(),
        };
        let mut summary = path.json();
        summary["way"] = summary["path"].take();
        summary["path"] = path.badge().into();
        summary["peer"] = self.peer.trim_matches(['\u{2068}', '\u{2069}']).into();
        summary["session"] = self.name.map(|name| name.to_string()).into();
        summary["mode"] = mode.into();
        summary["question"] = self.asked().map(What::name).into();
        summary["bytes"] = path.bytes.into();
        summary["bytes_received"] = path.received.into();
        summary["bytes_sent"] = path.bytes.saturating_sub(path.received).into();
        Some(summary)
    }

    /// Whether the helper has ever had an administrator's rights in this session.
    pub fn was_elevated(&self) -> bool {
        self.elevated
    }

    /// Sharer: what is asked just now, as `remora allow` names it.
    fn asked(&self) -> Option<What> {
        match (self.stage, self.question) {
            (Stage::Prompted(mode), _) => Some(mode.into()),
            (_, Some(Question::Control)) => Some(What::Control),
            (_, Some(Question::Elevation)) => Some(What::Elevation),
            (_, Some(Question::Restart)) => Some(What::Restart),
            (_, Some(Question::Handover)) => Some(What::Handover),
            (_, None) => None,
        }
    }

    /// The path's newest measurement.
    pub fn set_path(&mut self, path: PathSnapshot) {
        self.path = Some(path);
    }

    /// Lines to show for an event, and what to do at once.
    pub fn on_event(&mut self, event: &Event, now: Instant) -> (Vec<String>, Option<Input>) {
        let style = self.style;
        let lines = match event {
            Event::Home { relay, rtt, .. } => {
                vec![style.dim(&format!("Relay · {relay} ({})", about(*rtt)))]
            }
            Event::Code { code, valid } => {
                self.stage = Stage::Waiting;
                self.deadline = Some(now + *valid);
                vec![
                    format!("Your code is:  {}      (valid {}, works once)", style.strong(code), clock(*valid)),
                    format!("On the other computer, please run:   {}", style.strong("remora join")),
                ]
            }
            Event::WrongCode { tries_left: 0 } => {
                vec![style.warn("Someone tried a wrong code (3 of 3).")]
            }
            Event::WrongCode { tries_left } => vec![style.warn(&format!(
                "Someone tried a wrong code ({} of 3). If that was the person you help, ask them to type it again; if not, press n for a new code.",
                3u32.saturating_sub(*tries_left)
            ))],
            Event::Device {
                profile,
                name,
                verdict,
            } => {
                self.is_call = true;
                let who = fenced(&profile.full_name);
                let name = name.as_ref().map(|name| format!("      device {name}"));
                let mut lines = vec![format!("{who}{}", name.unwrap_or_default())];
                lines.extend(self.verdict(verdict));
                lines
            }
            Event::Notification(notified) => vec![self.notified(*notified, now)],
            Event::CodeEnded(end) => vec![self.code_ended(*end)],
            Event::Connected(path) => {
                let line = style.dim(&format!("Connected · {}", path.badge()));
                self.path = Some(path.clone());
                vec![line]
            }
            Event::Moved(path) => {
                let line = style.dim(&format!("Path · {}", path.badge()));
                self.path = Some(path.clone());
                vec![line]
            }
            Event::RelayWish { ours, theirs } => self.relay_wish(*ours, *theirs),
            Event::RelayLost => vec![style.warn(
                "The relay is gone, and the code with it until it is back. Trying again; Ctrl-C cancels.",
            )],
            Event::RelayBack { same_code, .. } => vec![style.good(match same_code {
                true => "The relay is back: the code goes on as it was.",
                false => "The relay is back, but the code is somebody else's there: please tell the new one.",
            })],
            Event::RelayDraining(within) if self.stage == Stage::Waiting => vec![style.warn(&format!(
                "The relay goes away for maintenance in {}; the code is good until then, and again when a relay is back.",
                clock(*within)
            ))],
            Event::RelayDraining(within) => vec![style.warn(&format!(
                "The relay goes away for maintenance in {}; this session will end then.",
                clock(*within)
            ))],
            Event::Exchange(told) => exchange::told(told, &self.peer, style),
            Event::ChatWanted => vec![style.dim("To say something, type it here and press Enter.")],
            Event::NotPossible { text, .. } => vec![style.warn(&format!("Not now: {text}."))],
            Event::Session(event) => return self.on_session_event(event, now),
        };
        (lines, None)
    }

    /// What this person wants they have been told already.
    fn relay_wish(&mut self, ours: bool, theirs: bool) -> Vec<String> {
        let before = std::mem::replace(&mut self.peer_wants_relay, theirs);
        let peer = &self.peer;
        let line = match (before == theirs, theirs, ours) {
            (true, ..) => return Vec::new(),
            (_, true, true) => {
                format!("{peer} wants the relay, too: it takes both of you to end that.")
            }
            (_, true, false) => {
                format!("{peer} wants to go through the relay: both ways, until {peer} ends that.")
            }
            (_, false, true) => format!(
                "{peer} does not ask for the relay any more; you still do (/direct ends that)."
            ),
            (_, false, false) => format!("{peer} does not ask for the relay any more."),
        };
        vec![self.style.dim(&line)]
    }

    fn notified(&mut self, notified: Notified, now: Instant) -> String {
        self.is_call = true;
        let style = self.style;
        match notified {
            Notified::Sent => style.dim("Invitation sent."),
            Notified::Delivered { agents, within } => {
                self.deadline = Some(now + within);
                let to = match agents {
                    1 => "1 person".to_owned(),
                    several => format!("{several} people"),
                };
                style.good(&format!(
                    "Delivered to {to}, who can open it for {}.",
                    clock(within)
                ))
            }
            Notified::NotReceived => {
                self.deadline = None;
                style.warn("Sent, but not received. r sends it again; Ctrl-C cancels.")
            }
            Notified::Opened => style.good("Opened; connecting…"),
        }
    }

    /// The sharer sees what runs, the helper also what comes of it.
    fn elevated(&self, body: &Body) -> Vec<String> {
        if self.role == Role::Sharer && matches!(body, Body::ElevationKey(_)) {
            return Vec::new();
        }
        elevated::lines(body)
            .into_iter()
            .map(|(ours, theirs)| match theirs.is_empty() {
                true => self.style.dim(&ours),
                false => format!("{} {}", self.style.dim(&ours), fenced(&theirs)),
            })
            .collect()
    }

    fn code_ended(&mut self, end: CodeEnd) -> String {
        self.stage = Stage::Ended;
        self.style.warn(match end {
            CodeEnd::Expired => "The code has expired.",
            CodeEnd::Burned => "The code was tried wrongly three times and is blocked.",
            CodeEnd::Used => "The code has been used.",
            CodeEnd::Cancelled => "Cancelled.",
        })
    }

    fn on_session_event(
        &mut self,
        event: &SessionEvent,
        now: Instant,
    ) -> (Vec<String>, Option<Input>) {
        let style = self.style;
        let lines = match event {
            SessionEvent::Trust {
                peer,
                verdict,
                words,
                alone,
                name,
            } => {
                self.name = Some(*name);
                return self.trust(peer, verdict, &words.to_string(), *alone);
            }
            // Of a card that nobody has to say yes to.
            SessionEvent::Returned {
                peer,
                verdict,
                words,
                name,
            } => {
                self.name = Some(*name);
                self.card(peer, verdict, &words.to_string(), false)
            }
            SessionEvent::Judged(verdict) => {
                let now = style.warn("Your organisation has changed what it permits.");
                [vec![now], self.verdict(verdict)].concat()
            }
            SessionEvent::PeerCheckedSas(true) => {
                vec![style.good(&format!("{} says the words are the same.", self.peer))]
            }
            SessionEvent::PeerCheckedSas(false) => {
                vec![style.warn(&format!("{} says the words differ.", self.peer))]
            }
            SessionEvent::ConsentPrompt {
                mode,
                within,
                upgrade,
            } => {
                self.deadline = Some(now + *within);
                self.question = upgrade.then_some(Question::Control);
                self.stage = match self.stage {
                    Stage::Active { mode, .. } => Stage::Active {
                        mode,
                        upgrade: true,
                    },
                    _ => Stage::Prompted(*mode),
                };
                vec![self.consent_prompt(*mode, *upgrade)]
            }
            SessionEvent::AwaitingConsent { within } => {
                if self.stage == Stage::Trust {
                    // It was asked for elsewhere on this computer.
                    self.stage = Stage::Asked;
                }
                self.deadline = Some(now + *within);
                vec![]
            }
            SessionEvent::Countdown { mode, within } => {
                self.deadline = Some(now + *within);
                self.stage = Stage::Prompted(*mode);
                self.silence = "yes";
                vec![style.strong(&format!(
                    "{} will connect to this computer in {}.",
                    self.peer,
                    clock(*within)
                ))]
            }
            SessionEvent::Starting { .. } => vec![],
            SessionEvent::Started { mode } => {
                self.stage = Stage::Active {
                    mode: *mode,
                    upgrade: false,
                };
                self.started = Some(now);
                self.deadline = None;
                let badge = self
                    .path
                    .as_ref()
                    .map(PathSnapshot::badge)
                    .unwrap_or_default();
                vec![
                    style.good(&format!("Session started · {mode} · {badge}")),
                    style.dim(
                        "Type to chat. /help shows what else there is; /leave ends the session.",
                    ),
                ]
            }
            SessionEvent::ModeChanged { mode, by } => {
                self.stage = Stage::Active {
                    mode: *mode,
                    upgrade: false,
                };
                self.deadline = None;
                self.question = None;
                let who = if *by == self.role {
                    "You"
                } else {
                    self.peer.as_str()
                };
                vec![style.good(&match mode {
                    Mode::Control => format!("{who} allowed full control."),
                    Mode::View => format!("{who} ended control; the screen can only be seen now."),
                })]
            }
            SessionEvent::Paused(true) => {
                vec![style.warn("Paused: nothing is shown, no input is taken.")]
            }
            SessionEvent::Paused(false) => vec![style.good("Resumed.")],
            SessionEvent::Media(_) | SessionEvent::Exchange(_) => vec![],
            SessionEvent::Granted(grants) => {
                self.granted = *grants;
                vec![exchange::granted(*grants, self.role, style)]
            }
            SessionEvent::GrantWanted(grants) => {
                vec![exchange::wanted(*grants, &self.peer, style)]
            }
            SessionEvent::UpgradeDeclined => {
                self.stage = Stage::Active {
                    mode: Mode::View,
                    upgrade: false,
                };
                self.deadline = None;
                self.question = None;
                vec![
                    style
                        .warn("Control was not allowed; the session goes on with the screen only."),
                ]
            }
            SessionEvent::Refused(refusal) => {
                if self.stage == Stage::Asked {
                    self.stage = Stage::Trust;
                }
                self.deadline = None;
                vec![style.warn(&format!("Not possible: {refusal}."))]
            }
            SessionEvent::ElevationPrompt { .. } => {
                self.question = Some(Question::Elevation);
                vec![style.strong(&format!(
                    "{} wants: ADMINISTRATOR'S RIGHTS on this computer.  /allow or /decline",
                    self.peer
                ))]
            }
            SessionEvent::RestartPrompt { .. } => {
                self.question = Some(Question::Restart);
                vec![style.strong(&format!(
                    "{} wants: to RESTART this computer.  /allow or /decline",
                    self.peer
                ))]
            }
            SessionEvent::HandoverPrompt { .. } => {
                self.question = Some(Question::Handover);
                vec![style.strong(&format!(
                    "{} wants: to HAND YOU OVER to another helper, whom you would see and be asked about first.  /allow or /decline",
                    self.peer
                ))]
            }
            SessionEvent::HandingOver { .. } => {
                self.question = None;
                vec![style.good(&match self.role {
                    Role::Sharer => format!(
                        "Looking for the other helper. {} stays until you have agreed with them.",
                        self.peer
                    ),
                    Role::Helper => format!(
                        "{} is on the way to the other helper; until they have begun, this session goes on without your keys and mouse.",
                        self.peer
                    ),
                })]
            }
            SessionEvent::HandoverDeclined => {
                self.question = None;
                vec![style.warn("No other helper was let in; the session goes on.")]
            }
            SessionEvent::HandoverFailed => vec![style.warn(
                "Nothing has come of it with the other helper; the session goes on.",
            )],
            SessionEvent::ElevationGranted => {
                self.question = None;
                self.elevated = true;
                self.has_rights = true;
                vec![style.warn("Administrator's rights are in use; /release ends that.")]
            }
            SessionEvent::ElevationDeclined => {
                self.question = None;
                vec![style.warn("Administrator's rights were not allowed; the session goes on.")]
            }
            SessionEvent::ElevationReleased => {
                self.has_rights = false;
                vec![style.good("Administrator's rights are not in use any more.")]
            }
            SessionEvent::RestartDeclined => {
                self.question = None;
                vec![style.warn("The computer does not restart.")]
            }
            SessionEvent::NoRestart(refusal) => vec![style.dim(&format!("Note: {refusal}."))],
            SessionEvent::Covered(Some(_)) => {
                vec![style.warn("A prompt of the system covers the screen, and is not shown.")]
            }
            SessionEvent::Covered(None) => vec![style.good("The screen is shown again.")],
            SessionEvent::Shield { shield, within } => vec![self.shield(*shield, *within)],
            SessionEvent::Check {
                check,
                within,
                ours,
            } => vec![self.check(*check, *within, *ours)],
            SessionEvent::GoesOn => vec![style.good("The session goes on.")],
            SessionEvent::LeaveWarning { signs_out: true } => vec![style.warn(&format!(
                "{} used administrator's rights. If you leave now you will be signed out; unsaved work may be lost. /confirm leaves, /stay stays.",
                self.peer
            ))],
            SessionEvent::LeaveWarning { signs_out: false } => vec![style.warn(&format!(
                "{} is working here. /confirm takes the computer back, /stay goes on.",
                self.peer
            ))],
            SessionEvent::Stayed => vec![style.good("The session goes on.")],
            SessionEvent::Interrupted { cause, within } => {
                self.back_until = Some(now + *within);
                self.question = None;
                vec![style.warn(&match cause {
                    Cause::Lost => format!(
                        "Nothing is heard of {}. Reconnecting for {}; /leave ends the session.",
                        self.peer,
                        clock(*within)
                    ),
                    Cause::Restarting => format!(
                        "The computer restarts; the session waits for it for {}. /leave ends it.",
                        clock(*within)
                    ),
                })]
            }
            SessionEvent::Resumed { mode } => {
                self.back_until = None;
                self.started.get_or_insert(now);
                self.stage = Stage::Active {
                    mode: *mode,
                    upgrade: false,
                };
                vec![style.good(&format!("{} is back.", self.peer))]
            }
            SessionEvent::Act(_) => vec![],
            SessionEvent::Elevated(body) => self.elevated(body),
            SessionEvent::Chat { text, .. } => {
                let name = style.strong(&format!("{}:", self.peer));
                text.split('\n')
                    .map(|line| format!("{name} {}", fenced(line)))
                    .collect()
            }
            SessionEvent::Ended(receipt) => {
                self.back_until = None;
                self.stage = Stage::Ended;
                self.deadline = None;
                vec![self.ended(receipt)]
            }
        };
        (lines, None)
    }

    fn shield(&self, shield: Shield, within: Duration) -> String {
        let peer = &self.peer;
        match (shield, self.role) {
            (Shield::Frozen, Role::Sharer) => self.style.warn(&format!(
                "{peer} is working on this device. Keyboard and mouse are paused for {} for both of you.",
                clock(within)
            )),
            (Shield::Frozen, Role::Helper) => self.style.warn(&format!(
                "Somebody touched the computer. Keyboard and mouse are paused for {} for both of you.",
                clock(within)
            )),
            (Shield::Shielded, Role::Sharer) => {
                self.style.good("The computer's screen is hidden here.")
            }
            (Shield::Shielded, Role::Helper) => self.style.good(&format!(
                "{peer}'s screen is hidden from whoever walks by. Nobody watches over what you do: keep to what is not sensitive."
            )),
            (Shield::Off, _) => self.style.dim("The computer's screen is shown there."),
        }
    }

    fn check(&self, check: Check, within: Duration, ours: bool) -> String {
        let why = match check {
            Check::Reconfirm => "Is the session to go on?",
            Check::MaxDuration => "The session has lasted as long as it may.",
            Check::Idle => "Nothing was done for long.",
        };
        let how = match ours {
            true => "/continue goes on with it.".into(),
            false => format!("{} is asked whether it goes on.", self.peer),
        };
        self.style
            .warn(&format!("{why} It ends in {}. {how}", clock(within)))
    }

    /// What the person should know of what is permitted, and of the other side.
    fn verdict(&mut self, verdict: &Verdict) -> Vec<String> {
        let style = self.style;
        self.permitted = verdict.permitted();
        let warnings = verdict.warnings.iter();
        let mut lines: Vec<_> = warnings
            .map(|warning| style.warn(&format!("! {warning}")))
            .collect();
        if self.role == Role::Helper && !verdict.permissions.covers(Permissions::ATTENDED) {
            let why = verdict.limit.map(|limit| format!(" ({limit})"));
            let why = why.unwrap_or_default();
            lines.push(style.warn(&format!("You are permitted: {}{why}", verdict.permissions)));
        }
        lines
    }

    fn trust(
        &mut self,
        peer: &Profile,
        verdict: &Verdict,
        words: &str,
        alone: bool,
    ) -> (Vec<String>, Option<Input>) {
        self.stage = Stage::Trust;
        let mut lines = self.card(peer, verdict, words, alone);
        // Nobody is asked whether they are the same who has nobody to compare them with.
        self.checked = alone;
        let wanted = self
            .wanted
            .filter(|mode| self.role == Role::Helper && Some(*mode) <= self.permitted);
        if let Some(mode) = wanted {
            self.stage = Stage::Asked;
            lines.push(self.style.dim(&format!("Asking for {mode}…")));
        }
        (
            lines,
            wanted.map(|mode| Input::Session(Command::AskMode(mode))),
        )
    }

    /// Who the other person is, and the words.
    fn card(&mut self, peer: &Profile, verdict: &Verdict, words: &str, alone: bool) -> Vec<String> {
        let style = self.style;
        self.peer = format!("\u{2068}{}\u{2069}", peer.full_name);
        self.checked = false;
        self.deadline = None;
        let known = [&peer.job_title, &peer.company, &peer.domain];
        let rest: Vec<String> = known
            .into_iter()
            .filter(|text| !text.is_empty())
            .map(|text| fenced(text))
            .collect();
        let card = [vec![style.strong(&self.peer)], rest].concat().join(" · ");
        let badge = match verdict.verified {
            true => style.good("✔ verified"),
            false => style.bad("UNVERIFIED: nobody vouches for this yet"),
        };
        let mut lines = vec![String::new(), format!("{card}   {badge}")];
        lines.extend(self.verdict(verdict));
        lines.push(match alone {
            true => format!(
                "Words:  {words}  (nobody to compare them with: the device's papers are the proof)"
            ),
            false => format!("Read these words to each other:  {}", style.strong(words)),
        });
        lines
    }

    fn consent_prompt(&self, mode: Mode, upgrade: bool) -> String {
        let wants = match mode {
            Mode::Control => "FULL CONTROL (see and use mouse and keyboard)",
            Mode::View => "to SEE YOUR SCREEN (not to use it)",
        };
        let how = if upgrade { "  /allow or /decline" } else { "" };
        self.style
            .strong(&format!("{} wants: {wants}.{how}", self.peer))
    }

    fn ended(&self, receipt: &Receipt) -> String {
        let peer = if self.peer.is_empty() {
            "The other person"
        } else {
            &self.peer
        };
        let what = match (receipt.reason, self.role) {
            (EndReason::HelperLeft, Role::Helper) | (EndReason::SharerLeft, Role::Sharer) => "You left".into(),
            (EndReason::HelperLeft, _) | (EndReason::SharerLeft, _) => format!("{peer} left"),
            (EndReason::Declined, Role::Sharer) => "You declined".into(),
            (EndReason::Declined, Role::Helper) => format!("{peer} declined"),
            (EndReason::ConsentTimeout, _) => "The request was not answered in time".into(),
            (EndReason::HelperTimeout, _) => "The helper did not ask for anything in time".into(),
            (EndReason::SasMismatch, _) => {
                "The words differed: SOMEBODY MAY SIT IN BETWEEN. Do not try again over this network; tell your IT".into()
            }
            (EndReason::SharerLeftSignedOut, Role::Sharer) => "You left, and are signed out".into(),
            (EndReason::SharerLeftSignedOut, Role::Helper) => format!("{peer} left, and is signed out"),
            (EndReason::HandedOver, Role::Helper) => format!("{peer} goes on with the other helper"),
            (EndReason::HandedOver, Role::Sharer) => format!("{peer} has handed you over"),
            (EndReason::Reclaimed, _) => "The computer was taken back by somebody there".into(),
            (EndReason::Reconfirm | EndReason::MaxDuration | EndReason::Idle, _) => {
                "Nobody said that the session is to go on".into()
            }
            (EndReason::ConnectionLost, _) => format!("{peer}'s computer is no longer reachable"),
            (EndReason::CaptureFailed, Role::Sharer) => {
                "Your screen cannot be shown; `remora preflight` says why".into()
            }
            (EndReason::CaptureFailed, Role::Helper) => format!("{peer}'s screen cannot be shown"),
            (EndReason::AuthFailed, _) => "The other side could not prove who it is".into(),
            (EndReason::OrgMismatch, _) => {
                "The two of you belong to organisations that do not trust each other, or one of you to none".into()
            }
            (EndReason::UnenrolledNotAllowed, _) => {
                "The sharer's device is not enrolled, and the organisation does not allow that".into()
            }
            (EndReason::AdminEnded, _) if !receipt.why.as_str().is_empty() => {
                format!("An administrator has ended the session: {}", fenced(receipt.why.as_str()))
            }
            (EndReason::AdminEnded, _) => "The organisation does not permit this session any more".into(),
            (EndReason::OperatorEnded, _) if !receipt.why.as_str().is_empty() => {
                format!("The operator of the relay has ended the session: {}", fenced(receipt.why.as_str()))
            }
            (EndReason::OperatorEnded, _) => "The operator of the relay has ended the session".into(),
            (reason, _) => reason.to_string(),
        };
        let line = format!("{what} · {} · {}", receipt.reason, clock(receipt.duration));
        if receipt.reason == EndReason::SasMismatch {
            self.style.bad(&line)
        } else {
            self.style.dim(&line)
        }
    }

    // ---- prompt --------------------------------------------------------------------------

    /// What stands before the cursor, with the countdown of the moment.
    pub fn prompt(&self, now: Instant) -> String {
        let left = self
            .deadline
            .map(|deadline| clock(deadline.saturating_duration_since(now)));
        let left = left.unwrap_or_default();
        match (self.stage, self.role) {
            (Stage::Waiting, _) if self.is_call => {
                format!("Waiting… {left}  [r]etry, Ctrl-C cancels > ")
            }
            (Stage::Waiting, _) => format!("Waiting… {left}  [n]ew code, Ctrl-C cancels > "),
            (Stage::Trust, role) => {
                let words = if self.checked {
                    ""
                } else {
                    "Words the same? [y]es [n]o · "
                };
                let next = match (role, self.permitted) {
                    (Role::Helper, Some(Mode::Control)) => "ask for: [v]iew [c]ontrol",
                    (Role::Helper, Some(Mode::View)) => "ask for: [v]iew (control: not permitted)",
                    (Role::Helper, None) => "nothing is permitted here; /leave",
                    (Role::Sharer, _) => "waiting for what your helper asks",
                };
                format!("{words}{next} > ")
            }
            (Stage::Asked, _) => format!("Waiting for {} to answer… {left} > ", self.peer),
            (Stage::Prompted(mode), _) => {
                let allow = match mode {
                    Mode::Control => "[a]llow control  [s]creen only  [d]ecline",
                    Mode::View => "[a]llow  [d]ecline",
                };
                format!("{allow}   answers itself \"{}\" in {left} > ", self.silence)
            }
            (Stage::Active { .. }, _) if self.back_until.is_some() => {
                let left = self
                    .back_until
                    .map(|until| clock(until.saturating_duration_since(now)));
                format!("○ reconnecting · {} > ", left.unwrap_or_default())
            }
            (Stage::Active { mode, .. }, _) => {
                let since = self
                    .started
                    .map(|at| clock(now.saturating_duration_since(at)))
                    .unwrap_or_default();
                let badge = self
                    .path
                    .as_ref()
                    .map(PathSnapshot::badge)
                    .unwrap_or_default();
                let signs = match signs(self.granted, self.role) {
                    none if none.is_empty() => none,
                    signs => format!(" · {signs}"),
                };
                format!("● {mode} · {since} · {badge}{signs} > ")
            }
            (Stage::Ended, _) => String::new(),
        }
    }

    // ---- lines ---------------------------------------------------------------------------

    /// What a line means where the person is.
    pub fn on_line(&self, line: &str) -> Meaning {
        let line = line.trim_end_matches(['\r', '\n']);
        if line.trim().is_empty() {
            return Meaning::Nothing;
        }
        if let Some(command) = line.strip_prefix('/').filter(|rest| !rest.starts_with('/')) {
            return self.slash(command.trim());
        }
        if matches!(self.stage, Stage::Active { .. }) {
            let text = line.strip_prefix('/').unwrap_or(line);
            return wish(Command::Chat(text.to_owned()));
        }
        self.answer(&line.trim().to_lowercase())
    }

    fn slash(&self, command: &str) -> Meaning {
        if let Some((word, rest)) = command.split_once(char::is_whitespace)
            && self.role == Role::Helper
            && let Some(meaning) = order(word, rest.trim())
        {
            // Before a password is typed for nothing.
            if matches!(meaning, Meaning::Credential(_)) && !self.has_rights {
                return Meaning::Say(NO_RIGHTS.to_owned());
            }
            return meaning;
        }
        if let (Some(code), Role::Helper) = (command.strip_prefix("handover "), self.role) {
            return match code.parse() {
                Ok(code) => wish(Command::AskHandover(code)),
                Err(error) => Meaning::Say(format!(
                    "{error}; the other helper's `remora invite` shows it."
                )),
            };
        }
        if let Some(meaning) = exchange::slash(command, self.role) {
            return meaning;
        }
        let command = match (command, self.stage, self.role) {
            ("leave" | "quit" | "exit", _, _) => Command::Leave,
            ("same", _, _) => Command::SasChecked(true),
            ("differ", _, _) => Command::SasChecked(false),
            ("control", _, Role::Helper) => Command::AskMode(Mode::Control),
            ("view", Stage::Active { .. }, _) => Command::DropMode,
            ("view", _, Role::Helper) => Command::AskMode(Mode::View),
            ("elevate", _, Role::Helper) => Command::AskElevation,
            ("restart", _, Role::Helper) => Command::AskRestart,
            ("power", _, Role::Helper) => Command::PowerKey { long: false },
            ("power long", _, Role::Helper) => Command::PowerKey { long: true },
            ("release", _, _) => Command::ReleaseElevation,
            ("continue", _, _) => Command::GoOn,
            ("confirm", _, Role::Sharer) => Command::ConfirmLeave,
            ("stay", _, Role::Sharer) => Command::Stay,
            ("allow", Stage::Prompted(mode), _) => Command::Allow(mode),
            ("allow", _, Role::Sharer) if self.question == Some(Question::Elevation) => {
                Command::AllowElevation
            }
            ("allow", _, Role::Sharer) if self.question == Some(Question::Restart) => {
                Command::AllowRestart
            }
            ("allow", _, Role::Sharer) if self.question == Some(Question::Handover) => {
                Command::AllowHandover
            }
            ("allow", _, Role::Sharer) => Command::Allow(Mode::Control),
            ("decline", _, Role::Sharer) => Command::Decline,
            ("pause", _, Role::Sharer) => Command::Pause(true),
            ("resume", _, Role::Sharer) => Command::Pause(false),
            ("relay", _, _) => return Meaning::Wish(Input::Relayed(true)),
            ("direct", _, _) => return Meaning::Wish(Input::Relayed(false)),
            _ => return Meaning::Say(self.help()),
        };
        wish(command)
    }

    fn help(&self) -> String {
        let own = match self.role {
            Role::Helper => {
                "/control ask for control   /view give control back   /elevate ask for administrator's rights   /credential NAME [FILE] who vouches   /run COMMAND   /stop NUMBER   /restart ask to restart the computer   /release end administrator's rights   /handover CODE to the helper who shows it"
            }
            Role::Sharer => {
                "/allow   /decline   /view take control back   /pause   /resume   /release take administrator's rights back"
            }
        };
        format!(
            "/leave   {own}   /same or /differ: the words   /relay or /direct: which way to go   {}   //text: chat that begins with /",
            exchange::HELP
        )
    }

    fn answer(&self, word: &str) -> Meaning {
        let yes = |word: &str| matches!(word, "y" | "yes");
        let no = |word: &str| matches!(word, "n" | "no");
        match (self.stage, self.role, word) {
            (Stage::Waiting, _, "r" | "retry") if self.is_call => Meaning::Retry,
            (Stage::Waiting, _, "n" | "new") if !self.is_call => Meaning::Wish(Input::NewCode),
            (Stage::Prompted(mode), _, "a" | "allow") => wish(Command::Allow(mode)),
            (Stage::Prompted(Mode::Control), _, "s" | "screen") => wish(Command::Allow(Mode::View)),
            (Stage::Prompted(_), _, "d" | "decline") => wish(Command::Decline),
            (Stage::Trust, Role::Helper, "v" | "view") => wish(Command::AskMode(Mode::View)),
            (Stage::Trust, Role::Helper, "c" | "control") => wish(Command::AskMode(Mode::Control)),
            (Stage::Trust | Stage::Asked | Stage::Prompted(_), _, word) if yes(word) => {
                wish(Command::SasChecked(true))
            }
            (Stage::Trust | Stage::Asked, _, word) if no(word) => wish(Command::SasChecked(false)),
            _ => Meaning::Say("Please answer with one of the letters in brackets.".into()),
        }
    }

    /// Tells the screen that a wish went out, so that the next prompt fits; gives what there is to acknowledge.
    pub fn sent(&mut self, input: &Input) -> Option<String> {
        match input {
            Input::Session(Command::SasChecked(same))
                if !self.peer.is_empty() && self.stage != Stage::Ended =>
            {
                self.checked = true;
                return Some(if *same {
                    self.style.good("You said the words are the same.")
                } else {
                    self.style.warn("You said the words differ.")
                });
            }
            Input::Relayed(relayed) if !self.peer.is_empty() && self.stage != Stage::Ended => {
                let peer = &self.peer;
                return Some(match (relayed, self.peer_wants_relay) {
                    (true, false) => "Through the relay from now on, both ways.".into(),
                    (true, true) => format!("You want the relay, too, as {peer} does."),
                    (false, false) => "By the best path again.".into(),
                    (false, true) => format!(
                        "You do not ask for the relay any more; {peer} still does, so packets stay there."
                    ),
                });
            }
            Input::Session(Command::AskMode(mode))
                if self.stage == Stage::Trust && Some(*mode) <= self.permitted =>
            {
                self.stage = Stage::Asked
            }
            Input::Session(Command::Allow(_)) | Input::Session(Command::Decline)
                if matches!(self.stage, Stage::Prompted(_)) =>
            {
                self.deadline = None;
            }
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn screen(role: Role) -> Screen {
        let mut screen = Screen::new(role, None, Style::plain());
        screen.peer = "Peer".into();
        screen
    }

    #[test]
    fn a_device_that_is_invited_is_waited_for_and_can_be_invited_again() {
        let now = Instant::now();
        let mut helper = Screen::new(Role::Helper, None, Style::plain());
        // A code is not sent again, and a device has none to be drawn anew.
        assert!(matches!(helper.on_line("r"), Meaning::Say(_)));
        let tell = |helper: &mut Screen, notified| {
            let (lines, _) = helper.on_event(&Event::Notification(notified), now);
            lines.concat()
        };
        tell(&mut helper, Notified::Sent);
        assert!(helper.prompt(now).contains("[r]etry"));
        let said = tell(&mut helper, Notified::NotReceived);
        assert!(said.contains("not received"), "{said}");
        assert_eq!(helper.on_line("r"), Meaning::Retry);
        let delivered = Notified::Delivered {
            agents: 2,
            within: Duration::from_secs(300),
        };
        let said = tell(&mut helper, delivered);
        assert_eq!(said, "Delivered to 2 people, who can open it for 5:00.");
        assert!(helper.prompt(now).contains("5:00"));
    }

    #[test]
    fn a_letter_means_what_its_prompt_says() {
        let mut sharer = screen(Role::Sharer);
        sharer.stage = Stage::Prompted(Mode::Control);
        assert_eq!(sharer.on_line("A\n"), wish(Command::Allow(Mode::Control)));
        assert_eq!(sharer.on_line(" s "), wish(Command::Allow(Mode::View)));
        assert_eq!(sharer.on_line("d"), wish(Command::Decline));
        // "n" answers the words, never the request: it must not be taken for either.
        assert!(matches!(sharer.on_line("n"), Meaning::Say(_)));
        let helper = screen(Role::Helper);
        assert_eq!(helper.on_line("n"), Meaning::Wish(Input::NewCode));
    }

    #[test]
    fn in_a_session_lines_are_chat_and_slashes_are_wishes() {
        let mut helper = screen(Role::Helper);
        helper.stage = Stage::Active {
            mode: Mode::View,
            upgrade: false,
        };
        assert_eq!(helper.on_line("a"), wish(Command::Chat("a".into())));
        assert_eq!(helper.on_line("//etc"), wish(Command::Chat("/etc".into())));
        assert_eq!(helper.on_line("/leave"), wish(Command::Leave));
        assert_eq!(
            helper.on_line("/control"),
            wish(Command::AskMode(Mode::Control))
        );
        for (line, relayed) in [("/relay", true), ("/direct", false)] {
            let wish = Input::Relayed(relayed);
            assert!(helper.sent(&wish).is_some(), "{line}");
            assert_eq!(helper.on_line(line), Meaning::Wish(wish));
        }
        assert!(matches!(helper.on_line("/nonsense"), Meaning::Say(_)));
        assert_eq!(helper.on_line("  \n"), Meaning::Nothing);
    }

    #[test]
    fn whose_wish_the_relay_is_is_said() {
        let mut person = screen(Role::Sharer);
        let tells = |person: &mut Screen, ours, theirs| {
            let event = Event::RelayWish { ours, theirs };
            person.on_event(&event, Instant::now()).0.join("\n")
        };
        let says = |person: &mut Screen, relayed| person.sent(&Input::Relayed(relayed));
        assert!(tells(&mut person, false, true).starts_with("Peer wants to go through the relay"));
        let line = says(&mut person, false).expect("a line");
        assert!(line.contains("Peer still does"), "{line}");
        assert_eq!(tells(&mut person, false, true), "", "it is known");
        assert!(says(&mut person, true).is_some_and(|line| line.contains("as Peer does")));
        assert!(tells(&mut person, true, false).contains("you still do"));
        assert_eq!(
            says(&mut person, false).as_deref(),
            Some("By the best path again.")
        );
    }

    #[test]
    fn chat_cannot_drive_the_terminal() {
        let mut helper = screen(Role::Helper);
        let event = SessionEvent::Chat {
            id: 1,
            text: "\u{1b}[2Jgone\u{202e}x\nsecond".into(),
        };
        let (lines, _) = helper.on_event(&Event::Session(event), Instant::now());
        assert_eq!(
            lines,
            [
                "Peer: \u{2068}\u{fffd}[2Jgone\u{fffd}x\u{2069}",
                "Peer: \u{2068}second\u{2069}",
            ]
        );
    }

    #[test]
    fn an_answer_about_the_words_is_acknowledged_and_not_asked_for_again() {
        let checked = |same| Input::Session(Command::SasChecked(same));
        for role in [Role::Helper, Role::Sharer] {
            let mut person = screen(role);
            person.stage = Stage::Trust;
            assert!(person.prompt(Instant::now()).contains("Words the same?"));
            assert_eq!(
                person.sent(&checked(true)).as_deref(),
                Some("You said the words are the same.")
            );
            let prompt = person.prompt(Instant::now());
            assert!(!prompt.contains("Words the same?"), "{prompt}");
            assert_eq!(
                person.sent(&checked(false)).as_deref(),
                Some("You said the words differ.")
            );
        }
        // Nobody is there whose words could be compared.
        let mut alone = Screen::new(Role::Helper, None, Style::plain());
        assert_eq!(alone.sent(&checked(true)), None);
    }

    #[test]
    fn u_7_a_helper_where_nobody_sits_is_told_to_keep_to_what_is_not_sensitive() {
        let hidden = Event::Session(SessionEvent::Shield {
            shield: Shield::Shielded,
            within: Duration::ZERO,
        });
        let says = |role| {
            let (lines, _) = screen(role).on_event(&hidden, Instant::now());
            lines.join(" ").contains("not sensitive")
        };
        assert!(says(Role::Helper));
        assert!(!says(Role::Sharer));
    }

    #[test]
    fn silence_is_a_yes_only_where_nobody_need_be() {
        let within = Duration::from_secs(30);
        let mode = Mode::Control;
        for (event, silence) in [
            (SessionEvent::Countdown { mode, within }, "yes"),
            (
                SessionEvent::ConsentPrompt {
                    mode,
                    within,
                    upgrade: false,
                },
                "no",
            ),
        ] {
            let mut sharer = screen(Role::Sharer);
            sharer.on_event(&Event::Session(event), Instant::now());
            let prompt = sharer.prompt(Instant::now());
            let expected = format!("answers itself \"{silence}\"");
            assert!(prompt.contains(&expected), "{prompt}");
        }
    }

    #[test]
    fn countdowns_run() {
        let mut helper = screen(Role::Helper);
        let now = Instant::now();
        let code = Event::Code {
            code: "4060-r0gx".into(),
            valid: Duration::from_secs(600),
        };
        let (lines, _) = helper.on_event(&code, now);
        assert!(
            lines[0].contains("4060-r0gx") && lines[0].contains("10:00"),
            "{lines:?}"
        );
        assert!(helper.prompt(now + Duration::from_secs(2)).contains("9:58"));
    }
}
