//! A relay: builds the parts, and spawns, owns and ends every task.

use std::{
    io::{self, ErrorKind},
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Instant,
};

use prometheus::Registry as MetricsRegistry;
use remora_proto::{
    id::{RelayAddr, RelayId, TlsPin},
    random::Random,
};
use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    admin::{
        self, About, Admin,
        door::Door,
        metrics::{Metrics, Reload, SessionEnd, Stranger, StreamEnd},
        pace::{self, Pace},
        token::AdminToken,
    },
    config::{Config, Live, Standing},
    control::{
        self,
        driver::{self, Driver, Settings},
        orders,
        registry::{Limits, Registry},
        request::Desk,
    },
    datapath::{
        self, Datapath, DropReason, Stop, Worker,
        reflect::{Reflector, SharedLoad},
        socket::Socket,
        table::Table,
    },
    drain::{Drain, State},
    health::{Sources, Watch, measure},
    mesh::{self, Ends, Introduction, Mesh, Neighbours},
    observer::Observer,
    rendezvous::{Fleet, Rendezvous, Shelf},
    stream::{
        self, Streams,
        certificate::{Certificate, CertificateError},
        peers::Peers,
    },
};

/// Sources whose look-ups are remembered: some 6 MiB, and each must have asked within the last half minute.
const LOOKUP_SOURCES: usize = 1 << 16;
/// Hosts that are to be told that their code is another's; when full, whoever finds so waits.
const TAKEN_QUEUE: usize = 64;
/// Records and tombstones: the 32,768 locators of a realm, for two epochs, twice. Some 100 MiB when all are live.
pub const MAX_RECORDS: usize = 1 << 17;

/// Why a relay did not start. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Somebody has the port.
    #[error(
        "{protocol} port {port} is in use; stop what uses it, or choose another with {flag} {ip}:PORT"
    )]
    PortInUse {
        /// UDP or TCP.
        protocol: &'static str,
        /// Which.
        port: u16,
        /// On which address.
        ip: String,
        /// The flag that chooses it.
        flag: &'static str,
    },
    /// The system keeps it for itself.
    #[error(
        "{protocol} port {port} needs a right this user does not have; choose a port from 1024 up with {flag}, or allow it (`setcap cap_net_bind_service=+ep` on the program)"
    )]
    Forbidden {
        /// UDP or TCP.
        protocol: &'static str,
        /// Which.
        port: u16,
        /// The flag that chooses it.
        flag: &'static str,
    },
    /// Not an address of this machine, or something rarer.
    #[error(
        "cannot listen on {address} ({protocol}); choose an address of this machine with {flag}"
    )]
    Bind {
        /// UDP or TCP.
        protocol: &'static str,
        /// Which.
        address: SocketAddr,
        /// The flag that chooses it.
        flag: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The sockets are there and do not work.
    #[error("cannot use the sockets")]
    Socket(#[from] io::Error),
    /// There is none to show at the TCP port.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// Another relay counts on the same registry.
    #[error("cannot register the metrics")]
    Metrics(#[from] prometheus::Error),
}

impl StartError {
    fn bind(
        protocol: &'static str,
        address: SocketAddr,
        flag: &'static str,
        source: io::Error,
    ) -> Self {
        let port = address.port();
        if source.kind() == ErrorKind::AddrInUse {
            let ip = host(address);
            Self::PortInUse {
                protocol,
                port,
                ip,
                flag,
            }
        } else if source.kind() == ErrorKind::PermissionDenied {
            Self::Forbidden {
                protocol,
                port,
                flag,
            }
        } else {
            Self::Bind {
                protocol,
                address,
                flag,
                source,
            }
        }
    }
}

/// The address as it stands before `:PORT`.
fn host(address: SocketAddr) -> String {
    match address {
        SocketAddr::V4(address) => address.ip().to_string(),
        SocketAddr::V6(address) => format!("[{}]", address.ip()),
    }
}

/// A running relay. Dropping it ends every task at once; [`Relay::shutdown`] says goodbye first.
#[derive(Debug)]
pub struct Relay {
    address: RelayAddr,
    local_addr: SocketAddr,
    stream_addr: Option<SocketAddr>,
    observer_addrs: Vec<SocketAddr>,
    admin_addrs: Vec<SocketAddr>,
    mesh_addr: Option<SocketAddr>,
    mesh: Mesh,
    peers: Arc<Peers>,
    live: watch::Sender<Live>,
    standing: watch::Sender<Standing>,
    metrics_registry: MetricsRegistry,
    metrics: Arc<Metrics>,
    life: watch::Receiver<Option<State>>,
    drain: CancellationToken,
    closing: CancellationToken,
    /// Ends by itself once `closing` is cancelled: control, admin port.
    tasks: JoinSet<io::Result<()>>,
    /// Ends by itself once `mesh_closing` is cancelled: other relays hear through it what has ended.
    mesh_task: JoinSet<io::Result<()>>,
    mesh_closing: CancellationToken,
    /// Ends by itself once `fleet_closing` is cancelled: other relays hear through it which devices have gone with this one.
    fleet: JoinSet<io::Result<()>>,
    fleet_closing: CancellationToken,
    /// Of a drain: cancelled when others know what may be known here alone.
    handed_on: Option<CancellationToken>,
    /// Ends by itself once `streams_closing` is cancelled: nodes hear their last words through it.
    streams: JoinSet<io::Result<()>>,
    streams_closing: CancellationToken,
    /// Has the certificate's files looked at.
    look_at_files: Arc<Notify>,
    /// Last of all: the others say their last words through it.
    datapath: JoinSet<io::Result<()>>,
    /// Ends the datapath.
    stop: Stop,
}

impl Relay {
    /// Binds all ports, then starts. Call within a tokio runtime.
    ///
    /// # Errors
    /// [`StartError`], when nothing runs yet.
    pub fn start(config: Config) -> Result<Self, StartError> {
        let metrics_registry = MetricsRegistry::new();
        let metrics = Arc::new(Metrics::new(&metrics_registry)?);
        let bound = Bound::new(&config)?;
        let (certificate, pin) = certificate(&config)?;
        let door = Door::new(bound.admin, config.admin_tls.as_ref())?;
        let address = config.address(bound.local_addr, pin);
        let own_address = config.own_address(bound.local_addr, pin);
        let (live_sender, live) = watch::channel(config.live());
        let (standing_sender, standing) = watch::channel(config.standing.clone());
        let peers = Arc::new(Peers::new(live.borrow().streams()));
        let (life_sender, life) = watch::channel(None);
        let (drain, closing) = (CancellationToken::new(), CancellationToken::new());

        let now = Instant::now();
        let table = Arc::new(Table::new(config.session_rate, config.max_sessions, now));
        let (quic, packets) = mpsc::channel(datapath::QUIC_QUEUE);
        let (openings, opening_packets) = mpsc::channel(datapath::QUIC_QUEUE);
        let [socket, ..] = &bound.sockets[..] else {
            return Err(io::Error::other("no socket was bound").into());
        };
        let me = address.id;
        let shelf = Arc::new(Shelf::new(MAX_RECORDS, me, config.realm.clone()));
        let Ends {
            mesh,
            asked,
            checks,
            work,
        } = mesh::ends();
        let (lost, taken) = mpsc::channel(TAKEN_QUEUE);
        let mut tasks = JoinSet::new();
        let (mut mesh_task, mesh_closing) = (JoinSet::new(), CancellationToken::new());
        let (mut fleet_task, fleet_closing) = (JoinSet::new(), CancellationToken::new());
        let mut handed_on = None;
        let (mut rendezvous, mut mesh_addr): (Arc<dyn Rendezvous>, _) =
            (Arc::clone(&shelf) as _, None);
        if let Some(settings) = config.mesh.clone() {
            let listen = settings.listen;
            let who = introduction(&config, Arc::clone(socket), bound.local_addr);
            let task = mesh::Task::new(
                settings,
                who,
                work,
                Arc::clone(&shelf),
                Arc::clone(&metrics),
            )
            .map_err(|source| StartError::bind("TCP", listen, "--mesh", source))?;
            mesh_addr = Some(task.local_addr());
            mesh_task.spawn(task.run(mesh_closing.clone()));
            let fleet = Fleet::new(shelf, mesh.clone(), lost, Arc::clone(&metrics));
            let fleet = Arc::new(fleet);
            handed_on = Some(fleet.handed_on());
            let (keeping, leaving) = (Arc::clone(&fleet), drain.clone());
            let (leave_within, closing) = (config.drain_timeout, fleet_closing.clone());
            fleet_task.spawn(finishing(async move {
                keeping.run(leaving, leave_within, closing).await;
            }));
            rendezvous = fleet;
        }
        let health = Watch::new(Sources {
            life: life.clone(),
            settings: standing.clone(),
            live: live.clone(),
            certificate: certificate.as_ref().map(Certificate::showing),
            cgroup: config.cgroup.clone().or_else(measure::own_cgroup),
            outlook: mesh_addr.map(|_| mesh.outlook()),
            udp_buffer_bytes: (socket.buffer_bytes()?, config.udp_buffer_bytes),
            key: config.key_file.clone(),
            metrics: Arc::clone(&metrics),
        });
        let (orders, ordered) = orders::ends();
        let load = SharedLoad::default();
        let driver = Driver::new(
            control::endpoint(config.key.clone(), socket.may_fragment()),
            driver::Ports {
                socket: Arc::clone(socket),
                packets,
                openings: opening_packets,
                peers: Arc::clone(&peers),
                life: life_sender,
                load: load.clone(),
                mesh: mesh.clone(),
                asked,
                taken,
                live: live.clone(),
                health: health.clone(),
                orders: ordered,
            },
            registry(&config, Arc::clone(&table), Arc::clone(&metrics)),
            Desk::new(
                me,
                config.name.clone(),
                config.realm.clone(),
                config.lookup_rate,
                LOOKUP_SOURCES,
                Arc::clone(&metrics),
            ),
            Arc::clone(&rendezvous),
            Arc::clone(&metrics),
            Settings {
                relay_name: config.name.clone(),
                observers: bound.observed_from.clone(),
                own_address: own_address.map_or_else(String::new, |own| own.to_string()),
            },
        );
        let (pace_sender, pace) = watch::channel(Pace::default());
        let about = About {
            name: config.name.clone(),
            realm: config.realm.clone(),
            address: address.clone(),
            since: now,
            recent: config.recent.clone(),
            knows_certificates: config
                .admin_tls
                .as_ref()
                .is_some_and(|tls| tls.client_ca.is_some()),
        };
        let admin = Admin {
            about: Arc::new(about),
            registry: metrics_registry.clone(),
            metrics: Arc::clone(&metrics),
            rendezvous,
            table: Arc::clone(&table),
            life: life.clone(),
            drain: drain.clone(),
            live,
            standing,
            health: health.clone(),
            pace,
            mesh: mesh.clone(),
            orders,
        };

        let (mut streams, streams_closing) = (JoinSet::new(), CancellationToken::new());
        let look_at_files = Arc::new(Notify::new());
        let mut stream_addr = None;
        if let Some((listener, certificate)) = bound.streams.zip(certificate) {
            stream_addr = Some(listener.local_addr()?);
            let here = on_this_computer(bound.local_addr);
            let peers = Arc::clone(&peers);
            let accepting = Streams::new(listener, certificate, here, peers, Arc::clone(&metrics));
            let look = Arc::clone(&look_at_files);
            streams.spawn(accepting?.run(look, streams_closing.clone()));
        }
        tasks.spawn(finishing(driver.run(drain.clone(), closing.clone())));
        tasks.spawn(admin::serve(door, admin, closing.clone()));
        let measuring = pace::measure(Arc::clone(&metrics), pace_sender, closing.clone());
        tasks.spawn(finishing(measuring));
        tasks.spawn(finishing(health.run(closing.clone())));
        let reflector = Arc::new(Mutex::new(Reflector::new(load, now)));
        let mut observer_addrs = Vec::new();
        for observer in bound.observers {
            observer_addrs.push(observer.local_addr()?);
            let (reflector, metrics) = (Arc::clone(&reflector), Arc::clone(&metrics));
            tasks.spawn(observer.run(reflector, metrics, closing.clone()));
        }
        let mut datapath = JoinSet::new();
        let shared = Datapath {
            table,
            metrics: Arc::clone(&metrics),
            quic,
            openings,
            checks,
            reflector,
        };
        let stop = Stop::default();
        for (number, socket) in bound.sockets.into_iter().enumerate() {
            let worker = Worker::new(number, shared.clone(), socket, &stop);
            datapath.spawn_blocking(move || worker.run());
        }
        tracing::info!(id = %address.id, port = bound.local_addr.port(), realm = config.realm, "relay up");
        Ok(Self {
            address,
            local_addr: bound.local_addr,
            stream_addr,
            observer_addrs,
            admin_addrs: bound.admin_addrs,
            mesh_addr,
            mesh,
            peers,
            live: live_sender,
            standing: standing_sender,
            metrics_registry,
            metrics,
            life,
            drain,
            closing,
            tasks,
            mesh_task,
            mesh_closing,
            fleet: fleet_task,
            fleet_closing,
            handed_on,
            streams,
            streams_closing,
            look_at_files,
            datapath,
            stop,
        })
    }

    /// Where nodes' datagrams arrive, port resolved.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Where nodes' streams arrive, port resolved.
    pub fn stream_addr(&self) -> Option<SocketAddr> {
        self.stream_addr
    }

    /// Where else nodes are told how they are seen, ports resolved.
    pub fn observer_addrs(&self) -> &[SocketAddr] {
        &self.observer_addrs
    }

    /// Where probes and metrics are, ports resolved; one at least.
    pub fn admin_addrs(&self) -> &[SocketAddr] {
        &self.admin_addrs
    }

    /// The first of them.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin_addrs[0]
    }

    /// Where other relays connect to, port resolved.
    pub fn mesh_addr(&self) -> Option<SocketAddr> {
        self.mesh_addr
    }

    /// Other relays in touch.
    pub fn neighbours(&self) -> watch::Receiver<Neighbours> {
        self.mesh.neighbours()
    }

    /// How many relays were refused, and why.
    pub fn mesh_refusals(&self, why: Stranger) -> u64 {
        self.metrics.mesh_refusals(why)
    }

    /// What to give to nodes.
    pub fn address(&self) -> &RelayAddr {
        &self.address
    }

    /// Who this relay is.
    pub fn id(&self) -> RelayId {
        self.address.id
    }

    /// Everything it counts.
    pub fn registry(&self) -> &MetricsRegistry {
        &self.metrics_registry
    }

    /// How many datagrams were dropped for `reason`.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.metrics.dropped_count(reason)
    }

    /// How many frames were sent on.
    pub fn frames_forwarded(&self) -> u64 {
        self.metrics.forwarded_count()
    }

    /// How many streams ended so.
    pub fn stream_ends(&self, why: StreamEnd) -> u64 {
        self.metrics.stream_ends(why)
    }

    /// Sessions with an allocation here.
    pub fn sessions(&self) -> usize {
        usize::try_from(self.metrics.sessions.get()).unwrap_or(0)
    }

    /// Sessions that were still here at the end of a drain.
    pub fn sessions_cut_off(&self) -> u64 {
        self.metrics.session_ends(SessionEnd::Drained)
    }

    /// Settings were read again: what is new holds from now on, and whoever is here stays. The certificate's files are looked at, too.
    /// None when nothing was taken of them, as `standing` says.
    pub fn reloaded(&self, live: Option<Live>, standing: Standing) {
        self.standing.send_replace(standing);
        let Some(live) = live else {
            self.metrics.config_reload(Reload::Refused);
            return;
        };
        self.metrics.config_reload(Reload::Applied);
        self.look_at_files.notify_one();
        self.peers.limit(live.streams());
        self.live.send_replace(live);
    }

    /// Whoever presents the token before is refused from now on.
    pub fn change_token(&self, token: AdminToken) {
        self.live.send_modify(|live| live.admin_token = Some(token));
    }

    /// Starts to drain: no new sessions, nodes are told, live ones are forwarded until the deadline.
    pub fn drain(&self) {
        self.drain.cancel();
    }

    /// Waits until nothing is left to wait for after [`Self::drain`]: no session and no introduction, and other relays have been told
    /// when devices were here last, as far as they answer before the deadline.
    ///
    /// # Errors
    /// When a part of the relay failed; the relay cannot go on.
    pub async fn drained(&mut self) -> io::Result<()> {
        tokio::select! {
            done = done(&mut self.life, self.handed_on.as_ref()) => done,
            failed = failed(&mut self.tasks) => Err(failed),
            failed = failed(&mut self.mesh_task), if !self.mesh_task.is_empty() => Err(failed),
            failed = failed(&mut self.fleet), if !self.fleet.is_empty() => Err(failed),
            failed = failed(&mut self.streams), if !self.streams.is_empty() => Err(failed),
            failed = failed(&mut self.datapath) => Err(failed),
        }
    }

    /// Ends everything: nodes get what is waiting for them and a goodbye, within two seconds; then other relays hear which devices have
    /// gone, within one.
    pub async fn shutdown(self) {
        self.closing.cancel();
        ended("a part of the relay", self.tasks).await;
        self.fleet_closing.cancel();
        ended("the fleet's records", self.fleet).await;
        self.mesh_closing.cancel();
        ended("the mesh", self.mesh_task).await;
        self.streams_closing.cancel();
        ended("accepting streams", self.streams).await;
        drop(self.stop);
        ended("a worker", self.datapath).await;
    }
}

/// Waits for the end of a drain.
async fn done(
    life: &mut watch::Receiver<Option<State>>,
    handed_on: Option<&CancellationToken>,
) -> io::Result<()> {
    let is_done = life.wait_for(|life| *life == Some(State::Done)).await;
    is_done.map_err(|_| io::Error::other("the registry has stopped"))?;
    if let Some(handed_on) = handed_on {
        handed_on.cancelled().await;
    }
    Ok(())
}

/// Waits for tasks that were told to end.
async fn ended(what: &str, mut tasks: JoinSet<io::Result<()>>) {
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended.unwrap_or_else(|error| Err(io::Error::other(error))) {
            tracing::warn!(%error, "{what} failed");
        }
    }
}

/// A task of a running relay that ended although nobody told it to.
async fn failed(tasks: &mut JoinSet<io::Result<()>>) -> io::Error {
    match tasks.join_next().await {
        Some(Ok(Err(error))) => error,
        Some(Err(error)) => io::Error::other(error),
        Some(Ok(Ok(()))) | None => io::Error::other("a part of the relay stopped"),
    }
}

async fn finishing(task: impl Future<Output = ()>) -> io::Result<()> {
    task.await;
    Ok(())
}

fn registry(config: &Config, table: Arc<Table>, metrics: Arc<Metrics>) -> Registry {
    let limits = Limits {
        max_nodes: config.max_nodes,
        max_sessions: config.max_sessions,
        session_rate_bytes_per_s: config.session_rate.units(),
    };
    Registry::new(
        RelayId(config.key.public()),
        limits,
        Drain::new(config.drain_timeout),
        table,
        metrics,
        Random::system(),
    )
}

/// Who it is, for other relays.
fn introduction(config: &Config, socket: Arc<Socket>, bound: SocketAddr) -> Introduction {
    Introduction {
        key: config.key.clone(),
        realm: config.realm.clone(),
        name: config.name.clone(),
        frame_address: config.frame_address(bound),
        socket,
    }
}

/// What is shown at the TCP port, if there is one, and its key, if nobody vouches for it.
fn certificate(config: &Config) -> Result<(Option<Certificate>, Option<TlsPin>), CertificateError> {
    if config.listen_tcp.is_none() {
        return Ok((None, None));
    }
    match &config.certificate {
        Some(files) => Ok((Some(Certificate::from_files(files.clone())?), None)),
        None => {
            let (certificate, pin) = Certificate::of_its_own(&config.key)?;
            Ok((Some(certificate), Some(pin)))
        }
    }
}

/// How a socket of this computer reaches the one that is bound there.
fn on_this_computer(bound: SocketAddr) -> SocketAddr {
    // Bound everywhere, it takes IPv4, too, which every computer has on loopback.
    if bound.ip().is_unspecified() {
        return SocketAddr::from((Ipv4Addr::LOCALHOST, bound.port()));
    }
    bound
}

/// What is known of a relay's ports before it runs.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// What the system holds of received datagrams for each worker, bytes.
    pub udp_buffer_bytes: usize,
}

/// Binds all ports, and lets them go again. Call within a tokio runtime.
///
/// # Errors
/// What [`Relay::start`] would fail with.
pub fn try_ports(config: &Config) -> Result<Ports, StartError> {
    let bound = Bound::new(config)?;
    if let Some(mesh) = &config.mesh {
        std::net::TcpListener::bind(mesh.listen)
            .map_err(|source| StartError::bind("TCP", mesh.listen, "--mesh", source))?;
    }
    let socket = bound.sockets.first();
    let udp_buffer_bytes = socket.map_or(Ok(0), |socket| socket.buffer_bytes())?;
    Ok(Ports { udp_buffer_bytes })
}

/// All ports, before anything runs.
struct Bound {
    sockets: Vec<Arc<Socket>>,
    local_addr: SocketAddr,
    streams: Option<std::net::TcpListener>,
    observers: Vec<Observer>,
    /// As nodes are told: `:PORT` is of this relay's own address.
    observed_from: Vec<String>,
    admin: Vec<tokio::net::TcpListener>,
    admin_addrs: Vec<SocketAddr>,
}

/// How often a port is looked for that is free for both UDP and TCP.
const PORT_TRIES: usize = 16;

impl Bound {
    fn new(config: &Config) -> Result<Self, StartError> {
        if config.admin.is_empty() {
            return Err(io::Error::other("the admin port has no address").into());
        }
        let (mut admin, mut admin_addrs) = (Vec::new(), Vec::new());
        for &at in &config.admin {
            let listener =
                admin::bind(at).map_err(|source| StartError::bind("TCP", at, "--admin", source))?;
            admin_addrs.push(listener.local_addr()?);
            admin.push(listener);
        }
        let mut tries = 0;
        let (sockets, streams) = loop {
            tries += 1;
            match Self::nodes(config) {
                Ok(bound) => break bound,
                // The system chose a port that is free for one of the two.
                Err(StartError::PortInUse { .. })
                    if config.listen.port() == 0 && tries < PORT_TRIES => {}
                Err(error) => return Err(error),
            }
        };
        let (mut observers, mut observed_from) = (Vec::new(), Vec::new());
        for at in config.observers() {
            let observer = Observer::bind(at, config.udp_buffer_bytes)
                .map_err(|source| StartError::bind("UDP", at, "--observer", source))?;
            let port = observer.local_addr()?.port();
            observed_from.push(if at.ip() == config.listen.ip() {
                format!(":{port}")
            } else {
                SocketAddr::new(at.ip(), port).to_string()
            });
            observers.push(observer);
        }
        Ok(Self {
            local_addr: sockets[0].local_addr()?,
            sockets: sockets.into_iter().map(Arc::new).collect(),
            streams,
            observers,
            observed_from,
            admin,
            admin_addrs,
        })
    }

    /// The ports that nodes come to: of one number, unless they were given two.
    fn nodes(config: &Config) -> Result<(Vec<Socket>, Option<std::net::TcpListener>), StartError> {
        let sockets = Socket::bind(config.listen, config.workers, config.udp_buffer_bytes)
            .map_err(|source| StartError::bind("UDP", config.listen, "--listen", source))?;
        let Some(listen) = config.listen_tcp else {
            return Ok((sockets, None));
        };
        // With the UDP port's number, and family where that had no choice.
        let listen = if listen == config.listen {
            sockets[0].local_addr()?
        } else {
            listen
        };
        let streams = stream::bind(listen)
            .map_err(|source| StartError::bind("TCP", listen, "--listen-tcp", source))?;
        Ok((sockets, Some(streams)))
    }
}
