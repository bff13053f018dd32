//! What pages say: one JSON object a message, parsed into values that need no second look.

use data_encoding::HEXLOWER;
use remora_proto::{
    code::{Code, InvalidCode},
    elevation::{MAX_COMMAND_BYTES, MAX_PASSWORD_BYTES, Order},
    id::DeviceId,
    identity::Role,
    invitation::word::MAX_REASON_BYTES,
    session::{Grants, Matter, Mode, Way},
    wire::message::MAX_CHAT_TEXT_BYTES,
};
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::{exchange::Wish, link::Given};

/// A message of a page: the longest chat, escaped.
pub(super) const MAX_MESSAGE_BYTES: usize = 8 * MAX_CHAT_TEXT_BYTES;
/// What a page copies for the other side: a message of it is no longer than a chat.
const MAX_COPIED_BYTES: usize = MAX_CHAT_TEXT_BYTES;
/// A pasted paragraph; longer ones come in several.
const MAX_TEXT_BYTES: usize = 4_096;
/// A frame's worth of a fast pen.
const MAX_POINTS: usize = 1_024;
/// A burst between two frames.
const MAX_INPUT_EVENTS: usize = 256;
/// The keysym space is 29 bits (X11 protocol, appendix A).
const MAX_KEYSYM: u32 = 0x1fff_ffff;
/// Names of devices are typed into a settings file.
const MAX_DEVICE_BYTES: usize = 128;
/// Ten notches in one message are a spin; more is no wheel.
const MAX_WHEEL: i32 = 1_200;
/// Of the widest pen, in pixels of the source.
const MAX_PEN_WIDTH: u8 = 64;

/// Red, green, blue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Colour(pub [u8; 3]);

/// What the person at the page wants. Coordinates run over the source: 0 is its left or top edge, 65535 its right or
/// bottom edge.
#[derive(Clone, Debug, PartialEq)]
pub enum FromPage {
    /// The role was chosen on the page; only when [`super::Ui::open`] got none.
    Choose(Role),
    /// Sharer: tries a code, or that of a link.
    Join {
        /// As typed, parsed.
        given: Given,
    },
    /// Helper: draws another code.
    NewCode,
    /// Helper: has the invitation sent to the device again.
    Retry,
    /// On the page of a help desk: begins a session.
    Invite(Call),
    /// There: wants to know now which devices are there.
    Look,
    /// There: helps somebody who waits for the desk.
    Take {
        /// The request's.
        id: DeviceId,
    },
    /// Helper: asks for a mode.
    Ask {
        /// Which.
        mode: Mode,
    },
    /// Sharer: allows at most what was asked.
    Allow {
        /// What.
        mode: Mode,
    },
    /// Sharer: no.
    Decline,
    /// Either: compared the words.
    Words {
        /// They are the same.
        same: bool,
    },
    /// Either: says something.
    Chat {
        /// 1 byte to [`MAX_CHAT_TEXT_BYTES`].
        text: String,
    },
    /// Sharer: grants these, or takes them back. Helper: asks for them, or gives them back.
    Grant {
        /// What.
        grants: Grants,
        /// Or off.
        on: bool,
    },
    /// Either: accepts, declines or takes back a file.
    File {
        /// Which, and what of it.
        wish: Wish,
    },
    /// Either: has this text on the clipboard.
    Copy {
        /// At most `MAX_COPIED_BYTES`; more is for the clipboard of a display.
        text: String,
    },
    /// Either: wants the other's.
    Paste,
    /// Helper: gives control back. Sharer: takes it back.
    Drop,
    /// Sharer: shows nothing until [`Self::Resume`].
    Pause,
    /// Sharer: goes on.
    Resume,
    /// Helper: asks for an administrator's rights.
    Elevate,
    /// Either: ends them.
    Release,
    /// Helper, who has them: orders something as administrator.
    Order(Order),
    /// Helper: asks to restart the sharer's computer.
    Restart,
    /// Helper: asks the sharer to go on with the helper who shows this code.
    HandOver {
        /// As typed, parsed.
        code: Code,
    },
    /// Sharer: allows what takes more than a mode, if it is what is asked.
    AllowMore(More),
    /// Whoever is asked: the session is to go on.
    Continue,
    /// Either: ends the session.
    Leave,
    /// Sharer, warned: leaves all the same.
    ConfirmLeave,
    /// Sharer, warned: stays.
    Stay,
    /// Shows this source.
    Select {
        /// Its id in the `screen` event.
        source: u16,
    },
    /// Helper: the laser pointer.
    Pointer {
        /// Of the source.
        x: u16,
        /// Of the source.
        y: u16,
        /// Its colour.
        colour: Colour,
        /// Or it has gone.
        visible: bool,
    },
    /// Helper: a piece of a pen stroke; the next piece of the same stroke begins with this one's last point.
    Pen {
        /// 1 to `MAX_POINTS`.
        points: Vec<(u16, u16)>,
        /// Its colour.
        colour: Colour,
        /// In pixels of the source, 1 to `MAX_PEN_WIDTH`.
        width: u8,
    },
    /// Helper: wipes the pen's strokes.
    PenClear,
    /// Helper: keys and pointer, in order.
    Input(Vec<InputEvent>),
    /// Helper: a frame is on the canvas.
    Ack {
        /// The frame's.
        sequence: u32,
        /// From its arrival in the page until it was drawn.
        decode_ms: u32,
    },
    /// Helper: the picture has a gap.
    KeyFrame,
    /// Helper: the viewer is there; frames may come, a key frame first.
    Ready,
    /// The last page has been closed or has lost its connection; everything it held down was released.
    Gone,
}

/// A session that is begun on the page of a help desk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Name of the device; `None`: by a code that is read out.
    pub device: Option<String>,
    /// What is asked for as soon as somebody is there; `None`: what the helper says then.
    pub mode: Option<Asked>,
    /// What for, in one line; may be empty.
    pub reason: String,
}

/// What is asked for at a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Asked {
    /// To see the screen.
    View,
    /// Mouse and keyboard, too.
    Control,
    /// The same where nobody sits.
    Unattended,
}

impl Asked {
    /// As `--mode` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Control => "control",
            Self::Unattended => "unattended",
        }
    }
}

/// What takes more than a mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum More {
    /// An administrator's rights.
    Elevation,
    /// A restart.
    Restart,
    /// Another helper.
    Handover,
}

impl More {
    /// For the page.
    pub fn name(self) -> &'static str {
        match self {
            Self::Elevation => "elevation",
            Self::Restart => "restart",
            Self::Handover => "handover",
        }
    }
}

/// Keys and pointer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InputEvent {
    /// A key. `down` for one that is down already is a repeat.
    Key {
        /// Of the character or function, after the helper's own layout.
        keysym: u32,
        /// Or up.
        down: bool,
    },
    /// Text with no key of its own: composed, pasted, dictated.
    Text(String),
    /// The pointer is here.
    Pointer {
        /// Of the source.
        x: u16,
        /// Of the source.
        y: u16,
    },
    /// A button.
    Button {
        /// As X counts: 1 left, 2 middle, 3 right, 8 back, 9 forward.
        n: u8,
        /// Or up.
        down: bool,
    },
    /// The wheel, 120 a notch; down and right are positive.
    Wheel {
        /// Sideways.
        dx: i32,
        /// Up and down.
        dy: i32,
    },
    /// Nothing is held down any more.
    ReleaseAll,
}

/// Why a message is no message.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    /// Not JSON, or not one of ours.
    #[error("not a message of this page: {0}")]
    Syntax(#[from] serde_json::Error),
    /// A number, text or list outside of its limits.
    #[error("{0} is outside of its limits")]
    Limit(&'static str),
    /// What was typed cannot be a code.
    #[error("{0}")]
    Code(#[from] InvalidCode),
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WireMode {
    View,
    Control,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WireMatter {
    Clipboard,
    Files,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WireWay {
    ToHelper,
    ToSharer,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WireAnswer {
    Accept,
    Decline,
    Withdraw,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WireRole {
    Helper,
    Sharer,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum Wire {
    Choose {
        role: WireRole,
    },
    Join {
        code: String,
    },
    NewCode,
    Retry,
    Invite {
        device: Option<String>,
        mode: Option<Asked>,
        reason: String,
    },
    Look,
    Take {
        id: String,
    },
    Ask {
        mode: WireMode,
    },
    Allow {
        mode: WireMode,
    },
    Decline,
    Words {
        same: bool,
    },
    Chat {
        text: String,
    },
    Grant {
        matter: WireMatter,
        way: WireWay,
        on: bool,
    },
    File {
        number: u32,
        answer: WireAnswer,
    },
    Copy {
        text: String,
    },
    Paste,
    Drop,
    Pause,
    Resume,
    Elevate,
    Release,
    /// The password stands in neither half: libraries keep copies of what they parse, and wipe none.
    Credential {
        name: String,
        pad: String,
        padded: String,
    },
    Run {
        command: String,
    },
    Restart,
    HandOver {
        code: String,
    },
    AllowMore {
        what: More,
    },
    Continue,
    Leave,
    ConfirmLeave,
    Stay,
    Select {
        source: u16,
    },
    Pointer {
        x: u16,
        y: u16,
        colour: String,
        visible: bool,
    },
    Pen {
        points: Vec<(u16, u16)>,
        colour: String,
        width: u8,
    },
    PenClear,
    Input {
        events: Vec<WireInput>,
    },
    Ack {
        sequence: u32,
        decode_ms: u32,
    },
    KeyFrame,
    Ready,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum WireInput {
    Key { keysym: u32, down: bool },
    Text { text: String },
    Pointer { x: u16, y: u16 },
    Button { n: u8, down: bool },
    Wheel { dx: i32, dy: i32 },
    ReleaseAll,
}

impl From<WireMode> for Mode {
    fn from(mode: WireMode) -> Self {
        match mode {
            WireMode::View => Self::View,
            WireMode::Control => Self::Control,
        }
    }
}

impl From<WireRole> for Role {
    fn from(role: WireRole) -> Self {
        match role {
            WireRole::Helper => Self::Helper,
            WireRole::Sharer => Self::Sharer,
        }
    }
}

fn within<T>(holds: bool, what: &'static str, value: T) -> Result<T, Invalid> {
    if holds {
        Ok(value)
    } else {
        Err(Invalid::Limit(what))
    }
}

/// `#rrggbb`
fn colour(text: &str) -> Result<Colour, Invalid> {
    let bytes = text.strip_prefix('#').filter(|digits| digits.len() == 6);
    let bytes = bytes.and_then(|digits| {
        data_encoding::HEXLOWER_PERMISSIVE
            .decode(digits.as_bytes())
            .ok()
    });
    bytes
        .and_then(|bytes| bytes.try_into().ok())
        .map(Colour)
        .ok_or(Invalid::Limit("colour"))
}

fn input(event: WireInput) -> Result<InputEvent, Invalid> {
    match event {
        WireInput::Key { keysym, down } => within(
            (1..=MAX_KEYSYM).contains(&keysym),
            "keysym",
            InputEvent::Key { keysym, down },
        ),
        WireInput::Text { text } => {
            let fits = (1..=MAX_TEXT_BYTES).contains(&text.len());
            let typed = !text.contains(|c: char| c.is_control() && c != '\n' && c != '\t');
            within(fits && typed, "text", InputEvent::Text(text))
        }
        WireInput::Pointer { x, y } => Ok(InputEvent::Pointer { x, y }),
        WireInput::Button { n, down } => within(
            matches!(n, 1..=3 | 8 | 9),
            "button",
            InputEvent::Button { n, down },
        ),
        WireInput::Wheel { dx, dy } => {
            let turn = -MAX_WHEEL..=MAX_WHEEL;
            within(
                turn.contains(&dx) && turn.contains(&dy),
                "wheel",
                InputEvent::Wheel { dx, dy },
            )
        }
        WireInput::ReleaseAll => Ok(InputEvent::ReleaseAll),
    }
}

/// Of two halves, hexadecimal and as long as each other: up to the first zero. It is in nothing that is not wiped.
fn unpadded(pad: &str, padded: &str) -> Option<Zeroizing<Vec<u8>>> {
    let half = |text: &str| HEXLOWER.decode(text.as_bytes()).ok();
    let (pad, padded) = (half(pad)?, half(padded)?);
    if pad.len() != padded.len() || pad.len() > MAX_PASSWORD_BYTES + 1 {
        return None;
    }
    let mut password = Zeroizing::new(Vec::with_capacity(pad.len()));
    let bytes = pad.iter().zip(&padded).map(|(one, other)| one ^ other);
    password.extend(bytes.take_while(|byte| *byte != 0));
    Some(password)
}

impl FromPage {
    /// Parses a text message.
    pub(super) fn parse(text: &str) -> Result<Self, Invalid> {
        Ok(match serde_json::from_str(text)? {
            Wire::Choose { role } => Self::Choose(role.into()),
            Wire::Join { code } => Self::Join {
                given: code.parse()?,
            },
            Wire::NewCode => Self::NewCode,
            Wire::Retry => Self::Retry,
            Wire::Invite {
                device,
                mode,
                reason,
            } => {
                let long = device
                    .as_ref()
                    .is_some_and(|name| name.len() > MAX_DEVICE_BYTES);
                let fits = !long && reason.len() <= MAX_REASON_BYTES;
                let call = Call {
                    device,
                    mode,
                    reason,
                };
                within(fits, "invitation", Self::Invite(call))?
            }
            Wire::Look => Self::Look,
            Wire::Take { id } => Self::Take {
                id: id.parse().map_err(|_| Invalid::Limit("id"))?,
            },
            Wire::Ask { mode } => Self::Ask { mode: mode.into() },
            Wire::Allow { mode } => Self::Allow { mode: mode.into() },
            Wire::Decline => Self::Decline,
            Wire::Words { same } => Self::Words { same },
            Wire::Chat { text } => {
                let fits = text.len() <= MAX_CHAT_TEXT_BYTES && !text.trim().is_empty();
                within(fits, "chat", Self::Chat { text })?
            }
            Wire::Grant { matter, way, on } => {
                let matter = match matter {
                    WireMatter::Clipboard => Matter::Clipboard,
                    WireMatter::Files => Matter::Files,
                };
                let way = match way {
                    WireWay::ToHelper => Way::ToHelper,
                    WireWay::ToSharer => Way::ToSharer,
                };
                let grants = Grants::of(matter, way);
                Self::Grant { grants, on }
            }
            Wire::File { number, answer } => {
                let wish = match answer {
                    WireAnswer::Accept => Wish::Accept(number),
                    WireAnswer::Decline => Wish::Decline(number),
                    WireAnswer::Withdraw => Wish::Withdraw(number),
                };
                Self::File { wish }
            }
            Wire::Copy { text } => {
                let fits = text.len() <= MAX_COPIED_BYTES;
                within(fits, "copy", Self::Copy { text })?
            }
            Wire::Paste => Self::Paste,
            Wire::Drop => Self::Drop,
            Wire::Pause => Self::Pause,
            Wire::Resume => Self::Resume,
            Wire::Elevate => Self::Elevate,
            Wire::Release => Self::Release,
            Wire::Credential { name, pad, padded } => {
                let password = unpadded(&pad, &padded).ok_or(Invalid::Limit("password"))?;
                Self::Order(Order::Credential { name, password })
            }
            Wire::Run { command } => {
                let fits = (1..=MAX_COMMAND_BYTES).contains(&command.len());
                within(fits, "command", Self::Order(Order::Run(command)))?
            }
            Wire::Restart => Self::Restart,
            // No failed join of this page's own: what the page lets through is one.
            Wire::HandOver { code } => Self::HandOver {
                code: code.parse().map_err(|_| Invalid::Limit("code"))?,
            },
            Wire::AllowMore { what } => Self::AllowMore(what),
            Wire::Continue => Self::Continue,
            Wire::Leave => Self::Leave,
            Wire::ConfirmLeave => Self::ConfirmLeave,
            Wire::Stay => Self::Stay,
            Wire::Select { source } => Self::Select { source },
            Wire::Pointer {
                x,
                y,
                colour: text,
                visible,
            } => Self::Pointer {
                x,
                y,
                colour: colour(&text)?,
                visible,
            },
            Wire::Pen {
                points,
                colour: text,
                width,
            } => {
                let fits = (1..=MAX_POINTS).contains(&points.len())
                    && (1..=MAX_PEN_WIDTH).contains(&width);
                within(
                    fits,
                    "pen",
                    Self::Pen {
                        points,
                        colour: colour(&text)?,
                        width,
                    },
                )?
            }
            Wire::PenClear => Self::PenClear,
            Wire::Input { events } => {
                let fits = (1..=MAX_INPUT_EVENTS).contains(&events.len());
                let events = within(fits, "input", events)?;
                Self::Input(events.into_iter().map(input).collect::<Result<_, _>>()?)
            }
            Wire::Ack {
                sequence,
                decode_ms,
            } => {
                let sane = decode_ms <= 600_000;
                within(
                    sane,
                    "decode_ms",
                    Self::Ack {
                        sequence,
                        decode_ms,
                    },
                )?
            }
            Wire::KeyFrame => Self::KeyFrame,
            Wire::Ready => Self::Ready,
        })
    }
}

#[cfg(test)]
mod tests {
    use remora_proto::session::Entry;

    use super::*;

    #[test]
    fn messages_are_what_they_say() {
        let parse = |text: &str| FromPage::parse(text).expect(text);
        assert_eq!(
            parse(r#"{"type":"join","code":"4O6O ROGX"}"#),
            FromPage::Join {
                given: "4060r0gx".parse().expect("a code")
            }
        );
        let link = parse(r#"{"type":"join","code":"https://help.example.org/j#4060r0gx"}"#);
        assert!(matches!(link, FromPage::Join { given } if given.entry == Entry::Link));
        let grants = Grants::of(Matter::Clipboard, Way::ToHelper);
        assert_eq!(
            parse(r#"{"type":"grant","matter":"clipboard","way":"to_helper","on":true}"#),
            FromPage::Grant { grants, on: true }
        );
        assert_eq!(
            parse(r#"{"type":"file","number":3,"answer":"accept"}"#),
            FromPage::File {
                wish: Wish::Accept(3)
            }
        );
        assert_eq!(
            parse(r#"{"type":"ask","mode":"control"}"#),
            FromPage::Ask {
                mode: Mode::Control
            }
        );
        assert_eq!(parse(r#"{"type":"drop"}"#), FromPage::Drop);
        let events = r#"{"type":"input","events":[{"type":"pointer","x":0,"y":65535},{"type":"button","n":1,"down":true},
            {"type":"key","keysym":16785537,"down":true},{"type":"text","text":"漢字"},{"type":"wheel","dx":0,"dy":-120},
            {"type":"release_all"}]}"#;
        assert_eq!(
            parse(events),
            FromPage::Input(vec![
                InputEvent::Pointer { x: 0, y: 65_535 },
                InputEvent::Button { n: 1, down: true },
                InputEvent::Key {
                    keysym: 0x0100_2081,
                    down: true
                },
                InputEvent::Text("漢字".into()),
                InputEvent::Wheel { dx: 0, dy: -120 },
                InputEvent::ReleaseAll,
            ])
        );
        // "Ab" and the zero that ends it, each half being noise.
        let credential =
            r#"{"type":"credential","name":"root","pad":"0102037f","padded":"40600355"}"#;
        let password = Zeroizing::new(b"Ab".to_vec());
        let name = "root".to_owned();
        assert_eq!(
            parse(credential),
            FromPage::Order(Order::Credential { name, password })
        );
        let pen = r##"{"type":"pen","points":[[1,2],[3,4]],"colour":"#ff8800","width":4}"##;
        let colour = Colour([255, 136, 0]);
        assert_eq!(
            parse(pen),
            FromPage::Pen {
                points: vec![(1, 2), (3, 4)],
                colour,
                width: 4
            }
        );
    }

    #[test]
    fn anything_else_is_refused() {
        let long = format!(
            r#"{{"type":"chat","text":"{}"}}"#,
            "x".repeat(MAX_CHAT_TEXT_BYTES + 1)
        );
        for text in [
            "",
            "{}",
            "[]",
            "null",
            "{\"type\":\"no\"}",
            &long,
            r#"{"type":"ask","mode":"view","extra":1}"#,
            r#"{"type":"gone"}"#,
            r#"{"type":"take","id":"aa"}"#,
            r#"{"type":"chat","text":" "}"#,
            r#"{"type":"join","code":"4060"}"#,
            r#"{"type":"input","events":[]}"#,
            r#"{"type":"input","events":[{"type":"key","keysym":0,"down":true}]}"#,
            r#"{"type":"input","events":[{"type":"key","keysym":4294967295,"down":true}]}"#,
            r#"{"type":"input","events":[{"type":"button","n":4,"down":true}]}"#,
            r#"{"type":"input","events":[{"type":"pointer","x":-1,"y":0}]}"#,
            r#"{"type":"input","events":[{"type":"pointer","x":65536,"y":0}]}"#,
            r#"{"type":"input","events":[{"type":"wheel","dx":0,"dy":100000}]}"#,
            r#"{"type":"input","events":[{"type":"text","text":"\u001b[2J"}]}"#,
            r#"{"type":"ack","sequence":1,"decode_ms":-1}"#,
            r##"{"type":"pen","points":[],"colour":"#ff8800","width":4}"##,
            r##"{"type":"pointer","x":1,"y":1,"colour":"red","visible":true}"##,
        ] {
            assert!(FromPage::parse(text).is_err(), "{text:.80}");
        }
    }
}
