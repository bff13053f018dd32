//! The system says when an interface or an address comes or goes.
//!
//! It is asked what there is (`gather`) then, and every few seconds all the same: not every system says, and none is bound to say
//! it soon.

use std::time::Duration;

use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

/// How often one looks without having been told.
const LOOK_AROUND: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug)]
pub(super) struct Changes {
    told: Option<platform::Told>,
    look_around: Interval,
}

impl Changes {
    /// From now on: whoever begins has just looked.
    pub(super) fn new() -> Self {
        let told = platform::Told::new().inspect_err(
            |error| tracing::debug!(%error, "changes of the network are noticed by looking"),
        );
        let mut look_around = interval_at(Instant::now() + LOOK_AROUND, LOOK_AROUND);
        look_around.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let told = told.ok();
        Self { told, look_around }
    }

    /// When it is time to look. Whoever drops it halfway misses nothing.
    pub(super) async fn next(&mut self) {
        let Self { told, look_around } = self;
        let failed = match told {
            Some(told) => tokio::select! {
                failed = told.next() => failed.err(),
                _ = look_around.tick() => None,
            },
            None => {
                look_around.tick().await;
                None
            }
        };
        if let Some(error) = failed {
            tracing::debug!(%error, "changes of the network are noticed by looking");
            self.told = None;
        }
    }
}

/// rtnetlink (RFC 3549): a message for each link and address that comes, changes or goes.
#[cfg(target_os = "linux")]
mod platform {
    use std::{io, os::fd::AsRawFd as _};

    use nix::{
        errno::Errno,
        sys::socket::{AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, socket},
    };
    use tokio::net::UdpSocket;

    // `linux/rtnetlink.h`: groups as bits.
    const LINKS: u32 = 0x1;
    const V4_ADDRESSES: u32 = 0x10;
    const V6_ADDRESSES: u32 = 0x100;

    /// No UDP socket; but datagrams are received from it as from one, and tokio has no other name for that.
    #[derive(Debug)]
    pub(super) struct Told(UdpSocket);

    impl Told {
        pub(super) fn new() -> io::Result<Self> {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let fd = socket(
                AddressFamily::Netlink,
                SockType::Raw,
                flags,
                SockProtocol::NetlinkRoute,
            )?;
            let groups = LINKS | V4_ADDRESSES | V6_ADDRESSES;
            bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
            Ok(Self(UdpSocket::from_std(fd.into())?))
        }

        /// Until something has changed. What exactly is not read: there may be too much of it, and then it is lost.
        pub(super) async fn next(&mut self) -> io::Result<()> {
            self.0.readable().await?;
            let mut buffer = [0; 8192];
            loop {
                match self.0.try_recv(&mut buffer) {
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                    // More than there was room for.
                    Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod platform {
    use std::io;

    #[derive(Debug)]
    pub(super) struct Told;

    impl Told {
        pub(super) fn new() -> io::Result<Self> {
            Err(io::ErrorKind::Unsupported.into())
        }

        pub(super) async fn next(&mut self) -> io::Result<()> {
            std::future::pending().await
        }
    }
}
