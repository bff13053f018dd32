//! What pages are told, waiting for them. The node puts, the connection of the newest page takes; nobody waits for the
//! other.
//!
//! | kept | how much | when full |
//! |---|---|---|
//! | events | `LOG_EVENTS` | the oldest chat goes first |
//! | transients | the newest of each name | replaced |
//! | frames | `FRAMES`, `FRAME_BYTES` | all are dropped, the node is asked for a key frame |

use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use bytes::Bytes;
use remora_picture::frame::Header;
use remora_proto::identity::Role;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::qr::qr;
use crate::event::role_name;

/// Days of a session with a lively chat.
const LOG_EVENTS: usize = 4_096;
/// A quarter of a second at 60 Hz: a page further behind is better off with a fresh picture.
const FRAMES: usize = 32;
/// Two raw 4K pictures; a page further behind is stuck.
const FRAME_BYTES: usize = 64 << 20;
/// Events of which only the newest means anything.
const NEWEST_ONLY: [&str; 4] = ["screen", "cursor", "stats", "input_refused"];

/// A page's connection, by age.
pub(super) type Visitor = u64;

#[derive(Debug)]
struct Logged {
    number: u64,
    at: Instant,
    name: String,
    event: Value,
}

#[derive(Debug, Default)]
struct State {
    role: Option<Role>,
    log: VecDeque<Logged>,
    next: u64,
    transients: BTreeMap<String, (u64, String)>,
    frames: VecDeque<Bytes>,
    frame_bytes: usize,
    /// Frames are of no use until a key frame comes.
    broken: bool,
    /// ... because the page was slow.
    overflowed: bool,
    /// The page that is served: the newest.
    visitor: Option<Visitor>,
    visitors: u64,
    /// How far that page has been told.
    told: u64,
}

/// See above.
///
/// A mutex, because a task that owned the state would have to be waited for by the capture thread. It is held for a push
/// or a pop, never across an await.
#[derive(Debug)]
pub(super) struct Outbox {
    state: Mutex<State>,
    changes: watch::Sender<u64>,
}

/// What a page is to be told next.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) texts: Vec<String>,
    pub(super) frame: Option<Bytes>,
    /// Frames were dropped because the page was slow; it has caught up now and needs a key frame.
    pub(super) starved: bool,
    /// A newer page has taken over.
    pub(super) replaced: bool,
}

/// How far a page has been told.
#[derive(Debug, Default)]
pub(super) struct Cursor {
    next: u64,
    transients: BTreeMap<String, u64>,
    live: bool,
}

fn name(event: &Value) -> &str {
    event
        .get("event")
        .and_then(Value::as_str)
        .unwrap_or_default()
}

impl Logged {
    /// With its age, from which the page knows what is left of a countdown.
    fn text(&self, now: Instant) -> String {
        let mut event = self.event.clone();
        if let Some(object) = event.as_object_mut() {
            let age = u64::try_from(now.duration_since(self.at).as_millis()).unwrap_or(u64::MAX);
            object.insert("ago_ms".into(), age.into());
        }
        event.to_string()
    }
}

impl State {
    fn drop_frames(&mut self) {
        self.frames.clear();
        self.frame_bytes = 0;
        self.broken = true;
    }

    fn make_room(&mut self) {
        if self.log.len() >= LOG_EVENTS {
            let chat = self
                .log
                .iter()
                .position(|logged| logged.name.starts_with("chat"));
            self.log.remove(chat.unwrap_or(0));
        }
    }
}

impl Outbox {
    pub(super) fn new(role: Option<Role>) -> Self {
        let state = State {
            role,
            broken: true,
            ..State::default()
        };
        Self {
            state: Mutex::new(state),
            changes: watch::Sender::new(0),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is whole before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.changes
            .send_modify(|count| *count = count.wrapping_add(1));
    }

    // ---- the node's side ---------------------------------------------------------------------

    pub(super) fn event(&self, mut event: Value) {
        let name = name(&event).to_owned();
        if name == "code"
            && let Some(code) = event.get("code").and_then(Value::as_str).and_then(qr)
            && let Some(object) = event.as_object_mut()
        {
            object.insert("qr".into(), code);
        }
        let mut state = self.state();
        if NEWEST_ONLY.contains(&name.as_str()) {
            state.log.retain(|logged| logged.name != name);
        }
        state.make_room();
        let number = state.next;
        state.next += 1;
        state.log.push_back(Logged {
            number,
            at: Instant::now(),
            name,
            event,
        });
        drop(state);
        self.changed();
    }

    pub(super) fn transient(&self, event: Value) {
        let mut state = self.state();
        let newest = state.transients.entry(name(&event).to_owned()).or_default();
        *newest = (newest.0 + 1, event.to_string());
        drop(state);
        self.changed();
    }

    pub(super) fn frame(&self, frame: Bytes) -> bool {
        let mut state = self.state();
        if state.visitor.is_none() {
            return false;
        }
        if Header::parse(&frame).is_ok_and(|(header, _)| header.key.is_some()) {
            state.drop_frames();
            state.broken = false;
            state.overflowed = false;
        }
        if state.broken {
            return false;
        }
        if state.frames.len() >= FRAMES || state.frame_bytes + frame.len() > FRAME_BYTES {
            state.drop_frames();
            state.overflowed = true;
        } else {
            state.frame_bytes += frame.len();
            state.frames.push_back(frame);
        }
        let taken = !state.broken;
        drop(state);
        self.changed();
        taken
    }

    pub(super) fn is_open(&self) -> bool {
        self.state().visitor.is_some()
    }

    /// Until the page has been told everything; at once when there is none.
    pub(super) async fn delivered(&self) {
        let mut changes = self.changes.subscribe();
        loop {
            {
                let state = self.state();
                if state.visitor.is_none() || state.told >= state.next {
                    return;
                }
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Where a file is that has come, as was told last.
    pub(super) fn received(&self, number: u32) -> Option<PathBuf> {
        let is_it = |event: &Value| {
            event["direction"] == "in" && event["number"] == number && event["path"].is_string()
        };
        let state = self.state();
        let mut told = state.log.iter().rev();
        let told = told.find(|logged| logged.name == "file_over" && is_it(&logged.event))?;
        told.event["path"].as_str().map(PathBuf::from)
    }

    // ---- the page's side ---------------------------------------------------------------------

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// A page has come: the others make way.
    pub(super) fn enter(&self) -> (Visitor, String) {
        let mut state = self.state();
        state.visitors += 1;
        state.visitor = Some(state.visitors);
        state.told = 0;
        state.drop_frames();
        state.overflowed = false;
        let hello = json!({
            "event": "hello", "v": 1, "version": env!("CARGO_PKG_VERSION"), "role": state.role.map(role_name),
        });
        let visitor = state.visitors;
        drop(state);
        self.changed();
        (visitor, hello.to_string())
    }

    /// A page has gone; `true` if no other is there.
    pub(super) fn leave(&self, visitor: Visitor) -> bool {
        let mut state = self.state();
        let last = state.visitor == Some(visitor);
        if last {
            state.visitor = None;
            state.drop_frames();
        }
        let open = state.visitor.is_some();
        drop(state);
        self.changed();
        !open
    }

    /// The role was chosen on the page; `false` if it stood already.
    pub(super) fn choose(&self, role: Role) -> bool {
        let mut state = self.state();
        let free = state.role.is_none();
        state.role.get_or_insert(role);
        free
    }

    pub(super) fn take(&self, visitor: Visitor, cursor: &mut Cursor) -> Batch {
        let now = Instant::now();
        let mut state = self.state();
        if state.visitor != Some(visitor) {
            return Batch {
                replaced: true,
                ..Batch::default()
            };
        }
        let from = state
            .log
            .partition_point(|logged| logged.number < cursor.next);
        let mut texts: Vec<String> = state
            .log
            .range(from..)
            .map(|logged| logged.text(now))
            .collect();
        cursor.next = state.next;
        if !cursor.live {
            cursor.live = true;
            texts.push(json!({"event": "live"}).to_string());
        }
        for (name, (version, text)) in &state.transients {
            if cursor.transients.get(name) != Some(version) {
                cursor.transients.insert(name.clone(), *version);
                texts.push(text.clone());
            }
        }
        let frame = state.frames.pop_front();
        state.frame_bytes -= frame.as_ref().map_or(0, Bytes::len);
        let starved = std::mem::take(&mut state.overflowed);
        Batch {
            texts,
            frame,
            starved,
            replaced: false,
        }
    }

    /// The node could not be asked for a key frame just now.
    pub(super) fn still_starved(&self) {
        self.state().overflowed = true;
    }

    /// What was taken until now has been sent.
    pub(super) fn sent(&self, visitor: Visitor, cursor: &Cursor) {
        let mut state = self.state();
        let news = state.visitor == Some(visitor) && state.told < cursor.next;
        if news {
            state.told = cursor.next;
        }
        drop(state);
        if news {
            self.changed();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(key: bool, fill: u8) -> Bytes {
        let mut bytes = Vec::new();
        let header = Header {
            sequence: 1,
            captured_ms: 0,
            after: 1,
            key: key.then_some((1, 1)),
            exact: false,
            quiet: false,
        };
        header.write(&mut bytes);
        bytes.push(fill);
        bytes.into()
    }

    fn names(batch: &Batch) -> Vec<String> {
        let parse = |text: &String| serde_json::from_str::<Value>(text).expect("JSON");
        batch
            .texts
            .iter()
            .map(parse)
            .map(|event| name(&event).to_owned())
            .collect()
    }

    #[test]
    fn each_page_gets_all_that_happened_in_order() {
        let outbox = Outbox::new(None);
        outbox.event(json!({"event": "code", "code": "4060-r0gx"}));
        outbox.event(json!({"event": "cursor", "shape": "old"}));
        outbox.event(json!({"event": "trust"}));
        outbox.event(json!({"event": "cursor", "shape": "new"}));
        for _ in 0..2 {
            let (visitor, _) = outbox.enter();
            let mut cursor = Cursor::default();
            let batch = outbox.take(visitor, &mut cursor);
            assert_eq!(names(&batch), ["code", "trust", "cursor", "live"]);
            assert!(batch.texts[0].contains("\"qr\"") && batch.texts[2].contains("new"));
            assert_eq!(names(&outbox.take(visitor, &mut cursor)), [""; 0]);
        }
    }

    #[test]
    fn of_transients_the_newest_is_told_once() {
        let outbox = Outbox::new(None);
        let (visitor, _) = outbox.enter();
        let mut cursor = Cursor::default();
        outbox.transient(json!({"event": "path", "rtt_ms": 1}));
        outbox.transient(json!({"event": "path", "rtt_ms": 2}));
        let batch = outbox.take(visitor, &mut cursor);
        assert_eq!(names(&batch), ["live", "path"]);
        assert!(batch.texts[1].contains('2'));
        assert!(outbox.take(visitor, &mut cursor).texts.is_empty());
    }

    #[test]
    fn frames_wait_for_a_page_and_its_key_frame() {
        let outbox = Outbox::new(None);
        assert!(!outbox.frame(frame(true, 0)), "nobody looks");
        let (visitor, _) = outbox.enter();
        assert!(
            !outbox.frame(frame(false, 1)),
            "a new page knows nothing to build on"
        );
        assert!(outbox.frame(frame(true, 2)) && outbox.frame(frame(false, 3)));
        assert!(
            outbox.frame(frame(true, 4)),
            "everything before is forgotten"
        );
        let mut cursor = Cursor::default();
        assert_eq!(
            outbox.take(visitor, &mut cursor).frame,
            Some(frame(true, 4))
        );
        assert_eq!(outbox.take(visitor, &mut cursor).frame, None);
    }

    #[test]
    fn a_page_that_does_not_read_costs_a_bounded_number_of_frames() {
        let outbox = Outbox::new(None);
        let (visitor, _) = outbox.enter();
        assert!(outbox.frame(frame(true, 0)));
        let taken = (1..=255)
            .filter(|fill| outbox.frame(frame(false, *fill)))
            .count();
        assert_eq!(taken, FRAMES - 1);
        let batch = outbox.take(visitor, &mut Cursor::default());
        assert_eq!(
            (batch.frame, batch.starved),
            (None, true),
            "a torn sequence is no picture"
        );
        assert!(outbox.frame(frame(true, 1)));
    }

    #[test]
    fn a_newer_page_replaces_an_older_one() {
        let outbox = Outbox::new(None);
        let (first, _) = outbox.enter();
        let (second, _) = outbox.enter();
        assert!(outbox.take(first, &mut Cursor::default()).replaced);
        assert!(!outbox.leave(first), "the second is there");
        assert!(!outbox.take(second, &mut Cursor::default()).replaced);
        assert!(outbox.leave(second));
    }

    #[test]
    fn the_log_is_bounded_and_chat_goes_first() {
        let outbox = Outbox::new(None);
        outbox.event(json!({"event": "trust"}));
        for id in 0..LOG_EVENTS * 2 {
            outbox.event(json!({"event": "chat", "id": id}));
        }
        let (visitor, _) = outbox.enter();
        let batch = outbox.take(visitor, &mut Cursor::default());
        assert_eq!(batch.texts.len(), LOG_EVENTS + 1);
        assert_eq!(names(&batch)[0], "trust");
    }
}
