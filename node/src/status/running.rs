//! `remora sessions`, and what is done with a running session from another terminal or a script: `remora ask`, `allow`, `decline`,
//! `handover`, `chat`, `pause`, `resume`, `continue`, `leave`. Each waits until the session's machine has answered; `ask`, until the sharer has.

use std::{
    env,
    io::{self, BufRead as _, IsTerminal as _, Read as _},
};

use remora_proto::{code::Code, wire::message::MAX_CHAT_TEXT_BYTES};
use serde_json::{Value, json};

use super::{
    answer::ask,
    board::{choose, sessions},
    order::{Answer, Order, What},
    print_sessions, text,
};
use crate::{
    cli::running::{Running, Sessions},
    error::{Exit, Failure},
    terminal::{
        console::{print_data, print_note},
        style::Style,
    },
};

/// A code, however it is written.
const MAX_CODE_BYTES: u64 = 256;

/// `remora sessions`
///
/// # Errors
/// Nobody reads it.
pub fn list(args: &Sessions) -> Result<Exit, Failure> {
    let sessions = sessions();
    if args.json {
        print_data(&json!({"v": 1, "sessions": sessions}).to_string())?;
    } else {
        print_sessions(&sessions)?;
    }
    Ok(Exit::Ok)
}

/// `remora ask`, `remora leave` and their like.
///
/// # Errors
/// It was not done, and why.
pub async fn run(command: &Running) -> Result<Exit, Failure> {
    let which = command.which();
    let running = sessions();
    let (pid, session) = choose(&running, which.session.as_deref())?;
    let order = order(command, session)?;
    let peer = text(session, "peer");
    // For whoever sits there and waits.
    if let (Order::Ask { what }, true) = (&order, io::stderr().is_terminal()) {
        let line = format!("Asking {peer} for {}…", what.words());
        print_note(&Style::detect().dim(&line))?;
    }
    let answer = ask(pid, &order).await.ok_or_else(no_answer)?;
    let answer: Answer = serde_json::from_value(answer)
        .map_err(|error| Failure::internal("the session's answer", error))?;
    answer.result()?;
    let (did, said) = done(&order, peer);
    if which.json {
        let done = json!({"v": 1, "event": "done", "did": did, "peer": peer, "pid": pid});
        print_data(&done.to_string())?;
    } else {
        print_note(&said)?;
    }
    Ok(Exit::Ok)
}

fn no_answer() -> Failure {
    Failure::new(
        Exit::TimedOut,
        "NO_ANSWER",
        "the session does not answer: it has just ended, or its program is stopped; `remora sessions` lists those that run",
    )
}

fn order(command: &Running, session: &Value) -> Result<Order, Failure> {
    Ok(match command {
        Running::Ask(args) => Order::Ask {
            what: args.what.into(),
        },
        Running::Handover(args) => Order::HandOver {
            code: code(args.code_stdin)?,
        },
        Running::Allow(args) => Order::Allow {
            // Exactly what is asked at the moment: a question that takes its place is not answered with it.
            what: match args.what {
                Some(what) => what.into(),
                None => asked(session)?,
            },
        },
        Running::Decline(_) => Order::Decline,
        Running::Chat(args) => Order::Chat {
            text: said(args.text.clone())?,
        },
        Running::Pause(_) => Order::Pause,
        Running::Resume(_) => Order::Resume,
        Running::Continue(_) => Order::Continue,
        Running::Leave(args) if args.stay => Order::Stay,
        Running::Leave(args) => Order::Leave {
            confirm: args.confirm,
        },
    })
}

/// The other helper's: never from the command line, which everybody on this computer can read.
fn code(from_stdin: bool) -> Result<Code, Failure> {
    let text = match env::var("REMORA_CODE") {
        Ok(text) if !from_stdin => text,
        _ => {
            if io::stdin().is_terminal() {
                print_note("Code that the other helper sees:")?;
            }
            let mut line = String::new();
            let read = io::stdin().lock().take(MAX_CODE_BYTES).read_line(&mut line);
            read.map_err(|error| Failure::internal("standard input", error))?;
            line
        }
    };
    text.parse().map_err(|error| {
        let line = format!("{error}; please look at the code again");
        Failure::new(Exit::Usage, "INVALID_CODE", line)
    })
}

fn asked(session: &Value) -> Result<What, Failure> {
    let asked = serde_json::from_value(session["question"].clone());
    asked.map_err(|_| {
        let peer = text(session, "peer");
        let line =
            format!("{peer} asks for nothing just now; `remora sessions` shows what is asked");
        Failure::new(Exit::Error, "NOTHING_ASKED", line)
    })
}

/// What was typed, or all of standard input without the end of its last line.
fn said(typed: Option<String>) -> Result<String, Failure> {
    let text = match typed {
        Some(text) => text,
        None => {
            if io::stdin().is_terminal() {
                print_note("What do you want to say? Ctrl-D on a line of its own ends it.")?;
            }
            let mut bytes = Vec::new();
            let longest = u64::try_from(MAX_CHAT_TEXT_BYTES).unwrap_or(u64::MAX);
            // One more: too long is said, not cut off.
            let read = io::stdin().take(longest + 2).read_to_end(&mut bytes);
            read.map_err(|error| Failure::internal("standard input", error))?;
            let text = String::from_utf8(bytes).map_err(|_| {
                let line = "standard input is no UTF-8 text; chat is text";
                Failure::new(Exit::Usage, "NO_TEXT", line)
            })?;
            text.strip_suffix('\n').unwrap_or(&text).to_owned()
        }
    };
    if text.trim().is_empty() {
        let line = "there is nothing to say; give a text, or write it to standard input";
        return Err(Failure::new(Exit::Usage, "NO_TEXT", line));
    }
    if text.len() > MAX_CHAT_TEXT_BYTES {
        let line =
            format!("a chat message has at most {MAX_CHAT_TEXT_BYTES} bytes; send it in pieces");
        return Err(Failure::new(Exit::Usage, "TEXT_TOO_LONG", line));
    }
    Ok(text)
}

/// For scripts and for people, once it is done.
fn done(order: &Order, peer: &str) -> (&'static str, String) {
    match order {
        Order::Measure => ("measured", String::new()),
        Order::Ask { what } => ("asked", format!("{peer} allowed {}.", what.words())),
        Order::HandOver { .. } => (
            "handed_over",
            format!("{peer} goes on with the other helper."),
        ),
        Order::Allow { what } => ("allowed", format!("You allowed {peer} {}.", what.words())),
        Order::Decline => ("declined", format!("You said no to {peer}.")),
        Order::Chat { .. } => ("said", format!("{peer} was told.")),
        Order::Pause => (
            "paused",
            format!("{peer} sees nothing until `remora resume`."),
        ),
        Order::Resume => ("resumed", format!("{peer} sees the screen again.")),
        Order::Continue => ("continued", "The session goes on.".into()),
        Order::Leave { .. } => ("left", format!("The session with {peer} is over.")),
        Order::Stay => ("stayed", "The session goes on.".into()),
    }
}
