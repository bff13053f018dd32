//! The page's server, as browsers, other people's pages and impolite programs meet it.

use std::{os::unix::fs::FileExt as _, time::Duration};

use axum::body::Bytes;
use futures_util::{SinkExt, StreamExt};
use remora::{
    exchange::Wish,
    ui::{FromPage, InputEvent, Ui, UiChannels},
};
use remora_picture::frame::Header;
use remora_proto::{identity::Role, session::Mode};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{
        Error as WsError, Message, client::IntoClientRequest, handshake::client::Request,
        protocol::frame::coding::CloseCode,
    },
};

/// On loopback, nothing takes this long.
const SOON: Duration = Duration::from_secs(10);

type Socket = WebSocketStream<TcpStream>;

/// A server, and what a browser would know of it.
struct Site {
    ui: Ui,
    channels: UiChannels,
    host: String,
    token: String,
}

/// An HTTP answer.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

/// What a browser keeps after it was let in.
#[derive(Clone)]
struct Pass {
    cookie: String,
    key: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines
            .into_iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }
}

fn site(role: impl Into<Option<Role>>) -> Site {
    let (ui, channels) = Ui::open(role, 0).expect("opens");
    let address = ui.url().strip_prefix("http://").expect("http").to_owned();
    let (host, token) = address.split_once("/#").expect("a token");
    Site {
        host: host.to_owned(),
        token: token.to_owned(),
        ui,
        channels,
    }
}

impl Site {
    fn origin(&self) -> String {
        format!("http://{}", self.host)
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(&self.host).await.expect("connects")
    }

    /// Sends a request as it stands; `Connection: close` is added.
    async fn send(&self, line: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut stream = self.connect().await;
        let mut request = format!("{line} HTTP/1.1\r\nConnection: close\r\n");
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
        stream.write_all(request.as_bytes()).await.expect("writes");
        let mut bytes = Vec::new();
        timeout(SOON, stream.read_to_end(&mut bytes))
            .await
            .expect("an answer")
            .ok();
        let text = String::from_utf8(bytes).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("an HTTP answer");
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|word| word.parse().ok())
            .expect("a status");
        Answer {
            status,
            head: head.to_owned(),
            body: body.to_owned(),
        }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(&format!("GET {path}"), &[("Host", &self.host)], "")
            .await
    }

    async fn post_token(&self, token: &str) -> Answer {
        let headers = [("Host", self.host.as_str()), ("Origin", &self.origin())];
        self.send("POST /session", &headers, token).await
    }

    async fn enter(&self) -> Pass {
        let answer = self.post_token(&self.token).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        let cookie = answer.header("set-cookie").expect("a cookie");
        assert!(
            cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"),
            "{cookie}"
        );
        let body: Value = serde_json::from_str(&answer.body).expect("JSON");
        Pass {
            cookie: cookie.split(';').next().expect("a pair").to_owned(),
            key: body["key"].as_str().expect("a key").to_owned(),
        }
    }

    fn upgrade(&self, pass: &Pass) -> Request {
        let mut request = format!("ws://{}/live", self.host)
            .into_client_request()
            .expect("an address");
        let headers = request.headers_mut();
        headers.insert("Origin", self.origin().parse().expect("a header"));
        headers.insert(
            "Cookie",
            format!("theme=dark; {}", pass.cookie)
                .parse()
                .expect("a header"),
        );
        let protocols = format!("remora.1, key.{}", pass.key);
        headers.insert(
            "Sec-WebSocket-Protocol",
            protocols.parse().expect("a header"),
        );
        request
    }

    async fn open(&self, pass: &Pass) -> Page {
        let (socket, _) = client_async(self.upgrade(pass), self.connect().await)
            .await
            .expect("is let in");
        let mut page = Page { socket };
        assert_eq!(page.event().await["event"], "hello");
        page
    }

    async fn refused(&self, request: Request) -> u16 {
        match client_async(request, self.connect().await).await {
            Err(WsError::Http(answer)) => answer.status().as_u16(),
            other => panic!("not refused: {other:?}"),
        }
    }

    async fn wish(&mut self) -> FromPage {
        timeout(SOON, self.channels.from_page.recv())
            .await
            .expect("a wish")
            .expect("open")
    }
}

struct Page {
    socket: Socket,
}

impl Page {
    async fn message(&mut self) -> Message {
        timeout(SOON, self.socket.next())
            .await
            .expect("a message")
            .expect("open")
            .expect("whole")
    }

    async fn event(&mut self) -> Value {
        loop {
            if let Message::Text(text) = self.message().await {
                return serde_json::from_str(&text).expect("JSON");
            }
        }
    }

    /// All that is replayed.
    async fn replay(&mut self) -> Vec<Value> {
        let mut events = Vec::new();
        loop {
            let event = self.event().await;
            if event["event"] == "live" {
                return events;
            }
            events.push(event);
        }
    }

    async fn say(&mut self, message: impl Into<Message>) {
        self.socket.send(message.into()).await.expect("is taken");
    }
}

fn frame(key: bool, size: usize) -> Bytes {
    let mut frame = Vec::new();
    let header = Header {
        sequence: 1,
        captured_ms: 0,
        after: 1,
        key: key.then_some((8, 8)),
        exact: false,
        quiet: false,
    };
    header.write(&mut frame);
    frame.resize(size, 0);
    frame.into()
}

// ---- the way in ------------------------------------------------------------------------------

#[tokio::test]
async fn the_token_opens_once() {
    let site = site(Role::Helper);
    assert!(site.token.len() >= 22, "128 bits");
    let wrong = site.post_token("AAAAAAAAAAAAAAAAAAAAAA").await;
    assert_eq!(
        (wrong.status, wrong.body.contains("TOKEN_UNKNOWN")),
        (403, true)
    );
    site.enter().await;
    let again = site.post_token(&site.token).await;
    assert_eq!(
        (again.status, again.body.contains("TOKEN_USED")),
        (403, true)
    );
    assert_eq!(again.header("set-cookie"), None);
}

#[tokio::test]
async fn a_foreign_host_gets_nothing() {
    let site = site(Role::Helper);
    let port = site.host.rsplit_once(':').expect("a port").1;
    for host in [
        "evil.example",
        &format!("evil.example:{port}"),
        "127.0.0.1",
        "127.0.0.1:1",
        &format!("127.0.0.1.evil.example:{port}"),
        "",
    ] {
        for line in ["GET /", "GET /main.js", "POST /session", "GET /live"] {
            let answer = site
                .send(
                    line,
                    &[("Host", host), ("Origin", &format!("http://{host}"))],
                    &site.token,
                )
                .await;
            assert!(
                matches!(answer.status, 400 | 403),
                "{line} for {host:?}: {}",
                answer.status
            );
            assert_eq!(answer.header("set-cookie"), None);
        }
    }
    let twice = [("Host", site.host.as_str()), ("Host", "evil.example")];
    assert_ne!(site.send("GET /", &twice, "").await.status, 200);
    let localhost = format!("localhost:{port}");
    assert_eq!(
        site.send("GET /", &[("Host", &localhost)], "").await.status,
        200
    );
    site.enter().await;
}

#[tokio::test]
async fn a_foreign_origin_cannot_use_the_token() {
    let site = site(Role::Helper);
    let other_port = "http://127.0.0.1:1";
    let localhost = site.origin().replace("127.0.0.1", "localhost");
    let secure = site.origin().replace("http:", "https:");
    for origin in [
        "http://evil.example",
        "null",
        "",
        other_port,
        &localhost,
        &secure,
    ] {
        let answer = site
            .send(
                "POST /session",
                &[("Host", &site.host), ("Origin", origin)],
                &site.token,
            )
            .await;
        assert_eq!(answer.status, 403, "{origin}");
    }
    let none = site
        .send("POST /session", &[("Host", &site.host)], &site.token)
        .await;
    assert_eq!(none.status, 403, "no origin");
    site.enter().await;
}

#[tokio::test]
async fn the_socket_wants_origin_cookie_and_key() {
    let site = site(Role::Helper);
    let pass = site.enter().await;
    for (header, value) in [
        ("Origin", "http://evil.example"),
        ("Origin", "null"),
        ("Cookie", "remora_1=x"),
        ("Cookie", ""),
        ("Sec-WebSocket-Protocol", "remora.1"),
        (
            "Sec-WebSocket-Protocol",
            "remora.1, key.AAAAAAAAAAAAAAAAAAAAAA",
        ),
        ("Host", "evil.example"),
    ] {
        let mut request = site.upgrade(&pass);
        request
            .headers_mut()
            .insert(header, value.parse().expect("a header"));
        assert_eq!(site.refused(request).await, 403, "{header}: {value}");
    }
    let mut request = site.upgrade(&pass);
    request.headers_mut().remove("Cookie");
    assert_eq!(site.refused(request).await, 403);
    let mut request = site.upgrade(&pass);
    request.headers_mut().remove("Origin");
    assert_eq!(site.refused(request).await, 403);
    assert_eq!(site.get("/live").await.status, 403);
    site.open(&pass).await;
}

#[tokio::test]
async fn two_sessions_on_one_computer_do_not_share_cookies() {
    let (one, two) = (site(Role::Helper), site(Role::Sharer));
    let (first, second) = (one.enter().await, two.enter().await);
    assert_ne!(
        first.cookie.split('=').next(),
        second.cookie.split('=').next()
    );
    let stolen = Pass {
        cookie: first.cookie.clone(),
        key: second.key.clone(),
    };
    assert_eq!(one.refused(one.upgrade(&stolen)).await, 403);
    let both = Pass {
        cookie: format!("{}; {}", first.cookie, second.cookie),
        key: second.key,
    };
    two.open(&both).await;
}

#[tokio::test]
async fn every_answer_forbids_framing_and_foreign_code() {
    let site = site(Role::Helper);
    let mut answers = Vec::new();
    for path in [
        "/",
        "/main.js",
        "/page.css",
        "/icon.svg",
        "/viewer/worker.js",
        "/no",
        "/../Cargo.toml",
        "/session",
    ] {
        answers.push((path, site.get(path).await));
    }
    answers.push((
        "foreign",
        site.send("GET /", &[("Host", "evil.example")], "").await,
    ));
    answers.push(("token", site.post_token(&site.token).await));
    answers.push(("again", site.post_token(&site.token).await));
    answers.push(("long", site.post_token(&"x".repeat(100_000)).await));
    for (path, answer) in &answers {
        let policy = answer
            .header("content-security-policy")
            .unwrap_or_else(|| panic!("{path}"));
        for rule in [
            "default-src 'none'",
            "script-src 'self'",
            "frame-ancestors 'none'",
            "base-uri 'none'",
            "form-action 'none'",
        ] {
            assert!(policy.contains(rule), "{path}: {rule}");
        }
        assert!(!policy.contains("unsafe"), "{path}");
        assert_eq!(answer.header("x-frame-options"), Some("DENY"), "{path}");
        assert_eq!(
            answer.header("x-content-type-options"),
            Some("nosniff"),
            "{path}"
        );
        assert_eq!(
            answer.header("referrer-policy"),
            Some("no-referrer"),
            "{path}"
        );
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{path}");
        assert_eq!(answer.header("access-control-allow-origin"), None, "{path}");
    }
    let statuses: Vec<u16> = answers.iter().map(|(_, answer)| answer.status).collect();
    assert_eq!(
        statuses,
        [200, 200, 200, 200, 200, 404, 404, 405, 403, 200, 403, 413]
    );
    assert_eq!(
        site.send("DELETE /", &[("Host", &site.host)], "")
            .await
            .status,
        404
    );
}

// ---- the session -----------------------------------------------------------------------------

#[tokio::test]
async fn a_page_that_comes_back_is_told_everything_in_order() {
    let site = site(Role::Helper);
    let pass = site.enter().await;
    let to_page = site.channels.to_page.clone();
    to_page.event(json!({"event": "code", "code": "4060-r0gx", "valid_s": 600}));
    to_page.event(json!({"event": "connected", "relay": "fra-1"}));
    let mut first = site.open(&pass).await;
    let names = |events: &[Value]| {
        events
            .iter()
            .map(|event| event["event"].as_str().unwrap_or_default().to_owned())
            .collect::<Vec<_>>()
    };
    let replay = first.replay().await;
    assert_eq!(names(&replay), ["code", "connected"]);
    assert!(replay[0]["ago_ms"].is_u64() && replay[0]["qr"]["size"] == 21);
    to_page.event(json!({"event": "trust"}));
    to_page.transient(json!({"event": "path", "rtt_ms": 3}));
    assert_eq!(first.event().await["event"], "trust");
    assert_eq!(first.event().await["event"], "path");
    drop(first);
    let mut second = site.open(&pass).await;
    assert_eq!(
        names(&second.replay().await),
        ["code", "connected", "trust"]
    );
}

#[tokio::test]
async fn wishes_arrive_and_garbage_is_answered() {
    let mut site = site(Role::Helper);
    let pass = site.enter().await;
    let mut page = site.open(&pass).await;
    page.replay().await;
    for garbage in [
        "",
        "{",
        "[]",
        r#"{"type":"nonsense"}"#,
        r#"{"type":"input","events":[{"type":"button","n":77,"down":true}]}"#,
    ] {
        page.say(garbage).await;
        assert_eq!(page.event().await["event"], "bad_message", "{garbage}");
    }
    page.say(Bytes::from_static(b"\0\xff\0")).await;
    assert_eq!(page.event().await["event"], "bad_message");
    page.say(r#"{"type":"ask","mode":"control"}"#).await;
    assert_eq!(
        site.wish().await,
        FromPage::Ask {
            mode: Mode::Control
        }
    );
    let echo = page.event().await;
    assert_eq!(
        (&echo["event"], &echo["did"]),
        (&json!("you"), &json!("ask")),
        "shown again after a reload"
    );
    page.say(r#"{"type":"join","code":"short"}"#).await;
    assert_eq!(page.event().await["code"], "INVALID_CODE");
}

#[tokio::test]
async fn a_role_is_chosen_once() {
    let mut site = site(None);
    let pass = site.enter().await;
    let mut page = site.open(&pass).await;
    page.replay().await;
    page.say(r#"{"type":"choose","role":"sharer"}"#).await;
    page.say(r#"{"type":"choose","role":"helper"}"#).await;
    page.say(r#"{"type":"decline"}"#).await;
    assert_eq!(site.wish().await, FromPage::Choose(Role::Sharer));
    assert_eq!(site.wish().await, FromPage::Decline);
}

#[tokio::test]
async fn a_message_without_end_ends_the_connection_and_nothing_else() {
    let mut site = site(Role::Helper);
    let pass = site.enter().await;
    let mut page = site.open(&pass).await;
    page.replay().await;
    // The server hangs up in the middle of it.
    let long = format!(r#"{{"type":"chat","text":"{}"}}"#, "x".repeat(4 << 20));
    page.socket.send(Message::text(long)).await.ok();
    timeout(SOON, async {
        while let Some(Ok(_)) = page.socket.next().await {}
    })
    .await
    .expect("is closed");
    assert_eq!(
        site.wish().await,
        FromPage::Input(vec![InputEvent::ReleaseAll])
    );
    assert_eq!(site.wish().await, FromPage::Gone);
    site.open(&pass).await.replay().await;
}

#[tokio::test]
async fn what_a_lost_page_held_down_is_released() {
    let mut site = site(Role::Helper);
    let pass = site.enter().await;
    let mut page = site.open(&pass).await;
    page.say(r#"{"type":"input","events":[{"type":"key","keysym":65507,"down":true}]}"#)
        .await;
    assert_eq!(
        site.wish().await,
        FromPage::Input(vec![InputEvent::Key {
            keysym: 0xffe3,
            down: true
        }])
    );
    // No goodbye: the browser was killed.
    drop(page);
    assert_eq!(
        site.wish().await,
        FromPage::Input(vec![InputEvent::ReleaseAll])
    );
    assert_eq!(site.wish().await, FromPage::Gone);
    assert!(!site.channels.to_page.is_open());
}

#[tokio::test]
async fn the_page_opened_last_is_the_one() {
    let mut site = site(Role::Helper);
    let pass = site.enter().await;
    let mut first = site.open(&pass).await;
    first.replay().await;
    let mut second = site.open(&pass).await;
    second.replay().await;
    let Message::Close(Some(close)) = first.message().await else {
        panic!("no close")
    };
    assert_eq!(close.code, CloseCode::Library(4001));
    assert_eq!(
        site.wish().await,
        FromPage::Input(vec![InputEvent::ReleaseAll])
    );
    second.say(r#"{"type":"ready"}"#).await;
    assert_eq!(site.wish().await, FromPage::Ready, "nobody has gone");
}

// ---- frames ----------------------------------------------------------------------------------

#[tokio::test]
async fn frames_go_from_a_key_frame_on() {
    let site = site(Role::Helper);
    let pass = site.enter().await;
    let to_page = site.channels.to_page.clone();
    assert!(!to_page.frame(frame(true, 30)), "nobody looks");
    let mut page = site.open(&pass).await;
    page.replay().await;
    assert!(!to_page.frame(frame(false, 31)));
    assert!(to_page.frame(frame(true, 32)) && to_page.frame(frame(false, 33)));
    for size in [32, 33] {
        assert_eq!(page.message().await.len(), size);
    }
}

#[tokio::test]
async fn a_page_that_does_not_read_blocks_nobody() {
    let mut site = site(Role::Helper);
    let pass = site.enter().await;
    let to_page = site.channels.to_page.clone();
    let mut page = site.open(&pass).await;
    page.replay().await;
    // Far more than the loopback's buffers hold; the page reads nothing of it.
    let node = tokio::task::spawn_blocking(move || {
        let mut dropped = 0;
        for n in 0..400_u32 {
            to_page.event(json!({"event": "chat", "text": "x".repeat(1_000), "id": n}));
            to_page.transient(json!({"event": "path", "rtt_ms": n}));
            dropped += u32::from(!to_page.frame(frame(n == 0, 1 << 20)));
        }
        dropped
    });
    let dropped = timeout(SOON, node)
        .await
        .expect("the node went on")
        .expect("no panic");
    assert!(dropped > 300, "{dropped} of 400");
    // The other direction is not held up either.
    page.say(r#"{"type":"drop"}"#).await;
    let mut asked = 0;
    let mut wish = site.wish().await;
    while wish == FromPage::KeyFrame {
        asked += 1;
        wish = site.wish().await;
    }
    assert_eq!(wish, FromPage::Drop);
    // Once it reads again, it gets every event, in order, and the node hears that a key frame is due.
    let mut next = 0;
    while next < 400 {
        let event = page.event().await;
        if event["event"] == "chat" {
            assert_eq!(event["id"], next);
            next += 1;
        }
    }
    if asked == 0 {
        assert_eq!(site.wish().await, FromPage::KeyFrame);
    }
}

// ---- files -----------------------------------------------------------------------------------

/// What the page says to give a file, beside its length.
fn giving<'a>(site: &'a Site, pass: &'a Pass, origin: &'a str) -> [(&'a str, &'a str); 5] {
    [
        ("Host", &site.host),
        ("Origin", origin),
        ("Cookie", &pass.cookie),
        ("X-Remora-Key", &pass.key),
        ("X-Remora-Name", "r%C3%A9sum%C3%A9.txt"),
    ]
}

#[tokio::test]
async fn a_file_that_the_page_gives_reaches_the_node_and_nobody_elses_does() {
    let mut site = site(Role::Helper);
    let pass = site.enter().await;
    let folder = tempfile::tempdir().expect("a folder");
    let origin = site.origin();
    let answer = site
        .send("POST /files", &giving(&site, &pass, &origin), "hello")
        .await;
    assert_eq!(answer.status, 404, "nobody has said where to keep it");
    site.ui.keep_in(folder.path().to_owned().into());
    // Another page of the browser, and a program that has not been let in.
    let foreign = "http://example.com".to_owned();
    let headers = giving(&site, &pass, &foreign);
    assert_eq!(
        site.send("POST /files", &headers, "hello").await.status,
        403
    );
    let stranger = Pass {
        key: "wrong".to_owned(),
        ..pass.clone()
    };
    let headers = giving(&site, &stranger, &origin);
    assert_eq!(
        site.send("POST /files", &headers, "hello").await.status,
        403
    );

    let headers = giving(&site, &pass, &origin);
    // More than any other request may hold.
    let content = "hello ".repeat(100_000);
    let answer = site.send("POST /files", &headers, &content).await;
    assert_eq!(answer.status, 204);
    let FromPage::File {
        wish: Wish::Give(given),
    } = site.wish().await
    else {
        panic!("no file");
    };
    assert_eq!(given.name, "résumé.txt");
    let mut held = vec![0; content.len()];
    given.file.read_exact_at(&mut held, 0).expect("all of it");
    assert_eq!(held, content.as_bytes());
    let left = std::fs::read_dir(folder.path()).expect("a folder").count();
    assert_eq!(left, 0, "it has no name");
    let headers = giving(&site, &pass, &origin);
    let nameless = &headers[..4];
    assert_eq!(
        site.send("POST /files", nameless, "hello").await.status,
        400
    );
}

#[tokio::test]
async fn what_has_come_can_be_saved_by_the_page_and_nothing_else_can() {
    let site = site(Role::Helper);
    let pass = site.enter().await;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("report.txt");
    std::fs::write(&path, "all is well").expect("written");
    let event = |number: u32, direction: &str, path: Option<&std::path::Path>| json!({"event": "file_over", "direction": direction, "number": number, "path": path});
    let to_page = &site.channels.to_page;
    to_page.event(event(1, "in", Some(&path)));
    to_page.event(event(2, "out", None));
    to_page.event(event(3, "in", Some(std::path::Path::new("/dev/zero"))));
    let origin = site.origin();
    let headers = giving(&site, &pass, &origin);
    let answer = site.send("POST /files/1", &headers, "").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "all is well"));
    assert_eq!(answer.header("Content-Disposition"), Some("attachment"));
    for number in [2, 3, 4] {
        let line = format!("POST /files/{number}");
        assert_eq!(site.send(&line, &headers, "").await.status, 404, "{number}");
    }
    assert_eq!(site.get("/files/1").await.status, 405);
    let foreign = "http://example.com".to_owned();
    let headers = giving(&site, &pass, &foreign);
    assert_eq!(site.send("POST /files/1", &headers, "").await.status, 403);
}

// ---- the end ---------------------------------------------------------------------------------

#[tokio::test]
async fn closing_tells_the_page_the_last_event_first() {
    let Site {
        ui,
        channels,
        host,
        token,
    } = site(Role::Helper);
    let other = Site {
        ui,
        channels,
        host: host.clone(),
        token,
    };
    let pass = other.enter().await;
    let mut page = other.open(&pass).await;
    page.replay().await;
    let Site { ui, channels, .. } = other;
    let reading = tokio::spawn(async move {
        let last = page.event().await;
        let Message::Close(Some(close)) = page.message().await else {
            panic!("no close")
        };
        (last, close.code)
    });
    channels.to_page.event(json!({"event": "ended"}));
    timeout(SOON, ui.close()).await.expect("closes");
    let (last, code) = timeout(SOON, reading)
        .await
        .expect("told")
        .expect("no panic");
    assert_eq!(
        (last["event"].as_str(), code),
        (Some("ended"), CloseCode::Away)
    );
    assert!(TcpStream::connect(host).await.is_err());
}

#[tokio::test]
async fn dropping_it_ends_it() {
    let site = site(Role::Helper);
    let pass = site.enter().await;
    let mut page = site.open(&pass).await;
    page.replay().await;
    let Site {
        ui, mut channels, ..
    } = site;
    drop(ui);
    timeout(SOON, async {
        while channels.from_page.recv().await.is_some() {}
    })
    .await
    .expect("its tasks end");
    timeout(SOON, async {
        while let Some(Ok(_)) = page.socket.next().await {}
    })
    .await
    .expect("the page is told");
}
