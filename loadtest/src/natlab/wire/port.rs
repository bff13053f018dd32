//! All frames that arrive at an interface, and any that one likes to send there.
#![expect(
    unsafe_code,
    reason = "a packet socket's options and address, which neither nix nor socket2 can make"
)]

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::{
    net::if_::if_nametoindex,
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};

/// Opens one on an interface of this thread's namespace; each frame begins with a `virtio_net_hdr` (packet(7)).
///
/// # Errors
/// There is no such interface, or it may not be listened to.
pub(super) fn open(interface: &str) -> io::Result<File> {
    let index = if_nametoindex(interface)?;
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    // Without a protocol it hears nothing before it is bound.
    let socket = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
    enable(&socket, libc::PACKET_VNET_HDR)?;
    enable(&socket, libc::PACKET_IGNORE_OUTGOING)?;
    let invalid = |_| io::ErrorKind::InvalidInput;
    let address = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET).map_err(invalid)?,
        sll_protocol: u16::try_from(libc::ETH_P_ALL).map_err(invalid)?.to_be(),
        sll_ifindex: i32::try_from(index).map_err(invalid)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = u32::try_from(size_of_val(&address)).map_err(invalid)?;
    // SAFETY: the pointer is to a sockaddr_ll of this length, and is not kept.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    if bound != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(File::from(socket))
}

fn enable(socket: &OwnedFd, option: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    let length = u32::try_from(size_of_val(&on)).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the pointer is to an int of this length, and is not kept.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            option,
            (&raw const on).cast(),
            length,
        )
    };
    if set != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
