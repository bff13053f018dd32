//! An administrator's password on its way into an order. It stands in one buffer, which is wiped, is shown nowhere, and is no line of
//! the session's.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
    time::Duration,
};

use crossterm::event::{Event, EventStream, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use futures_util::StreamExt as _;
use remora_proto::elevation::{MAX_PASSWORD_BYTES, Order};
use tokio::{task::JoinHandle, time::timeout};
use zeroize::Zeroizing;

use super::screen::Credential;

/// For a file that is a pipe to which somebody else has to write.
const FILE_LIMIT: Duration = Duration::from_secs(10);

/// Somebody is asked, or a file is read, while the session goes on.
pub(super) struct Asking {
    /// What stands before the cursor meanwhile.
    pub(super) prompt: String,
    task: JoinHandle<Result<Order, String>>,
}

impl Asking {
    /// Begins; on a terminal, nobody else may read the keyboard until it is over.
    pub(super) fn begin(credential: Credential, is_terminal: bool) -> Self {
        let name = &credential.name;
        Self {
            prompt: format!("Password of {name} (not shown; Esc gives up): "),
            task: tokio::spawn(password(credential, is_terminal)),
        }
    }

    /// The order, or why there is none, in words for people. Cancel-safe.
    pub(super) async fn done(&mut self) -> Result<Order, String> {
        let done = (&mut self.task).await;
        done.unwrap_or_else(|_| Err("no password was given".to_owned()))
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn password(credential: Credential, is_terminal: bool) -> Result<Order, String> {
    let Credential { name, file } = credential;
    let password = match file {
        Some(path) => {
            let read = tokio::task::spawn_blocking(move || read(&path));
            match timeout(FILE_LIMIT, read).await {
                Ok(Ok(Ok(password))) => password,
                Ok(Ok(Err(error))) => return Err(format!("the password's file: {error}")),
                Ok(Err(_)) | Err(_) => {
                    return Err("nothing came from the password's file".to_owned());
                }
            }
        }
        None if is_terminal => keys().await.ok_or("no password was given")?,
        None => {
            let how =
                "without a terminal, name the file that the password is in: /credential NAME FILE";
            return Err(how.to_owned());
        }
    };
    Ok(Order::Credential { name, password })
}

/// Until Enter; `None`: the person has thought better of it. Nobody else reads the keyboard meanwhile.
async fn keys() -> Option<Zeroizing<Vec<u8>>> {
    // As long as it may become: a buffer that grows leaves copies behind.
    let mut typed = Zeroizing::new(Vec::with_capacity(MAX_PASSWORD_BYTES + 4));
    let mut events = EventStream::new();
    loop {
        match events.next().await?.ok()? {
            Event::Key(key) if key.kind != KeyEventKind::Release => match meaning(key) {
                Key::Char(char) if typed.len() + char.len_utf8() <= MAX_PASSWORD_BYTES => {
                    typed.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
                }
                Key::Char(_) | Key::Other => {}
                Key::Back => {
                    // A whole character of UTF-8.
                    while typed.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
                }
                Key::Enter => return Some(typed),
                Key::Out => return None,
            },
            Event::Key(_)
            | Event::FocusGained
            | Event::FocusLost
            | Event::Mouse(_)
            | Event::Paste(_)
            | Event::Resize(..) => {}
        }
    }
}

enum Key {
    Char(char),
    Back,
    Enter,
    Out,
    Other,
}

#[expect(clippy::wildcard_enum_match_arm, reason = "a keyboard has many keys")]
fn meaning(key: KeyEvent) -> Key {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        KeyCode::Char('c' | 'd') if control => Key::Out,
        KeyCode::Char('h') if control => Key::Back,
        KeyCode::Char('j' | 'm') if control => Key::Enter,
        KeyCode::Char(char) if !control => Key::Char(char),
        KeyCode::Backspace => Key::Back,
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Out,
        _ => Key::Other,
    }
}

fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut file = File::open(path)?;
    let mut bytes = Zeroizing::new(vec![0; MAX_PASSWORD_BYTES + 2]);
    let mut length = 0;
    loop {
        match file.read(&mut bytes[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let end = bytes[..length]
        .iter()
        .position(|byte| *byte == b'\n')
        .unwrap_or(length);
    bytes.truncate(end);
    // What `truncate` leaves in the buffer is wiped with it.
    Ok(bytes)
}
