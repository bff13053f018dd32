//! The two ways lines come and go: a terminal, where a prompt with a countdown stays below what is printed; or pipes.

use std::io::{self, BufRead, IsTerminal, Write};

use rustyline_async::{Readline, ReadlineEvent, SharedWriter};
use tokio::sync::mpsc;

use crate::error::Failure;

/// Lines read ahead from a pipe; a script that writes faster waits in its pipe.
const QUEUE_LINES: usize = 16;

/// What came from the person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Typed {
    /// A line, without its end.
    Line(String),
    /// Ctrl-C or Ctrl-D in a terminal: wants out.
    Out,
}

/// Where lines come from and text goes to.
pub enum Console {
    /// A person at a terminal.
    Terminal {
        /// Owns the screen's last line.
        readline: Box<Readline>,
        /// Prints above it.
        out: SharedWriter,
        /// What stands there.
        prompt: String,
    },
    /// A script, or a person whose output goes elsewhere.
    Pipe {
        /// From standard input; closed at its end.
        lines: mpsc::Receiver<String>,
        /// Its end is the end of whoever began this program, which is not to outlive it.
        is_leash: bool,
    },
}

impl std::fmt::Debug for Console {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Terminal { .. } => "Console::Terminal",
            Self::Pipe { .. } => "Console::Pipe",
        })
    }
}

fn read_lines() -> mpsc::Receiver<String> {
    let (to, lines) = mpsc::channel(QUEUE_LINES);
    // A thread, because a blocked read of standard input cannot be cancelled; it ends with the process.
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            if to.blocking_send(line).is_err() {
                break;
            }
        }
    });
    lines
}

impl Console {
    /// A terminal when all three standard streams are one, of a known size, and nobody asked for JSON; else pipes.
    ///
    /// # Errors
    /// The terminal cannot be used.
    pub fn open(json: bool) -> Result<Self, Failure> {
        let all =
            io::stdin().is_terminal() && io::stdout().is_terminal() && io::stderr().is_terminal();
        // Nothing can be placed on a terminal that does not know its size, as a serial line's.
        let sized =
            || crossterm::terminal::size().is_ok_and(|(columns, rows)| columns > 0 && rows > 0);
        if json || !all || !sized() {
            return Ok(Self::Pipe {
                lines: read_lines(),
                is_leash: false,
            });
        }
        let opened = Readline::new(String::new());
        let (mut readline, out) =
            opened.map_err(|error| Failure::internal("cannot use this terminal", error))?;
        // What was answered stays readable; what Ctrl-C cut off does not.
        readline.should_print_line_on(true, false);
        Ok(Self::Terminal {
            readline: Box::new(readline),
            out,
            prompt: String::new(),
        })
    }

    /// Whether a person can be asked.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal { .. })
    }

    /// Text for people: above the prompt, or on standard error.
    ///
    /// # Errors
    /// Nobody can read it any more.
    pub fn say(&mut self, text: &str) -> Result<(), Failure> {
        let gone = |error: io::Error| Failure::internal("cannot write to the terminal", error);
        match self {
            Self::Terminal {
                readline,
                out,
                prompt,
            } => {
                let failed = |error| Failure::internal("cannot use this terminal", error);
                writeln!(out, "{text}").map_err(gone)?;
                // Prints, and erases the prompt, which may not change for minutes.
                readline.flush().map_err(failed)?;
                readline.update_prompt(prompt).map_err(failed)
            }
            Self::Pipe { .. } => writeln!(io::stderr(), "{text}").map_err(gone),
        }
    }

    /// Sets the prompt of a terminal; in a pipe nobody is prompted.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn set_prompt(&mut self, text: String) -> Result<(), Failure> {
        if let Self::Terminal {
            readline, prompt, ..
        } = self
            && *prompt != text
        {
            readline
                .update_prompt(&text)
                .map_err(|error| Failure::internal("terminal", error))?;
            *prompt = text;
        }
        Ok(())
    }

    /// From now on, the end of a pipe is the end of whoever began this program, and so of this program.
    pub fn leash(&mut self) {
        if let Self::Pipe { is_leash, .. } = self {
            *is_leash = true;
        }
    }

    /// The next line. At the end of a pipe, waits for ever: a script that has said all it wants stays in the session, unless that is
    /// its leash. Cancel-safe.
    pub async fn next(&mut self) -> Typed {
        match self {
            Self::Terminal { readline, .. } => match readline.readline().await {
                Ok(ReadlineEvent::Line(line)) => Typed::Line(line),
                Ok(ReadlineEvent::Eof | ReadlineEvent::Interrupted) | Err(_) => Typed::Out,
            },
            Self::Pipe { lines, is_leash } => match lines.recv().await {
                Some(line) => Typed::Line(line),
                None if *is_leash => Typed::Out,
                None => std::future::pending().await,
            },
        }
    }

    /// A person at a terminal wants out; lines typed meanwhile are passed over. In a pipe, never.
    pub async fn interrupted(&mut self) {
        match self {
            Self::Pipe { .. } => std::future::pending().await,
            Self::Terminal { .. } => while self.next().await != Typed::Out {},
        }
    }

    /// The next line; `None` at the end of a pipe, or when the person wants out.
    pub async fn ask(&mut self) -> Option<String> {
        match self {
            Self::Pipe { lines, .. } => lines.recv().await,
            Self::Terminal { .. } => match self.next().await {
                Typed::Line(line) => Some(line),
                Typed::Out => None,
            },
        }
    }
}

/// One line for people on standard error, before there is a console.
///
/// # Errors
/// Nobody can read it any more.
pub fn print_note(line: &str) -> Result<(), Failure> {
    writeln!(io::stderr(), "{line}")
        .map_err(|error| Failure::internal("cannot write to standard error", error))
}

/// One line of data on standard output.
///
/// # Errors
/// Nobody reads it any more.
pub fn print_data(line: &str) -> Result<(), Failure> {
    writeln!(io::stdout(), "{line}")
        .map_err(|error| Failure::unprinted("cannot write to standard output", &error))
}
