//! The broker: a small program of root's that runs what a helper orders, for as long as the sharer allows it.
//!
//! ```text
//!  sharer's node ── socket ──▶ broker, one process an elevation
//!                                │ polkit: may this user's programs ask at all?
//!                                │ desk: an order nobody in between could read or alter
//!                                │ credential: an administrator's name and password
//!                                ▼
//!                              sh -c COMMAND ─▶ output, bounded
//! ```
//!
//! The connection is the elevation: when it closes, however that comes, all that was started is killed. The process then ends, and with
//! it whatever it knew. It has no threads, sockets or secrets of anybody else.

mod credential;
mod program;
mod tree;

use std::{
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::{
            fs::PermissionsExt as _,
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use clap::Parser;
use nix::{
    sys::{
        prctl,
        socket::{getsockopt, sockopt::PeerCredentials},
    },
    unistd::getpid,
};
use remora_proto::{
    elevation::{Desk, MAX_SEALED_BYTES, Order},
    wire::message::{
        Inbox, encode,
        session::{
            BrokerHello, Control, ElevationKey, ElevationReport, OrderRefusal, control::Body,
            elevation_report::What,
        },
    },
};

use self::program::Programs;

/// Of each text of [`BrokerHello`].
const MAX_HELLO_TEXT_BYTES: usize = 256;
/// Of a message from the node: an order, and what stands around it.
const MAX_MESSAGE_BYTES: usize = MAX_SEALED_BYTES + 64;
/// Orders that wait for the one before. Full, an order is refused as `ORDER_BUSY`: the connection has to be read, for its end counts.
const QUEUE_ORDERS: usize = 8;
/// Wrong passwords, after which the elevation is over.
const MAX_TRIES: u32 = 3;
/// Elevations at once, without systemd: there it is `MaxConnections`.
const MAX_CONNECTIONS: usize = 8;
/// For a node to take what it is told; one that does not is gone.
const WRITE_LIMIT: Duration = Duration::from_secs(60);

/// Runs what a helper orders with an administrator's rights. Not for people: systemd starts it for a node that asks.
#[derive(Debug, Parser)]
#[command(name = "remora-broker", version, about)]
pub struct Args {
    /// Ask polkit (org.remora.elevate) whether the user's programs may ask for an elevation at all
    #[arg(long)]
    pub polkit: bool,
    /// Whose members are administrators, beside root
    #[arg(
        long,
        value_name = "GROUP",
        value_delimiter = ',',
        default_value = "sudo,wheel,admin"
    )]
    pub groups: Vec<String>,
    /// Listen there, without systemd; else the connection is standard input
    #[arg(long, value_name = "SOCKET")]
    pub listen: Option<PathBuf>,
}

/// Listens, or serves the one connection that is standard input.
///
/// # Errors
/// What the system says, or why the other side is not served.
pub fn run(args: &Args) -> anyhow::Result<()> {
    match &args.listen {
        Some(path) => listen(args, path),
        None => {
            let stdin = io::stdin().as_fd().try_clone_to_owned()?;
            serve(args, UnixStream::from(stdin))
        }
    }
}

/// A process a connection, as systemd does it (`Accept=yes`).
fn listen(args: &Args, path: &Path) -> anyhow::Result<()> {
    let program = std::env::current_exe()?;
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        bail!("cannot listen at {}: {error}", path.display());
    }
    let listener = UnixListener::bind(path).with_context(|| format!("at {}", path.display()))?;
    // Anybody may ask; who gets anything is polkit's and the password's to say.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
    let mut serving: Vec<Child> = Vec::new();
    for connection in listener.incoming() {
        serving.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
        if serving.len() >= MAX_CONNECTIONS {
            continue;
        }
        let connection = OwnedFd::from(connection?);
        let mut command = Command::new(&program);
        if args.polkit {
            command.arg("--polkit");
        }
        command.args(["--groups", &args.groups.join(",")]);
        serving.push(command.stdin(Stdio::from(connection)).spawn()?);
    }
    Ok(())
}

fn serve(args: &Args, mut connection: UnixStream) -> anyhow::Result<()> {
    // No core of this process, no other reads its memory, and whatever its programs leave behind stays below it.
    prctl::set_dumpable(false)?;
    prctl::set_child_subreaper(true)?;
    let peer = getsockopt(&connection, PeerCredentials).context("who asks?")?;
    if args.polkit {
        let (pid, uid) = (peer.pid(), peer.uid());
        ensure!(
            credential::polkit_permits(pid, uid)?,
            "polkit does not permit user {uid} org.remora.elevate"
        );
    }
    connection.set_write_timeout(Some(WRITE_LIMIT))?;
    let mut inbox = Inbox::new(MAX_MESSAGE_BYTES);
    let Some(hello) = next::<BrokerHello>(&mut connection, &mut inbox)? else {
        return Ok(());
    };
    for text in [&hello.display, &hello.xauthority] {
        let is_plain = text.len() <= MAX_HELLO_TEXT_BYTES && !text.chars().any(char::is_control);
        ensure!(is_plain, "not the name of a display");
    }
    let desk = Desk::default();
    let reports = Reports(Arc::new(Mutex::new(connection.try_clone()?)));
    let key = desk.key().to_vec().into();
    reports.say(Body::ElevationKey(ElevationKey { key }));
    let (orders, ordered) = mpsc::sync_channel(QUEUE_ORDERS);
    let worker = Worker {
        groups: args.groups.clone(),
        administrator: None,
        tries: 0,
        desk,
        programs: Programs::new(hello, reports.clone()),
        reports: reports.clone(),
    };
    thread::spawn(move || worker.run(&ordered));
    // Whatever has gone wrong with the other side, what it has started does not stay.
    let read = read(&mut connection, &mut inbox, &orders, &reports);
    tree::kill_below(getpid());
    read
}

fn read(
    connection: &mut UnixStream,
    inbox: &mut Inbox,
    orders: &mpsc::SyncSender<Vec<u8>>,
    reports: &Reports,
) -> anyhow::Result<()> {
    while let Some(message) = next::<Control>(connection, inbox)? {
        let Some(Body::ElevationOrder(order)) = message.body else {
            bail!("not an order");
        };
        if orders.try_send(order.sealed.to_vec()).is_err() {
            reports.refuse(0, OrderRefusal::OrderBusy);
        }
    }
    Ok(())
}

/// The next message; `None` at the end.
fn next<M: prost::Message + Default>(
    connection: &mut UnixStream,
    inbox: &mut Inbox,
) -> anyhow::Result<Option<M>> {
    let mut chunk = [0; 4096];
    loop {
        if let Some(message) = inbox.next()? {
            return Ok(Some(message));
        }
        match connection.read(&mut chunk) {
            Ok(0) => return Ok(None),
            Ok(length) => inbox.push(&chunk[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// What goes back to the node; each report whole.
#[derive(Clone)]
struct Reports(Arc<Mutex<UnixStream>>);

impl Reports {
    fn say(&self, body: Body) {
        let bytes = encode(&Control { body: Some(body) });
        let mut stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if stream.write_all(&bytes).is_err() {
            // Nobody listens. The reader hears of that, and ends it.
            stream.shutdown(std::net::Shutdown::Both).ok();
        }
    }

    fn report(&self, order: u32, what: What) {
        let what = Some(what);
        self.say(Body::ElevationReport(ElevationReport { order, what }));
    }

    fn refuse(&self, order: u32, why: OrderRefusal) {
        self.report(order, What::Refused(why.into()));
    }

    /// The elevation is over.
    fn close(&self) {
        let stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        stream.shutdown(std::net::Shutdown::Both).ok();
    }
}

/// Carries orders out, one after the other.
struct Worker {
    groups: Vec<String>,
    /// Whose password was right.
    administrator: Option<String>,
    tries: u32,
    desk: Desk,
    programs: Programs,
    reports: Reports,
}

impl Worker {
    fn run(mut self, orders: &mpsc::Receiver<Vec<u8>>) {
        for sealed in orders {
            match self.desk.open(&sealed) {
                Ok((number, order)) => self.carry_out(number, order),
                Err(_) => self.reports.refuse(0, OrderRefusal::OrderUnreadable),
            }
        }
    }

    fn carry_out(&mut self, number: u32, order: Order) {
        match (order, &self.administrator) {
            (Order::Credential { name, password }, _) => {
                let admitted = credential::is_administrator(&name, &self.groups)
                    && credential::holds(&name, &password);
                drop(password);
                self.reports.report(number, What::Admitted(admitted));
                if admitted {
                    self.administrator = Some(name);
                    self.tries = 0;
                } else {
                    self.tries += 1;
                }
                if self.tries == MAX_TRIES {
                    self.reports.close();
                }
            }
            (Order::Run(_) | Order::Stop(_), None) => {
                self.reports.refuse(number, OrderRefusal::OrderNoCredential);
            }
            (Order::Run(command), Some(name)) => self.programs.start(number, &command, name),
            (Order::Stop(order), Some(_)) => self.programs.stop(order),
        }
    }
}
