//! What goes between the two beside picture and words: drives the machines of the clipboard and of files, with streams, disk and
//! display.
//!
//! ```text
//!  session ── grants, messages, wishes ──▶ ┌──────────────────┐ ── told ──▶ terminal, page
//!          ◀──────── messages ──────────── │ Clipboard, Files │
//!                                          └──┬────────────┬──┘
//!              streams of their own ◀── carry ┘            ├ folder, source: disk
//!                                                          └ selection: the X11 clipboard
//! ```

/// Bytes on streams.
mod carry;
/// The folder that files come into.
mod folder;
/// The X11 clipboard.
mod selection;
/// A file that is offered.
mod source;
/// What is told, what is wished.
mod told;

use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
};

use bytes::Bytes;
use quinn::Connection;
use remora_proto::{
    exchange::{
        clipboard::{self, Clipboard},
        files::{self, Files, Offer, Over, Whose},
    },
    identity::Role,
    session::{Command, Grants},
    wire::message::session::{Content, StreamKind, control::Body},
};
use tokio::{
    sync::mpsc,
    task::{JoinHandle, JoinSet, spawn_blocking},
};
use tokio_util::sync::CancellationToken;

use self::{
    carry::{Opened, Progress, Received, Sent, Teller},
    folder::Part,
    selection::{FromSelection, Selection, ToSelection},
    source::Source,
};
pub use self::{
    folder::Folder,
    told::{Given, Told, Wish, grants_json, signs},
};
use crate::{
    event::Event,
    share::{desktop::Desktop, sharing::ToSession},
};

/// What the session says. Full: it waits, for this task never waits for it.
const QUEUE_TOLD: usize = 64;
/// Words about progress that nobody has taken yet; then some are left out.
const QUEUE_PROGRESS: usize = 16;

/// What the session says to what is exchanged in it.
#[derive(Debug)]
pub(crate) enum ToExchange {
    /// In force from now on.
    Grants(Grants),
    /// The other side says that.
    Heard(Body),
    /// This side's person wants that.
    Wish(Wish),
    /// Both cards are known.
    Trusted,
}

/// What this side brings along.
#[derive(Debug)]
pub(crate) struct ThisSide {
    pub(crate) role: Role,
    /// Where files come to.
    pub(crate) folder: Folder,
    /// Whose clipboard takes part.
    pub(crate) desktop: Desktop,
    /// Of its card.
    pub(crate) portrait: Option<Bytes>,
    /// Hash of the other's, if somebody vouches for it.
    pub(crate) signed: Option<[u8; 32]>,
}

/// The task, from the session's side.
#[derive(Debug)]
pub(crate) struct Handle {
    to: mpsc::Sender<ToExchange>,
    task: JoinHandle<()>,
    grants: Grants,
}

impl Handle {
    /// Nothing is granted yet.
    pub(crate) fn start(
        this_side: ThisSide,
        connection: Connection,
        session: mpsc::Sender<ToSession>,
        events: mpsc::Sender<Event>,
    ) -> Self {
        let (to, told) = mpsc::channel(QUEUE_TOLD);
        let exchange = Exchange::new(this_side, connection, events);
        let task = tokio::spawn(exchange.run(told, session));
        let grants = Grants::NONE;
        Self { to, task, grants }
    }

    /// What the session allows now.
    pub(crate) async fn grants(&mut self, grants: Grants) {
        if std::mem::replace(&mut self.grants, grants) != grants {
            self.tell(ToExchange::Grants(grants)).await;
        }
    }

    pub(crate) async fn tell(&self, what: ToExchange) {
        if self.to.send(what).await.is_err() {
            tracing::debug!("nothing is exchanged any more");
        }
    }

    /// Nothing is under way or told afterwards.
    pub(crate) async fn close(self) {
        let Self { to, task, .. } = self;
        drop(to);
        if task.await.is_err() {
            tracing::error!("what was exchanged ended in a panic");
        }
    }
}

/// What a part of the work came to.
#[derive(Debug)]
enum Done {
    Hashed(String, Result<(Source, Offer), source::NoSource>),
    Prepared(u32, Result<Part, Over>),
    Opened(Option<Opened>),
    TextSent,
    TextCame(u32, Option<Bytes>),
    Sent(u32, Sent),
    Received(u32, Received),
    PortraitSent,
    PortraitCame(Option<Bytes>),
}

#[derive(Debug)]
struct Exchange {
    files: Files,
    clipboard: Clipboard,
    folder: Folder,
    desktop: Desktop,
    /// While the clipboard is granted, on a display that has one.
    selection: Option<(Selection, mpsc::Receiver<FromSelection>)>,
    /// The person wants to see the text, beside whoever inserts it.
    asked: bool,
    portrait: Option<Bytes>,
    signed: Option<[u8; 32]>,
    connection: Connection,
    events: mpsc::Sender<Event>,
    /// For the session.
    said: VecDeque<Body>,
    jobs: JoinSet<Done>,
    /// What was offered, and is not over.
    offers: BTreeMap<(Whose, u32), Offer>,
    sources: BTreeMap<u32, Source>,
    /// Accepted, and waiting for their streams.
    parts: BTreeMap<u32, Part>,
    under_way: BTreeMap<(Whose, u32), CancellationToken>,
    placed: BTreeMap<u32, PathBuf>,
    progress: mpsc::Sender<Progress>,
    progressed: mpsc::Receiver<Progress>,
}

impl Exchange {
    fn new(this_side: ThisSide, connection: Connection, events: mpsc::Sender<Event>) -> Self {
        let ThisSide {
            role,
            folder,
            desktop,
            portrait,
            signed,
        } = this_side;
        let (progress, progressed) = mpsc::channel(QUEUE_PROGRESS);
        Self {
            files: Files::new(role),
            clipboard: Clipboard::new(role),
            folder,
            desktop,
            selection: None,
            asked: false,
            portrait,
            signed,
            connection,
            events,
            said: VecDeque::new(),
            jobs: JoinSet::new(),
            offers: BTreeMap::new(),
            sources: BTreeMap::new(),
            parts: BTreeMap::new(),
            under_way: BTreeMap::new(),
            placed: BTreeMap::new(),
            progress,
            progressed,
        }
    }

    /// Until the session drops its side.
    async fn run(mut self, mut told: mpsc::Receiver<ToExchange>, session: mpsc::Sender<ToSession>) {
        let connection = self.connection.clone();
        let mut connected = true;
        loop {
            tokio::select! { biased;
                room = session.reserve(), if !self.said.is_empty() => match (room, self.said.pop_front()) {
                    (Ok(room), Some(body)) => room.send(ToSession::Wish(Command::Exchange(body))),
                    _ => break,
                },
                told = told.recv() => match told {
                    Some(told) => self.hear(told).await,
                    None => break,
                },
                Some(done) = self.jobs.join_next(), if !self.jobs.is_empty() => match done {
                    Ok(done) => self.handle(done).await,
                    Err(error) => tracing::error!(%error, "a part of an exchange"),
                },
                copied = copied(&mut self.selection) => self.copied(copied),
                Some(progress) = self.progressed.recv() => {
                    let Progress { whose, number, done, bytes } = progress;
                    self.tell(Told::FileProgress { whose, number, done, bytes }).await;
                }
                // How many there are at once the connection limits.
                opened = connection.accept_bi(), if connected => match opened {
                    Ok((_, stream)) => {
                        self.jobs.spawn(async { Done::Opened(carry::opened(stream).await) });
                    }
                    Err(_) => connected = false,
                },
            }
            self.drain().await;
        }
        self.jobs.shutdown().await;
        // Joins a thread, which may wait for its display.
        let selection = self.selection.take();
        if spawn_blocking(move || drop(selection)).await.is_err() {
            tracing::error!("the clipboard was not closed properly");
        }
    }

    async fn tell(&self, told: Told) {
        self.say(Event::Exchange(told)).await;
    }

    async fn say(&self, event: Event) {
        if self.events.send(event).await.is_err() {
            tracing::debug!("nobody listens");
        }
    }

    async fn not_possible(&self, code: &'static str, text: String) {
        self.say(Event::NotPossible { code, text }).await;
    }

    async fn hear(&mut self, told: ToExchange) {
        match told {
            ToExchange::Grants(grants) => {
                self.files.handle_grants(grants);
                self.clipboard.handle_grants(grants);
                self.attend().await;
            }
            ToExchange::Trusted => {
                if let Some(portrait) = self.portrait.take() {
                    let connection = self.connection.clone();
                    self.jobs.spawn(async move {
                        carry::send_portrait(connection, portrait).await;
                        Done::PortraitSent
                    });
                }
            }
            ToExchange::Heard(body) => {
                self.clipboard.handle_message(&body);
                self.files.handle_message(&body);
            }
            ToExchange::Wish(wish) => self.wish(wish).await,
        }
    }

    /// Opens the display's clipboard while that is granted, and says what is to be done with it.
    async fn attend(&mut self) {
        let (sends, receives) = (self.clipboard.may_send(), self.clipboard.may_receive());
        if !sends && !receives {
            let selection = self.selection.take();
            if spawn_blocking(move || drop(selection)).await.is_err() {
                tracing::error!("the clipboard was not closed properly");
            }
            return;
        }
        if self.selection.is_none()
            && let Desktop::X11(display) | Desktop::Monitor { display, .. } = &self.desktop
        {
            match Selection::open(display.as_deref()) {
                Ok(selection) => self.selection = Some(selection),
                // The page and the terminal still have it.
                Err(error) => tracing::debug!(%error, "no clipboard on this display"),
            }
        }
        self.order(ToSelection::Watch(sends));
    }

    fn order(&self, order: ToSelection) {
        if let Some((selection, _)) = &self.selection {
            selection.tell(order);
        }
    }

    /// On the display; `None`: it is gone.
    fn copied(&mut self, copied: Option<FromSelection>) {
        match copied {
            Some(FromSelection::Local(text)) => self.clipboard.handle_local(text),
            Some(FromSelection::Wanted) => {
                if self.clipboard.handle_wanted().is_err() {
                    self.order(ToSelection::Withdrawn);
                }
            }
            None => self.selection = None,
        }
    }

    async fn wish(&mut self, wish: Wish) {
        let done = match wish {
            Wish::Send(path) => self.files.may_offer().map(|()| {
                self.jobs.spawn_blocking(move || {
                    let source = Source::open(&path);
                    Done::Hashed(path.display().to_string(), source)
                });
            }),
            Wish::Give(Given { name, file }) => self.files.may_offer().map(|()| {
                self.jobs.spawn_blocking(move || {
                    let source = Source::of(file, &name);
                    Done::Hashed(name, source)
                });
            }),
            Wish::Accept(number) => self.files.accept(number),
            Wish::Decline(number) => self.files.give_up(Whose::Theirs, number),
            Wish::Withdraw(number) => self.files.give_up(Whose::Ours, number),
            Wish::Copy(text) if !self.clipboard.may_send() => {
                drop(text);
                let text = "the sharer has not allowed the clipboard that way; /clipboard asks for it, or allows it";
                return self.not_possible("NOT_GRANTED", text.into()).await;
            }
            Wish::Copy(text) => {
                self.clipboard.handle_local(text);
                Ok(())
            }
            Wish::Paste => {
                self.asked = true;
                if let Err(nothing) = self.clipboard.handle_wanted() {
                    self.asked = false;
                    self.not_possible("CLIPBOARD_EMPTY", nothing.to_string())
                        .await;
                }
                Ok(())
            }
        };
        if let Err(refused) = done {
            self.not_possible(refused.name(), refused.to_string()).await;
        }
    }

    // ---- what the machines say -----------------------------------------------------------

    async fn drain(&mut self) {
        while let Some(output) = self.files.poll_output() {
            self.act(output).await;
        }
        while let Some(output) = self.clipboard.poll_output() {
            match output {
                clipboard::Output::Tell(body) => self.said.push_back(body),
                clipboard::Output::Send { number, text } => {
                    let connection = self.connection.clone();
                    self.jobs.spawn(async move {
                        carry::send_text(connection, number, text).await;
                        Done::TextSent
                    });
                }
                clipboard::Output::Offered(bytes) => {
                    self.order(ToSelection::Offered);
                    self.tell(Told::ClipboardOffered(bytes)).await;
                }
                clipboard::Output::Withdrawn => {
                    self.order(ToSelection::Withdrawn);
                    self.tell(Told::ClipboardOffered(0)).await;
                }
                clipboard::Output::Came(text) => {
                    self.order(ToSelection::Text(text.clone()));
                    // What is inserted elsewhere need not stand in a terminal.
                    if std::mem::take(&mut self.asked) {
                        self.tell(Told::Clipboard(text)).await;
                    }
                }
            }
        }
    }

    async fn act(&mut self, output: files::Output) {
        match output {
            files::Output::Tell(body) => self.said.push_back(body),
            files::Output::Offered { number, offer } => {
                self.offered(Whose::Theirs, number, offer).await
            }
            files::Output::Prepare { number, offer } => {
                let folder = self.folder.clone();
                self.jobs
                    .spawn_blocking(move || Done::Prepared(number, folder.prepare(offer)));
            }
            files::Output::Send {
                number,
                offset,
                hash,
            } => {
                let of = (Whose::Ours, number);
                let source = self.sources.get(&number).cloned();
                let (Some(source), Some(offer)) = (source, self.offers.get(&of)) else {
                    return self.files.handle_over(Whose::Ours, number, Over::Failed);
                };
                let (connection, bytes) = (self.connection.clone(), offer.bytes);
                let (teller, stop) = self.begin(Whose::Ours, number);
                let what = (number, offset, hash);
                self.jobs.spawn(async move {
                    let sent =
                        carry::send_file(connection, source, what, bytes, teller, stop).await;
                    Done::Sent(number, sent)
                });
            }
            files::Output::Stop { whose, number } => {
                if whose == Whose::Theirs {
                    self.parts.remove(&number);
                }
                if let Some(stop) = self.under_way.remove(&(whose, number)) {
                    stop.cancel();
                }
            }
            files::Output::Over {
                whose,
                number,
                over,
            } => self.over(whose, number, over).await,
        }
    }

    fn begin(&mut self, whose: Whose, number: u32) -> (Teller, CancellationToken) {
        let stop = CancellationToken::new();
        self.under_way.insert((whose, number), stop.clone());
        (Teller::new(self.progress.clone(), whose, number), stop)
    }

    async fn offered(&mut self, whose: Whose, number: u32, offer: Offer) {
        self.offers.insert((whose, number), offer.clone());
        self.tell(Told::FileOffered {
            whose,
            number,
            offer,
        })
        .await;
    }

    async fn over(&mut self, whose: Whose, number: u32, over: Over) {
        let path = match whose {
            Whose::Ours => {
                self.sources.remove(&number);
                None
            }
            Whose::Theirs => {
                if let Some(part) = self.parts.remove(&number) {
                    discard(part).await;
                }
                self.placed.remove(&number)
            }
        };
        if let Some(offer) = self.offers.remove(&(whose, number)) {
            self.tell(Told::FileOver {
                whose,
                number,
                offer,
                over,
                path,
            })
            .await;
        }
    }

    // ---- what the work came to -----------------------------------------------------------

    async fn handle(&mut self, done: Done) {
        match done {
            Done::Hashed(_, Ok((source, offer))) => match self.files.offer(&offer) {
                Ok(number) => {
                    self.sources.insert(number, source);
                    self.offered(Whose::Ours, number, offer).await;
                }
                Err(refused) => self.not_possible(refused.name(), refused.to_string()).await,
            },
            Done::Hashed(name, Err(error)) => {
                let text = format!("{name}: {error}");
                self.not_possible("FILE_UNREADABLE", text).await;
            }
            Done::Prepared(number, Ok(part)) => {
                let (have, hash) = part.have();
                if self.files.handle_prepared(number, have, hash) {
                    self.parts.insert(number, part);
                } else if have == 0 {
                    // It was stopped meanwhile; what is there stays there.
                    discard(part).await;
                }
            }
            Done::Prepared(number, Err(over)) => {
                self.files.handle_over(Whose::Theirs, number, over);
            }
            Done::Opened(Some(opened)) => self.opened(opened),
            Done::Opened(None) => tracing::debug!("a stream of an unknown kind"),
            Done::PortraitSent | Done::PortraitCame(None) => {}
            Done::PortraitCame(Some(png)) => self.tell(Told::Portrait(png)).await,
            Done::TextSent => self.clipboard.handle_sent(),
            Done::TextCame(number, Some(text)) => self.clipboard.handle_content(number, text),
            Done::TextCame(_, None) => tracing::debug!("the clipboard's text did not come"),
            Done::Sent(number, sent) => {
                self.under_way.remove(&(Whose::Ours, number));
                match sent {
                    Sent::Done => self.files.handle_sent(number),
                    Sent::Unreadable => self.files.handle_over(Whose::Ours, number, Over::Failed),
                }
            }
            Done::Received(number, Received::There(path)) => {
                self.placed.insert(number, path);
                self.files
                    .handle_over(Whose::Theirs, number, Over::Received);
            }
            Done::Received(number, Received::Over(over)) => {
                self.files.handle_over(Whose::Theirs, number, over);
            }
            Done::Received(number, Received::CutOff(part)) => {
                match self.files.knows(Whose::Theirs, number) {
                    true => self.files.handle_cut_off(number),
                    false => discard(part).await,
                }
            }
        }
    }

    fn opened(&mut self, opened: Opened) {
        let Opened {
            kind,
            content: Content { number, offset },
            stream,
        } = opened;
        match kind {
            StreamKind::Clipboard => {
                self.jobs.spawn(async move {
                    Done::TextCame(number, carry::receive_text(stream).await)
                });
            }
            StreamKind::Picture if self.signed.is_some() => {
                // Once.
                if let Some(signed) = self.signed.take() {
                    self.jobs.spawn(async move {
                        Done::PortraitCame(carry::receive_portrait(stream, signed).await)
                    });
                }
            }
            StreamKind::File if self.files.handle_stream(number, offset).is_some() => {
                let Some(part) = self.parts.remove(&number) else {
                    return self.files.handle_over(Whose::Theirs, number, Over::Failed);
                };
                let (teller, stop) = self.begin(Whose::Theirs, number);
                self.jobs.spawn(async move {
                    let received = carry::receive_file(stream, offset, part, teller, stop).await;
                    Done::Received(number, received)
                });
            }
            StreamKind::Picture
            | StreamKind::File
            | StreamKind::Unspecified
            | StreamKind::Control
            | StreamKind::Chat
            | StreamKind::Input
            | StreamKind::Path => tracing::debug!(?kind, number, "a stream that nobody waits for"),
        }
    }
}

/// What happens on the display; waits for ever without one.
async fn copied(
    selection: &mut Option<(Selection, mpsc::Receiver<FromSelection>)>,
) -> Option<FromSelection> {
    match selection {
        Some((_, from)) => from.recv().await,
        None => std::future::pending().await,
    }
}

async fn discard(part: Part) {
    if spawn_blocking(move || part.discard()).await.is_err() {
        tracing::debug!("what there was of a file is still there");
    }
}
