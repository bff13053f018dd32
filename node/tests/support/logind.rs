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
    /// In that folder; one person is logged in.
    pub(crate) fn start(folder: &Path) -> Self {
        Self::with(folder, &[(1000, "user")])
    }

    /// With these logins: whose, and of which class.
    pub(crate) fn with(folder: &Path, logins: &[Login]) -> Self {
        let logins: Arc<[Login]> = logins.into();
        let path = folder.join("bus");
        let listener = UnixListener::bind(&path).expect("a socket");
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let heard = Arc::clone(&asked);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (heard, logins) = (Arc::clone(&heard), Arc::clone(&logins));
                thread::spawn(move || serve(stream, &heard, &logins).ok());
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
        self.count(&format!("{SESSION} Terminate"))
    }

    /// How often the computer was to restart.
    pub(crate) fn reboots(&self) -> usize {
        self.count("/org/freedesktop/login1 Reboot")
    }

    fn count(&self, call: &str) -> usize {
        self.asked().iter().filter(|asked| *asked == call).count()
    }
}

/// A user's number, and the class of the login.
pub(crate) type Login = (u32, &'static str);

/// Of the class of a login: the computer does not restart, whoever is there.
pub(crate) const STUCK: Login = (0, "stuck");

fn serve(stream: UnixStream, asked: &Mutex<Vec<String>>, logins: &[Login]) -> io::Result<()> {
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
            "Hello" => Answer::Text("s", ":1.1".to_owned()),
            "GetSessionByPID" | "GetSession" => Answer::Text("o", SESSION.to_owned()),
            "CanReboot" => Answer::Text("s", "yes".to_owned()),
            "ListSessions" => Answer::Sessions(logins),
            "Get" => {
                let number = path.rsplit('_').next().and_then(|it| it.parse().ok());
                let login = number.and_then(|number: usize| logins.get(number));
                Answer::Variant(login.map_or("", |(_, class)| class))
            }
            _ => Answer::Nothing,
        };
        if method != "Hello" {
            let call = format!("{path} {method}");
            asked
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(call);
        }
        if method == "Reboot" && logins.contains(&STUCK) {
            // It does not even answer.
            return Ok(());
        }
        to.write_all(&reply(serial, &answer))?;
    }
}

/// What is answered.
enum Answer<'a> {
    Nothing,
    Text(&'static str, String),
    /// A text, as a property.
    Variant(&'a str),
    /// `a(susso)`
    Sessions(&'a [Login]),
}

impl Answer<'_> {
    fn signature(&self) -> &'static str {
        match self {
            Self::Nothing => "",
            Self::Text(kind, _) => kind,
            Self::Variant(_) => "v",
            Self::Sessions(_) => "a(susso)",
        }
    }

    fn body(&self) -> Vec<u8> {
        let mut body = Vec::new();
        match self {
            Self::Nothing => {}
            Self::Text(_, value) => text(&mut body, value),
            Self::Variant(value) => {
                body.extend([1, b's', 0]);
                text(&mut body, value);
            }
            Self::Sessions(logins) => {
                // What is padded before the first is not counted.
                body.resize(8, 0);
                for (number, (user, _)) in logins.iter().enumerate() {
                    pad(&mut body, 8);
                    text(&mut body, &number.to_string());
                    pad(&mut body, 4);
                    body.extend(user.to_le_bytes());
                    text(&mut body, "somebody");
                    text(&mut body, "seat0");
                    text(
                        &mut body,
                        &format!("/org/freedesktop/login1/session/_{number}"),
                    );
                }
                let length = u32::try_from(body.len() - 8).expect("short");
                body[..4].copy_from_slice(&length.to_le_bytes());
            }
        }
        body
    }
}

fn pad(bytes: &mut Vec<u8>, to: usize) {
    bytes.resize(bytes.len().next_multiple_of(to), 0);
}

fn text(bytes: &mut Vec<u8>, value: &str) {
    pad(bytes, 4);
    bytes.extend(u32::try_from(value.len()).expect("short").to_le_bytes());
    bytes.extend(value.as_bytes());
    bytes.push(0);
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

/// A method return.
fn reply(to: u32, answer: &Answer<'_>) -> Vec<u8> {
    let mut fields = vec![5, 1, b'u', 0];
    fields.extend(to.to_le_bytes());
    for (code, value) in [(6, ":1.1"), (7, "org.freedesktop.DBus")] {
        pad(&mut fields, 8);
        fields.extend([code, 1, b's', 0]);
        text(&mut fields, value);
    }
    let signature = answer.signature();
    if !signature.is_empty() {
        pad(&mut fields, 8);
        fields.extend([8, 1, b'g', 0]);
        fields.push(u8::try_from(signature.len()).expect("short"));
        fields.extend(signature.as_bytes());
        fields.push(0);
    }
    let body = answer.body();
    let mut message = vec![b'l', 2, 1, 1];
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("short").to_le_bytes();
    message.extend(length(&body));
    message.extend(1u32.to_le_bytes());
    message.extend(length(&fields));
    message.extend(&fields);
    pad(&mut message, 8);
    message.extend(body);
    message
}
