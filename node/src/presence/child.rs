//! Sessions that an agent begins, or the page of a help desk: the same program, as if somebody had typed it. Whoever began them outlives
//! them.

use std::{env, fs, io, path::PathBuf, process::Stdio, time::Duration};

use remora_proto::{code::Code, id::RelayAddr, session::Kind};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process,
    sync::mpsc,
};

use crate::{secret_file, status::board::folder};

/// How this program was started.
#[derive(Clone, Debug)]
pub(crate) struct Command {
    /// `--config`
    pub(crate) settings: Option<PathBuf>,
    /// `--relay`
    pub(crate) relays: Vec<RelayAddr>,
    /// `--tcp-only`
    pub(crate) tcp_only: bool,
}

impl Command {
    /// The same program with these words, which prints events.
    pub(crate) fn started(&self, words: &[&str]) -> io::Result<process::Command> {
        let mut command = process::Command::new(env::current_exe()?);
        if let Some(settings) = &self.settings {
            command.arg("--config").arg(settings);
        }
        command.args(words).arg("--json");
        for relay in &self.relays {
            command.arg("--relay").arg(relay.to_string());
        }
        if self.tcp_only {
            command.arg("--tcp-only");
        }
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        Ok(command)
    }

    /// Opens an invitation in the browser, and ends with its session.
    pub(super) fn open(&self, id: &str) -> impl Future<Output = ()> + Send + use<> {
        let command = self.started(&["inbox", "open", id, "--page"]);
        async move {
            let done = async {
                let mut command = command?;
                run(command.stdin(Stdio::null()).spawn()?).await
            };
            if let Err(error) = done.await {
                tracing::warn!(%error, "the invitation was not opened");
            }
        }
    }

    /// Holds the unattended session of that code, which is in no command line; does not outlive this program. Yes or no, said to it by
    /// `answers`, answers its question, which is told on `news`.
    pub(super) fn unattended(
        &self,
        code: &Code,
        mut answers: mpsc::Receiver<bool>,
        news: mpsc::Sender<News>,
    ) -> impl Future<Output = ()> + Send + use<> {
        let command = self.started(&["join", "--code-stdin", "--unattended", "--by-agent"]);
        let line = format!("{code}\n");
        async move {
            let done = async {
                let mut child = command?.stdin(Stdio::piped()).spawn()?;
                let pipes = child.stdin.take().zip(child.stdout.take());
                let (mut typed, out) = pipes.ok_or(io::ErrorKind::BrokenPipe)?;
                typed.write_all(line.as_bytes()).await?;
                let mut lines = BufReader::new(out).lines();
                loop {
                    tokio::select! { biased;
                        line = lines.next_line() => {
                            let Some(line) = line? else { break };
                            if let Some(told) = News::of(&line) && news.send(told).await.is_err() {
                                break;
                            }
                        }
                        Some(yes) = answers.recv() => {
                            typed.write_all(if yes { b"a\n" } else { b"d\n" }).await?;
                        }
                    }
                }
                let status = child.wait().await?;
                tracing::debug!(%status, "an unattended session's program has ended");
                Ok::<_, io::Error>(())
            };
            if let Err(error) = done.await {
                tracing::warn!(%error, "the unattended session did not begin");
            }
        }
    }

    /// Goes on with the session in which this computer was restarted.
    pub(super) fn resume(&self, kind: Kind) -> impl Future<Output = ()> + Send + use<> {
        let words: &[&str] = match kind {
            Kind::Attended => &["join", "--resume", "--page"],
            Kind::Unattended => &["join", "--resume"],
        };
        held(self.started(words))
    }
}

/// A session at which nobody types.
async fn held(command: io::Result<process::Command>) {
    let done = async {
        let mut child = command?.stdin(Stdio::piped()).spawn()?;
        // Kept open: its end would be the end of what is typed.
        let _typed = child.stdin.take();
        run(child).await
    };
    if let Err(error) = done.await {
        tracing::warn!(%error, "the session did not begin");
    }
}

/// What an unattended session's program says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// It begins after this time, unless somebody says no.
    Countdown(Duration),
    /// Nobody is asked any more.
    Answered,
    /// It is over, and all is as before; the program has only to say its last words.
    Over,
}

impl News {
    fn of(line: &str) -> Option<Self> {
        let event: Value = serde_json::from_str(line).ok()?;
        match event["event"].as_str()? {
            "countdown" => event["within_s"]
                .as_u64()
                .map(|s| Self::Countdown(Duration::from_secs(s))),
            "starting" => Some(Self::Answered),
            "ended" => Some(Self::Over),
            _ => None,
        }
    }
}

/// Until it ends; shows its page.
async fn run(mut child: process::Child) -> io::Result<()> {
    let mut page = None;
    if let Some(out) = child.stdout.take() {
        let mut lines = BufReader::new(out).lines();
        while let Some(line) = lines.next_line().await? {
            let event: Value = serde_json::from_str(&line).unwrap_or_default();
            if event["event"] == "page"
                && let Some(url) = event["url"].as_str()
            {
                page = Some(Page::show(url)?);
            }
        }
    }
    let status = child.wait().await?;
    tracing::debug!(%status, "a session's program has ended");
    drop(page);
    Ok(())
}

/// Leads the browser to a page. Its address lets in whoever has it, so it stands in a file of ours and in no command line.
struct Page(PathBuf);

impl Page {
    fn show(url: &str) -> io::Result<Self> {
        let path = folder().join(format!("open-{}.html", std::process::id()));
        let url = url.replace('&', "&amp;").replace('"', "&quot;");
        let text = format!(
            "<!doctype html><meta http-equiv=\"refresh\" content=\"0;url={url}\"><title>Remora</title>"
        );
        secret_file::replace_secret(&path, text.as_bytes())?;
        let page = Self(path);
        let opened = process::Command::new("xdg-open")
            .arg(&page.0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        if let Err(error) = opened {
            tracing::warn!(%error, "no browser was opened; `remora inbox` in a terminal does without");
        }
        Ok(page)
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            tracing::debug!(%error, "the page's file");
        }
    }
}
