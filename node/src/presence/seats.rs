//! The log-ins of one device: agents that meet at a socket beside its key. The one that has the key is a seat, too.

use std::{
    collections::BTreeMap,
    env, fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use remora_proto::{
    id::DeviceId,
    invitation::desk::{MAX_SEATS, Seat},
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::mpsc,
    task::JoinSet,
    time::timeout,
};

use super::letter::{FromSeat, Link, ToSeat};
use crate::error::{Exit, Failure};

/// What seats say, on its way to the desk.
const QUEUE: usize = 64;
/// For another agent to say where it is.
const HELLO: Duration = Duration::from_secs(5);
/// Agents that have not said so.
const MAX_STRANGERS: usize = 8;

/// A seat, as the desk sees it.
type Sitting = Link<FromSeat, ToSeat>;
/// The desk, as a seat sees it.
pub(super) type Place = Link<ToSeat, FromSeat>;

/// Something that an agent does.
#[derive(Debug)]
pub(super) enum Arrival {
    /// It is there; what it is told.
    New(Seat, mpsc::Sender<ToSeat>),
    /// It says something.
    Said(Seat, FromSeat),
    /// It is gone.
    Gone(Seat),
}

/// All seats, at the agent that has the key; taken down when dropped.
#[derive(Debug)]
pub(super) struct Seats {
    arrivals: mpsc::Receiver<Arrival>,
    path: PathBuf,
    _task: JoinSet<()>,
}

/// Where the agents of a device meet: beside its key.
pub(super) fn meeting_place(settings: &Path) -> PathBuf {
    settings.with_extension("device.sock")
}

/// Where this program is logged in; one agent is enough there.
fn login() -> String {
    let names = ["XDG_SESSION_ID", "WAYLAND_DISPLAY", "DISPLAY"];
    let user = nix::unistd::getuid().to_string();
    let values = names.map(|name| env::var(name).unwrap_or_default());
    format!("{user} {}", values.join(" "))
}

fn runs_already() -> Failure {
    let line = "an agent runs already in this log-in; end it first, or give this one settings of its own with --config";
    Failure::new(Exit::Error, "AGENT_RUNS", line)
}

impl Seats {
    /// Opens the meeting place at `path`, of `device`, and takes this agent's seat; others than this user find the way in if it
    /// `is_shared`.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn open(
        path: PathBuf,
        is_shared: bool,
        device: DeviceId,
    ) -> Result<(Self, Place), Failure> {
        let failed = |error: io::Error| {
            let line = format!(
                "cannot open {}: {error}; check the folder and its permissions",
                path.display()
            );
            Failure::new(Exit::Error, "AGENT_SOCKET", line)
        };
        // Whoever has the key is alone: what is there was left behind.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(&path).map_err(failed)?;
        let mode = if is_shared { 0o666 } else { 0o600 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).map_err(failed)?;
        let (to, arrivals) = mpsc::channel(QUEUE);
        let (own, place) = Link::pair();
        let host = Host {
            device,
            arrivals: to,
            logins: BTreeMap::new(),
            last: 0,
            sitting: JoinSet::new(),
        };
        let mut task = JoinSet::new();
        task.spawn(host.run(listener, own));
        let seats = Self {
            arrivals,
            path,
            _task: task,
        };
        Ok((seats, place))
    }

    /// What happens next. Cancel-safe.
    pub(super) async fn next(&mut self) -> Arrival {
        match self.arrivals.recv().await {
            Some(arrival) => arrival,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Seats {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(%error, "the agents' socket");
        }
    }
}

struct Host {
    device: DeviceId,
    arrivals: mpsc::Sender<Arrival>,
    logins: BTreeMap<Seat, String>,
    last: u64,
    sitting: JoinSet<Seat>,
}

impl Host {
    async fn run(mut self, listener: UnixListener, own: Sitting) {
        let mut strangers = JoinSet::new();
        self.seat(login(), own).await;
        loop {
            tokio::select! {
                Some(gone) = self.sitting.join_next() => {
                    if let Ok(seat) = gone {
                        self.logins.remove(&seat);
                        self.tell(Arrival::Gone(seat)).await;
                    }
                }
                Some(greeted) = strangers.join_next() => {
                    if let Ok(Ok(Some((login, link)))) = greeted {
                        self.seat(login, link).await;
                    }
                }
                accepted = listener.accept(), if strangers.len() < MAX_STRANGERS => match accepted {
                    Ok((stream, _)) => {
                        strangers.spawn(timeout(HELLO, greet(stream)));
                    }
                    Err(error) => return tracing::warn!(%error, "the agents' socket"),
                },
            }
        }
    }

    async fn seat(&mut self, login: String, link: Sitting) {
        let full = if self.logins.values().any(|other| *other == login) {
            Some(runs_already())
        } else if self.logins.len() >= MAX_SEATS {
            let line = "too many log-ins of this device have an agent; end one of them";
            Some(Failure::new(Exit::Error, "FULL", line))
        } else {
            None
        };
        if let Some(failure) = full {
            let word = ToSeat::Full {
                code: failure.code.into(),
                text: failure.line,
            };
            if link.to.send(word).await.is_ok() {
                self.sitting.spawn(async move {
                    link.close().await;
                    Seat(0)
                });
            }
            return;
        }
        self.last += 1;
        let seat = Seat(self.last);
        self.logins.insert(seat, login);
        let device = self.device.to_string();
        if link.to.send(ToSeat::Device { device }).await.is_err() {
            tracing::debug!("gone already");
        }
        self.tell(Arrival::New(seat, link.to.clone())).await;
        self.sitting.spawn(sit(seat, link, self.arrivals.clone()));
    }

    async fn tell(&self, arrival: Arrival) {
        if self.arrivals.send(arrival).await.is_err() {
            tracing::debug!("the desk is closed");
        }
    }
}

/// Who it is that came.
async fn greet(stream: UnixStream) -> Option<(String, Sitting)> {
    let mut link = Sitting::new(stream);
    match link.from.recv().await {
        Some(FromSeat::Hello { login }) => Some((login, link)),
        Some(FromSeat::Open { .. } | FromSeat::Decline { .. }) | None => None,
    }
}

async fn sit(seat: Seat, mut link: Sitting, arrivals: mpsc::Sender<Arrival>) -> Seat {
    while let Some(word) = link.from.recv().await {
        if arrivals.send(Arrival::Said(seat, word)).await.is_err() {
            break;
        }
    }
    seat
}

/// Takes a seat at a desk that is at `path`, if there is one; and the device's id.
///
/// # Errors
/// The desk has none for this log-in.
pub(super) async fn attach(path: &Path) -> Result<Option<(String, Place)>, Failure> {
    let stream = match UnixStream::connect(path).await {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(%error, "no other agent");
            return Ok(None);
        }
    };
    let mut place = Place::new(stream);
    let login = login();
    if place.to.send(FromSeat::Hello { login }).await.is_err() {
        return Ok(None);
    }
    match timeout(HELLO, place.from.recv()).await {
        Ok(Some(ToSeat::Device { device })) => Ok(Some((device, place))),
        Ok(Some(ToSeat::Full { code, text })) => Err(match code.as_str() {
            "AGENT_RUNS" => runs_already(),
            _ => Failure::new(Exit::Error, "FULL", text),
        }),
        Ok(_) | Err(_) => Ok(None),
    }
}
