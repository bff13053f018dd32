//! The plain forwarders that a relay is measured against: what it costs to move frames, and nothing else.
//!
//! Each takes the same frames as a relay, finds the session in a flat array, checks the source and sends the bytes on.
//! No control connection, no rates, no counters, no expiry. Each runs in a process of its own with one thread, so that
//! its CPU is measured as the relay's is.
//!
//! ```text
//! standard input:  a line for each session, `ADDR:PORT ADDR:PORT` (host, joiner), an empty line; then open until the end
//! standard output: the address it listens on
//! ```

// `recvmmsg`, `sendmmsg`.
mod each;
// `recvmmsg` with `UDP_GRO`, `sendmmsg` with `UDP_SEGMENT`.
mod joined;
// `recvfrom`, `sendto`.
mod one;
// `recvmmsg`, `sendmmsg` with `UDP_SEGMENT` for runs.
mod runs;

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
};

use anyhow::Context as _;
use clap::ValueEnum;
use nix::sys::socket::{setsockopt, sockopt};
use remora_proto::wire::{FIRST_BYTE_FRAME, frame::HEADER_LEN};

use crate::{lane, mmsg::Address};

/// Which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Every frame by itself, and two system calls for each.
    One,
    /// Every frame by itself, many in a system call.
    Mmsg,
    /// The same, and runs of frames to one destination leave as one (`UDP_SEGMENT`).
    Gso,
    /// Runs that the kernel joined (`UDP_GRO`) go on as they came.
    Gro,
}

/// Runs a forwarder until standard input closes.
///
/// # Errors
/// When a session is not one, or the socket fails.
pub fn run(kind: Kind) -> anyhow::Result<()> {
    let table = Table::read(io::stdin().lock())?;
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot bind a UDP socket")?;
    lane::enlarge_buffers(&socket)?;
    if kind == Kind::Gro {
        setsockopt(&socket, sockopt::UdpGroSegment, &true).context("no UDP_GRO here")?;
    }
    let mut out = io::stdout().lock();
    writeln!(out, "{}", socket.local_addr()?)?;
    out.flush()?;
    std::thread::spawn(end_with_input);
    match kind {
        Kind::One => one::run(&socket, &table)?,
        Kind::Mmsg => each::run(&socket, &table)?,
        Kind::Gso => runs::run(&socket, &table)?,
        Kind::Gro => joined::run(&socket, &table)?,
    }
    Ok(())
}

/// Whoever started the forwarder is gone when its end of the pipe is.
fn end_with_input() {
    let ended = io::stdin().lock().read_to_end(&mut Vec::new());
    std::process::exit(i32::from(ended.is_err()));
}

/// Both legs of each session, by its id.
struct Table(Vec<[Address; 2]>);

impl Table {
    fn read(lines: impl io::BufRead) -> anyhow::Result<Self> {
        let mut legs = Vec::new();
        for line in lines.lines() {
            let line = line?;
            if line.is_empty() {
                break;
            }
            let (host, joiner) = line.split_once(' ').context("a session has two legs")?;
            let leg = |text: &str| text.parse::<SocketAddrV4>().map(Address::from);
            legs.push([leg(host)?, leg(joiner)?]);
        }
        Ok(Self(legs))
    }

    /// Where a frame from `source` goes.
    fn route(&self, frame: &[u8], source: &Address) -> Option<&Address> {
        let header = frame.first_chunk::<HEADER_LEN>()?;
        if header[0] != FIRST_BYTE_FRAME {
            return None;
        }
        let side = usize::from(header[1] & 1);
        let id = usize::try_from(u64::from_be_bytes(*header.last_chunk()?)).ok()?;
        let legs = self.0.get(id)?;
        (legs[side] == *source).then(|| &legs[side ^ 1])
    }
}

#[cfg(test)]
mod tests {
    use remora_proto::{
        id::{SessionId, Side},
        wire::frame::Header,
    };

    use super::*;

    #[test]
    fn a_frame_goes_from_its_leg_to_the_other() {
        let lines = "127.0.0.1:1 127.0.0.1:2\n127.0.0.1:3 127.0.0.1:4\n\nnot read";
        let table = Table::read(lines.as_bytes()).expect("two sessions");
        let leg = |port| Address::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port));
        let header = |side, session| {
            Header {
                side,
                session: SessionId(session),
            }
            .encode()
        };
        let route = |frame: &[u8], port| table.route(frame, &leg(port)).copied();
        assert_eq!(route(&header(Side::Joiner, 1), 4), Some(leg(3)));
        assert_eq!(route(&header(Side::Host, 0), 1), Some(leg(2)));
        assert_eq!(route(&header(Side::Host, 0), 2), None, "another's leg");
        assert_eq!(route(&header(Side::Host, 2), 1), None, "no such session");
        assert_eq!(route(&[FIRST_BYTE_FRAME], 1), None, "no header");
    }
}
