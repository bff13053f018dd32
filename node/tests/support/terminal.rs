//! A program in a pseudo-terminal, what it writes, and what a person would see of it.

use std::{
    fs::File,
    io::{Read, Write},
    num::NonZero,
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::ExitStatusExt,
    },
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    pty::{Winsize, openpty},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{PATIENCE, process::starting};

/// Wide enough that no line of a test wraps, unless a test wants that.
pub const WIDE: (u16, u16) = (50, 200);
const SCROLLBACK_ROWS: usize = 100;

/// Leaves escape sequences out (ECMA-48 §5.4: CSI to its final byte; else ESC and one more).
#[derive(Debug, Default)]
enum Strip {
    #[default]
    Text,
    Escape,
    Control,
}

impl Strip {
    fn keeps(&mut self, byte: u8) -> bool {
        let (next, keeps) = match (&self, byte) {
            (Self::Text, 0x1b) => (Self::Escape, false),
            (Self::Text, _) => (Self::Text, true),
            (Self::Escape, b'[') => (Self::Control, false),
            (Self::Control, 0x40..=0x7e) | (Self::Escape, _) => (Self::Text, false),
            (Self::Control, _) => (Self::Control, false),
        };
        *self = next;
        keeps
    }
}

struct Output {
    raw: Vec<u8>,
    plain: Vec<u8>,
    strip: Strip,
    screen: vt100::Parser,
    over: bool,
}

type Shared = Arc<(Mutex<Output>, Condvar)>;

fn lock(shared: &Shared) -> MutexGuard<'_, Output> {
    shared.0.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read(mut terminal: File, shared: &Shared) {
    let mut buffer = [0; 16 * 1024];
    loop {
        // EIO: the last process in the terminal is gone.
        let count = terminal.read(&mut buffer).unwrap_or(0);
        let mut output = lock(shared);
        let Output {
            raw,
            plain,
            strip,
            screen,
            over,
        } = &mut *output;
        let bytes = &buffer[..count];
        raw.extend_from_slice(bytes);
        plain.extend(bytes.iter().filter(|byte| strip.keeps(**byte)));
        screen.process(bytes);
        *over = count == 0;
        drop(output);
        shared.1.notify_all();
        if count == 0 {
            return;
        }
    }
}

/// A program in a terminal.
pub struct Terminal {
    name: &'static str,
    child: Child,
    keyboard: File,
    shared: Shared,
    /// What was expected so far ends here.
    at: usize,
}

impl Terminal {
    /// Starts `command` in a terminal of so many rows and columns, which controls it.
    pub fn open(name: &'static str, command: &Command, (rows, columns): (u16, u16)) -> Self {
        let _one_at_a_time = starting();
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pty = openpty(Some(&size), None).expect("a terminal");
        for fd in [&pty.master, &pty.slave] {
            fcntl(fd.as_fd(), FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).expect("a flag");
        }
        let child = within(command, &pty.slave).spawn().expect("it starts");
        // Or its end would not be seen.
        drop(pty.slave);
        let keyboard = File::from(pty.master);
        let screen = keyboard.try_clone().expect("a handle");
        let output = Output {
            raw: Vec::new(),
            plain: Vec::new(),
            strip: Strip::default(),
            screen: vt100::Parser::new(
                NonZero::new(rows).unwrap_or(NonZero::<u16>::MIN),
                NonZero::new(columns).unwrap_or(NonZero::<u16>::MIN),
                SCROLLBACK_ROWS,
            ),
            over: false,
        };
        let shared: Shared = Arc::new((Mutex::new(output), Condvar::new()));
        let reader = Arc::clone(&shared);
        std::thread::spawn(move || read(screen, &reader));
        Self {
            name,
            child,
            keyboard,
            shared,
            at: 0,
        }
    }

    /// What a person types, with Enter.
    pub fn enter(&mut self, line: &str) {
        self.press(&format!("{line}\r"));
    }

    /// Keys.
    pub fn press(&mut self, keys: &str) {
        self.keyboard
            .write_all(keys.as_bytes())
            .expect("it listens");
    }

    /// A keyboard for another thread.
    pub fn keyboard(&self) -> File {
        self.keyboard.try_clone().expect("a handle")
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `kill -9`
    pub fn kill(&mut self) {
        self.child.kill().expect("it runs");
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"));
        kill(pid, signal).expect("still there");
    }

    /// Waits until `needle` is written, after what was expected before.
    pub fn expect(&mut self, needle: &str) {
        self.expect_within(needle, PATIENCE);
    }

    /// The same, with a limit of its own; how long it took.
    pub fn expect_within(&mut self, needle: &str, limit: Duration) -> Duration {
        let start = Instant::now();
        // Nothing is searched twice: it may be megabytes, and come in small pieces.
        let mut from = self.at;
        let found = self.wait(limit, |output| {
            let found = find(&output.plain[from..], needle.as_bytes()).map(|at| from + at);
            from = from.max((output.plain.len() + 1).saturating_sub(needle.len()));
            found
        });
        let Some(found) = found else {
            self.fail(&format!("{needle:?} within {limit:?}"))
        };
        self.at = found + needle.len();
        start.elapsed()
    }

    /// What stands between the end of what was expected and `needle`.
    pub fn until(&mut self, needle: &str) -> String {
        let from = self.at;
        self.expect(needle);
        let output = lock(&self.shared);
        String::from_utf8_lossy(&output.plain[from..self.at - needle.len()]).into_owned()
    }

    /// Waits until the screen is as `wanted` says.
    pub fn screen(&mut self, what: &str, wanted: impl Fn(&vt100::Screen) -> bool) {
        let seen = self.wait(PATIENCE, |output| {
            wanted(output.screen.screen()).then_some(())
        });
        if seen.is_none() {
            self.fail(what);
        }
    }

    fn wait<T>(&self, limit: Duration, mut look: impl FnMut(&Output) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + limit;
        let mut output = lock(&self.shared);
        loop {
            if let Some(found) = look(&output) {
                return Some(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if output.over || left.is_zero() {
                return None;
            }
            let waited = self.shared.1.wait_timeout(output, left);
            output = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn fail(&self, missing: &str) -> ! {
        let output = lock(&self.shared);
        let last = String::from_utf8_lossy(&output.plain[self.at..]).into_owned();
        let last: String = last.chars().rev().take(3000).collect();
        let last: String = last.chars().rev().collect();
        let screen = output.screen.screen().contents();
        let over = if output.over { " (it has ended)" } else { "" };
        panic!(
            "{} never showed {missing}{over}; unread:\n{last}\nscreen:\n{screen}",
            self.name
        )
    }

    /// Waits for its end; its exit code.
    pub fn end(&mut self) -> i32 {
        self.status(PATIENCE)
            .code()
            .unwrap_or_else(|| self.fail("an exit code"))
    }

    /// Waits for its end; the signal that ended it.
    pub fn end_by_signal(&mut self) -> i32 {
        self.status(PATIENCE)
            .signal()
            .unwrap_or_else(|| self.fail("a signal"))
    }

    /// Waits for its end.
    pub fn status(&mut self, limit: Duration) -> ExitStatus {
        if self
            .wait(limit, |output| output.over.then_some(()))
            .is_none()
        {
            self.fail("its end");
        }
        self.child.wait().expect("waited for")
    }

    /// Everything it wrote, without escape sequences.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&lock(&self.shared).plain).into_owned()
    }

    /// Everything it wrote.
    pub fn raw(&self) -> String {
        String::from_utf8_lossy(&lock(&self.shared).raw).into_owned()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// `command` in that terminal, as a session's leader.
fn within(command: &Command, slave: &OwnedFd) -> Command {
    let stdio = || Stdio::from(slave.try_clone().expect("a handle"));
    let mut inner = Command::new("setsid");
    inner
        .args(["--ctty", "--"])
        .arg(command.get_program())
        .args(command.get_args())
        .env_clear();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            inner.env(name, value);
        }
    }
    if let Some(folder) = command.get_current_dir() {
        inner.current_dir(folder);
    }
    inner.stdin(stdio()).stdout(stdio()).stderr(stdio());
    inner
}

fn find(text: &[u8], needle: &[u8]) -> Option<usize> {
    text.windows(needle.len())
        .position(|window| window == needle)
}
