//! Asks the relay that runs here, by its admin port: for an image that has nothing but this program in it.
//!
//! The settings are those that it was started with, so that whoever may run `remora-relay drain` beside a relay needs nothing more.

// Its certificate is the one in our own settings.
mod tls;

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use remora_proto::id::RelayAddr;
use serde_json::Value;

use crate::{
    admin::token::{AdminToken, TokenError},
    config::ServeArgs,
    health::{Finding, Verdict, What},
    stream::certificate::Files,
};

/// To reach the port, and for an answer that waits for nothing: it is on this computer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// A relay that is drained says its last words to nodes and others, within three seconds, and then has no port any more.
const END_TIMEOUT: Duration = Duration::from_secs(3);
/// Between two looks whether it has gone.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Longer answers are none of a relay's.
const MAX_ANSWER_BYTES: u64 = 4 << 20;

/// Why the relay did not do it. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// There is no word to be let in by.
    #[error(
        "no admin token is set, so nobody may ask this relay for anything; start it, and this, with --admin-token-file FILE"
    )]
    NoToken,
    /// The token cannot be read.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// Nothing is there.
    #[error("no relay answers at {at}; say where it is with --admin ADDR:PORT")]
    Offline {
        /// Where.
        at: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// It is there and says nothing.
    #[error("no answer from {at} within {} s; look at the relay's log", within.as_secs())]
    TimedOut {
        /// Where.
        at: SocketAddr,
        /// So long.
        within: Duration,
    },
    /// It does not let us.
    #[error("{0}")]
    NotPermitted(String),
    /// Something else is there.
    #[error(
        "what answers at {0} is no relay's admin port; say where that is with --admin ADDR:PORT"
    )]
    NotARelay(SocketAddr),
}

impl AskError {
    /// For the program's end (`UX.md`).
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Token(_) | Self::NotARelay(_) => 1,
            Self::TimedOut { .. } => 4,
            Self::Offline { .. } => 5,
            Self::NoToken | Self::NotPermitted(_) => 6,
        }
    }
}

/// A relay of these settings.
#[derive(Debug)]
pub struct Own {
    at: SocketAddr,
    tls: Option<Files>,
    /// None for what everybody may ask.
    token: Option<AdminToken>,
}

impl Own {
    /// The one that was started with `args`.
    ///
    /// # Errors
    /// There is no token, or it cannot be read.
    pub fn new(args: &ServeArgs) -> Result<Self, AskError> {
        let file = args.admin_token_file.as_deref().ok_or(AskError::NoToken)?;
        let token = Some(AdminToken::load(file)?);
        Ok(Self {
            token,
            ..Self::for_anybody(args)
        })
    }

    /// The same, for what is no secret.
    fn for_anybody(args: &ServeArgs) -> Self {
        Self {
            at: at(args),
            tls: args.admin_tls().map(|tls| tls.files),
            token: None,
        }
    }

    /// What people are given of it: `HOST:PORT/KEY`, or with the key of its certificate.
    ///
    /// # Errors
    /// [`AskError`].
    pub fn address(args: &ServeArgs) -> Result<String, AskError> {
        let own = Self::for_anybody(args);
        let text = own.ask_for_text("GET", "/address", ANSWER_TIMEOUT)?;
        let address = text.trim();
        match address.parse::<RelayAddr>() {
            Ok(_) => Ok(address.to_owned()),
            Err(_) => Err(AskError::NotARelay(own.at)),
        }
    }

    /// Whether something listens where the admin port of `args` is.
    pub fn is_there(args: &ServeArgs) -> bool {
        TcpStream::connect_timeout(&at(args), ANSWER_TIMEOUT).is_ok()
    }

    /// What it has found at itself.
    ///
    /// # Errors
    /// [`AskError`].
    pub fn doctor(&self) -> Result<Vec<Finding>, AskError> {
        let said = self.ask("GET", "/v1/doctor", ANSWER_TIMEOUT)?;
        let findings = said["findings"].as_array();
        let findings = findings.ok_or(AskError::NotARelay(self.at))?;
        Ok(findings.iter().filter_map(finding).collect())
    }

    /// All that it knows of itself.
    ///
    /// # Errors
    /// [`AskError`].
    pub fn bugreport(&self) -> Result<String, AskError> {
        self.ask_for_text("GET", "/v1/bugreport", ANSWER_TIMEOUT)
    }

    /// Tells it to drain, and waits until it has, and has ended; what it said at first and at last.
    ///
    /// # Errors
    /// [`AskError`].
    pub fn drain(&self) -> Result<Drained, AskError> {
        let began = Instant::now();
        let first = self.ask("POST", "/drain", ANSWER_TIMEOUT)?;
        let left = Duration::from_millis(first["deadline_ms"].as_u64().unwrap_or_default());
        let last = match self.ask("GET", "/drained", left + ANSWER_TIMEOUT) {
            // It ends as soon as it is drained, and may do so before it has said it.
            Err(AskError::Offline { .. }) => None,
            last => last?["cut_off"].as_u64(),
        };
        let before = first["cut_off"].as_u64().unwrap_or_default();
        // Whoever is told that it is over may start another.
        let end = Instant::now() + END_TIMEOUT;
        while Instant::now() < end && TcpStream::connect_timeout(&self.at, ANSWER_TIMEOUT).is_ok() {
            thread::sleep(LOOK_AGAIN);
        }
        Ok(Drained {
            sessions: first["sessions"].as_u64().unwrap_or_default(),
            cut_off: last.map(|all| all.saturating_sub(before)),
            took: began.elapsed(),
        })
    }

    fn ask(&self, method: &str, path: &str, within: Duration) -> Result<Value, AskError> {
        let body = self.ask_for_text(method, path, within)?;
        serde_json::from_str(&body).map_err(|_| AskError::NotARelay(self.at))
    }

    fn ask_for_text(&self, method: &str, path: &str, within: Duration) -> Result<String, AskError> {
        let response = self.exchange(method, path, within);
        let at = self.at;
        let response = response.map_err(|source| {
            if matches!(source.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) {
                AskError::TimedOut { at, within }
            } else {
                AskError::Offline { at, source }
            }
        })?;
        let (head, body) = response.split_once("\r\n\r\n").unwrap_or((&response, ""));
        match head.split(' ').nth(1).unwrap_or_default() {
            "200" => Ok(body.to_owned()),
            "401" | "403" => Err(AskError::NotPermitted(problem(body))),
            _ => Err(AskError::NotARelay(self.at)),
        }
    }

    fn exchange(&self, method: &str, path: &str, within: Duration) -> io::Result<String> {
        let tcp = TcpStream::connect_timeout(&self.at, ANSWER_TIMEOUT)?;
        tcp.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        tcp.set_read_timeout(Some(within))?;
        let mut stream: Box<dyn Stream> = match &self.tls {
            None => Box::new(tcp),
            Some(files) => Box::new(tls::connect(files, tcp)?),
        };
        let authorization = match &self.token {
            Some(token) => format!("authorization: Bearer {}\r\n", token.reveal()),
            None => String::new(),
        };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\n{authorization}\
             content-length: 0\r\nconnection: close\r\n\r\n",
            self.at,
        );
        stream.write_all(request.as_bytes())?;
        let mut response = Vec::new();
        let read = stream.take(MAX_ANSWER_BYTES).read_to_end(&mut response);
        // A relay that ends closes TCP, and may not say in TLS that it does.
        if let Err(error) = read
            && (error.kind() != ErrorKind::UnexpectedEof || response.is_empty())
        {
            return Err(error);
        }
        let response = String::from_utf8_lossy(&response).into_owned();
        if response.is_empty() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok(response)
    }
}

/// TCP, or TLS on it.
trait Stream: Read + Write {}

impl<S: Read + Write> Stream for S {}

/// What a relay's problem says, in a line.
fn problem(body: &str) -> String {
    let problem: Value = serde_json::from_str(body).unwrap_or_default();
    match (problem["message"].as_str(), problem["what_to_do"].as_str()) {
        (Some(message), Some(remedy)) => format!("{message}; {remedy}"),
        (Some(_) | None, _) => "the relay does not permit this".to_owned(),
    }
}

/// As the relay says it; nothing where a later one says what this one does not know.
fn finding(said: &Value) -> Option<Finding> {
    let what = said["what"].as_str()?;
    let verdict = said["verdict"].as_str()?;
    let verdicts = [Verdict::Fine, Verdict::Warning, Verdict::Fault];
    Some(Finding {
        what: What::ALL.into_iter().find(|known| known.label() == what)?,
        verdict: verdicts
            .into_iter()
            .find(|known| known.label() == verdict)?,
        text: said["text"].as_str()?.to_owned(),
    })
}

/// How a relay left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// That were here when it began.
    pub sessions: u64,
    /// That were still here at the deadline; unknown where the relay had ended before it said so.
    pub cut_off: Option<u64>,
    /// From the order to the end.
    pub took: Duration,
}

impl Drained {
    /// For people: `drained in 22.1 s; sessions that left: 431, cut off: 0`
    pub fn line(&self) -> String {
        let seconds = self.took.as_secs_f64();
        let left = self
            .sessions
            .saturating_sub(self.cut_off.unwrap_or_default());
        let end = match self.cut_off {
            Some(cut_off) => format!(", cut off: {cut_off}"),
            None => ", and the relay has ended".to_owned(),
        };
        format!("drained in {seconds:.1} s; sessions that left: {left}{end}")
    }

    /// For scripts.
    pub fn object(&self) -> Value {
        serde_json::json!({
            "v": 1,
            "event": "drain",
            "state": "drained",
            "sessions": self.sessions,
            "cut_off": self.cut_off,
            "seconds": (self.took.as_secs_f64() * 1e3).round() / 1e3,
        })
    }
}

/// The first of the addresses that it listens at: each is the same port to us.
fn at(args: &ServeArgs) -> SocketAddr {
    let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    args.admin
        .first()
        .copied()
        .map_or(nowhere, on_this_computer)
}

/// Where a port that listens everywhere is reached from here.
fn on_this_computer(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_drained_is_a_line_and_an_object() {
        let drained = |cut_off| Drained {
            sessions: 12,
            cut_off,
            took: Duration::from_millis(2_250),
        };
        assert_eq!(
            drained(Some(1)).line(),
            "drained in 2.2 s; sessions that left: 11, cut off: 1"
        );
        assert_eq!(
            drained(None).line(),
            "drained in 2.2 s; sessions that left: 12, and the relay has ended"
        );
        assert_eq!(drained(Some(1)).object()["cut_off"], 1);
    }

    #[test]
    fn a_port_of_all_addresses_is_reached_on_loopback() {
        for (listen, at) in [
            ("0.0.0.0:9090", "127.0.0.1:9090"),
            ("[::]:9090", "[::1]:9090"),
            ("10.0.0.1:9090", "10.0.0.1:9090"),
        ] {
            let listen = listen.parse().expect("an address");
            assert_eq!(on_this_computer(listen).to_string(), at);
        }
    }
}
