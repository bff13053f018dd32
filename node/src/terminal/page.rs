//! The page beside the terminal: shows the same session, and what is wished there is wished for the same session.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the page shows some messages in a form of its own, the rest as they are"
)]

use bytes::Bytes;
use data_encoding::BASE64;
use prost::Message as _;
use remora_proto::{
    code::Code,
    identity::Role,
    session::{Command, Event as SessionEvent},
    wire::message::{
        CURSOR_STREAM, FIRST_WINDOW,
        session::{self as schema, control::Body, input_event::Event as Key},
    },
};
use serde_json::json;
use tokio::sync::mpsc;

use crate::{
    error::{Exit, Failure},
    event::{Event, Input, PathSnapshot, milliseconds},
    ui::{Colour, FromPage, InputEvent, PageSender, Ui},
};

/// What somebody wishes on the page.
#[derive(Debug)]
pub enum Wish {
    /// The sharer typed a code.
    Join(Code),
    /// For the session.
    Session(Input),
    /// Nothing that concerns the session now.
    Nothing,
}

/// A page that belongs to this process.
#[derive(Debug)]
pub struct Page {
    ui: Ui,
    to: PageSender,
    from: mpsc::Receiver<FromPage>,
    active: bool,
}

impl Page {
    /// Opens a page for `role` on a loopback port; 0 is any.
    ///
    /// # Errors
    /// The port is taken.
    pub fn open(role: Role, port: u16) -> Result<Self, Failure> {
        let (ui, channels) = Ui::open(role, port)
            .map_err(|error| Failure::new(Exit::Error, "PAGE", error.to_string()))?;
        Ok(Self {
            ui,
            to: channels.to_page,
            from: channels.from_page,
            active: false,
        })
    }

    /// To be opened in a browser on this computer, once.
    pub fn url(&self) -> &str {
        self.ui.url()
    }

    /// The code did not work.
    pub fn join_failed(&self, failure: &Failure) {
        self.to
            .event(json!({"event": "join_failed", "code": failure.code, "text": failure.line, "tries_left": failure.tries_left}));
    }

    /// Shows an event.
    pub fn show(&mut self, event: &Event) {
        match event {
            Event::Session(SessionEvent::Media(body)) => self.show_media(body),
            // Orders are given where the password is typed, which is no browser.
            Event::Session(SessionEvent::Act(_) | SessionEvent::Elevated(_)) => {}
            Event::Session(SessionEvent::Started { .. }) => {
                self.active = true;
                self.to.event(event.to_json());
            }
            Event::Session(SessionEvent::Ended(_)) => {
                self.active = false;
                self.to.event(event.to_json());
            }
            _ => self.to.event(event.to_json()),
        }
    }

    fn show_media(&self, body: &Body) {
        match body {
            Body::Screen(screen) => {
                let sources: Vec<_> = screen
                    .sources
                    .iter()
                    .map(|source| {
                        let kind = if source.id < FIRST_WINDOW {
                            "monitor"
                        } else {
                            "window"
                        };
                        json!({"id": source.id, "name": source.name, "kind": kind,
                               "width": source.width, "height": source.height})
                    })
                    .collect();
                self.to.event(
                    json!({"event": "screen", "width": screen.width, "height": screen.height,
                                     "sources": sources, "source": screen.source}),
                );
            }
            Body::CursorPosition(at) => {
                self.to
                    .transient(json!({"event": "cursor_at", "x": at.x, "y": at.y}));
            }
            Body::InputRefused(refused) => {
                self.to
                    .event(json!({"event": "input_refused", "reason": refused.reason}));
            }
            _ => {}
        }
    }

    /// A frame, or a cursor's shape, as the sharer sent it.
    pub fn stream(&self, bytes: Bytes) {
        stream(&self.to, bytes);
    }

    /// The same, for whoever gets frames elsewhere.
    pub fn streamer(&self) -> impl FnMut(Bytes) + Send + use<> {
        let to = self.to.clone();
        move |bytes| stream(&to, bytes)
    }

    /// How packets go.
    pub fn path(&self, path: &PathSnapshot) {
        self.to
            .transient(json!({"event": "path", "text": path.badge(),
                                 "rtt_ms": milliseconds(path.rtt), "bytes": path.bytes}));
    }

    /// The next wish. Cancel-safe; waits for ever once the page's server has ended.
    pub async fn next(&mut self) -> Wish {
        match self.from.recv().await {
            Some(wish) => self.meaning(wish),
            None => std::future::pending().await,
        }
    }

    fn meaning(&self, wish: FromPage) -> Wish {
        let command = match wish {
            FromPage::Join { code } => return Wish::Join(code),
            FromPage::NewCode => return Wish::Session(Input::NewCode),
            FromPage::Ask { mode } => Command::AskMode(mode),
            FromPage::Allow { mode } => Command::Allow(mode),
            FromPage::Decline => Command::Decline,
            FromPage::Words { same } => Command::SasChecked(same),
            FromPage::Chat { text } => {
                self.to.event(json!({"event": "chat_sent", "text": text}));
                Command::Chat(text)
            }
            FromPage::Drop => Command::DropMode,
            FromPage::Pause => Command::Pause(true),
            FromPage::Resume => Command::Pause(false),
            FromPage::Leave => Command::Leave,
            FromPage::Confirm => Command::ConfirmLeave,
            FromPage::Stay => Command::Stay,
            FromPage::Elevate => Command::AskElevation,
            FromPage::AllowElevation => Command::AllowElevation,
            FromPage::Release => Command::ReleaseElevation,
            FromPage::Choose(_) | FromPage::Gone => return Wish::Nothing,
            // The rest is about the picture, and there is none.
            _ if !self.active => return Wish::Nothing,
            FromPage::Ready | FromPage::KeyFrame => return Wish::Session(key_frame()),
            FromPage::Input(events) => {
                return Wish::Session(Input::Keys(events.into_iter().map(key).collect()));
            }
            FromPage::Ack {
                sequence,
                decode_ms,
            } => media(Body::FrameAck(schema::FrameAck {
                sequence,
                dropped: false,
                decode_ms,
            })),
            FromPage::Select { source } => media(Body::SelectSource(schema::SelectSource {
                source: source.into(),
            })),
            FromPage::Pointer {
                x,
                y,
                colour,
                visible,
            } => media(Body::Pointer(schema::Pointer {
                x: x.into(),
                y: y.into(),
                colour: number(colour),
                visible,
            })),
            FromPage::Pen {
                points,
                colour,
                width,
            } => media(Body::PenStroke(schema::PenStroke {
                points: points
                    .into_iter()
                    .take(128)
                    .flat_map(|(x, y)| [x.into(), y.into()])
                    .collect(),
                colour: number(colour),
                width: width.into(),
            })),
            FromPage::PenClear => media(Body::PenClear(schema::PenClear {})),
        };
        Wish::Session(Input::Session(command))
    }

    /// Lets the page hear the end.
    pub async fn close(self) {
        self.ui.close().await;
    }
}

fn stream(to: &PageSender, bytes: Bytes) {
    if bytes.first() != Some(&CURSOR_STREAM) {
        // A page that is behind misses it, and asks for a key frame.
        if !to.frame(bytes) {
            tracing::debug!("the page is behind");
        }
        return;
    }
    match schema::CursorShape::decode(bytes.slice(1..)) {
        Ok(shape) => {
            let png = format!("data:image/png;base64,{}", BASE64.encode(&shape.png));
            to.event(json!({"event": "cursor", "shape": png, "hot": [shape.hot_x, shape.hot_y]}));
        }
        Err(error) => tracing::warn!(%error, "a cursor's shape"),
    }
}

fn media(body: Body) -> Command {
    Command::Media(body)
}

fn key_frame() -> Input {
    Input::Session(media(Body::KeyFrameRequest(schema::KeyFrameRequest {})))
}

fn number(Colour([red, green, blue]): Colour) -> u32 {
    u32::from_be_bytes([0, red, green, blue])
}

fn key(event: InputEvent) -> schema::InputEvent {
    let event = match event {
        InputEvent::Key { keysym, down } => Key::Key(schema::KeyEvent { keysym, down }),
        InputEvent::Text(text) => Key::Text(text),
        InputEvent::Pointer { x, y } => Key::Pointer(schema::PointerEvent {
            x: x.into(),
            y: y.into(),
        }),
        InputEvent::Button { n, down } => Key::Button(schema::ButtonEvent {
            button: n.into(),
            down,
        }),
        InputEvent::Wheel { dx, dy } => Key::Wheel(schema::WheelEvent { dx, dy }),
        InputEvent::ReleaseAll => Key::ReleaseAll(schema::ReleaseAll {}),
    };
    schema::InputEvent { event: Some(event) }
}
