//! Many datagrams in one system call: `recvmmsg` with `UDP_GRO`, `sendmmsg` with `UDP_SEGMENT`.
//!
//! The load and the plain forwarders stand on this file, so it does what the system calls need and no more: buffers are
//! made once, addresses stay as the kernel wrote them, and what is sent is sent from where it lies.
#![expect(
    unsafe_code,
    reason = "sendmmsg with a segment size for each message has no safe wrapper: nix has one for all, quinn-udp sends one by one"
)]

use std::{
    fmt,
    io::{self, IoSlice},
    mem,
    net::SocketAddrV4,
    os::fd::{AsRawFd as _, BorrowedFd},
    ptr,
};

/// Most datagrams in one system call; more do not make it cheaper (`RELAY-PERF` §5).
pub const MAX_BATCH: usize = 64;
/// Longest run of datagrams that the kernel joins.
pub const MAX_RUN_BYTES: usize = 65_535;
/// Longest run that it cuts: UDP's and IPv4's headers count, too.
pub const MAX_SENT_RUN_BYTES: usize = MAX_RUN_BYTES - 28;
/// Room for the segment size, and for the address and the mark that a node's socket asks for.
const CONTROL_BYTES: usize = 128;

/// An IPv4 address with its port, as the kernel writes it.
#[derive(Clone, Copy)]
pub struct Address(libc::sockaddr_in);

impl Address {
    /// Nobody.
    pub const NOWHERE: Self = Self(libc::sockaddr_in {
        sin_family: 0,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: 0 },
        sin_zero: [0; 8],
    });
}

impl Address {
    /// As the standard library has it.
    pub fn to_std(self) -> SocketAddrV4 {
        let ip = self.0.sin_addr.s_addr.to_ne_bytes();
        SocketAddrV4::new(ip.into(), u16::from_be(self.0.sin_port))
    }
}

impl From<SocketAddrV4> for Address {
    fn from(address: SocketAddrV4) -> Self {
        Self(libc::sockaddr_in {
            sin_family: FAMILY,
            sin_port: address.port().to_be(),
            sin_addr: libc::in_addr {
                s_addr: u32::from_ne_bytes(address.ip().octets()),
            },
            sin_zero: [0; 8],
        })
    }
}

impl PartialEq for Address {
    fn eq(&self, other: &Self) -> bool {
        self.0.sin_addr.s_addr == other.0.sin_addr.s_addr && self.0.sin_port == other.0.sin_port
    }
}

impl Eq for Address {}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.to_std(), f)
    }
}

/// As wide as the system calls want them.
const FAMILY: libc::sa_family_t = 2;
const ADDRESS_BYTES: libc::socklen_t = 16;
const _: () = assert!(FAMILY as i32 == libc::AF_INET);
const _: () = assert!(ADDRESS_BYTES as usize == size_of::<Address>());

fn count_of(headers: &[libc::mmsghdr]) -> libc::c_uint {
    headers.len().try_into().expect("batches are small")
}

/// Control messages of one datagram, aligned as the kernel wants them.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL_BYTES]);

fn empty_header() -> libc::mmsghdr {
    // SAFETY: a plain C structure for which all zeros (null pointers, no lengths) is a value.
    unsafe { mem::zeroed() }
}

// --- receiving ------------------------------------------------------------------------------------

/// A received datagram, or a run of them that the kernel joined.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// All of it.
    pub bytes: &'a [u8],
    /// How long each datagram of the run is; the last may be shorter.
    pub segment: usize,
    /// Where from, on a socket of IPv4.
    pub source: Address,
}

impl<'a> Datagram<'a> {
    /// The datagrams of the run.
    pub fn segments(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.bytes.chunks(self.segment.max(1))
    }
}

/// Whether to wait for the first datagram. Nobody waits for a second one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Take what is there.
    No,
    /// Until there is one; the socket must be a blocking one.
    ForOne,
}

/// Buffers for one receive, made once.
pub struct Inbox {
    slot_bytes: usize,
    bytes: Vec<u8>,
    names: Vec<Address>,
    controls: Vec<Control>,
    parts: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
    filled: usize,
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Inbox({} × {} B)", self.headers.len(), self.slot_bytes)
    }
}

impl Inbox {
    /// Buffers for `slots` datagrams or runs of at most `slot_bytes` each.
    pub fn new(slots: usize, slot_bytes: usize) -> Self {
        let mut inbox = Self {
            slot_bytes,
            bytes: vec![0; slots * slot_bytes],
            names: vec![Address::NOWHERE; slots],
            controls: vec![Control([0; CONTROL_BYTES]); slots],
            parts: Vec::with_capacity(slots),
            headers: vec![empty_header(); slots],
            filled: slots,
        };
        for slot in inbox.bytes.chunks_exact_mut(slot_bytes) {
            inbox.parts.push(libc::iovec {
                iov_base: slot.as_mut_ptr().cast(),
                iov_len: slot_bytes,
            });
        }
        let buffers = inbox
            .parts
            .iter_mut()
            .zip(&mut inbox.names)
            .zip(&mut inbox.controls);
        for (header, ((part, name), control)) in inbox.headers.iter_mut().zip(buffers) {
            header.msg_hdr.msg_iov = part;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_name = ptr::from_mut(name).cast();
            header.msg_hdr.msg_control = ptr::from_mut(control).cast();
        }
        inbox
    }

    /// Receives as many as there are; 0 when that would mean to wait and one does not want to.
    ///
    /// # Errors
    /// What the system said.
    pub fn receive(&mut self, socket: BorrowedFd<'_>, wait: Wait) -> io::Result<usize> {
        let flags = match wait {
            Wait::No => libc::MSG_DONTWAIT,
            Wait::ForOne => libc::MSG_WAITFORONE,
        };
        // The kernel wrote lengths over the room that it was given.
        for header in &mut self.headers[..self.filled] {
            header.msg_hdr.msg_namelen = ADDRESS_BYTES;
            header.msg_hdr.msg_controllen = CONTROL_BYTES;
        }
        self.filled = 0;
        let slots = count_of(&self.headers);
        // SAFETY: every header points to a name, a control buffer and one part of the lengths it says; all belong to
        // vectors of `self`, which never grow and are borrowed mutably during the call.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                slots,
                flags,
                ptr::null_mut(),
            )
        };
        if let Ok(received) = usize::try_from(received) {
            self.filled = received;
            return Ok(received);
        }
        match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            error => Err(error),
        }
    }

    /// What the last receive brought.
    pub fn datagrams(&self) -> impl Iterator<Item = Datagram<'_>> {
        let slots = self.bytes.chunks_exact(self.slot_bytes);
        let filled = self.headers[..self.filled].iter().zip(&self.names);
        slots.zip(filled).map(|(slot, (header, name))| {
            let bytes = &slot[..slot.len().min(header.msg_len as usize)];
            Datagram {
                bytes,
                segment: segment_size(&header.msg_hdr).unwrap_or(bytes.len()),
                source: *name,
            }
        })
    }
}

/// What the kernel says about a run that it joined.
fn segment_size(header: &libc::msghdr) -> Option<usize> {
    if header.msg_controllen == 0 {
        return None;
    }
    // SAFETY: the header's control buffer is alive, aligned and was filled by the kernel with as many bytes as the header
    // says; the macros stay within these, and a UDP_GRO message carries an int.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(header);
        while let Some(found) = message.as_ref() {
            if (found.cmsg_level, found.cmsg_type) == (libc::SOL_UDP, libc::UDP_GRO) {
                let size = libc::CMSG_DATA(message).cast::<libc::c_int>();
                return usize::try_from(size.read_unaligned()).ok();
            }
            message = libc::CMSG_NXTHDR(header, message);
        }
    }
    None
}

// --- sending --------------------------------------------------------------------------------------

/// A datagram to send, or a run of them that the kernel cuts.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// What, gathered in this order.
    pub parts: &'a [IoSlice<'a>],
    /// Where to, unless the socket is connected.
    pub to: Option<&'a Address>,
    /// Cut every so many bytes.
    pub segment: Option<u16>,
}

/// The one control message of a run: [`libc::UDP_SEGMENT`].
#[derive(Clone, Copy)]
#[repr(C)]
struct SegmentMessage {
    header: libc::cmsghdr,
    size: u16,
}

impl SegmentMessage {
    fn new(size: u16) -> Self {
        // SAFETY: a plain C structure for which all zeros is a value.
        let mut header: libc::cmsghdr = unsafe { mem::zeroed() };
        header.cmsg_len = size_of::<libc::cmsghdr>() + size_of::<u16>();
        header.cmsg_level = libc::SOL_UDP;
        header.cmsg_type = libc::UDP_SEGMENT;
        Self { header, size }
    }
}

/// Headers for one send, made once.
pub struct Outbox {
    segments: Vec<SegmentMessage>,
    headers: Vec<libc::mmsghdr>,
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Outbox({})", self.headers.len())
    }
}

impl Outbox {
    /// Room for `messages`.
    pub fn new(messages: usize) -> Self {
        Self {
            segments: vec![SegmentMessage::new(0); messages],
            headers: vec![empty_header(); messages],
        }
    }

    /// Sends `messages`, as many as there is room for; how many the system took.
    ///
    /// One that it refuses is lost, as on a network; nothing waits.
    pub fn send<'a>(
        &mut self,
        socket: BorrowedFd<'_>,
        messages: impl Iterator<Item = Message<'a>>,
    ) -> usize {
        let mut count = 0;
        let slots = self.headers.iter_mut().zip(&mut self.segments);
        for ((header, segment), message) in slots.zip(messages) {
            fill(&mut header.msg_hdr, segment, &message);
            count += 1;
        }
        let (mut at, mut taken) = (0, 0);
        while at < count {
            let rest = &mut self.headers[at..count];
            let left = count_of(rest);
            // SAFETY: each of these headers was filled above with pointers to what its message borrows for `'a`, which
            // outlives this call, and to its own entry of `segments`, which stays where it is.
            let sent = unsafe {
                libc::sendmmsg(
                    socket.as_raw_fd(),
                    rest.as_mut_ptr(),
                    left,
                    libc::MSG_DONTWAIT,
                )
            };
            let sent = usize::try_from(sent).unwrap_or(0);
            taken += sent;
            // The one that was refused is passed over.
            at += sent.max(1);
        }
        taken
    }
}

fn fill(header: &mut libc::msghdr, segment: &mut SegmentMessage, message: &Message<'_>) {
    (header.msg_name, header.msg_namelen) = match message.to {
        Some(to) => (ptr::from_ref(to).cast_mut().cast(), ADDRESS_BYTES),
        None => (ptr::null_mut(), 0),
    };
    // An `IoSlice` is guaranteed to be laid out as an `iovec`.
    header.msg_iov = message.parts.as_ptr().cast_mut().cast();
    header.msg_iovlen = message.parts.len();
    (header.msg_control, header.msg_controllen) = match message.segment {
        Some(size) => {
            segment.size = size;
            (ptr::from_mut(segment).cast(), size_of::<SegmentMessage>())
        }
        None => (ptr::null_mut(), 0),
    };
}

#[cfg(test)]
mod tests;
