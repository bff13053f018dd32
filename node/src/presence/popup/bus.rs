//! A connection to the session's bus: a Unix socket, its greeting, and messages.

use std::{
    env, io,
    os::{linux::net::SocketAddrExt as _, unix::net},
    path::PathBuf,
};

use bytes::{Buf as _, BytesMut};
use data_encoding::HEXLOWER;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

use super::wire::{Call, Message};

/// Longest line of the greeting.
const MAX_LINE_BYTES: usize = 1024;

/// See the module.
#[derive(Debug)]
pub(super) struct Bus {
    stream: UnixStream,
    /// What has come of the next message.
    buffer: BytesMut,
    serial: u32,
}

impl Bus {
    /// The bus that the environment names, or the one of this log-in.
    ///
    /// # Errors
    /// There is none, or it does not let us in.
    pub(super) async fn session() -> io::Result<Self> {
        let mut stream = UnixStream::from_std(connect()?)?;
        // The bus knows from the socket who we are; that we know it, too, is all that it asks (EXTERNAL).
        let user = HEXLOWER.encode(nix::unistd::getuid().to_string().as_bytes());
        let greeting = format!("\0AUTH EXTERNAL {user}\r\n");
        stream.write_all(greeting.as_bytes()).await?;
        let mut buffer = BytesMut::new();
        let line = read_line(&mut stream, &mut buffer).await?;
        if !line.starts_with(b"OK ") {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        stream.write_all(b"BEGIN\r\n").await?;
        let mut bus = Self {
            stream,
            buffer,
            serial: 0,
        };
        let hello = Call {
            destination: "org.freedesktop.DBus",
            path: "/org/freedesktop/DBus",
            interface: "org.freedesktop.DBus",
            member: "Hello",
            signature: "",
            body: Vec::new(),
        };
        bus.call(&hello).await?;
        Ok(bus)
    }

    /// Calls a method; the number under which the answer comes.
    ///
    /// # Errors
    /// What the system says.
    pub(super) async fn call(&mut self, call: &Call) -> io::Result<u32> {
        self.serial = self.serial.wrapping_add(1).max(1);
        let bytes = call.encode(self.serial);
        self.stream.write_all(&bytes).await?;
        Ok(self.serial)
    }

    /// The next message. Cancel-safe.
    ///
    /// # Errors
    /// The bus is gone, or says what is none.
    pub(super) async fn next(&mut self) -> io::Result<Message> {
        loop {
            let decoded = Message::decode(&self.buffer);
            let decoded =
                decoded.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            if let Some((message, length)) = decoded {
                self.buffer.advance(length);
                return Ok(message);
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// To the first of the addresses that answers.
fn connect() -> io::Result<net::UnixStream> {
    let mut failed = io::Error::from(io::ErrorKind::NotFound);
    for address in addresses() {
        match net::UnixStream::connect_addr(&address) {
            Ok(stream) => {
                stream.set_nonblocking(true)?;
                return Ok(stream);
            }
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

fn addresses() -> Vec<net::SocketAddr> {
    match env::var("DBUS_SESSION_BUS_ADDRESS") {
        Ok(text) => text.split(';').filter_map(address).collect(),
        Err(_) => {
            let runtime = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
            let path = runtime.map(|folder| folder.join("bus"));
            path.and_then(|path| net::SocketAddr::from_pathname(path).ok())
                .into_iter()
                .collect()
        }
    }
}

/// `unix:path=/run/user/1000/bus,guid=…`, or `unix:abstract=…`
fn address(text: &str) -> Option<net::SocketAddr> {
    let pairs = text.strip_prefix("unix:")?.split(',');
    let mut pairs = pairs.filter_map(|pair| pair.split_once('='));
    pairs.find_map(|(key, value)| {
        let value = unescaped(value);
        match key {
            "path" => net::SocketAddr::from_pathname(String::from_utf8(value).ok()?).ok(),
            "abstract" => net::SocketAddr::from_abstract_name(value).ok(),
            _ => None,
        }
    })
}

/// `%2f` is a slash.
fn unescaped(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let escaped = after.get(..2).filter(|_| first == b'%');
        let byte = escaped
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        (rest, _) = match byte {
            Some(byte) => (&after[2..], out.push(byte)),
            None => (after, out.push(first)),
        };
    }
    out
}

async fn read_line(stream: &mut UnixStream, buffer: &mut BytesMut) -> io::Result<BytesMut> {
    loop {
        if let Some(at) = buffer.windows(2).position(|end| end == b"\r\n") {
            let line = buffer.split_to(at);
            buffer.advance(2);
            return Ok(line);
        }
        if buffer.len() > MAX_LINE_BYTES || stream.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bus_is_found_by_a_path_or_a_name() {
        let path =
            |text| address(text).and_then(|address| address.as_pathname().map(PathBuf::from));
        let found = path("unix:path=/tmp/a%20b,guid=00");
        assert_eq!(found, Some(PathBuf::from("/tmp/a b")));
        let name = address("unix:guid=1,abstract=/tmp/x").expect("an address");
        assert_eq!(name.as_abstract_name(), Some(&b"/tmp/x"[..]));
        for none in ["tcp:host=x", "unix:", "unix:guid=1", "unix:path=/a%0"] {
            assert_eq!(path(none).filter(|_| !none.ends_with("%0")), None);
        }
    }
}
