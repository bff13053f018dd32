//! HTTP and WebSocket on the loopback address.
//!
//! | request | who | answer |
//! |---|---|---|
//! | `GET` of a file of the page | our `Host` | the file: nothing in it is secret |
//! | `POST /session`, the token as text | our `Origin`, the token, once | cookie, and `{"key"}` |
//! | `GET /live`, upgraded | our `Origin`, cookie and key | the session |
//! | `POST /live/files`, `POST /live/files/NUMBER` | the same, the key in `X-Remora-Key` | a file that the page gives, or is given: `files` |
//! | anything else | | 404 |

use std::{
    ops::ControlFlow,
    sync::{Arc, OnceLock},
};

use axum::{
    Router,
    body::Bytes,
    extract::{
        DefaultBodyLimit, Path, Request, State,
        ws::{
            CloseFrame, Message, WebSocket, WebSocketUpgrade, rejection::WebSocketUpgradeRejection,
        },
    },
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{any, get, post},
    serve::ListenerExt,
};
use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, mpsc},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{
    assets::asset,
    door::{Door, PROTOCOL, TokenRefused},
    files::{self, MAX_AT_ONCE},
    message::{FromPage, InputEvent, Invalid, MAX_MESSAGE_BYTES},
    outbox::{Cursor, Outbox, Visitor},
};
use crate::exchange::Folder;
use remora_picture::frame::jpeg;

/// A token and not much more.
const MAX_BODY_BYTES: usize = 256;
/// Another page has taken over (RFC 6455 §7.4.2: 4000–4999 are ours).
const CLOSE_REPLACED: u16 = 4_001;
/// The node ends (RFC 6455 §7.4.1).
const CLOSE_GOING_AWAY: u16 = 1_001;

/// On every answer, errors included.
const HEADERS: [(HeaderName, HeaderValue); 9] = [
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; \
             worker-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
        ),
    ),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    ),
    (
        header::REFERRER_POLICY,
        HeaderValue::from_static("no-referrer"),
    ),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        HeaderValue::from_static("same-origin"),
    ),
    (
        HeaderName::from_static("cross-origin-embedder-policy"),
        HeaderValue::from_static("require-corp"),
    ),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        HeaderValue::from_static("same-origin"),
    ),
    (
        HeaderName::from_static("permissions-policy"),
        HeaderValue::from_static(
            "camera=(), microphone=(), geolocation=(), display-capture=(), usb=(), serial=()",
        ),
    ),
];

/// One page's server.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) door: Door,
    pub(super) outbox: Arc<Outbox>,
    wishes: mpsc::Sender<FromPage>,
    /// Where bytes of files are that pages give.
    pub(super) folder: Arc<OnceLock<Folder>>,
    /// Who may give one just now.
    pub(super) turns: Semaphore,
    closing: CancellationToken,
}

pub(super) type Shared = State<Arc<Server>>;

impl Server {
    pub(super) fn new(
        door: Door,
        outbox: Arc<Outbox>,
        wishes: mpsc::Sender<FromPage>,
        folder: Arc<OnceLock<Folder>>,
        closing: CancellationToken,
    ) -> Self {
        Self {
            door,
            outbox,
            wishes,
            folder,
            turns: Semaphore::new(MAX_AT_ONCE),
            closing,
        }
    }

    /// Serves until it is closed.
    pub(super) async fn run(self, listener: TcpListener) {
        let server = Arc::new(self);
        let closing = server.closing.clone();
        let router = Router::new()
            .route("/session", post(session))
            .route("/live", any(live))
            .route("/live/files", post(files::take))
            .route("/live/files/{number}", post(files::give))
            .route("/viewer/jpeg/{quality}", get(jpeg_head))
            .fallback(get(file).fallback(not_found))
            .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
            .layer(from_fn_with_state(server.clone(), guard))
            .with_state(server);
        // Keys and frames are small and wait for nothing.
        let listener = listener.tap_io(|stream| {
            if let Err(error) = stream.set_nodelay(true) {
                debug!(%error, "TCP_NODELAY");
            }
        });
        if let Err(error) = axum::serve(listener, router)
            .with_graceful_shutdown(closing.cancelled_owned())
            .await
        {
            warn!(%error, "the page's server ended");
        }
    }
}

// ---- HTTP --------------------------------------------------------------------------------------

async fn guard(State(server): Shared, request: Request, next: Next) -> Response {
    let mut response = match server.door.host(request.headers()) {
        Some(_) => next.run(request).await,
        None => refuse(
            StatusCode::FORBIDDEN,
            "HOST",
            "This address is only for the computer it runs on.",
        ),
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, value);
    }
    response
}

pub(super) fn refuse(status: StatusCode, error: &str, text: &str) -> Response {
    let body = json!({"error": error, "text": text}).to_string();
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

pub(super) fn not_ours() -> Response {
    refuse(
        StatusCode::FORBIDDEN,
        "ORIGIN",
        "Only Remora's own page may do that.",
    )
}

pub(super) fn not_let_in() -> Response {
    refuse(
        StatusCode::FORBIDDEN,
        "NO_SESSION",
        "Please open the address that Remora printed.",
    )
}

pub(super) async fn not_found() -> Response {
    refuse(StatusCode::NOT_FOUND, "NOT_FOUND", "There is nothing here.")
}

async fn file(uri: Uri) -> Response {
    match asset(uri.path()) {
        Some(asset) => ([(header::CONTENT_TYPE, asset.mime())], asset.body).into_response(),
        None => not_found().await,
    }
}

/// What stands before the pixels in a JPEG of a quality and of one pixel.
async fn jpeg_head(Path(quality): Path<u8>) -> Response {
    match jpeg::head(quality, (1, 1)) {
        Some(head) => ([(header::CONTENT_TYPE, "application/octet-stream")], head).into_response(),
        None => not_found().await,
    }
}

async fn session(State(server): Shared, headers: HeaderMap, body: Bytes) -> Response {
    if !server.door.same_origin(&headers) {
        return not_ours();
    }
    match server
        .door
        .enter(std::str::from_utf8(&body).unwrap_or_default())
    {
        Ok(()) => {
            let key = json!({"key": server.door.key()}).to_string();
            let headers = [
                (header::SET_COOKIE, server.door.set_cookie()),
                (
                    header::CONTENT_TYPE,
                    HeaderValue::from_static("application/json"),
                ),
            ];
            (headers, key).into_response()
        }
        Err(TokenRefused::Used) => {
            let text = "This address has been opened before, and opens only once. Go on in that window, or start Remora again.";
            refuse(StatusCode::FORBIDDEN, "TOKEN_USED", text)
        }
        Err(TokenRefused::Unknown) => {
            let text =
                "This is not the address that Remora printed. Please copy it again, all of it.";
            refuse(StatusCode::FORBIDDEN, "TOKEN_UNKNOWN", text)
        }
    }
}

async fn live(
    State(server): Shared,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    if !server.door.same_origin(&headers) {
        return not_ours();
    }
    if !server.door.knows(&headers) {
        return not_let_in();
    }
    match upgrade {
        Ok(upgrade) => upgrade
            .protocols([PROTOCOL])
            .max_message_size(MAX_MESSAGE_BYTES)
            .max_frame_size(MAX_MESSAGE_BYTES)
            .write_buffer_size(0)
            .on_upgrade(move |socket| visit(server, socket)),
        Err(_) => not_found().await,
    }
}

// ---- WebSocket ---------------------------------------------------------------------------------

/// One page, from its coming to its going.
async fn visit(server: Arc<Server>, socket: WebSocket) {
    let (visitor, hello) = server.outbox.enter();
    let (sink, stream) = socket.split();
    tokio::select! { biased;
        () = write(&server, visitor, hello, sink) => {}
        () = read(&server, stream) => {}
    }
    // Whatever the page held down, nobody will let go of.
    server
        .wish(FromPage::Input(vec![InputEvent::ReleaseAll]))
        .await;
    if server.outbox.leave(visitor) {
        server.wish(FromPage::Gone).await;
    }
}

async fn write(
    server: &Server,
    visitor: Visitor,
    hello: String,
    mut sink: SplitSink<WebSocket, Message>,
) {
    let mut changes = server.outbox.changes();
    let mut cursor = Cursor::default();
    if sink.send(Message::text(hello)).await.is_err() {
        return;
    }
    let (code, reason) = loop {
        changes.mark_unchanged();
        let batch = server.outbox.take(visitor, &mut cursor);
        if batch.replaced {
            break (CLOSE_REPLACED, "opened in another window");
        }
        if batch.starved && server.wishes.try_send(FromPage::KeyFrame).is_err() {
            server.outbox.still_starved();
        }
        let idle = batch.texts.is_empty() && batch.frame.is_none();
        let texts = batch.texts.into_iter().map(Message::text);
        for message in texts.chain(batch.frame.map(Message::Binary)) {
            tokio::select! { biased;
                sent = sink.send(message) => if sent.is_err() { return },
                () = server.closing.cancelled() => return,
            }
        }
        if !idle {
            server.outbox.sent(visitor, &cursor);
            continue;
        }
        tokio::select! { biased;
            () = server.closing.cancelled() => break (CLOSE_GOING_AWAY, "Remora has ended"),
            changed = changes.changed() => if changed.is_err() { return },
        }
    };
    let close = CloseFrame {
        code,
        reason: reason.into(),
    };
    sink.send(Message::Close(Some(close))).await.ok();
}

async fn read(server: &Server, mut stream: SplitStream<WebSocket>) {
    while let Some(Ok(message)) = stream.next().await {
        let flow = match message {
            Message::Text(text) => server.said(&text).await,
            Message::Binary(_) => {
                server.complain("not a message of this page: binary");
                ControlFlow::Continue(())
            }
            Message::Ping(_) | Message::Pong(_) => ControlFlow::Continue(()),
            Message::Close(_) => ControlFlow::Break(()),
        };
        if flow.is_break() {
            break;
        }
    }
}

/// What the page shows of a wish at once, and again after a reload: as if the node had told it.
fn echo(wish: &FromPage) -> Option<Value> {
    Some(match wish {
        FromPage::Join { .. } => json!({"event": "you", "did": "join"}),
        FromPage::NewCode => json!({"event": "you", "did": "new_code"}),
        FromPage::Ask { mode } => json!({"event": "you", "did": "ask", "mode": mode.to_string()}),
        FromPage::Allow { mode } => {
            json!({"event": "you", "did": "allow", "mode": mode.to_string()})
        }
        FromPage::Decline => json!({"event": "you", "did": "decline"}),
        FromPage::Words { same } => json!({"event": "you", "did": "words", "same": same}),
        FromPage::Leave => json!({"event": "you", "did": "leave"}),
        FromPage::Choose(role) => {
            json!({"event": "you", "did": "choose", "role": crate::event::role_name(*role)})
        }
        FromPage::AllowMore(what) => {
            json!({"event": "you", "did": "allow_more", "what": what.name()})
        }
        // Told when it is on its way to the session, from wherever it was wished.
        FromPage::Elevate | FromPage::Order(_) | FromPage::Restart | FromPage::HandOver { .. } => {
            return None;
        }
        FromPage::Chat { .. }
        | FromPage::Invite(_)
        | FromPage::Look
        | FromPage::Take { .. }
        | FromPage::Retry
        | FromPage::Release
        | FromPage::Continue
        | FromPage::ConfirmLeave
        | FromPage::Stay
        | FromPage::Grant { .. }
        | FromPage::File { .. }
        | FromPage::Copy { .. }
        | FromPage::Paste
        | FromPage::Drop
        | FromPage::Pause
        | FromPage::Resume
        | FromPage::Select { .. }
        | FromPage::Pointer { .. }
        | FromPage::Pen { .. }
        | FromPage::PenClear
        | FromPage::Input(_)
        | FromPage::Ack { .. }
        | FromPage::KeyFrame
        | FromPage::Ready
        | FromPage::Gone => return None,
    })
}

impl Server {
    fn complain(&self, text: &str) {
        self.outbox
            .transient(json!({"event": "bad_message", "text": text}));
    }

    async fn said(&self, text: &str) -> ControlFlow<()> {
        let wish = match FromPage::parse(text) {
            Ok(wish) => wish,
            Err(Invalid::Code(error)) => {
                let event = json!({"event": "join_failed", "code": "INVALID_CODE", "text": error.to_string()});
                self.outbox.event(event);
                return ControlFlow::Continue(());
            }
            Err(error) => {
                self.complain(&error.to_string());
                return ControlFlow::Continue(());
            }
        };
        if let FromPage::Choose(role) = wish
            && !self.outbox.choose(role)
        {
            return ControlFlow::Continue(());
        }
        if let Some(event) = echo(&wish) {
            self.outbox.event(event);
        }
        if self.wish(wish).await {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    }

    /// `false`: the node does not listen any more.
    pub(super) async fn wish(&self, wish: FromPage) -> bool {
        self.wishes.send(wish).await.is_ok()
    }
}
