//! Where connections of the mesh may go: what Kademlia answers is what some other relay says, and could be anybody's address.
//!
//! Whom a seed names, or who has been met, is dialed. Beside that, only addresses of a kind that is one of these: a fleet on the
//! open internet is sent to no computer behind a firewall, and none is sent to its own loopback unless all of them are there.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr,
    core::transport::{Boxed, DialOpts, ListenerId, Transport, TransportError, TransportEvent},
};

use super::task::socket_addr;

/// What an address is, as far as that says who may be there (RFC 6890).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// This computer.
    Loopback,
    /// A network of somebody's own.
    Private,
    /// Anywhere.
    Public,
}

/// Nothing for those at which no relay can be: everybody's, nobody's, and a link's own, where clouds keep their secrets.
fn kind(ip: IpAddr) -> Option<Kind> {
    let (is_nowhere, is_loopback, is_private) = match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [first, second, ..] = ip.octets();
            let is_shared = first == 100 && second & 0xc0 == 64;
            (
                first == 0 || first >= 224 || ip.is_link_local(),
                ip.is_loopback(),
                ip.is_private() || is_shared,
            )
        }
        IpAddr::V6(ip) => {
            if let Some(embedded) = embedded(ip) {
                return kind(embedded.into());
            }
            (
                ip.is_unspecified() || ip.is_multicast() || ip.is_unicast_link_local(),
                ip.is_loopback(),
                ip.is_unique_local(),
            )
        }
    };
    match (is_nowhere, is_loopback, is_private) {
        (true, ..) => None,
        (_, true, _) => Some(Kind::Loopback),
        (.., true) => Some(Kind::Private),
        _ => Some(Kind::Public),
    }
}

/// Where a gateway takes it that undoes how IPv4 is written there: 64:ff9b::/96 (RFC 6052), 2002::/16 (RFC 3056).
fn embedded(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let [first, second, third, .., seventh, last] = ip.segments();
    let (high, low) = match (first, second) {
        (0x64, 0xff9b) => (seventh, last),
        (0x2002, _) => (second, third),
        _ => return None,
    };
    Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
}

/// The kinds of address that the fleet is at, shared with the transport.
#[derive(Clone, Debug, Default)]
pub struct Reach(Arc<AtomicU8>);

impl Reach {
    /// There is a relay of the fleet, or its operator says that there is.
    pub fn allow(&self, ip: IpAddr) {
        if let Some(kind) = kind(ip) {
            self.0.fetch_or(1 << kind as u8, Ordering::Relaxed);
        }
    }

    /// Whether there may be one.
    pub fn allows(&self, ip: IpAddr) -> bool {
        let is_met = |kind| self.0.load(Ordering::Relaxed) & (1 << kind as u8) != 0;
        kind(ip).is_some_and(is_met)
    }
}

/// Dials nowhere else.
#[derive(Debug)]
pub struct Reaching<O> {
    inner: Boxed<O>,
    reach: Reach,
}

impl<O> Reaching<O> {
    /// `inner`, held to `reach`.
    pub fn new(inner: Boxed<O>, reach: Reach) -> Self {
        Self { inner, reach }
    }
}

impl<O> Transport for Reaching<O> {
    type Output = O;
    type Error = <Boxed<O> as Transport>::Error;
    type ListenerUpgrade = <Boxed<O> as Transport>::ListenerUpgrade;
    type Dial = <Boxed<O> as Transport>::Dial;

    fn listen_on(
        &mut self,
        id: ListenerId,
        at: Multiaddr,
    ) -> Result<(), TransportError<Self::Error>> {
        self.inner.listen_on(id, at)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(
        &mut self,
        at: Multiaddr,
        options: DialOpts,
    ) -> Result<Self::Dial, TransportError<Self::Error>> {
        if !socket_addr(&at).is_some_and(|at| at.port() != 0 && self.reach.allows(at.ip())) {
            tracing::debug!(%at, "no relay is dialed there");
            return Err(TransportError::MultiaddrNotSupported(at));
        }
        self.inner.dial(at, options)
    }

    fn poll(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
        Pin::new(&mut self.inner).poll(context)
    }
}

#[cfg(test)]
mod tests {
    use libp2p::{
        core::{Endpoint, transport::PortUse},
        tcp,
    };

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_fleet_is_only_looked_for_where_it_is() {
        let all = [
            ("127.0.0.1", "::1", Kind::Loopback),
            ("10.1.2.3", "fd00::1", Kind::Private),
            ("100.64.0.1", "::ffff:192.168.1.1", Kind::Private),
            ("64:ff9b::10.0.0.1", "2002:a00:1::", Kind::Private),
            ("64:ff9b::192.0.2.1", "2002:c000:201::", Kind::Public),
            ("64:ff9b::127.0.0.1", "2002:7f00:1::", Kind::Loopback),
            ("192.0.2.1", "2001:db8::1", Kind::Public),
        ];
        let reach = Reach::default();
        for (one, other, expected) in all {
            assert_eq!(
                (kind(ip(one)), kind(ip(other))),
                (Some(expected), Some(expected))
            );
            assert!(!reach.allows(ip(one)) && !reach.allows(ip(other)));
        }
        reach.allow(ip("10.9.9.9"));
        for (one, other, kind) in all {
            let is_private = kind == Kind::Private;
            assert_eq!(
                (reach.allows(ip(one)), reach.allows(ip(other))),
                (is_private, is_private)
            );
        }
    }

    #[test]
    fn where_no_relay_can_be_none_is_looked_for_whoever_is_met() {
        let reach = Reach::default();
        for all in ["127.0.0.1", "10.0.0.1", "192.0.2.1"] {
            reach.allow(ip(all));
        }
        for nowhere in [
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "fe80::1",
            "ff02::1",
            "64:ff9b::169.254.169.254",
            "2002:a9fe:a9fe::",
        ] {
            reach.allow(ip(nowhere));
            assert!(!reach.allows(ip(nowhere)), "{nowhere}");
        }
    }

    #[tokio::test]
    async fn the_transport_is_held_to_it() {
        let reach = Reach::default();
        let tcp = tcp::tokio::Transport::new(tcp::Config::default()).boxed();
        let mut reaching = Reaching::new(tcp, reach.clone());
        let mut dials = |at: &str| {
            let options = DialOpts {
                role: Endpoint::Dialer,
                port_use: PortUse::New,
            };
            reaching
                .dial(at.parse().expect("an address"), options)
                .is_ok()
        };
        let here = "/ip4/127.0.0.1/tcp/4001";
        assert!(!dials(here));
        reach.allow(ip("127.0.0.1"));
        assert!(dials(here));
        for not in [
            "/ip4/127.0.0.1/tcp/0",
            "/ip4/192.0.2.1/tcp/4001",
            "/dns4/localhost/tcp/4001",
        ] {
            assert!(!dials(not), "{not}");
        }
    }
}
