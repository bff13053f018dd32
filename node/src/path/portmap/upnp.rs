//! UPnP-IGD: the gateway's device is searched for on the network, and described and asked over HTTP.
//!
//! A search is answered by whoever likes, with a URL to be fetched. Here only the gateway is heard, and only what is at its own
//! address is fetched: `igd-next` searches through a door on this computer, and outside of it stands who looks at the answers.
//!
//! ```text
//!  igd-next ─▶ door ─▶ 239.255.255.250:1900, and the gateway's own port 1900
//!           ◀─ door ◀─ what comes from the gateway's address
//!           ─▶ HTTP at the gateway's address, and nowhere else: no name, no redirect, no loopback
//! ```

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
    num::NonZeroU16,
    time::Duration,
};

use igd_next::{
    AddPortError, PortMappingProtocol, SearchOptions,
    aio::{
        Gateway as Device,
        tokio::{Tokio, search_gateway},
    },
};
use tokio::net::UdpSocket;

use super::{ASKING, Gateway, LEASE, Mapping, Protocol, Unmapped};

/// Where a search goes (UPnP Device Architecture 1.1 §1.3.2); one hop far, as the system sends it.
const SSDP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(239, 255, 255, 250), 1900);
/// For a gateway of whatever version: later ones answer for earlier ones (§1.3.2). As soon as possible, which is within a second.
const SEARCH: &[u8] = b"M-SEARCH * HTTP/1.1\r\n\
HOST: 239.255.255.250:1900\r\n\
MAN: \"ssdp:discover\"\r\n\
MX: 1\r\n\
ST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n\
\r\n";
/// What people read in their gateway's list.
const DESCRIPTION: &str = "remora";
/// An answer is a dozen lines.
const ANSWER_BYTES: usize = 1500;

/// A gateway's device, from here.
#[derive(Debug)]
pub(super) struct Held {
    device: Device<Tokio>,
    local: SocketAddr,
}

/// The gateway's device, before anything is asked of it.
pub(super) struct Found {
    device: Device<Tokio>,
    own: Ipv4Addr,
}

/// Finds it.
pub(super) async fn search(at: Gateway) -> Result<Found, Unmapped> {
    let door = Door::open(at).await.map_err(not_given)?;
    let mut options = SearchOptions::default();
    options.bind_addr = (Ipv4Addr::LOCALHOST, 0).into();
    options.broadcast_address = door.inside.local_addr().map_err(not_given)?;
    options.timeout = Some(ASKING);
    options.allowed_gateway_ips = vec![at.ip.into()];
    tokio::select! { biased;
        error = door.pass() => Err(not_given(error)),
        found = search_gateway(options) => {
            let device = found.map_err(not_given)?;
            Ok(Found { device, own: at.own })
        }
    }
}

struct Door {
    inside: UdpSocket,
    outside: UdpSocket,
    gateway: Ipv4Addr,
}

impl Door {
    async fn open(at: Gateway) -> io::Result<Self> {
        Ok(Self {
            inside: UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?,
            // By its address it is in the gateway's network, and so is where it sends to.
            outside: UdpSocket::bind((at.own, 0)).await?,
            gateway: at.ip,
        })
    }

    /// Searches for whoever asks inside, and passes on what the gateway answers.
    async fn pass(&self) -> io::Error {
        let mut asker = None;
        let (mut asked, mut answer) = ([0; ANSWER_BYTES], [0; ANSWER_BYTES]);
        loop {
            tokio::select! { biased;
                received = self.inside.recv_from(&mut asked) => match received {
                    Ok((_, from)) if asker.is_none() => {
                        asker = Some(from);
                        self.search().await;
                    }
                    // It asks in several ways, and looks as soon as it has the first answer.
                    Ok(_) => {}
                    Err(error) => return error,
                },
                received = self.outside.recv_from(&mut answer) => match received {
                    Ok((length, from)) if from.ip() == IpAddr::V4(self.gateway) => {
                        if let Some(asker) = asker
                            && let Err(error) = self.inside.send_to(&answer[..length], asker).await
                        {
                            return error;
                        }
                    }
                    Ok((_, from)) => tracing::debug!(%from, "not the gateway"),
                    // Nobody there, it may say, and others are.
                    Err(error) => tracing::trace!(%error, "SSDP"),
                },
            }
        }
    }

    /// There are gateways that hear the one only, and such that hear the other only.
    async fn search(&self) {
        for to in [SSDP, SocketAddrV4::new(self.gateway, SSDP.port())] {
            if let Err(error) = self.outside.send_to(SEARCH, to).await {
                tracing::trace!(%error, %to, "SSDP");
            }
        }
    }
}

impl Found {
    /// Asks for a port that leads to `port`: the same one, or another.
    pub(super) async fn map(self, port: NonZeroU16) -> Result<Mapping, Unmapped> {
        let local = (self.own, port.get()).into();
        let held = Held {
            device: self.device,
            local,
        };
        held.map(port.get()).await
    }
}

impl Held {
    async fn map(self, suggested: u16) -> Result<Mapping, Unmapped> {
        let ip = self.device.get_external_ip().await.map_err(not_given)?;
        let IpAddr::V4(ip) = ip else {
            return Err(Unmapped::NotGiven);
        };
        // Of gateways that know only mappings for ever, none is taken: it would be there long after this computer.
        let lease = u32::try_from(LEASE.as_secs()).unwrap_or(u32::MAX);
        let (udp, local) = (PortMappingProtocol::UDP, self.local);
        let asked = self
            .device
            .add_port(udp, suggested, local, lease, DESCRIPTION);
        let port = match asked.await {
            Ok(()) => suggested,
            Err(AddPortError::PortInUse) => {
                let any = self.device.add_any_port(udp, local, lease, DESCRIPTION);
                any.await.map_err(not_given)?
            }
            Err(error) => return Err(not_given(error)),
        };
        let external = SocketAddrV4::new(ip, port);
        let lifetime = Duration::from_secs(lease.into());
        Ok(Mapping::new(
            Protocol::Upnp,
            external,
            lifetime,
            super::Held::Upnp(self),
        ))
    }

    /// The same once more.
    pub(super) async fn renew(&self, external: u16) -> Result<Mapping, Unmapped> {
        let again = Self {
            device: self.device.clone(),
            local: self.local,
        };
        again.map(external).await
    }

    /// Gives it back.
    pub(super) async fn delete(self, external: u16) -> Result<(), Unmapped> {
        let udp = PortMappingProtocol::UDP;
        let removed = self.device.remove_port(udp, external).await;
        removed.map_err(not_given)
    }
}

fn not_given(error: impl std::fmt::Display) -> Unmapped {
    tracing::trace!(%error, "UPnP");
    Unmapped::NotGiven
}
