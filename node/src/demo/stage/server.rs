//! An X server without a screen, for machines where nobody sits.

use std::{
    io::{self, BufRead, BufReader},
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// What a helper's window shows without being made smaller.
pub(super) const SCREEN: (u16, u16) = (1280, 800);
/// Starting takes a tenth of a second; on a busy machine ten times that.
const START: Duration = Duration::from_secs(15);
/// Ending takes milliseconds; it is looked at so often, and then ended the hard way.
const FAREWELLS: u32 = 200;
const FAREWELL: Duration = Duration::from_millis(10);

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub(super) enum ServerError {
    /// Nothing to start.
    #[error("Xvfb is not installed")]
    NotInstalled,
    /// It did not come up.
    #[error("Xvfb does not start: {0}")]
    Failed(io::Error),
}

/// A running Xvfb, on a number that was free; ends when dropped.
///
/// Should this process be killed, it ends as well: it is told to when nobody is connected any more.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    number: u32,
}

impl Server {
    pub(super) fn start() -> Result<Self, ServerError> {
        let screen = format!("{}x{}x24", SCREEN.0, SCREEN.1);
        let mut child = Command::new("Xvfb")
            .args(["-displayfd", "1", "-terminate", "-nolisten", "tcp"])
            .args(["-screen", "0", &screen])
            // Ctrl-C is for us: the session ends before its screen does.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| {
                if error.kind() == io::ErrorKind::NotFound {
                    ServerError::NotInstalled
                } else {
                    ServerError::Failed(error)
                }
            })?;
        match number_of(&mut child) {
            Ok(number) => Ok(Self { child, number }),
            Err(error) => {
                end(&mut child);
                Err(ServerError::Failed(error))
            }
        }
    }

    /// For `DISPLAY`.
    pub(super) fn name(&self) -> String {
        format!(":{}", self.number)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// The number is written once the server listens. Read on a thread: a server that hangs must not hold up the demo.
fn number_of(child: &mut Child) -> io::Result<u32> {
    let stdout = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let (to, number) = mpsc::channel();
    thread::spawn(move || {
        let mut line = String::new();
        let read = BufReader::new(stdout).read_line(&mut line);
        if to.send(read.map(|_| line)).is_err() {
            tracing::debug!("Xvfb said its number too late");
        }
    });
    let line = number.recv_timeout(START).map_err(io::Error::other)??;
    let wrong = |_| io::Error::other("it ended at once");
    line.trim().parse().map_err(wrong)
}

/// Asked first, so that it takes its socket and its lock away.
fn end(child: &mut Child) {
    let asked = i32::try_from(child.id())
        .ok()
        .and_then(|pid| kill(Pid::from_raw(pid), Signal::SIGTERM).ok());
    for _ in 0..FAREWELLS {
        match child.try_wait() {
            Ok(Some(_)) => return,
            Ok(None) if asked.is_some() => thread::sleep(FAREWELL),
            Ok(None) | Err(_) => break,
        }
    }
    if let Err(error) = child.kill().and_then(|()| child.wait()) {
        tracing::debug!(%error, "Xvfb");
    }
}
