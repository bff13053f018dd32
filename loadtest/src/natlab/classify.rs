//! What plain sockets say of a NAT: a node's socket, two ports of one host, and one of another (RFC 5780, without its servers,
//! for both ends are ours).

/// What lets no UDP through.
mod closed;
/// What makes mappings for the asking.
mod mapped;

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use patchbay::Device;
use remora_proto::sim::internet::{Behaviour, DependsOn, Ports};
use tokio::{
    net::UdpSocket,
    time::{sleep, timeout},
};

use super::{
    edge::Outwards,
    lab::{NODE_DELAY, Network, RELAY_DELAY, Side, address, v6_address},
};

/// Nothing is lost in the lab: what has not arrived after so long will not.
const ARRIVES: Duration = Duration::from_secs(2);
/// Sockets whose ports say how a NAT chooses them, and within how many ports of the one before a sequential choice is
/// (`TRAVERSAL.md` §2).
const SOCKETS: usize = 5;
const SEQUENTIAL: u16 = 32;
/// The largest block of ports that a subscriber of a carrier gets.
const BLOCK: u16 = 4096;
/// What a socket is sent by others: from the host it has sent to, but another port; from another host; from its own; and last of
/// all, from where it has sent to.
const FROM_PORT: u8 = b'p';
const FROM_ADDRESS: u8 = b'a';
const FROM_ITSELF: u8 = b'i';
const LAST: u8 = b'z';
/// How exactly it is known when a mapping is forgotten.
const EXPIRY_WITHIN: Duration = Duration::from_secs(3);
/// A lab whose links are slower measures the machine that it runs on; so many packets more may show that it can be faster.
const SLOWEST: Duration = Duration::from_millis(10);
const MORE: usize = 20;

/// How a NAT behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behaves {
    /// Others see another address.
    pub is_translated: bool,
    /// When others see another port.
    pub mapping: DependsOn,
    /// Who is let in.
    pub filtering: DependsOn,
    /// How the port that they see is chosen.
    pub ports: Allocation,
    /// The node reaches itself by the address that others see; not known where that is its own.
    pub hairpin: Option<bool>,
}

/// How a port is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocation {
    /// As it is inside.
    Preserved,
    /// A little above the last one.
    Sequential,
    /// From few.
    Block,
    /// From all.
    Random,
}

/// Finds out how what stands before both nodes behaves, and whether packets take as long as they should.
///
/// # Errors
/// It is not as the edge's name says.
pub async fn prove(network: &Network) -> anyhow::Result<()> {
    let own = address(&network.observer)?;
    let observers = observers(network, own).await?;
    for side in &network.sides {
        let name = side.edge.name();
        if side.edge.outwards() != Outwards::Everything {
            closed::prove(network, side)
                .await
                .with_context(|| format!("the lab's `{name}` does not behave as its name says"))?;
            continue;
        }
        let own = address(&side.device)?;
        prove_one(side, own, side.outer, &side.edge.gateways(), &observers).await?;
        if side.edge.maps_ports() {
            mapped::prove(side, &observers[2])
                .await
                .with_context(|| format!("the lab's `{name}` makes no mappings"))?;
        }
    }
    if network.pair.is_v6() {
        let own = v6_address(&network.observer).context("the lab has no IPv6")?;
        let v6_observers = self::observers(network, own).await?;
        for side in &network.sides {
            let own = v6_address(&side.device).context("a node without IPv6")?;
            let firewall: Vec<_> = side.edge.v6().into_iter().collect();
            prove_one(side, own, own, &firewall, &v6_observers).await?;
        }
    }
    Ok(())
}

/// How long the first side's mappings live when nothing uses them: at least the first, less than the second. Takes as long.
///
/// # Errors
/// They live shorter or longer than the edge says.
pub async fn expiry(network: &Network) -> anyhow::Result<[Duration; 2]> {
    let side = &network.sides[0];
    let own = address(&side.device)?;
    let observers = [
        Observer::new(&network.observer, own).await?,
        Observer::new(&network.observer, own).await?,
    ];
    let node = Node {
        device: &side.device,
        own,
    };
    let gateways = side.edge.gateways();
    let lives = gateways.iter().map(|gateway| gateway.expiry).min();
    let lives = lives.context("nothing here forgets")?;
    let around = [lives - EXPIRY_WITHIN, lives + EXPIRY_WITHIN];
    let [first, second] = observers;
    let early = outlives(node, first, around[0]);
    let late = outlives(node, second, around[1]);
    let (early, late) = tokio::try_join!(early, late)?;
    ensure!(early, "a mapping was forgotten before {:?}", around[0]);
    ensure!(!late, "a mapping was not forgotten after {:?}", around[1]);
    Ok(around)
}

/// Whether an answer gets in after so long.
async fn outlives(node: Node<'_>, other: Observer, idle: Duration) -> anyhow::Result<bool> {
    let [node, fresh] = [node.bind().await?, node.bind().await?];
    let mark = node.local_addr()?.port().to_be_bytes();
    node.send_to(&mark, other.address).await?;
    let (_, seen) = timeout(ARRIVES, other.socket.recv_from(&mut [0; 64]))
        .await
        .context("a packet did not arrive")??;
    sleep(idle).await;
    other.socket.send_to(&[LAST], seen).await?;
    // What is sent afterwards, through a new mapping, arrives.
    fresh.send_to(&mark, other.address).await?;
    let (_, seen) = timeout(ARRIVES, other.socket.recv_from(&mut [0; 64]))
        .await
        .context("a packet did not arrive")??;
    other.socket.send_to(&[LAST], seen).await?;
    timeout(ARRIVES, fresh.recv_from(&mut [0; 64]))
        .await
        .context("an answer did not arrive")??;
    Ok(node.try_recv_from(&mut [0; 64]).is_ok())
}

async fn prove_one(
    side: &Side,
    own: IpAddr,
    seen_as: IpAddr,
    gateways: &[Behaviour],
    observers: &[Observer; 3],
) -> anyhow::Result<()> {
    let name = side.edge.name();
    let expected = Behaves::expected(gateways);
    let node = Node {
        device: &side.device,
        own,
    };
    let (found, outer) = classify(node, observers)
        .await
        .with_context(|| format!("the lab's `{name}` lets nothing through"))?;
    ensure!(
        found == expected,
        "the lab's `{name}` does not behave as its name says: {found}, instead of {expected}; is another firewall active here?"
    );
    ensure!(
        outer == seen_as,
        "the lab's `{name}` is seen as {outer} instead of {seen_as}"
    );
    Ok(())
}

/// Two ports of the relay's host, and one of the other's, in the family of `like`.
async fn observers(network: &Network, like: IpAddr) -> anyhow::Result<[Observer; 3]> {
    Ok([
        Observer::new(&network.relay_at, like).await?,
        Observer::new(&network.relay_at, like).await?,
        Observer::new(&network.observer, like).await?,
    ])
}

/// Whose NAT is asked about.
#[derive(Clone, Copy, Debug)]
struct Node<'a> {
    device: &'a Device,
    /// Its address, of the family that is asked about.
    own: IpAddr,
}

impl Node<'_> {
    async fn bind(self) -> anyhow::Result<UdpSocket> {
        bind(self.device, self.own).await
    }
}

/// A host's port that is asked, with its address.
struct Observer {
    socket: UdpSocket,
    address: SocketAddr,
}

impl Observer {
    async fn new(device: &Device, like: IpAddr) -> anyhow::Result<Self> {
        let own = if like.is_ipv4() {
            address(device)?
        } else {
            v6_address(device).context("a host without IPv6")?
        };
        let socket = bind(device, own).await?;
        let address = SocketAddr::new(own, socket.local_addr()?.port());
        Ok(Self { socket, address })
    }

    /// How it sees `node`'s socket, and how long the packet took.
    async fn sees(&self, node: &UdpSocket) -> anyhow::Result<(SocketAddr, Duration)> {
        let mark = node.local_addr()?.port().to_be_bytes();
        let sent = Instant::now();
        node.send_to(&mark, self.address).await?;
        let mut bytes = [0; 64];
        loop {
            let arriving = timeout(ARRIVES, self.socket.recv_from(&mut bytes));
            let (length, from) = arriving.await.context("a packet did not arrive")??;
            if bytes[..length] == mark {
                return Ok((from, sent.elapsed()));
            }
        }
    }
}

/// A socket in a host's namespace, wherever it is used.
async fn bind(device: &Device, own: IpAddr) -> anyhow::Result<UdpSocket> {
    let binding = device.spawn(move |_| UdpSocket::bind((own, 0)))?;
    Ok(binding.await??)
}

async fn classify(node: Node<'_>, observers: &[Observer; 3]) -> anyhow::Result<(Behaves, IpAddr)> {
    let (mapping, outer) = mapping(node, observers).await?;
    let is_translated = outer != node.own;
    let (filtering, hairpin) = filtering(node, observers, is_translated).await?;
    let behaves = Behaves {
        is_translated,
        mapping,
        filtering,
        ports: allocation(node, &observers[0]).await?,
        hairpin,
    };
    Ok((behaves, outer))
}

/// One socket, three destinations.
async fn mapping(node: Node<'_>, observers: &[Observer; 3]) -> anyhow::Result<(DependsOn, IpAddr)> {
    let node = node.bind().await?;
    let mut seen = [node.local_addr()?; 3];
    let mut fastest = Duration::MAX;
    for (seen, observer) in seen.iter_mut().zip(observers) {
        let took;
        (*seen, took) = observer.sees(&node).await?;
        fastest = fastest.min(took);
    }
    let due = NODE_DELAY + RELAY_DELAY;
    for _ in 0..MORE {
        if fastest < due + SLOWEST {
            break;
        }
        fastest = fastest.min(observers[0].sees(&node).await?.1);
    }
    ensure!(
        (due..due + SLOWEST).contains(&fastest),
        "a packet to the relay takes {fastest:?} instead of {due:?}; is this machine busy?"
    );
    let [near, other_port, other_address] = seen;
    let mapping = if near != other_port {
        DependsOn::AddressAndPort
    } else if near != other_address {
        DependsOn::Address
    } else {
        DependsOn::Nothing
    };
    Ok((mapping, near.ip()))
}

/// One socket that has sent to one destination only; others send to where that sees it.
async fn filtering(
    of: Node<'_>,
    [near, other_port, other_address]: &[Observer; 3],
    is_translated: bool,
) -> anyhow::Result<(DependsOn, Option<bool>)> {
    let node = of.bind().await?;
    let (seen, _) = near.sees(&node).await?;
    other_address.socket.send_to(&[FROM_ADDRESS], seen).await?;
    other_port.socket.send_to(&[FROM_PORT], seen).await?;
    if is_translated {
        of.bind().await?.send_to(&[FROM_ITSELF], seen).await?;
    }
    // One way later; and as long again before it is there, when all others are, or never will be. A NAT whose mapping depends
    // on the destination has this one still.
    near.sees(&node).await?;
    near.socket.send_to(&[LAST], seen).await?;
    let mut arrived = Vec::new();
    while arrived.last() != Some(&LAST) {
        let mut byte = [0];
        let arriving = timeout(ARRIVES, node.recv_from(&mut byte));
        arriving.await.context("an answer did not arrive")??;
        arrived.push(byte[0]);
    }
    let filtering = if arrived.contains(&FROM_ADDRESS) {
        DependsOn::Nothing
    } else if arrived.contains(&FROM_PORT) {
        DependsOn::Address
    } else {
        DependsOn::AddressAndPort
    };
    let hairpin = is_translated.then(|| arrived.contains(&FROM_ITSELF));
    Ok((filtering, hairpin))
}

/// Some sockets, one destination.
async fn allocation(of: Node<'_>, observer: &Observer) -> anyhow::Result<Allocation> {
    let (mut inner, mut outer) = (Vec::new(), Vec::new());
    let mut sockets = Vec::new();
    for _ in 0..SOCKETS {
        let node = of.bind().await?;
        inner.push(node.local_addr()?.port());
        outer.push(observer.sees(&node).await?.0.port());
        // Its port stays taken.
        sockets.push(node);
    }
    Ok(Allocation::of(&inner, &outer))
}

impl Allocation {
    /// By the ports of sockets, in their order, inside and outside.
    fn of(inner: &[u16], outer: &[u16]) -> Self {
        if inner == outer {
            return Self::Preserved;
        }
        let steps = outer
            .windows(2)
            .map(|ports| ports[1].wrapping_sub(ports[0]));
        let large = steps
            .filter(|step| !(1..=SEQUENTIAL).contains(step))
            .count();
        let mut blocks = outer.iter().map(|port| port / BLOCK);
        let first = blocks.next();
        if large <= 1 {
            Self::Sequential
        } else if blocks.all(|block| Some(block) == first) {
            Self::Block
        } else {
            Self::Random
        }
    }
}

impl Behaves {
    /// What somebody outside finds of gateways in a row: the strictest of each.
    fn expected(gateways: &[Behaviour]) -> Self {
        let nats = || gateways.iter().filter(|gateway| !gateway.is_firewall);
        let is_translated = nats().next().is_some();
        let strictest = |of: fn(&Behaviour) -> DependsOn| gateways.iter().map(of).max();
        let mut ports = nats().map(|nat| match nat.ports {
            Ports::Preserved => Allocation::Preserved,
            Ports::Sequential(_) => Allocation::Sequential,
            Ports::Block(_) => Allocation::Block,
            Ports::Random => Allocation::Random,
        });
        let ports = ports.find(|ports| *ports != Allocation::Preserved);
        Self {
            is_translated,
            mapping: strictest(|gateway| gateway.mapping).unwrap_or(DependsOn::Nothing),
            filtering: strictest(|gateway| gateway.filtering).unwrap_or(DependsOn::Nothing),
            ports: ports.unwrap_or(Allocation::Preserved),
            hairpin: is_translated.then(|| nats().any(|nat| nat.hairpin)),
        }
    }
}

impl fmt::Display for Behaves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |depends_on| match depends_on {
            DependsOn::Nothing => "endpoint-independent",
            DependsOn::Address => "address-dependent",
            DependsOn::AddressAndPort => "address- and port-dependent",
        };
        write!(
            f,
            "{}, {} mapping, {} filtering, ports {:?}, hairpinning {}",
            if self.is_translated {
                "translated"
            } else {
                "not translated"
            },
            name(self.mapping),
            name(self.filtering),
            self.ports,
            self.hairpin
                .map_or("not known", |hairpin| if hairpin { "yes" } else { "no" }),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocation_is_what_the_ports_say() {
        let inner = [40_000, 50_000, 40_001, 40_005, 33_000];
        let of = |outer: [u16; 5]| Allocation::of(&inner, &outer);
        assert_eq!(of(inner), Allocation::Preserved);
        assert_eq!(
            of([20_000, 20_001, 20_004, 20_036, 20_037]),
            Allocation::Sequential
        );
        assert_eq!(
            of([65_530, 65_535, 3, 4, 5]),
            Allocation::Sequential,
            "around the end"
        );
        assert_eq!(
            of([20_000, 20_001, 30_000, 30_001, 30_002]),
            Allocation::Sequential,
            "one jump"
        );
        assert_eq!(of([8_200, 9_900, 8_300, 12_200, 10_000]), Allocation::Block);
        assert_eq!(
            of([8_200, 9_900, 50_000, 12_200, 2_000]),
            Allocation::Random
        );
    }
}
