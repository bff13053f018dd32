//! The page in the browser, as the rest of the node sees it: events and frames in, wishes out.
//!
//! ```text
//!             PageSender                    ui/server (axum on 127.0.0.1)
//!  node ── event ─────▶ log ─────────┐
//!       ── transient ─▶ newest each ─┼─▶ one page, the one opened last ── WebSocket ──▶ ui/*.js
//!       ── frame ─────▶ few, bounded ┘                                        │
//!       ◀──────────────────────────── FromPage, parsed and checked ◀──────────┘
//! ```
//!
//! The page keeps nothing: it is a function of the log, which every page that connects gets first, in order. So a reload,
//! or the address opened in another window, shows what there was.

/// The page's files.
mod assets;
/// Who may come in: Host, Origin, token, cookie, key.
mod door;
/// Files that pages give, and are given.
mod files;
/// What pages say.
mod message;
/// What pages are told, waiting for them.
mod outbox;
/// A session code for a camera.
mod qr;
/// HTTP and WebSocket.
mod server;

use std::{
    io,
    net::Ipv4Addr,
    net::TcpListener as StdListener,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use remora_proto::identity::Role;
use serde_json::Value;
use tokio::{net::TcpListener, sync::mpsc, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

pub use self::message::{Asked, Call, Colour, FromPage, InputEvent, Invalid, More};
use self::{door::Door, outbox::Outbox, server::Server};
use crate::exchange::Folder;

/// Wishes waiting for the node: a burst of pointer moves. When it is full the page is read no further.
const QUEUE_WISHES: usize = 256;
/// For the last events to reach the page.
const FAREWELL: Duration = Duration::from_secs(1);

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub enum UiError {
    /// Somebody else has the port, or this machine has no loopback.
    #[error("cannot listen on 127.0.0.1:{port}: {source}; choose another --page-port")]
    Listen {
        /// The port that was asked for; 0 is any.
        port: u16,
        /// The system's answer.
        source: io::Error,
    },
}

/// The page's server. Dropping it ends its tasks.
#[derive(Debug)]
pub struct Ui {
    url: String,
    outbox: Arc<Outbox>,
    folder: Arc<OnceLock<Folder>>,
    closing: CancellationToken,
    tasks: JoinSet<()>,
}

/// What connects the page to the node.
#[derive(Debug)]
pub struct UiChannels {
    /// To the page.
    pub to_page: PageSender,
    /// From the page; ends when [`Ui`] is dropped.
    pub from_page: mpsc::Receiver<FromPage>,
}

/// Tells the page. Never waits: a page that does not read holds up nobody.
#[derive(Clone, Debug)]
pub struct PageSender {
    outbox: Arc<Outbox>,
}

impl PageSender {
    /// Something happened: `{"event": …}`, as `--json` prints it. Kept, for pages that connect later.
    pub fn event(&self, event: Value) {
        self.outbox.event(event);
    }

    /// Something is so just now. Not kept; only the newest with the same `"event"` is sent.
    pub fn transient(&self, event: Value) {
        self.outbox.transient(event);
    }

    /// A frame of the screen. `false`: no page wants it, or the page is too far behind; the next one that reaches it must
    /// be a key frame, and [`FromPage::KeyFrame`] says when.
    pub fn frame(&self, frame: Bytes) -> bool {
        self.outbox.frame(frame)
    }

    /// Whether a page is open.
    pub fn is_open(&self) -> bool {
        self.outbox.is_open()
    }
}

impl Ui {
    /// Opens the page of `role` (the person chooses when there is none) on 127.0.0.1; port 0 is any. To be called in a
    /// tokio runtime.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn open(role: impl Into<Option<Role>>, port: u16) -> Result<(Self, UiChannels), UiError> {
        let failed = |source| UiError::Listen { port, source };
        let listener = StdListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?.port();
        let listener = TcpListener::from_std(listener).map_err(failed)?;

        let (wishes, from_page) = mpsc::channel(QUEUE_WISHES);
        let outbox = Arc::new(Outbox::new(role.into()));
        let door = Door::new(bound);
        let url = format!("http://127.0.0.1:{bound}/#{}", door.token());
        let closing = CancellationToken::new();
        let folder = Arc::<OnceLock<Folder>>::default();
        let server = Server::new(
            door,
            outbox.clone(),
            wishes,
            folder.clone(),
            closing.clone(),
        );
        let mut tasks = JoinSet::new();
        tasks.spawn(server.run(listener));
        let to_page = PageSender {
            outbox: outbox.clone(),
        };
        Ok((
            Self {
                url,
                outbox,
                folder,
                closing,
                tasks,
            },
            UiChannels { to_page, from_page },
        ))
    }

    /// What to open in a browser; works once. A secret: for the person in front of this computer only.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where the bytes of files are that the page gives; before it is said, none are taken. Only the first time counts.
    pub fn keep_in(&self, folder: Folder) {
        self.folder.get_or_init(|| folder);
    }

    /// Ends the server once the page has been told everything, or does not listen.
    pub async fn close(mut self) {
        timeout(FAREWELL, self.outbox.delivered()).await.ok();
        self.closing.cancel();
        timeout(FAREWELL, async {
            while self.tasks.join_next().await.is_some() {}
        })
        .await
        .ok();
    }
}

impl Drop for Ui {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}
