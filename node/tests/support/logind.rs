//! A system bus on which nobody is but a logind that writes down what is asked of it, and does nothing.
//!
//! As much of the D-Bus specification as one call and its answer need: little-endian messages, no signals, no other peers.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use super::PATIENCE;

const SESSION: &str = "/org/freedesktop/login1/session/_37";

/// See the module.
#[derive(Debug)]
pub(crate) struct Logind {
    /// For `DBUS_SYSTEM_BUS_ADDRESS`.
    pub(crate) address: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Logind {
    /// In that folder.
    pub(crate) fn start(folder: &Path) -> Self {
        let path = folder.join("bus");
        let listener = UnixListener::bind(&path).expect("a socket");
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let heard = Arc::clone(&asked);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let heard = Arc::clone(&heard);
                thread::spawn(move || serve(stream, &heard).ok());
            }
        });
        Self {
            address: format!("unix:path={}", path.display()),
            asked,
        }
    }

    /// The calls so far: path and method.
    pub(crate) fn asked(&self) -> Vec<String> {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.clone()
    }

    /// How often somebody was to be signed out.
    pub(crate) fn sign_outs(&self) -> usize {
        let terminate = format!("{SESSION} Terminate");
        self.asked()
            .iter()
            .filter(|call| **call == terminate)
            .count()
    }
}

fn serve(stream: UnixStream, asked: &Mutex<Vec<String>>) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut to = stream.try_clone()?;
    let mut from = BufReader::new(stream);
    authenticate(&mut from, &mut to)?;
    loop {
        let mut head = [0; 16];
        from.read_exact(&mut head)?;
        let word =
            |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (body, serial, fields) = (word(4), word(8), word(12));
        let length = usize::try_from(fields.next_multiple_of(8) + body);
        let mut rest = vec![0; length.map_err(io::Error::other)?];
        from.read_exact(&mut rest)?;
        let path = field(&rest, 1, b'o').unwrap_or_default();
        let method = field(&rest, 3, b's').unwrap_or_default();
        let answer = match method.as_str() {
            "Hello" => Answer::Text(b's', ":1.1"),
            "GetSessionByPID" | "GetSession" => Answer::Text(b'o', SESSION),
            "ListSessions" => Answer::NoSessions,
            _ => Answer::Nothing,
        };
        if method != "Hello" {
            let call = format!("{path} {method}");
            asked
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(call);
        }
        to.write_all(&reply(serial, &answer))?;
    }
}

/// Whoever it is, it is right.
fn authenticate(from: &mut BufReader<UnixStream>, to: &mut UnixStream) -> io::Result<()> {
    loop {
        let mut line = String::new();
        from.read_line(&mut line)?;
        let said = line.trim_matches(['\0', '\r', '\n']);
        let answer = match said.split(' ').next() {
            Some("BEGIN") => return Ok(()),
            Some("AUTH") if said == "AUTH EXTERNAL" => "DATA",
            Some("AUTH" | "DATA") => "OK 0123456789abcdef0123456789abcdef",
            Some("NEGOTIATE_UNIX_FD") => "AGREE_UNIX_FD",
            _ => "ERROR",
        };
        write!(to, "{answer}\r\n")?;
    }
}

/// A header field of one text: code, signature `1 kind 0`, length, text.
fn field(fields: &[u8], code: u8, kind: u8) -> Option<String> {
    let begin = [code, 1, kind, 0];
    let at = fields.windows(4).position(|window| window == begin)? + 4;
    let length = u32::from_le_bytes(fields.get(at..at + 4)?.try_into().ok()?);
    let text = fields.get(at + 4..at + 4 + usize::try_from(length).ok()?)?;
    String::from_utf8(text.to_vec()).ok()
}

/// What a method returns.
enum Answer {
    Nothing,
    /// Of this type.
    Text(u8, &'static str),
    /// That nobody is signed in.
    NoSessions,
}

/// A method return.
fn reply(to: u32, answer: &Answer) -> Vec<u8> {
    let mut fields = vec![5, 1, b'u', 0];
    fields.extend(to.to_le_bytes());
    let mut text = |code: u8, kind: u8, value: &str| {
        fields.resize(fields.len().next_multiple_of(8), 0);
        fields.extend([code, 1, kind, 0]);
        fields.extend(u32::try_from(value.len()).expect("short").to_le_bytes());
        fields.extend(value.as_bytes());
        fields.push(0);
    };
    text(6, b's', ":1.1");
    text(7, b's', "org.freedesktop.DBus");
    let mut body = Vec::new();
    let mut signature = |signature: &str| {
        fields.resize(fields.len().next_multiple_of(8), 0);
        let length = u8::try_from(signature.len()).expect("short");
        fields.extend([8, 1, b'g', 0, length]);
        fields.extend(signature.as_bytes());
        fields.push(0);
    };
    match *answer {
        Answer::Nothing => {}
        Answer::Text(kind, value) => {
            signature(char::from(kind).encode_utf8(&mut [0; 4]));
            body.extend(u32::try_from(value.len()).expect("short").to_le_bytes());
            body.extend(value.as_bytes());
            body.push(0);
        }
        Answer::NoSessions => {
            signature("a(susso)");
            // No bytes of it, which would begin where eight divide.
            body.extend([0; 8]);
        }
    }
    let mut message = vec![b'l', 2, 1, 1];
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("short").to_le_bytes();
    message.extend(length(&body));
    message.extend(1u32.to_le_bytes());
    message.extend(length(&fields));
    message.extend(&fields);
    message.resize(message.len().next_multiple_of(8), 0);
    message.extend(body);
    message
}
