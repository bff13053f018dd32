//! A Prometheus of our own: what it scrapes is said while it runs, and what fires is asked.

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Mutex,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use super::rules::{Scaled, scale, written};
use crate::process::{Child, Cores};

/// The job that the rules are about.
const JOB: &str = "remora-relay";
/// How often relays are asked where nobody scales anything, and how often rules are looked at: Prometheus' own configuration of ours.
const EVERY: Duration = Duration::from_secs(15);
/// How long a value counts that has no successor: Prometheus' default.
const LOOKBACK: Duration = Duration::from_secs(300);
/// Not below: a relay is to have something to do beside being asked.
const SHORTEST: Duration = Duration::from_millis(100);
/// It reads what it has on disk first.
const START: Duration = Duration::from_secs(30);
/// An answer that takes longer is none.
const ANSWER: Duration = Duration::from_secs(5);
/// How often one looks.
const GLANCE: Duration = Duration::from_millis(100);
/// What it last said, of a Prometheus that does not start.
const LOG: &str = "prometheus.log";

/// An alert as Prometheus tells it.
#[derive(Clone, Debug)]
pub struct Told {
    /// Its name.
    pub name: String,
    /// The fleet whose relays it is about.
    pub fleet: String,
    /// Whether somebody would be called.
    pub is_firing: bool,
}

impl Told {
    fn read(alert: &Value) -> Self {
        let label = |name: &str| {
            let label = alert["labels"][name].as_str();
            label.unwrap_or_default().to_owned()
        };
        Self {
            name: label("alertname"),
            fleet: label("namespace"),
            is_firing: alert["state"] == "firing",
        }
    }
}

/// A server, which ends with us.
#[derive(Debug)]
pub struct Prometheus {
    child: Child,
    /// Where its pages are.
    pub at: SocketAddr,
    folder: TempDir,
    targets: Mutex<BTreeMap<String, SocketAddr>>,
}

/// What one is started with.
#[derive(Debug)]
pub struct Settings<'a> {
    /// The program, or `prometheus`.
    pub program: Option<&'a Path>,
    /// What it looks at.
    pub rules: &'a Scaled,
    /// How many times as fast as the rules say.
    pub speed: u32,
}

impl Prometheus {
    /// Starts one that has nobody to ask yet, with what `history` put into its folder.
    ///
    /// # Errors
    /// When it does not start, with what it said.
    pub async fn start(
        settings: &Settings<'_>,
        cores: &Cores,
        history: impl FnOnce(&Path) -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("no folder for Prometheus")?;
        let path = |name: &str| folder.path().join(name);
        let every = every(settings.speed);
        fs::write(path("remora.rules.yml"), &settings.rules.text)?;
        fs::write(path("prometheus.yml"), configuration(every))?;
        fs::write(path("relays.json"), "[]")?;
        history(&path("data"))?;
        let at = free_port()?;
        let program = settings.program.unwrap_or_else(|| Path::new("prometheus"));
        let mut command = Command::new(program);
        command
            .current_dir(&folder)
            .arg("--config.file=prometheus.yml")
            .arg("--storage.tsdb.path=data")
            .arg("--storage.tsdb.retention.time=30d")
            .arg(format!("--web.listen-address={at}"))
            .arg(format!(
                "--query.lookback-delta={}",
                written(scale(LOOKBACK, settings.speed).max(4 * every))
            ))
            .arg("--log.level=warn")
            .stderr(fs::File::create(path(LOG))?);
        let child = Child::start(command, cores, Stdio::null()).with_context(|| {
            format!(
                "no {}; install it (Debian: apt-get install prometheus), or say where it is with --prometheus",
                program.display()
            )
        })?;
        let mut prometheus = Self {
            child,
            at,
            folder,
            targets: Mutex::default(),
        };
        prometheus.ready().await?;
        Ok(prometheus)
    }

    async fn ready(&mut self) -> anyhow::Result<()> {
        let until = Instant::now() + START;
        loop {
            if self.child.ended()?.is_some() || Instant::now() > until {
                let log = fs::read_to_string(self.path(LOG))?;
                bail!("Prometheus does not start: {}", log.trim_end());
            }
            if get(self.at, "/-/ready").await.is_ok() {
                return Ok(());
            }
            sleep(GLANCE).await;
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// From now on it asks the relay of that name, which is its fleet's, a slash, and its own.
    ///
    /// # Errors
    /// When there is no room on the disk.
    pub fn watch(&self, relay: &str, admin: SocketAddr) -> anyhow::Result<()> {
        self.change(|targets| targets.insert(relay.to_owned(), admin))
    }

    /// It does not ask it any more; what is known of it is forgotten with the next look.
    ///
    /// # Errors
    /// When there is no room on the disk.
    pub fn forget(&self, relay: &str) -> anyhow::Result<()> {
        self.change(|targets| targets.remove(relay))
    }

    fn change(
        &self,
        change: impl FnOnce(&mut BTreeMap<String, SocketAddr>) -> Option<SocketAddr>,
    ) -> anyhow::Result<()> {
        let mut targets = self
            .targets
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        change(&mut targets);
        let all = targets.iter().map(|(name, admin)| {
            let (fleet, relay) = name.split_once('/').unwrap_or(("", name));
            json!({"targets": [admin.to_string()], "labels": {"namespace": fleet, "relay": relay}})
        });
        // In one step: it is told of every change, and must not read half of one.
        let new = self.path("relays.json.new");
        fs::write(&new, Value::from_iter(all).to_string())?;
        Ok(fs::rename(new, self.path("relays.json"))?)
    }

    /// What is pending or fires.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn alerts(&self) -> anyhow::Result<Vec<Told>> {
        alerts(self.at).await
    }
}

/// How often it asks.
pub fn every(speed: u32) -> Duration {
    scale(EVERY, speed).max(SHORTEST)
}

fn configuration(every: Duration) -> String {
    let every = written(every);
    format!(
        "global:\n  scrape_interval: {every}\n  scrape_timeout: {every}\n  evaluation_interval: {every}\n\
         rule_files: [remora.rules.yml]\n\
         scrape_configs:\n  - job_name: {JOB}\n    file_sd_configs:\n      - files: [relays.json]\n        refresh_interval: 1s\n"
    )
}

/// The system's choice. It might be taken by somebody else before Prometheus has it, which then says so.
fn free_port() -> anyhow::Result<SocketAddr> {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port for Prometheus")?;
    Ok(free.local_addr()?)
}

/// What is pending or fires at a Prometheus.
///
/// # Errors
/// When it does not answer.
pub async fn alerts(at: SocketAddr) -> anyhow::Result<Vec<Told>> {
    let body = get(at, "/api/v1/alerts").await?;
    let answer: Value = serde_json::from_str(&body).context("Prometheus answers no JSON")?;
    let alerts = answer.pointer("/data/alerts").and_then(Value::as_array);
    let alerts = alerts.context("Prometheus says nothing of alerts")?;
    Ok(alerts.iter().map(Told::read).collect())
}

/// HTTP/1.0, which has no chunks.
async fn get(at: SocketAddr, path: &str) -> anyhow::Result<String> {
    let asking = async {
        let mut stream = TcpStream::connect(at).await?;
        let request = format!("GET {path} HTTP/1.0\r\nHost: {at}\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        anyhow::Ok(answer)
    };
    let answer = timeout(ANSWER, asking).await;
    let answer = answer.context("Prometheus does not answer")??;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer of HTTP")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    ensure!(status == "200", "Prometheus answers {status} to {path}");
    Ok(body.to_owned())
}
