//! One side of a session: its person does anything, the other side says anything, time passes.
//!
//! Input: role and side, then steps.
#![no_main]

use std::time::{Duration, Instant};

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use prost::Message;
use remora_proto::{
    id::Side,
    identity::{Introduction, Profile, Role},
    line::Why,
    org::verdict::Verdict,
    path::candidate::Named,
    random::Random,
    sas::Nonce,
    session::{
        Command, Event, Grants, Matter, Mode, Platform, SecurePrompt, Session, Setup, Terms,
        Transmit, Way,
    },
    wire::message::session::{self as schema, control::Body},
};
use remora_proto_fuzz::Script;

fuzz_target!(|data: &[u8]| {
    let mut script = Script(data);
    let role = if script.flag() {
        Role::Helper
    } else {
        Role::Sharer
    };
    let side = if script.flag() {
        Side::Host
    } else {
        Side::Joiner
    };
    let theirs = Nonce::generate(&mut Random::seeded(2));
    let setup = || Setup {
        role,
        side,
        nonce: Nonce::generate(&mut Random::seeded(1)),
        verdict: Ok(Verdict::unmanaged()),
        peer: Introduction {
            papers: None,
            role: role.peer(),
            profile: Profile::new("Maria Lopez", "", "", "").expect("valid"),
            commitment: theirs.commitment(),
            named: Named::default(),
        },
        handshake_hash: [9; 32],
        terms: Terms {
            platform: Platform {
                mode: Mode::Control,
                elevates: true,
                shields: true,
                restarts: true,
                power_key: true,
            },
            ..Terms::default()
        },
    };
    let mut now = Instant::now();
    let mut watch = Watch::new(role, Session::new(setup(), now));

    for _ in 0..256 {
        if script.is_empty() {
            break;
        }
        match script.byte() % 21 {
            0 => watch.command(Command::AskMode(mode(script.byte())), now),
            1 => watch.command(Command::Allow(mode(script.byte())), now),
            2 => watch.command(Command::Decline, now),
            3 => watch.command(Command::DropMode, now),
            4 => watch.command(Command::SasChecked(script.flag()), now),
            5 => watch.command(Command::Chat("x".repeat(usize::from(script.word()))), now),
            6 => watch.command(Command::Leave, now),
            // The two messages that random bytes would not find.
            7 => {
                let nonce = Bytes::copy_from_slice(theirs.as_bytes());
                watch.control(Body::NonceReveal(schema::NonceReveal { nonce }), now);
            }
            8 => watch.chat(script.byte(), script.word(), now),
            9 => {
                if let Ok(schema::Control { body: Some(body) }) =
                    schema::Control::decode(script.short())
                {
                    watch.control(body, now);
                }
            }
            // Of these and of what lies around, any answer will do; `drain` sees what came of it.
            10 => {
                watch.session.handle_malformed(now).ok();
            }
            11 => {
                watch.session.handle_connection_lost(now).ok();
            }
            12 => now += Duration::from_millis(script.word().into()),
            13 => watch.command(person(script.byte()), now),
            14 => {
                watch.session.handle_heard(now).ok();
            }
            15 => {
                if let Some(resumed) = watch.session.before_restart(now) {
                    watch.take_up(Session::resumed(setup(), resumed, now));
                }
            }
            16 => {
                let takes_keys = script.flag();
                let prompt = script.flag().then_some(SecurePrompt { takes_keys });
                watch.session.handle_secure_prompt(prompt, now).ok();
            }
            17 => {
                watch.session.handle_local_input(now).ok();
            }
            18 => {
                watch.session.handle_kill(Why::default(), now).ok();
            }
            19 => {
                let (matter, way) = (matter(script.byte()), way(script.byte()));
                let (grants, on) = (Grants::of(matter, way), script.flag());
                watch.command(Command::Grant { grants, on }, now);
            }
            _ => {
                if let Some(deadline) = watch.session.poll_timeout() {
                    now = now.max(deadline);
                    watch.session.handle_timeout(now);
                    assert!(
                        watch.session.poll_timeout().is_none_or(|next| next > now),
                        "a deadline is met once"
                    );
                }
            }
        }
        watch.drain();
    }
});

fn person(byte: u8) -> Command {
    match byte % 17 {
        0 => Command::CaptureUp,
        1 => Command::CaptureFailed,
        2 => Command::Pause(true),
        3 => Command::Pause(false),
        4 => Command::AskElevation,
        5 => Command::AllowElevation,
        6 => Command::ReleaseElevation,
        7 => Command::AskRestart,
        8 => Command::AllowRestart,
        9 => Command::GoOn,
        10 => Command::ConfirmLeave,
        11 => Command::AllowHandover,
        12 => Command::HandoverFailed,
        13 => Command::HandedOver,
        14 => Command::PowerKey { long: true },
        _ => Command::Stay,
    }
}

fn matter(byte: u8) -> Matter {
    if byte & 1 == 0 {
        Matter::Clipboard
    } else {
        Matter::Files
    }
}

fn way(byte: u8) -> Way {
    if byte & 1 == 0 {
        Way::ToHelper
    } else {
        Way::ToSharer
    }
}

fn mode(byte: u8) -> Mode {
    if byte & 1 == 0 {
        Mode::View
    } else {
        Mode::Control
    }
}

/// A session, and what must be true of it.
struct Watch {
    role: Role,
    session: Session,
    /// The most that the sharer has said yes to.
    granted: Option<Mode>,
    trusted: bool,
    said_end: bool,
    ended: bool,
    /// This side's person has said that the words are the same.
    compared: bool,
    chat_sent: u64,
    chat_seen: u64,
    /// Chat of the connections before a restart.
    before: (u64, u64),
}

impl Watch {
    fn new(role: Role, session: Session) -> Self {
        let mut watch = Self {
            role,
            session,
            granted: None,
            trusted: false,
            said_end: false,
            ended: false,
            compared: false,
            chat_sent: 0,
            chat_seen: 0,
            before: (0, 0),
        };
        watch.drain();
        watch
    }

    /// The same session in another connection, which counts anew.
    fn take_up(&mut self, session: Session) {
        self.session = session;
        self.before.0 += std::mem::take(&mut self.chat_sent);
        self.before.1 += std::mem::take(&mut self.chat_seen);
        self.trusted = false;
    }

    fn command(&mut self, command: Command, now: Instant) {
        let before = self.session.mode();
        let compares = matches!(command, Command::SasChecked(true));
        let allow = match &command {
            Command::Allow(mode) => Some(*mode),
            _ => None,
        };
        match self.session.handle_command(command, now) {
            Ok(()) => {
                self.granted = self.granted.max(allow);
                self.compared |= compares;
            }
            Err(_) => self.assert_unchanged(before),
        }
    }

    fn control(&mut self, body: Body, now: Instant) {
        let before = self.session.mode();
        let allow = match &body {
            Body::ConsentAnswer(answer) if self.role == Role::Helper && answer.allow => {
                match answer.mode() {
                    schema::Mode::View => Some(Mode::View),
                    schema::Mode::ControlMode => Some(Mode::Control),
                    schema::Mode::Unspecified => None,
                }
            }
            _ => None,
        };
        match self
            .session
            .handle_control(schema::Control { body: Some(body) }, now)
        {
            Ok(()) => self.granted = self.granted.max(allow),
            Err(_) => self.assert_unchanged(before),
        }
    }

    /// A refused word changes nothing, but that its sender is told.
    fn assert_unchanged(&mut self, before: Option<Mode>) {
        assert_eq!(self.session.mode(), before);
        while let Some(transmit) = self.session.poll_transmit() {
            let tells = matches!(
                transmit,
                Transmit::Control(
                    Body::Refused(_) | Body::ModeDropped(_) | Body::ElevationReleased(_)
                )
            );
            assert!(tells, "{transmit:?}");
        }
        while let Some(event) = self.session.poll_event() {
            // That it was heard at all is news after a silence.
            assert!(matches!(event, Event::Resumed { .. }), "{event:?}");
        }
    }

    fn chat(&mut self, ahead: u8, length: u16, now: Instant) {
        let id = self
            .chat_seen
            .wrapping_add(1)
            .wrapping_add_signed(i64::from(ahead as i8));
        let chat = schema::Chat {
            id,
            text: "y".repeat(length.into()),
        };
        // Any answer will do; `drain` sees what came of it.
        self.session.handle_chat(chat, now).ok();
    }

    fn drain(&mut self) {
        while let Some(transmit) = self.session.poll_transmit() {
            assert!(!self.said_end, "nothing is said after the end");
            match transmit {
                Transmit::Control(Body::Ended(ended)) => {
                    assert_eq!(ended.chat_sent, self.chat_sent);
                    self.said_end = true;
                }
                Transmit::Control(_) => {}
                Transmit::Chat(chat) => {
                    self.chat_sent += 1;
                    assert_eq!(chat.id, self.chat_sent);
                }
            }
        }
        while let Some(event) = self.session.poll_event() {
            assert!(!self.ended, "the end is the last event");
            match event {
                Event::Trust { .. } | Event::Returned { .. } => {
                    assert!(!std::mem::replace(&mut self.trusted, true));
                }
                Event::Started { mode } | Event::ModeChanged { mode, .. } => {
                    assert!(
                        self.trusted && Some(mode) <= self.granted,
                        "more than the sharer allowed"
                    );
                }
                Event::Chat { id, .. } => {
                    self.chat_seen += 1;
                    assert_eq!(id, self.chat_seen, "chat comes in order and without gaps");
                }
                Event::Ended(receipt) => {
                    self.ended = true;
                    let (sent, seen) = self.before;
                    assert_eq!(
                        (receipt.chat_sent, receipt.chat_received),
                        (sent + self.chat_sent, seen + self.chat_seen)
                    );
                    assert!(receipt.mode <= self.granted);
                }
                // The organisation may think otherwise before there is a card.
                Event::Judged(_) => {}
                Event::PeerCheckedSas(_)
                | Event::ConsentPrompt { .. }
                | Event::Countdown { .. }
                | Event::AwaitingConsent { .. }
                | Event::Starting { .. }
                | Event::UpgradeDeclined
                | Event::Refused(_)
                | Event::ElevationPrompt { .. }
                | Event::ElevationGranted
                | Event::ElevationDeclined
                | Event::ElevationReleased
                | Event::RestartPrompt { .. }
                | Event::RestartDeclined
                | Event::NoRestart(_)
                | Event::HandoverPrompt { .. }
                | Event::HandingOver { .. }
                | Event::HandoverDeclined
                | Event::HandoverFailed
                | Event::Paused(_)
                | Event::Covered(_)
                | Event::Shield { .. }
                | Event::Check { .. }
                | Event::GoesOn
                | Event::LeaveWarning { .. }
                | Event::Stayed
                | Event::Interrupted { .. }
                | Event::Resumed { .. }
                | Event::Act(_)
                | Event::Granted(_)
                | Event::GrantWanted(_)
                | Event::Exchange(_)
                | Event::Elevated(_)
                | Event::Media(_) => assert!(self.trusted),
            }
        }
        if self.ended {
            assert_eq!(
                (self.session.poll_timeout(), self.session.mode()),
                (None, None)
            );
        }
        assert!(self.session.mode() <= self.granted);
        // Off at the start, and at the end; nobody vouches for this helper.
        let grants = self.session.rights().grants;
        assert!(
            grants.is_empty()
                || (self.session.mode().is_some() && (self.role == Role::Helper || self.compared))
        );
    }
}
