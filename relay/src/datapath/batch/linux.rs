//! Many datagrams a system call, from and to the same memory: recvmmsg(2) with UDP_GRO, sendmmsg(2) with UDP_SEGMENT
//! (udp(7)).
//!
//! What is sent is named by where it lies in what was received ([`Piece`]); a message gathers its pieces by iovec. The
//! kernel's copies in and out are the only ones.

#![expect(
    unsafe_code,
    reason = "no safe wrapper sends many messages, each with a segment size of its own, from where they were received"
)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "constants of C and lengths of small structures, in C's own types"
)]

use std::{
    collections::VecDeque,
    io, mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    ops::Range,
    os::fd::AsRawFd,
    ptr,
    time::Duration,
};

use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike as _,
};
use quinn_udp::{EcnCodepoint, Transmit, UdpSocketState};

use super::{Meta, Piece, SLOTS, Sent, WAIT};
use crate::datapath::{
    leg::{FarEnd, Leg, PackedAddress, PackedLeg},
    pages,
};

/// A run that the kernel has joined, and as much again as keeps single frames of 1,200 bytes, which begin their slots, out
/// of each other's cache sets: those of the first cache recur each 4 KiB, of the second each 64.
const SLOT_BYTES: usize = 65_536 + 19 * 64;
/// Segments of one send (UDP_MAX_SEGMENTS was 64 until Linux 6.x).
const MAX_SEGMENTS: usize = 64;
/// Destinations remembered that take no segments.
const MAX_UNSEGMENTED: usize = 64;
/// Bytes of one send: a UDP datagram's most, less headers.
const MAX_SEND_BYTES: usize = 65_000;
/// Pieces of one batch: no message has more of them than segments.
const MAX_PIECES: usize = SLOTS * MAX_SEGMENTS;
/// Rows of the index to a plan's messages; some times as many as there are of these, so that few share a row.
const ROWS: usize = 256;
/// Room for each ancillary datum that we ask for or send: segment size, own address, marks.
const CONTROL_BYTES: usize = 128;
/// What [`Received`] and [`Plan`] keep stands close together: a batch's worth of each is to fit into the first cache, which
/// rows that are multiples of 1 KiB apart do not.
const NAME_BYTES: usize = 32;

/// An address as the kernel writes and reads it, IPv4 or IPv6.
#[repr(C, align(32))]
#[derive(Clone, Copy)]
struct Name([u8; NAME_BYTES]);

const _: () = assert!(NAME_BYTES >= size_of::<libc::sockaddr_in6>());

#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; CONTROL_BYTES]);

/// Makes a socket what batches need: it waits, so that a batch is one system call and not two.
///
/// # Errors
/// What the system said.
pub fn prepare(socket: &UdpSocket) -> io::Result<()> {
    socket.set_nonblocking(false)?;
    socket.set_read_timeout(Some(WAIT))?;
    if socket.local_addr()?.ip().is_unspecified() {
        return Ok(());
    }
    // There is one address that things come to and are sent from: the kernel need not name it each time.
    for (level, option) in [
        (libc::IPPROTO_IP, libc::IP_PKTINFO),
        (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
    ] {
        let off: libc::c_int = 0;
        // SAFETY: the option's value is an int that lives as long as the call. That a socket of the other family does not
        // know the option is of no interest.
        unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                level,
                option,
                ptr::from_ref(&off).cast(),
                length_of::<libc::c_int>(),
            );
        }
    }
    Ok(())
}

/// How many datagrams the socket has dropped since it was made, modulo 2³² (sock_diag(7)).
pub fn dropped(socket: &UdpSocket) -> Option<u32> {
    /// Where it stands (SK_MEMINFO_DROPS), and how many there are (SK_MEMINFO_VARS).
    const DROPS: usize = 8;
    let mut numbers = [0_u32; DROPS + 1];
    let mut length = size_of_val(&numbers) as libc::socklen_t;
    // SAFETY: the option's value is an array of as many bytes as `length` says, and both live as long as the call.
    let got = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            numbers.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    let is_whole = got == 0 && length as usize == size_of_val(&numbers);
    is_whole.then_some(numbers[DROPS])
}

/// What of a processor the calling thread has had.
pub fn thread_time() -> Option<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_THREAD).ok()?;
    let times = [usage.user_time(), usage.system_time()];
    let us = times.map(|time| u64::try_from(time.num_microseconds()).unwrap_or(0));
    Some(Duration::from_micros(us.iter().sum()))
}

/// Sends now or not at all.
///
/// # Errors
/// [`io::ErrorKind::WouldBlock`] when there is no room in the socket's buffer, else what the system said.
pub fn send_now(socket: &UdpSocket, _: &UdpSocketState, transmit: &Transmit<'_>) -> io::Result<()> {
    // SAFETY: all zeros is a valid value of this C structure.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    let mut name = Name([0; NAME_BYTES]);
    let mut iovec = libc::iovec {
        iov_base: transmit.contents.as_ptr().cast_mut().cast(),
        iov_len: transmit.contents.len(),
    };
    let mut control = Control([0; CONTROL_BYTES]);
    let leg = PackedLeg::from(Leg {
        end: FarEnd::Node,
        remote: transmit.destination,
        local: transmit.src_ip,
    });
    header.msg_namelen = write_address(leg.remote(), &mut name);
    header.msg_name = ptr::from_mut(&mut name).cast();
    header.msg_iov = &raw mut iovec;
    header.msg_iovlen = 1;
    write_control(
        &mut header,
        &mut control,
        &leg,
        transmit.ecn,
        transmit.segment_size,
    );
    // SAFETY: all that the header points to is on the stack or borrowed.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, libc::MSG_DONTWAIT) };
    usize::try_from(sent)
        .map(drop)
        .map_err(|_| io::Error::last_os_error())
}

/// Buffers that messages are received into.
pub struct Received {
    bytes: Box<[u8]>,
    names: Box<[Name; SLOTS]>,
    controls: Box<[Control; SLOTS]>,
    /// Pointed to by the headers.
    _iovecs: Box<[libc::iovec; SLOTS]>,
    headers: Box<[libc::mmsghdr; SLOTS]>,
    filled: usize,
}

impl Default for Received {
    /// Empty buffers: 4 MiB.
    fn default() -> Self {
        let mut bytes = vec![0; SLOTS * SLOT_BYTES].into_boxed_slice();
        // A batch touches each slot, and so does the kernel.
        pages::prefer_huge(&bytes);
        // SAFETY: all zeros is a valid value of this C structure.
        let mut headers: Box<[libc::mmsghdr; SLOTS]> = unsafe { Box::new(mem::zeroed()) };
        let mut names = Box::new([Name([0; NAME_BYTES]); SLOTS]);
        let mut controls = Box::new([Control([0; CONTROL_BYTES]); SLOTS]);
        let mut chunks = bytes.chunks_exact_mut(SLOT_BYTES);
        let mut iovecs: Box<[libc::iovec; SLOTS]> = Box::new(std::array::from_fn(|_| {
            let chunk = chunks.next().unwrap_or_default();
            libc::iovec {
                iov_base: chunk.as_mut_ptr().cast(),
                iov_len: chunk.len(),
            }
        }));
        for (index, header) in headers.iter_mut().enumerate() {
            header.msg_hdr.msg_name = ptr::from_mut(&mut names[index]).cast();
            header.msg_hdr.msg_iov = &raw mut iovecs[index];
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = controls[index].0.as_mut_ptr().cast();
        }
        Self {
            bytes,
            names,
            controls,
            _iovecs: iovecs,
            headers,
            // So that the first receive prepares every header.
            filled: SLOTS,
        }
    }
}

impl Received {
    /// Takes what is there, at most [`SLOTS`] messages; waits [`WAIT`] for the first.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when nothing came, else what the system said.
    pub fn fill(&mut self, socket: &UdpSocket, _: &UdpSocketState) -> io::Result<()> {
        for header in &mut self.headers[..self.filled] {
            header.msg_hdr.msg_namelen = length_of::<Name>();
            header.msg_hdr.msg_controllen = CONTROL_BYTES;
        }
        self.filled = 0;
        // SAFETY: the headers point to buffers of the lengths they say, which live as long as `self` and are borrowed
        // by nobody: `message` and `bytes_of` borrow `self`.
        let filled = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                SLOTS as libc::c_uint,
                libc::MSG_WAITFORONE,
                ptr::null_mut(),
            )
        };
        self.filled = usize::try_from(filled).map_err(|_| io::Error::last_os_error())?;
        Ok(())
    }

    /// The messages, by their numbers.
    pub fn slots(&self) -> Range<usize> {
        0..self.filled
    }

    /// A message and what is known of it; `None` for what is not from an IP address.
    pub fn message(&self, slot: usize) -> Option<(&[u8], Meta)> {
        let header = &self.headers[..self.filled].get(slot)?;
        let length = usize::try_from(header.msg_len).ok()?;
        let bytes = self.bytes.get(slot * SLOT_BYTES..)?.get(..length)?;
        let mut meta = Meta {
            source: address_of(&self.names[slot])?,
            local: None,
            ecn: None,
            segment: length.max(1),
        };
        let header = &header.msg_hdr;
        // SAFETY: the kernel has written `msg_controllen` bytes of ancillary data into this header's own buffer, and these
        // macros stay within them; data is read unaligned and only where its type says that it is as long.
        unsafe {
            let mut datum = libc::CMSG_FIRSTHDR(header);
            while let Some(head) = datum.as_ref() {
                let data = libc::CMSG_DATA(datum);
                match (head.cmsg_level, head.cmsg_type) {
                    (libc::SOL_UDP, libc::UDP_GRO) => {
                        let segment = data.cast::<libc::c_int>().read_unaligned();
                        meta.segment = usize::try_from(segment).unwrap_or(length).max(1);
                    }
                    (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                        let info = data.cast::<libc::in_pktinfo>().read_unaligned();
                        meta.local =
                            Some(Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes()).into());
                    }
                    (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                        let info = data.cast::<libc::in6_pktinfo>().read_unaligned();
                        meta.local = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
                    }
                    (libc::IPPROTO_IP, libc::IP_TOS) | (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                        meta.ecn = EcnCodepoint::from_bits(data.read());
                    }
                    _ => {}
                }
                datum = libc::CMSG_NXTHDR(header, datum);
            }
        }
        Some((bytes, meta))
    }

    fn bytes_of(&self, link: Link) -> &[u8] {
        &self.bytes[link.offset as usize..][..link.length as usize]
    }
}

impl std::fmt::Debug for Received {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let controls = self.controls.len();
        f.debug_struct("Received")
            .field("filled", &self.filled)
            .field("of", &controls)
            .finish_non_exhaustive()
    }
}

fn length_of<T>() -> libc::socklen_t {
    // The largest is 128 bytes.
    size_of::<T>() as libc::socklen_t
}

#[inline]
fn address_of(name: &Name) -> Option<PackedAddress> {
    let [low, high, ..] = name.0;
    match libc::c_int::from(u16::from_ne_bytes([low, high])) {
        libc::AF_INET => {
            // SAFETY: the family, which each begins with, says which structure this is; it is as large and as aligned.
            let v4 = unsafe { &*ptr::from_ref(name).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from_bits(u32::from_be(v4.sin_addr.s_addr));
            Some(PackedAddress::v4(ip, u16::from_be(v4.sin_port)))
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let v6 = unsafe { &*ptr::from_ref(name).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            let port = u16::from_be(v6.sin6_port);
            Some(PackedAddress::v6(ip, port, v6.sin6_scope_id))
        }
        _ => None,
    }
}

/// Writes an address as the kernel wants it; its length.
#[inline]
fn write_address(address: PackedAddress, name: &mut Name) -> libc::socklen_t {
    match SocketAddr::from(address) {
        SocketAddr::V4(address) => {
            // SAFETY: a name is as large and as aligned as any address, and any bytes are valid ones.
            let v4 = unsafe { &mut *ptr::from_mut(name).cast::<libc::sockaddr_in>() };
            v4.sin_family = libc::AF_INET as libc::sa_family_t;
            v4.sin_port = address.port().to_be();
            v4.sin_addr.s_addr = u32::from_ne_bytes(address.ip().octets());
            length_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(address) => {
            // SAFETY: as above.
            let v6 = unsafe { &mut *ptr::from_mut(name).cast::<libc::sockaddr_in6>() };
            v6.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            v6.sin6_port = address.port().to_be();
            v6.sin6_flowinfo = 0;
            v6.sin6_addr.s6_addr = address.ip().octets();
            v6.sin6_scope_id = address.scope_id();
            length_of::<libc::sockaddr_in6>()
        }
    }
}

/// One message to be sent. A cache line.
#[derive(Clone, Copy, Debug)]
struct Message {
    to: PackedLeg,
    ecn: Option<EcnCodepoint>,
    /// The last piece ends with a shorter one: nothing can follow it.
    closed: bool,
    /// The first and the last of its pieces.
    first: u16,
    last: u16,
    segments: u16,
    /// Of each datagram but the last, bytes.
    segment: u32,
    bytes: u32,
}

impl Message {
    const NONE: Self = Self {
        to: PackedLeg::NONE,
        ecn: None,
        closed: true,
        first: 0,
        last: 0,
        segments: 0,
        segment: 0,
        bytes: 0,
    };

    fn can_take(&self, to: &PackedLeg, ecn: Option<EcnCodepoint>, piece: Piece) -> bool {
        let segment = self.segment as usize;
        self.to == *to
            && self.ecn == ecn
            // Only the last may be shorter.
            && (segment == piece.segment || (piece.datagrams == 1 && piece.length < segment))
            && !self.closed
            && usize::from(self.segments) + piece.datagrams <= MAX_SEGMENTS
            && self.bytes as usize + piece.length <= MAX_SEND_BYTES
    }
}

/// A piece of a message, by where it lies in what was received.
#[derive(Clone, Copy, Debug)]
struct Link {
    offset: u32,
    length: u32,
    /// The message's next piece; itself when it is the last.
    next: u16,
}

/// What is to be sent of a batch, grouped by where it goes. Order is kept for each destination.
pub struct Plan {
    /// Whose frames each message has.
    keys: Box<[u64; SLOTS]>,
    messages: Box<[Message; SLOTS]>,
    len: usize,
    /// By a key's hash: the last message whose key has this hash, which is also what an older batch has left here.
    index: Box<[u8; ROWS]>,
    /// Pieces in the order in which they came.
    links: Box<[Link; MAX_PIECES]>,
    pieces: usize,
    names: Box<[Name; SLOTS]>,
    controls: Box<[Control; SLOTS]>,
    /// Pieces in the order of messages.
    iovecs: Box<[libc::iovec; MAX_PIECES]>,
    headers: Box<[libc::mmsghdr; SLOTS]>,
    /// The card does not take segments: everything is sent one by one.
    no_segments: bool,
    /// Keys of those whose path takes no segments of their frames' size, the last [`MAX_UNSEGMENTED`]; empty nearly always.
    unsegmented: VecDeque<u64>,
}

impl Default for Plan {
    /// Nothing to send.
    fn default() -> Self {
        const NOTHING: Link = Link {
            offset: 0,
            length: 0,
            next: 0,
        };
        // SAFETY: all zeros is a valid value of each of these C structures.
        let (iovecs, mut headers): (_, Box<[libc::mmsghdr; SLOTS]>) =
            unsafe { (Box::new(mem::zeroed()), Box::new(mem::zeroed())) };
        let mut names = Box::new([Name([0; NAME_BYTES]); SLOTS]);
        for (header, name) in headers.iter_mut().zip(names.iter_mut()) {
            header.msg_hdr.msg_name = ptr::from_mut(name).cast();
        }
        Self {
            keys: Box::new([0; SLOTS]),
            messages: Box::new([Message::NONE; SLOTS]),
            len: 0,
            index: Box::new([0; ROWS]),
            links: Box::new([NOTHING; MAX_PIECES]),
            pieces: 0,
            names,
            controls: Box::new([Control([0; CONTROL_BYTES]); SLOTS]),
            iovecs,
            headers,
            no_segments: false,
            unsegmented: VecDeque::new(),
        }
    }
}

impl Plan {
    /// Whether it has to be sent before more can be added.
    pub fn is_full(&self) -> bool {
        self.len == SLOTS
    }

    /// Adds a run for `to`, behind what goes there already if it fits. Runs with one `key` have one destination. Not to be
    /// called on a full plan.
    pub fn add(&mut self, key: u64, to: PackedLeg, ecn: Option<EcnCodepoint>, piece: Piece) {
        let number = self.pieces;
        self.links[number] = Link {
            offset: (piece.slot * SLOT_BYTES + piece.start) as u32,
            length: piece.length as u32,
            next: number as u16,
        };
        self.pieces += 1;
        let open = self.last_of(key).filter(|at| {
            let is_segmented = !self.no_segments && !self.unsegmented.contains(&key);
            is_segmented && self.messages[*at].can_take(&to, ecn, piece)
        });
        let number = number as u16;
        let message = if let Some(at) = open {
            let message = &mut self.messages[at];
            self.links[usize::from(message.last)].next = number;
            message.last = number;
            message
        } else {
            let at = self.len;
            self.len += 1;
            self.keys[at] = key;
            self.index[row(key)] = at as u8;
            let message = &mut self.messages[at];
            *message = Message {
                to,
                ecn,
                first: number,
                last: number,
                segment: piece.segment as u32,
                ..Message::NONE
            };
            message
        };
        message.segments += piece.datagrams as u16;
        message.bytes += piece.length as u32;
        message.closed = piece.length < piece.datagrams * message.segment as usize;
    }

    /// The last message with this key.
    fn last_of(&self, key: u64) -> Option<usize> {
        let keys = &self.keys[..self.len];
        let found = usize::from(self.index[row(key)]);
        // Whoever opens a message enters it in its row: what is there and does not belong there is of an older batch.
        let there = *keys.get(found)?;
        if there == key {
            return Some(found);
        }
        let is_shared = row(there) == row(key);
        is_shared.then(|| keys.iter().rposition(|known| *known == key))?
    }

    /// Sends everything, from where it was received, and is empty.
    pub fn send(&mut self, socket: &UdpSocket, _: &UdpSocketState, received: &Received) -> Sent {
        let mut used = 0;
        for at in 0..self.len {
            used += self.prepare(at, used, received);
        }
        let (mut sent, mut at) = (Sent::default(), 0);
        while at < self.len {
            match self.send_from(socket, at) {
                Ok(taken) => {
                    for message in &self.messages[at..at + taken] {
                        let datagrams = usize::from(message.segments);
                        sent.add(message.to.end(), datagrams, message.bytes as usize);
                        sent.runs += usize::from(message.segments > 1);
                    }
                    at += taken;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let rest = self.messages[at..self.len].iter();
                    sent.no_room += rest
                        .map(|message| usize::from(message.segments))
                        .sum::<usize>();
                    break;
                }
                Err(error) => {
                    self.send_one_by_one(socket, at, received, &error, &mut sent);
                    at += 1;
                }
            }
        }
        (self.len, self.pieces) = (0, 0);
        sent
    }

    fn send_from(&mut self, socket: &UdpSocket, at: usize) -> io::Result<usize> {
        let headers = &mut self.headers[at..self.len];
        // SAFETY: `prepare` has pointed these headers to names, control data and iovecs of this plan, and the iovecs to what
        // was received, which `send` borrows.
        let taken = unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                headers.len() as libc::c_uint,
                libc::MSG_DONTWAIT,
            )
        };
        usize::try_from(taken).map_err(|_| io::Error::last_os_error())
    }

    fn send_unsegmented(&mut self, key: u64) {
        if self.unsegmented.contains(&key) {
            return;
        }
        if self.unsegmented.len() == MAX_UNSEGMENTED {
            self.unsegmented.pop_front();
        }
        self.unsegmented.push_back(key);
    }

    /// Makes a message's header, and its iovecs from that of this number on; how many it has.
    fn prepare(&mut self, at: usize, from: usize, received: &Received) -> usize {
        let message = &self.messages[at];
        let (mut number, mut pieces) = (message.first, 0);
        for iovec in &mut self.iovecs[from..] {
            let link = self.links[usize::from(number)];
            let bytes = received.bytes_of(link);
            *iovec = libc::iovec {
                iov_base: bytes.as_ptr().cast_mut().cast(),
                iov_len: bytes.len(),
            };
            pieces += 1;
            if number == message.last {
                break;
            }
            number = link.next;
        }
        let header = &mut self.headers[at].msg_hdr;
        header.msg_namelen = write_address(message.to.remote(), &mut self.names[at]);
        header.msg_iov = self.iovecs[from..].as_mut_ptr();
        header.msg_iovlen = pieces;
        let segment = (message.segments > 1).then_some(message.segment as usize);
        write_control(
            header,
            &mut self.controls[at],
            &message.to,
            message.ecn,
            segment,
        );
        pieces
    }

    /// A message that the system has refused: because of its segments, maybe.
    fn send_one_by_one(
        &mut self,
        socket: &UdpSocket,
        at: usize,
        received: &Received,
        error: &io::Error,
        sent: &mut Sent,
    ) {
        let message = self.messages[at];
        if message.segments == 1 {
            tracing::trace!(%error, to = ?Leg::from(message.to), "not sent");
            sent.refused += 1;
            return;
        }
        match error.raw_os_error() {
            // No checksums in hardware on the way out, so no segments, for anybody (udp_send_skb in the kernel).
            Some(libc::EIO) if !self.no_segments => {
                tracing::info!(%error, "no UDP segmentation here: every frame is sent by itself");
                self.no_segments = true;
            }
            // Longer than this one's path takes.
            Some(libc::EINVAL) => self.send_unsegmented(self.keys[at]),
            _ => {}
        }
        let mut number = message.first;
        loop {
            let link = self.links[usize::from(number)];
            for datagram in received.bytes_of(link).chunks(message.segment as usize) {
                let mut iovec = libc::iovec {
                    iov_base: datagram.as_ptr().cast_mut().cast(),
                    iov_len: datagram.len(),
                };
                let header = &mut self.headers[at].msg_hdr;
                header.msg_iov = &raw mut iovec;
                header.msg_iovlen = 1;
                write_control(
                    header,
                    &mut self.controls[at],
                    &message.to,
                    message.ecn,
                    None,
                );
                // SAFETY: name and control data are this plan's, the iovec is on the stack and points to what was
                // received, which is borrowed.
                let taken =
                    unsafe { libc::sendmsg(socket.as_raw_fd(), header, libc::MSG_DONTWAIT) };
                if taken >= 0 {
                    sent.add(message.to.end(), 1, datagram.len());
                } else if io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock {
                    sent.no_room += 1;
                } else {
                    sent.refused += 1;
                }
            }
            if number == message.last {
                break;
            }
            number = link.next;
        }
    }
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(&self.messages[..self.len]).finish()
    }
}

/// Where a key stands in the index.
fn row(key: u64) -> usize {
    // Multiplied by the golden ratio, so that keys that are alike stand apart; ids need not be random.
    (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - ROWS.ilog2())) as usize
}

/// What goes with a message: our own address, marks, the size of its segments.
fn write_control(
    header: &mut libc::msghdr,
    control: &mut Control,
    to: &PackedLeg,
    ecn: Option<EcnCodepoint>,
    segment: Option<usize>,
) {
    let local = to.local();
    if segment.is_none() && ecn.is_none() && local.is_none() {
        (header.msg_control, header.msg_controllen) = (ptr::null_mut(), 0);
        return;
    }
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = CONTROL_BYTES;
    let mut used = 0;
    // SAFETY: there is room for the three data with their headers, 16 + 2, 16 + 4 and 16 + 20 bytes and their padding, and
    // the macros lead from one to the next within the length that the header says.
    unsafe {
        let mut datum = libc::CMSG_FIRSTHDR(header);
        let mut push = |level: libc::c_int, kind: libc::c_int, data: &[u8]| {
            let Some(head) = datum.as_mut() else { return };
            let length = data.len() as libc::c_uint;
            head.cmsg_level = level;
            head.cmsg_type = kind;
            head.cmsg_len = libc::CMSG_LEN(length) as usize;
            ptr::copy_nonoverlapping(data.as_ptr(), libc::CMSG_DATA(datum), data.len());
            used += libc::CMSG_SPACE(length) as usize;
            datum = ptr::from_mut(head).byte_add(libc::CMSG_SPACE(length) as usize);
        };
        if let Some(segment) = segment {
            let segment = u16::try_from(segment).unwrap_or(u16::MAX);
            push(libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes());
        }
        if let Some(ecn) = ecn {
            let marks = libc::c_int::from(ecn as u8).to_ne_bytes();
            if SocketAddr::from(to.remote()).ip().to_canonical().is_ipv4() {
                push(libc::IPPROTO_IP, libc::IP_TOS, &marks);
            } else {
                push(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &marks);
            }
        }
        match local {
            // in_pktinfo: interface, our address, the other's; in6_pktinfo: our address, interface.
            Some(IpAddr::V4(ip)) => {
                let mut info = [0; 12];
                info[4..8].copy_from_slice(&ip.octets());
                push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            }
            Some(IpAddr::V6(ip)) => {
                let mut info = [0; 20];
                info[..16].copy_from_slice(&ip.octets());
                push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            }
            None => {}
        }
    }
    header.msg_controllen = used;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(slot: usize, start: usize, length: usize) -> Piece {
        Piece {
            slot,
            start,
            length,
            segment: 1200,
            datagrams: length.div_ceil(1200),
        }
    }

    fn leg(port: u16) -> PackedLeg {
        let remote = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        PackedLeg::from(Leg {
            end: FarEnd::Node,
            remote,
            local: None,
        })
    }

    /// Zero-copy: what the kernel is told to send lies where it was received.
    #[test]
    fn what_is_sent_lies_in_what_was_received() {
        let (received, mut plan) = (Received::default(), Plan::default());
        plan.add(1, leg(1), None, piece(0, 0, 2400));
        plan.add(2, leg(2), None, piece(0, 2400, 1200));
        plan.add(1, leg(1), None, piece(SLOTS - 1, 1200, 700));
        assert_eq!(plan.len, 2);
        let memory = received.bytes.as_ptr_range();
        let mut expected = [
            (0, 2400),
            ((SLOTS - 1) * SLOT_BYTES + 1200, 700),
            (2400, 1200),
        ]
        .into_iter();
        let mut used = 0;
        for at in 0..plan.len {
            let pieces = plan.prepare(at, used, &received);
            for iovec in &plan.iovecs[used..][..pieces] {
                let base = iovec.iov_base.cast::<u8>().cast_const();
                assert!(memory.contains(&base));
                let offset = base.addr() - memory.start.addr();
                assert_eq!(Some((offset, iovec.iov_len)), expected.next());
            }
            used += pieces;
        }
        assert_eq!(expected.next(), None);
    }

    #[test]
    fn runs_for_one_leg_are_one_message_until_it_is_full_or_ends_short() {
        let mut plan = Plan::default();
        for n in 0..MAX_SEGMENTS + 1 {
            plan.add(1, leg(1), None, piece(0, n * 1200 % 60_000, 1200));
        }
        // 65,000 bytes are 54 of them.
        let counts: Vec<_> = plan.messages[..plan.len]
            .iter()
            .map(|m| m.segments)
            .collect();
        assert_eq!(counts, [54, 11]);
        // Shorter than the others: the last of its message, and nothing follows it.
        plan.add(1, leg(1), None, piece(0, 0, 30));
        plan.add(1, leg(1), None, piece(0, 0, 1200));
        // Other marks, or longer datagrams, are another message.
        plan.add(1, leg(1), Some(EcnCodepoint::Ce), piece(0, 0, 1200));
        let longer = Piece {
            segment: 1300,
            datagrams: 1,
            ..piece(0, 0, 1300)
        };
        plan.add(1, leg(1), Some(EcnCodepoint::Ce), longer);
        let counts: Vec<_> = plan.messages[..plan.len]
            .iter()
            .map(|m| m.segments)
            .collect();
        assert_eq!(counts, [54, 12, 1, 1, 1]);
    }

    #[test]
    fn whose_path_takes_no_segments_is_sent_frames_one_by_one_and_nobody_else() {
        let mut plan = Plan::default();
        for key in 0..=MAX_UNSEGMENTED as u64 {
            plan.send_unsegmented(key);
            plan.send_unsegmented(key);
        }
        assert_eq!(plan.unsegmented.len(), MAX_UNSEGMENTED);
        for key in [0, 1, 99] {
            plan.add(key, leg(1), None, piece(0, 0, 1200));
            plan.add(key, leg(1), None, piece(0, 1200, 1200));
        }
        let counts: Vec<_> = plan.messages[..plan.len]
            .iter()
            .map(|m| m.segments)
            .collect();
        // The first is the one that was forgotten.
        assert_eq!(counts, [2, 1, 1, 2]);
    }

    #[test]
    fn an_address_comes_back_as_it_was() {
        for text in ["192.0.2.1:4433", "[2001:db8::1]:1", "[fe80::1%3]:65535"] {
            let address: SocketAddr = text.parse().expect("an address");
            let mut name = Name([0; NAME_BYTES]);
            let length = write_address(address.into(), &mut name);
            assert!(length as usize <= size_of_val(&name));
            assert_eq!(address_of(&name), Some(address.into()));
        }
    }
}
