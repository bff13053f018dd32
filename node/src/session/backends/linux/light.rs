//! Lights a screen whose shield was killed before it could. Gamma outlives the X11 client that set it, so that it takes a program of its
//! own (`remora light-keeper`), which has nothing else to do.
//!
//! ```text
//!  shield ── how the screen was, before it is dark ─▶ keeper        shield lights it, and ends ─▶ nothing is dark: done
//!                                                                   shield is killed ── its pipe closes ─▶ as it was
//! ```

use std::{
    collections::BTreeMap,
    env,
    io::{self, BufRead as _, Write as _},
    os::unix::process::CommandExt as _,
    process::{Child, ChildStdin, Command, Stdio},
};

use tokio::signal::unix::{SignalKind, signal};
use x11rb::protocol::{randr::ConnectionExt as _, xproto::ConnectionExt as _};

use crate::{
    error::{Exit, Failure},
    share::{capture::CaptureError, x11::Display},
};

/// Red, green, blue of each output.
pub(super) type Levels = BTreeMap<u32, [Vec<u16>; 3]>;

/// The keeper, for as long as the shield is raised.
#[derive(Debug)]
pub(super) struct Keeper {
    child: Child,
    /// `None` when it is to end.
    to: Option<ChildStdin>,
}

impl Keeper {
    /// Of that display.
    ///
    /// # Errors
    /// It does not start.
    pub(super) fn start(display: Option<&str>) -> io::Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        command
            .arg("light-keeper")
            .envs(display.map(|display| ("DISPLAY", display)))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // What is typed at a terminal to end the shield's program is not meant for this one.
            .process_group(0);
        let mut child = command.spawn()?;
        let to = child.stdin.take();
        Ok(Self { child, to })
    }

    /// This is how the screen was; said before it is dark.
    ///
    /// # Errors
    /// The keeper is gone.
    pub(super) fn keep(&mut self, levels: &Levels) -> io::Result<()> {
        let to = self.to.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        let line = serde_json::to_string(levels)?;
        writeln!(to, "{line}")
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // It looks at the screen once more: whoever darkens it next must not be taken for us.
        self.to = None;
        if let Err(error) = self.child.wait() {
            tracing::warn!(%error, "the light's keeper");
        }
    }
}

/// The keeper's whole life.
///
/// # Errors
/// The display is gone, and with it what was dark.
pub(super) async fn keep() -> Result<Exit, Failure> {
    // Whoever ends all programs at once ends the shield's, and this one after it.
    let listen = |kind| signal(kind).map_err(|error| Failure::internal("signals", error));
    let _unheard = [
        listen(SignalKind::terminate())?,
        listen(SignalKind::hangup())?,
        listen(SignalKind::interrupt())?,
    ];
    // A thread of its own: it waits for as long as the screen is dark.
    let lit = tokio::task::spawn_blocking(|| {
        let mut levels = Levels::new();
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            levels = serde_json::from_str(&line)
                .map_err(|error| Failure::internal("what the shield says", error))?;
        }
        light(&levels).map_err(still_dark)
    });
    lit.await.map_err(still_dark)?.map(|()| Exit::Ok)
}

fn still_dark(error: impl std::fmt::Display) -> Failure {
    Failure::internal("the screen may still be dark", error)
}

/// What is dark still, as it was.
fn light(levels: &Levels) -> Result<(), CaptureError> {
    let display = Display::open(None)?;
    let connection = &display.connection;
    connection.randr_query_version(1, 3)?.reply()?;
    for (&crtc, [red, green, blue]) in levels {
        // An output that is there no more has nothing to light.
        let Ok(now) = connection.randr_get_crtc_gamma(crtc)?.reply() else {
            continue;
        };
        if is_dark(&[now.red, now.green, now.blue]) {
            connection.randr_set_crtc_gamma(crtc, red, green, blue)?;
        }
    }
    // Done, not only said.
    connection.get_input_focus()?.reply()?;
    Ok(())
}

/// Nothing of an output's levels can be seen.
pub(super) fn is_dark(levels: &[Vec<u16>; 3]) -> bool {
    levels.iter().flatten().all(|level| *level == 0)
}
