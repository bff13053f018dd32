//! `remora inbox`: what the agents of this log-in have been offered, and the answers to it.

use std::{fs, io, path::Path, time::Duration};

use remora_proto::session::Entry;
use serde_json::json;
use tokio::{net::UnixStream, time::timeout};

use super::{event, line, sockets};
use crate::{
    cli,
    config::File,
    error::{Exit, Failure},
    presence::letter::{Asked, Letter, Link, Told},
    terminal::{self, console::print_data},
};

/// An agent answers within this, or is none.
const PATIENCE: Duration = Duration::from_secs(5);

/// `remora inbox`
///
/// # Errors
/// No agent runs, or the invitation is somebody else's, or nobody's any more.
pub async fn run(file: &File, args: cli::Inbox) -> Result<Exit, Failure> {
    match args.command {
        None => list(args.json).await,
        Some(cli::InboxCommand::Decline { id }) => {
            let id = id.unwrap_or_default();
            let Told::Declined { id } = any(&Asked::Decline { id }).await? else {
                return Err(no_answer());
            };
            if args.json {
                let event = json!({"v": 1, "event": "invitation_declined", "id": id});
                print_data(&event.to_string())?;
            }
            Ok(Exit::Ok)
        }
        Some(cli::InboxCommand::Open(open)) => {
            let id = open.id.unwrap_or_default();
            let (code, left_ms) = match any(&Asked::Open { id }).await? {
                Told::Opened { code, left_ms, .. } => (code, left_ms),
                // The agent has begun the session's program before it asked.
                Told::Begins { id } => {
                    if open.sharer.common.json {
                        let event = json!({"v": 1, "event": "invitation_opened", "id": id});
                        print_data(&event.to_string())?;
                    }
                    return Ok(Exit::Ok);
                }
                Told::List { .. } | Told::Declined { .. } | Told::Not { .. } => {
                    return Err(no_answer());
                }
            };
            let code = code
                .parse()
                .map_err(|error| Failure::internal("the agent's code", error))?;
            let within = Duration::from_millis(left_ms);
            terminal::open(file, open.sharer, code, Entry::Notify, within).await
        }
    }
}

async fn list(json: bool) -> Result<Exit, Failure> {
    let mut is_there = false;
    let mut letters: Vec<Letter> = Vec::new();
    for path in sockets() {
        let Some(told) = ask(&path, &Asked::List).await else {
            continue;
        };
        is_there = true;
        if let Told::List { letters: more } = told {
            // Agents of several displays have the same.
            letters.retain(|letter| more.iter().all(|other| other.id != letter.id));
            letters.extend(more);
        }
    }
    if json {
        let letters: Vec<_> = letters
            .iter()
            .map(|letter| event("invitation", letter))
            .collect();
        let report = json!({"v": 1, "event": "inbox", "agent": is_there, "invitations": letters});
        print_data(&report.to_string())?;
    } else {
        for letter in &letters {
            print_data(&line(letter))?;
        }
        if letters.is_empty() && is_there {
            print_data("no invitation")?;
        }
    }
    match is_there {
        true => Ok(Exit::Ok),
        false => Err(no_agent()),
    }
}

/// Of the agents here, the word of the one that knows the invitation.
async fn any(asked: &Asked) -> Result<Told, Failure> {
    let mut refused = no_agent();
    for path in sockets() {
        match ask(&path, asked).await {
            Some(Told::Not { code, text }) => {
                refused = match code.as_str() {
                    "TAKEN" => Failure::new(Exit::Error, "TAKEN", "somebody else was first"),
                    _ => Failure::new(Exit::Error, "UNKNOWN_INVITATION", text),
                }
            }
            Some(told) => return Ok(told),
            None => {}
        }
    }
    Err(refused)
}

async fn ask(path: &Path, asked: &Asked) -> Option<Told> {
    let stream = match UnixStream::connect(path).await {
        Ok(stream) => stream,
        Err(error) => {
            // Left behind by an agent that was killed.
            if error.kind() == io::ErrorKind::ConnectionRefused
                && let Err(error) = fs::remove_file(path)
            {
                tracing::debug!(%error, "a stale socket");
            }
            return None;
        }
    };
    let mut link: Link<Told, Asked> = Link::new(stream);
    link.to.send(asked.clone()).await.ok()?;
    timeout(PATIENCE, link.from.recv()).await.ok().flatten()
}

fn no_agent() -> Failure {
    let line =
        "no agent runs in this log-in, so nobody can invite you; start one with `remora agent`";
    Failure::new(Exit::Error, "NO_AGENT", line)
}

fn no_answer() -> Failure {
    let line = "the agent does not answer; try again, or start it anew";
    Failure::new(Exit::Error, "NO_AGENT", line)
}
