//! A node's place at one relay: a socket, what keeps the relay in reach, the control connection.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use remora_proto::{
    id::{RelayAddr, RelayId},
    random::Random,
    wire::reflect,
};
use tokio::{
    net::UdpSocket,
    sync::{mpsc, watch},
    task::JoinSet,
    time::timeout,
};

use super::Near;
use crate::{
    control::{Control, Notice, RELAY_UNREACHABLE, Started},
    error::{Exit, Failure},
    node::Options,
    path::{
        keeper::Keeper,
        socket::MagicSocket,
        stream::{Dialer, proxy::Proxy},
        udp,
    },
    policing,
};

/// For the last words to the relay.
pub(crate) const FAREWELL: Duration = Duration::from_secs(1);
/// For the word that nobody listens at a relay's UDP port: it comes at once, or not at all.
const REFUSING: Duration = Duration::from_millis(500);
/// Where a relay is whose name only the proxy knows: nowhere (192.0.2.0/24, RFC 5737). What is asked there by UDP is lost.
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)), 1);

/// See the module. Its tasks end with it.
#[derive(Debug)]
pub(crate) struct Attached {
    /// Where.
    pub(crate) relay: RelayAddr,
    /// What is said to the relay.
    pub(crate) control: Control,
    /// What it says unasked.
    pub(crate) notices: mpsc::Receiver<Notice>,
    /// Where packets leave.
    pub(crate) socket: Arc<MagicSocket>,
    /// What the socket receives is taken.
    receiving: JoinSet<()>,
    /// The relay is kept in reach.
    keeping: JoinSet<()>,
    /// A member's policy is kept up to date.
    policing: JoinSet<()>,
    /// The control connection's task; ends by itself once no handle is left.
    talking: JoinSet<()>,
}

impl Attached {
    /// Connects.
    ///
    /// # Errors
    /// What is wrong, and what to do about it.
    pub(crate) async fn connect(near: &Near, options: &Options) -> Result<Self, Failure> {
        let relay = &near.relay;
        let proxy = options.proxy.clone();
        let proxy = proxy.or_else(|| Proxy::from_environment(&relay.host_port));
        let tcp_only = options.tcp_only || near.address.is_none();
        let address = near.address.unwrap_or(NOWHERE);
        let bind = if tcp_only {
            MagicSocket::bind_tcp_only
        } else {
            MagicSocket::bind
        };
        let (socket, incoming) =
            bind(address).map_err(|error| Failure::internal("cannot open a UDP socket", error))?;
        let mut receiving = JoinSet::new();
        receiving.spawn(receive(socket.clone()));
        let dialer = Dialer::new(relay, near.address, proxy);
        let (keeper, trouble) = Keeper::new(socket.clone(), dialer, tcp_only);
        let mut keeping = JoinSet::new();
        keeping.spawn(keeper.run());
        let park_after = options.park_after;
        let connecting = Control::connect(relay, address, socket.clone(), incoming, park_after);
        let started = tokio::select! { biased;
            started = connecting => started,
            failure = refused(relay, (!tcp_only).then_some(address), trouble.clone()) => Err(failure),
        };
        let started = started
            .map_err(|failure| unreached(failure, relay, tcp_only, trouble.borrow().as_deref()));
        let Started {
            mut control,
            notices,
            task,
        } = started?;
        let mut talking = JoinSet::new();
        talking.spawn(task);
        if socket.is_by_stream() {
            control.measure().await;
        }
        let mut policing = JoinSet::new();
        if let Some(member) = &options.member {
            policing.spawn(policing::keep(control.clone(), Arc::clone(member)));
        }
        Ok(Self {
            relay: relay.clone(),
            control,
            notices,
            socket,
            receiving,
            keeping,
            policing,
            talking,
        })
    }

    /// Whose key the relay has proven.
    pub(crate) fn id(&self) -> RelayId {
        self.relay.id
    }

    /// Whether the relay has said, when it took us in, that it is about to stop.
    pub(crate) fn is_leaving(&self) -> bool {
        self.control.welcome.is_draining
    }

    /// Says the last words to the relay and ends every task.
    pub(crate) async fn close(self) {
        drop(self.detach().await);
    }

    /// The same, but goes on to receive what others send to the socket, for as long as what is returned is there.
    pub(crate) async fn detach(self) -> (Arc<MagicSocket>, JoinSet<()>) {
        let Self {
            relay: _,
            control,
            notices,
            socket,
            receiving,
            keeping,
            mut policing,
            mut talking,
        } = self;
        // It has a handle, too.
        policing.shutdown().await;
        drop((control, notices));
        let ended = async { while talking.join_next().await.is_some() {} };
        if timeout(FAREWELL, ended).await.is_err() {
            tracing::debug!("the relay did not acknowledge the end");
        }
        drop(keeping);
        (socket, receiving)
    }
}

/// Until it is clear that nobody is there: no stream can be had, and by UDP, if there is anything to be sent by it, the other
/// computer says that nobody listens. Whoever is only silent may yet answer.
async fn refused(
    relay: &RelayAddr,
    by_udp: Option<SocketAddr>,
    mut trouble: watch::Receiver<Option<String>>,
) -> Failure {
    let has_no_stream = trouble.wait_for(Option::is_some).await.is_ok();
    let is_over = match by_udp {
        Some(address) => has_no_stream && is_refused(address).await,
        None => has_no_stream,
    };
    if !is_over {
        return std::future::pending().await;
    }
    let at = &relay.host_port;
    let line = format!(
        "nobody listens at the relay's address {at} by UDP: is it running, and is the address right?"
    );
    Failure::new(Exit::Offline, RELAY_UNREACHABLE, line)
}

/// Whether the other computer says that nobody listens there (ICMP: port unreachable), which the system tells a socket of its own.
async fn is_refused(address: SocketAddr) -> bool {
    let asking = async {
        let socket = UdpSocket::bind(udp::any(address.is_ipv4())).await?;
        socket.connect(address).await?;
        let question = reflect::request(u64::from_be_bytes(Random::system().bytes()));
        socket.send(&question).await?;
        socket.recv(&mut [0; reflect::LEN]).await
    };
    let answered = timeout(REFUSING, asking).await;
    matches!(answered, Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused)
}

/// What was wrong with either way to the relay.
fn unreached(
    failure: Failure,
    relay: &RelayAddr,
    tcp_only: bool,
    trouble: Option<&str>,
) -> Failure {
    if failure.code != RELAY_UNREACHABLE {
        return failure;
    }
    let trouble = trouble.unwrap_or("no answer");
    let line = if tcp_only {
        let at = &relay.host_port;
        format!("cannot reach the relay at {at} by TCP: {trouble}")
    } else {
        let nor = if failure.line.ends_with('?') {
            " Nor"
        } else {
            "; nor"
        };
        format!("{}{nor} by TCP: {trouble}", failure.line)
    };
    Failure { line, ..failure }
}

async fn receive(socket: Arc<MagicSocket>) {
    if let Err(error) = socket.receive().await {
        tracing::error!(%error, "the UDP socket failed");
    }
}
