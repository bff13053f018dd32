//! The page beside the terminal: shows the same session, and what is wished there is wished for the same session.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the page shows some messages in a form of its own, the rest as they are"
)]

use bytes::Bytes;
use data_encoding::BASE64;
use prost::Message as _;
use remora_proto::{
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
    exchange::{Folder, Told, Wish as Exchanged},
    link::{self, Given},
    ui::{Colour, FromPage, InputEvent, More, PageSender, Ui},
};

/// What somebody wishes on the page.
#[derive(Debug)]
pub enum Wish {
    /// The sharer typed a code, or pasted a link.
    Join(Given),
    /// For the session.
    Session(Input),
    /// The helper wants the invitation sent again.
    Retry,
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
    link_host: Option<String>,
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
            link_host: None,
        })
    }

    /// To be opened in a browser on this computer, once.
    pub fn url(&self) -> &str {
        self.ui.url()
    }

    /// Files that the page gives are kept there until they are sent.
    pub fn keep_in(&self, folder: Folder) {
        self.ui.keep_in(folder);
    }

    /// Codes are shown as links to this host, too.
    pub fn link_to(&mut self, host: String) {
        self.link_host = Some(host);
    }

    /// The code did not work.
    pub fn join_failed(&self, failure: &Failure) {
        self.to
            .event(json!({"event": "join_failed", "code": failure.code, "text": failure.line, "tries_left": failure.tries_left}));
    }

    /// There is no session, and why.
    pub fn failed(&self, failure: &Failure) {
        self.to
            .event(json!({"event": "failed", "code": failure.code, "text": failure.line}));
    }

    /// Shows an event.
    pub fn show(&mut self, event: &Event) {
        match event {
            Event::Session(SessionEvent::Media(body)) => self.show_media(body),
            // An order is sealed, and the broker's alone.
            Event::Session(
                SessionEvent::Act(_) | SessionEvent::Elevated(Body::ElevationOrder(_)),
            ) => {}
            Event::Code { code, .. } => {
                let mut event = event.to_json();
                if let Some(host) = &self.link_host {
                    event["link"] = link::link(host, code).into();
                }
                self.to.event(event);
            }
            Event::Exchange(Told::Portrait(png)) => {
                let picture = format!("data:image/png;base64,{}", BASE64.encode(png));
                self.to
                    .event(json!({"event": "picture", "picture": picture}));
            }
            Event::Exchange(progress @ Told::FileProgress { .. }) => {
                self.to.transient(progress.to_json())
            }
            Event::Session(SessionEvent::Started { .. } | SessionEvent::Resumed { .. }) => {
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

    /// Another session is in front; what there was goes on behind it.
    pub fn bring_forward(&mut self) {
        self.active = false;
        self.to.event(json!({"event": "handover_joined"}));
    }

    /// Nothing has come of it.
    pub fn bring_back(&mut self) {
        self.active = true;
        self.to.event(json!({"event": "handover_over"}));
    }

    /// Something happened in the session behind.
    pub fn show_behind(&self, event: &Event) {
        if !matches!(
            event,
            Event::Session(SessionEvent::Media(_) | SessionEvent::Act(_))
        ) {
            self.to
                .event(json!({"event": "behind", "told": event.to_json()}));
        }
    }

    /// What this person says and asks for is on the page, wherever it was typed.
    pub fn sent(&self, input: &Input) {
        let asked = |what: More| json!({"event": "you", "did": "ask_more", "what": what.name()});
        self.to.event(match input {
            Input::Session(Command::Chat(text)) => json!({"event": "chat_sent", "text": text}),
            Input::Session(Command::AskElevation) => asked(More::Elevation),
            Input::Session(Command::AskRestart) => asked(More::Restart),
            Input::Session(Command::AskHandover(_)) => asked(More::Handover),
            _ => return,
        });
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
            FromPage::Join { given } => return Wish::Join(given),
            FromPage::NewCode => return Wish::Session(Input::NewCode),
            FromPage::Retry => return Wish::Retry,
            FromPage::Ask { mode } => Command::AskMode(mode),
            FromPage::Allow { mode } => Command::Allow(mode),
            FromPage::Decline => Command::Decline,
            FromPage::Words { same } => Command::SasChecked(same),
            FromPage::Chat { text } => Command::Chat(text),
            FromPage::Grant { grants, on } => Command::Grant { grants, on },
            FromPage::File { wish } => return Wish::Session(Input::Exchange(wish)),
            FromPage::Copy { text } => {
                return Wish::Session(Input::Exchange(Exchanged::Copy(text.into())));
            }
            FromPage::Paste => return Wish::Session(Input::Exchange(Exchanged::Paste)),
            FromPage::Drop => Command::DropMode,
            FromPage::Pause => Command::Pause(true),
            FromPage::Resume => Command::Pause(false),
            FromPage::Elevate => Command::AskElevation,
            FromPage::Release => Command::ReleaseElevation,
            FromPage::Order(order) => return Wish::Session(Input::Order(order)),
            FromPage::Restart => Command::AskRestart,
            FromPage::HandOver { code } => Command::AskHandover(code),
            FromPage::AllowMore(More::Elevation) => Command::AllowElevation,
            FromPage::AllowMore(More::Restart) => Command::AllowRestart,
            FromPage::AllowMore(More::Handover) => Command::AllowHandover,
            FromPage::Continue => Command::GoOn,
            FromPage::Leave => Command::Leave,
            FromPage::ConfirmLeave => Command::ConfirmLeave,
            FromPage::Stay => Command::Stay,
            FromPage::Choose(_)
            | FromPage::Invite(_)
            | FromPage::Look
            | FromPage::Take { .. }
            | FromPage::Gone => {
                return Wish::Nothing;
            }
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
