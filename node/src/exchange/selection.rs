//! The clipboard of an X11 display: tells what is copied there, and stands for the other side's text until somebody inserts it
//! (ICCCM §2; XFIXES §8 for changes of the owner).
//!
//! ```text
//!  somebody copies ─ XFIXES ─▶ ConvertSelection ─▶ property, or pieces of it (INCR) ─▶ FromSelection::Local
//!  ToSelection::Offered ─▶ this window owns CLIPBOARD
//!  somebody inserts ─ SelectionRequest ─▶ kept ─▶ FromSelection::Wanted … ToSelection::Text ─▶ property, or pieces of it
//! ```
//!
//! With a thread and a connection of its own, for as long as the clipboard is granted; what it owned is nobody's afterwards.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Waker,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use bytes::Bytes;
use remora_proto::exchange::clipboard::MAX_CLIPBOARD_BYTES;
use tokio::sync::mpsc;
use x11rb::{
    CURRENT_TIME, NONE,
    connection::Connection as _,
    protocol::{
        Event,
        xfixes::{self, ConnectionExt as _, SelectionEventMask},
        xproto::{
            AtomEnum, ChangeWindowAttributesAux, ConnectionExt as _, CreateWindowAux, EventMask,
            PropMode, Property, PropertyNotifyEvent, SELECTION_NOTIFY_EVENT, SelectionNotifyEvent,
            SelectionRequestEvent, WindowClass,
        },
    },
    wrapper::ConnectionExt as _,
};

use crate::share::{
    capture::CaptureError,
    x11::{Display, Wakeup, no_resources},
};

/// Whoever copies or inserts faster than that is no person.
const QUEUE_EVENTS: usize = 16;
/// One piece of a long text: below the smallest limit that servers have.
const PIECE_BYTES: usize = 200_000;
/// A program that wants or has text and says nothing for so long has gone; so has the other side.
const PATIENCE: Duration = Duration::from_secs(5);
/// Programs that wait for text at once; more are told that there is none.
const MAX_WAITING: usize = 16;

x11rb::atom_manager! {
    /// The names that this protocol goes by.
    Atoms: AtomsCookie {
        CLIPBOARD,
        TARGETS,
        UTF8_STRING,
        MIME: b"text/plain;charset=utf-8",
        INCR,
        REMORA_CLIPBOARD,
    }
}

/// What happens on the display.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FromSelection {
    /// Somebody copied this; empty: something that is no text, or too long.
    Local(Bytes),
    /// Somebody inserts what the other side has.
    Wanted,
}

/// What it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ToSelection {
    /// Tell what is copied from now on, and what is there; or do not.
    Watch(bool),
    /// The other side has text.
    Offered,
    /// This is it.
    Text(Bytes),
    /// It has none any more.
    Withdrawn,
}

/// The clipboard, from outside. It goes when this is dropped.
pub(super) struct Selection {
    orders: Arc<Mutex<Orders>>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Orders {
    queue: VecDeque<ToSelection>,
    over: bool,
}

impl fmt::Debug for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Selection")
    }
}

impl Selection {
    /// Connects to the display (by default `DISPLAY`).
    pub(super) fn open(
        display: Option<&str>,
    ) -> Result<(Self, mpsc::Receiver<FromSelection>), CaptureError> {
        let display = Display::open(display)?;
        let wakeup = Wakeup::new().map_err(no_resources)?;
        let (waker, orders) = (wakeup.waker(), Arc::<Mutex<Orders>>::default());
        let (events, from) = mpsc::channel(QUEUE_EVENTS);
        let mut window = Window::new(display, wakeup, Arc::clone(&orders), events)?;
        let run = move || {
            if let Err(error) = window.run() {
                tracing::warn!(%error, "the clipboard is gone");
            }
        };
        let thread = thread::Builder::new()
            .name("clipboard".to_owned())
            .spawn(run)
            .map_err(no_resources)?;
        let thread = Some(thread);
        let selection = Self {
            orders,
            waker,
            thread,
        };
        Ok((selection, from))
    }

    pub(super) fn tell(&self, order: ToSelection) {
        lock(&self.orders).queue.push_back(order);
        self.waker.wake_by_ref();
    }
}

impl Drop for Selection {
    fn drop(&mut self) {
        lock(&self.orders).over = true;
        self.waker.wake_by_ref();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::debug!("the clipboard's thread panicked");
        }
    }
}

fn lock(orders: &Mutex<Orders>) -> MutexGuard<'_, Orders> {
    orders.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A long text on its way to a program.
#[derive(Debug)]
struct Outgoing {
    requestor: u32,
    property: u32,
    kind: u32,
    text: Bytes,
    since: Instant,
}

/// Text on its way from a program.
#[derive(Debug)]
struct Incoming {
    text: Vec<u8>,
    in_pieces: bool,
    since: Instant,
}

struct Window {
    display: Display,
    wakeup: Wakeup,
    orders: Arc<Mutex<Orders>>,
    events: mpsc::Sender<FromSelection>,
    atoms: Atoms,
    window: u32,
    watches: bool,
    owns: bool,
    text: Option<Bytes>,
    /// Who wants text that has not come yet, since when.
    waiting: VecDeque<(SelectionRequestEvent, Instant)>,
    outgoing: Vec<Outgoing>,
    incoming: Option<Incoming>,
}

impl Window {
    fn new(
        display: Display,
        wakeup: Wakeup,
        orders: Arc<Mutex<Orders>>,
        events: mpsc::Sender<FromSelection>,
    ) -> Result<Self, CaptureError> {
        display.need(xfixes::X11_EXTENSION_NAME)?;
        let connection = &display.connection;
        let atoms = Atoms::new(connection)?.reply()?;
        let window = connection.generate_id()?;
        let settings = CreateWindowAux::new().event_mask(EventMask::PROPERTY_CHANGE);
        let class = WindowClass::INPUT_ONLY;
        connection
            .create_window(
                0,
                window,
                display.screen().root,
                0,
                0,
                1,
                1,
                0,
                class,
                0,
                &settings,
            )?
            .check()?;
        connection.xfixes_query_version(5, 0)?.reply()?;
        let changes = SelectionEventMask::SET_SELECTION_OWNER
            | SelectionEventMask::SELECTION_WINDOW_DESTROY
            | SelectionEventMask::SELECTION_CLIENT_CLOSE;
        connection
            .xfixes_select_selection_input(window, atoms.CLIPBOARD, changes)?
            .check()?;
        Ok(Self {
            display,
            wakeup,
            orders,
            events,
            atoms,
            window,
            watches: false,
            owns: false,
            text: None,
            waiting: VecDeque::new(),
            outgoing: Vec::new(),
            incoming: None,
        })
    }

    fn run(&mut self) -> Result<(), CaptureError> {
        loop {
            while let Some(event) = self.display.connection.poll_for_event()? {
                self.handle(&event)?;
            }
            self.wakeup.take();
            let (orders, over) = {
                let mut orders = lock(&self.orders);
                (std::mem::take(&mut orders.queue), orders.over)
            };
            if over {
                return self.disown();
            }
            for order in orders {
                self.obey(order)?;
            }
            self.expire()?;
            if let Some(event) = self.display.connection.poll_for_event()? {
                self.handle(&event)?;
                continue;
            }
            self.wakeup
                .sleep(&self.display.connection, self.deadline())?;
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let waiting = self.waiting.iter().map(|(_, since)| *since);
        let outgoing = self.outgoing.iter().map(|outgoing| outgoing.since);
        let incoming = self.incoming.iter().map(|incoming| incoming.since);
        let first = waiting.chain(outgoing).chain(incoming).min();
        first.map(|since| since + PATIENCE)
    }

    fn expire(&mut self) -> Result<(), CaptureError> {
        let now = Instant::now();
        let has_gone = |since: Instant| now >= since + PATIENCE;
        while self
            .waiting
            .front()
            .is_some_and(|(_, since)| has_gone(*since))
        {
            if let Some((request, _)) = self.waiting.pop_front() {
                self.answer(&request, NONE)?;
            }
        }
        self.outgoing.retain(|outgoing| !has_gone(outgoing.since));
        if self.incoming.take_if(|it| has_gone(it.since)).is_some() {
            self.say(FromSelection::Local(Bytes::new()));
        }
        Ok(())
    }

    fn say(&self, event: FromSelection) {
        if self.events.try_send(event).is_err() {
            tracing::debug!("nobody hears of the clipboard");
        }
    }

    // ---- orders --------------------------------------------------------------------------

    fn obey(&mut self, order: ToSelection) -> Result<(), CaptureError> {
        match order {
            ToSelection::Watch(watches) => {
                let begins = watches && !std::mem::replace(&mut self.watches, watches);
                self.watches = watches;
                if begins && !self.owns {
                    self.read()?;
                }
                Ok(())
            }
            ToSelection::Offered => {
                // Owned anew each time: programs that keep what they have read look again.
                (self.owns, self.text) = (true, None);
                let (window, clipboard) = (self.window, self.atoms.CLIPBOARD);
                let connection = &self.display.connection;
                connection.set_selection_owner(window, clipboard, CURRENT_TIME)?;
                Ok(())
            }
            ToSelection::Text(text) => {
                self.text = Some(text.clone());
                for (request, _) in std::mem::take(&mut self.waiting) {
                    self.serve(&request, text.clone())?;
                }
                Ok(())
            }
            ToSelection::Withdrawn => self.disown(),
        }
    }

    fn disown(&mut self) -> Result<(), CaptureError> {
        for (request, _) in std::mem::take(&mut self.waiting) {
            self.answer(&request, NONE)?;
        }
        self.text = None;
        if std::mem::take(&mut self.owns) {
            let clipboard = self.atoms.CLIPBOARD;
            let connection = &self.display.connection;
            connection.set_selection_owner(NONE, clipboard, CURRENT_TIME)?;
        }
        self.display.connection.flush()?;
        Ok(())
    }

    // ---- what happens on the display -----------------------------------------------------

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "X11 has 150 events; these are those that were asked for"
    )]
    fn handle(&mut self, event: &Event) -> Result<(), CaptureError> {
        match event {
            Event::XfixesSelectionNotify(event) if event.owner != self.window => {
                self.owns = false;
                self.text = None;
                match (self.watches, event.owner) {
                    (false, _) => Ok(()),
                    (true, NONE) => {
                        self.say(FromSelection::Local(Bytes::new()));
                        Ok(())
                    }
                    (true, _) => self.read(),
                }
            }
            Event::SelectionNotify(event) if event.requestor == self.window => {
                self.converted(event.property)
            }
            Event::SelectionRequest(event) => self.requested(event),
            Event::PropertyNotify(event) if event.window == self.window => self.piece_came(event),
            Event::PropertyNotify(event) if event.state == Property::DELETE => {
                self.piece_taken(event)
            }
            // Of windows that are gone meanwhile.
            Event::Error(error) => {
                tracing::debug!(?error, "clipboard");
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Asks whoever has the clipboard for its text.
    fn read(&mut self) -> Result<(), CaptureError> {
        self.incoming = Some(Incoming {
            text: Vec::new(),
            in_pieces: false,
            since: Instant::now(),
        });
        let atoms = self.atoms;
        self.display.connection.convert_selection(
            self.window,
            atoms.CLIPBOARD,
            atoms.UTF8_STRING,
            atoms.REMORA_CLIPBOARD,
            CURRENT_TIME,
        )?;
        Ok(())
    }

    fn converted(&mut self, property: u32) -> Result<(), CaptureError> {
        if property == NONE {
            self.incoming = None;
            self.say(FromSelection::Local(Bytes::new()));
            return Ok(());
        }
        let (kind, bytes) = self.take_property()?;
        let Some(incoming) = &mut self.incoming else {
            return Ok(());
        };
        if kind == self.atoms.INCR {
            (incoming.in_pieces, incoming.since) = (true, Instant::now());
        } else {
            incoming.text = bytes;
            self.came();
        }
        Ok(())
    }

    /// What is in our property, which is gone afterwards; as much of it as a clipboard may have, and a bit.
    fn take_property(&self) -> Result<(u32, Vec<u8>), CaptureError> {
        let words = u32::try_from(MAX_CLIPBOARD_BYTES / 4 + 1).unwrap_or(u32::MAX);
        let (window, property) = (self.window, self.atoms.REMORA_CLIPBOARD);
        let connection = &self.display.connection;
        let any = AtomEnum::ANY;
        let reply = connection.get_property(true, window, property, any, 0, words)?;
        let reply = reply.reply()?;
        if reply.bytes_after > 0 {
            // It is deleted only when it was read to its end.
            connection.delete_property(window, property)?;
        }
        Ok((reply.type_, reply.value))
    }

    fn piece_came(&mut self, event: &PropertyNotifyEvent) -> Result<(), CaptureError> {
        let is_ours =
            event.atom == self.atoms.REMORA_CLIPBOARD && event.state == Property::NEW_VALUE;
        let in_pieces = self
            .incoming
            .as_ref()
            .is_some_and(|incoming| incoming.in_pieces);
        if !is_ours || !in_pieces {
            return Ok(());
        }
        let (_, bytes) = self.take_property()?;
        if let Some(incoming) = &mut self.incoming {
            incoming.since = Instant::now();
            let is_last = bytes.is_empty();
            // Of what is too long no more is kept than shows that it is.
            if incoming.text.len() <= MAX_CLIPBOARD_BYTES {
                incoming.text.extend(bytes);
            }
            if is_last {
                self.came();
            }
        }
        Ok(())
    }

    fn came(&mut self) {
        let text = self.incoming.take().map(|incoming| incoming.text);
        let text = text.unwrap_or_default();
        let is_text = text.len() <= MAX_CLIPBOARD_BYTES && std::str::from_utf8(&text).is_ok();
        let text = if is_text { text.into() } else { Bytes::new() };
        self.say(FromSelection::Local(text));
    }

    // ---- somebody inserts ----------------------------------------------------------------

    fn requested(&mut self, request: &SelectionRequestEvent) -> Result<(), CaptureError> {
        let atoms = self.atoms;
        if !self.owns || request.selection != atoms.CLIPBOARD {
            return self.answer(request, NONE);
        }
        if request.target == atoms.TARGETS {
            let targets = [atoms.TARGETS, atoms.UTF8_STRING, atoms.MIME];
            let (to, property) = (request.requestor, property(request));
            self.display.connection.change_property32(
                PropMode::REPLACE,
                to,
                property,
                AtomEnum::ATOM,
                &targets,
            )?;
            return self.answer(request, property);
        }
        let is_text = [atoms.UTF8_STRING, atoms.MIME].contains(&request.target);
        match &self.text {
            Some(text) if is_text => {
                let text = text.clone();
                self.serve(request, text)
            }
            None if is_text && self.waiting.len() < MAX_WAITING => {
                self.waiting.push_back((*request, Instant::now()));
                self.say(FromSelection::Wanted);
                Ok(())
            }
            Some(_) | None => self.answer(request, NONE),
        }
    }

    fn serve(&mut self, request: &SelectionRequestEvent, text: Bytes) -> Result<(), CaptureError> {
        let (requestor, property, kind) = (request.requestor, property(request), request.target);
        let connection = &self.display.connection;
        if text.len() <= PIECE_BYTES {
            connection.change_property8(PropMode::REPLACE, requestor, property, kind, &text)?;
        } else if self.outgoing.len() < MAX_WAITING {
            let pieces = ChangeWindowAttributesAux::new().event_mask(EventMask::PROPERTY_CHANGE);
            connection.change_window_attributes(requestor, &pieces)?;
            let length = [u32::try_from(text.len()).unwrap_or(u32::MAX)];
            let incr = self.atoms.INCR;
            connection.change_property32(PropMode::REPLACE, requestor, property, incr, &length)?;
            self.outgoing.push(Outgoing {
                requestor,
                property,
                kind,
                text,
                since: Instant::now(),
            });
        } else {
            return self.answer(request, NONE);
        }
        self.answer(request, property)
    }

    /// The program has taken what there was: the next piece follows, and after the last an empty one.
    fn piece_taken(&mut self, event: &PropertyNotifyEvent) -> Result<(), CaptureError> {
        let of = |outgoing: &Outgoing| {
            outgoing.requestor == event.window && outgoing.property == event.atom
        };
        let Some(at) = self.outgoing.iter().position(of) else {
            return Ok(());
        };
        let outgoing = &mut self.outgoing[at];
        let piece = outgoing.text.split_to(outgoing.text.len().min(PIECE_BYTES));
        outgoing.since = Instant::now();
        let (to, property, kind) = (outgoing.requestor, outgoing.property, outgoing.kind);
        self.display
            .connection
            .change_property8(PropMode::REPLACE, to, property, kind, &piece)?;
        if piece.is_empty() {
            self.outgoing.swap_remove(at);
            let nothing = ChangeWindowAttributesAux::new().event_mask(EventMask::NO_EVENT);
            self.display
                .connection
                .change_window_attributes(to, &nothing)?;
        }
        Ok(())
    }

    fn answer(&self, request: &SelectionRequestEvent, property: u32) -> Result<(), CaptureError> {
        let event = SelectionNotifyEvent {
            response_type: SELECTION_NOTIFY_EVENT,
            sequence: 0,
            time: request.time,
            requestor: request.requestor,
            selection: request.selection,
            target: request.target,
            property,
        };
        self.display
            .connection
            .send_event(false, request.requestor, EventMask::NO_EVENT, event)?;
        Ok(())
    }
}

/// Programs of before 1988 name none (ICCCM §2.2).
fn property(request: &SelectionRequestEvent) -> u32 {
    match request.property {
        NONE => request.target,
        property => property,
    }
}
