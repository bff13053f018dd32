//! What is wrong with a relay, provoked on a real one: probe, log, metrics and doctor say what `docs/faults.md` says they do.
#![cfg(target_os = "linux")]

#[path = "support/node.rs"]
mod support;

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::{SocketAddr, UdpSocket},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use remora_proto::{
    id::RelayAddr,
    wire::message::control::{Reason, relay_to_node::Body as Reply},
};
use support::{Node, get, within};

const TABLE: &str = include_str!("../../docs/faults.md");
const RELAY: &str = env!("CARGO_BIN_EXE_remora-relay");

/// What each column of a row says in `code`.
struct Row {
    probe: Vec<String>,
    log: Vec<String>,
    metrics: Vec<String>,
    doctor: Vec<String>,
}

impl Row {
    fn of(fault: &str) -> Self {
        let begins = format!("| {fault} |");
        let row = TABLE.lines().find(|line| line.starts_with(&begins));
        let mut cells = row.expect("a row").split(" | ").skip(1).map(words);
        let mut next = || cells.next().expect("a cell");
        Self {
            probe: next(),
            log: next(),
            metrics: next(),
            doctor: next(),
        }
    }
}

fn words(cell: &str) -> Vec<String> {
    let pieces = cell.split('`').skip(1).step_by(2);
    pieces.map(str::to_owned).collect()
}

fn says_all(text: &str, words: &[String]) -> bool {
    words.iter().all(|words| text.contains(words))
}

/// A directory with what a relay needs, and how to run the program there.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().expect("a directory"));
        place.secret("token", "0123456789abcdef");
        place
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.path(file), text).expect("written");
    }

    fn secret(&self, file: &str, text: &str) {
        self.write(file, text);
        let only_ours = fs::Permissions::from_mode(0o600);
        fs::set_permissions(self.path(file), only_ours).expect("ours");
    }

    fn fleet_key(&self, file: &str) {
        let made = self.run(&["fleet-key", file]);
        assert_eq!(made.0, 0, "{}", made.1);
    }

    fn command(&self, program: &[&str]) -> Command {
        let mut command = Command::new(program[0]);
        command
            .args(&program[1..])
            .current_dir(self.0.path())
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null());
        command
    }

    /// Exit code, and all that was said.
    fn run(&self, args: &[&str]) -> (i32, String) {
        ended(&mut self.command(&[&[RELAY], args].concat()))
    }

    fn start(&self, args: &[&str]) -> Running<'_> {
        self.start_by(&[], args, |_| {})
    }

    /// By another program, which becomes the relay.
    fn start_by(
        &self,
        by: &[&str],
        args: &[&str],
        change: impl FnOnce(&mut Command),
    ) -> Running<'_> {
        let mut given: Vec<String> = args.iter().copied().map(str::to_owned).collect();
        given.extend(["--admin-token-file", "token"].map(str::to_owned));
        let log = self.path(&format!(
            "log-{}",
            fs::read_dir(self.0.path()).expect("ours").count()
        ));
        let file = fs::File::create(&log).expect("a file");
        let mut command = self.command(&[by, &[RELAY, "serve", "--json"]].concat());
        change(&mut command);
        command
            .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .args(&given)
            .stdout(Stdio::piped())
            .stderr(file);
        let mut child = command.spawn().expect("runs");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped"))
            .read_line(&mut line)
            .expect("a line");
        let log_text = || fs::read_to_string(&log).expect("a log");
        let object = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{}", log_text()));
        Running {
            place: self,
            child,
            object,
            log,
            given,
        }
    }
}

fn ended(command: &mut Command) -> (i32, String) {
    let output = command.output().expect("runs");
    let said = [output.stdout, output.stderr].concat();
    let code = output.status.code().expect("ends by itself");
    (code, String::from_utf8(said).expect("text"))
}

/// A relay that is up.
struct Running<'a> {
    place: &'a Place,
    child: Child,
    object: serde_json::Value,
    log: PathBuf,
    given: Vec<String>,
}

impl Running<'_> {
    fn text(&self, field: &str) -> &str {
        self.object[field].as_str().expect("text")
    }

    fn address(&self, field: &str) -> SocketAddr {
        self.text(field).parse().expect("an address")
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"));
        kill(pid, signal).expect("still there");
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("a log")
    }

    fn doctor(&self) -> (i32, String) {
        self.beside("doctor")
    }

    /// The program, with the settings that the relay was started with.
    fn beside(&self, verb: &str) -> (i32, String) {
        let mut command = self.place.command(&[RELAY, verb]);
        let admin = self.text("admin");
        ended(command.args(["--admin", admin]).args(&self.given))
    }

    /// Waits until the probe says it all; then the others do, too.
    async fn says(&self, row: &Row, status: u16) {
        self.says_of_itself(row, status).await;
        let (code, doctor) = self.doctor();
        assert!(
            says_all(&doctor, &row.doctor),
            "{:?} in {doctor}",
            row.doctor
        );
        assert_eq!(code, i32::from(status != 200), "{doctor}");
    }

    /// Whoever looks from beside it may find the same in another way.
    async fn says_of_itself(&self, row: &Row, status: u16) {
        let admin = self.address("admin");
        let probed = async {
            let mut ticks = tokio::time::interval(Duration::from_millis(50));
            loop {
                ticks.tick().await;
                let probed = get(admin, "/readyz").await;
                if probed.0 == status && says_all(&probed.1, &row.probe) {
                    return;
                }
            }
        };
        let probed = tokio::time::timeout(Duration::from_secs(40), probed).await;
        if probed.is_err() {
            panic!("{:?} and {}", get(admin, "/readyz").await, self.log());
        }
        let (_, metrics) = get(admin, "/metrics").await;
        assert!(
            says_all(&metrics, &row.metrics),
            "{:?} in {metrics}",
            row.metrics
        );
        let log = self.log();
        assert!(says_all(&log, &row.log), "{:?} in {log}", row.log);
    }

    /// Waits until nothing is said any more of what the row says.
    async fn is_fine_again(&self, row: &Row) {
        let fine = async {
            let mut ticks = tokio::time::interval(Duration::from_millis(50));
            loop {
                ticks.tick().await;
                let (status, text) = get(self.address("admin"), "/readyz").await;
                if status == 200 && !says_all(&text, &row.probe) {
                    return;
                }
            }
        };
        within(fine).await;
        assert!(self.log().contains("again"), "{}", self.log());
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[tokio::test]
async fn a_relay_with_another_fleet_key_is_told_which() {
    let row = Row::of("wrong fleet key");
    let place = Place::new();
    place.fleet_key("fleet.key");
    place.fleet_key("other.key");
    let mesh = ["--mesh", "127.0.0.1:0", "--fleet-key"];
    let first = place.start(&[&mesh[..], &["fleet.key", "--key", "a.key"]].concat());
    let peer = ["--key", "b.key", "--peer", first.text("mesh")];
    let other = place.start(&[&mesh[..], &["other.key"], &peer[..]].concat());
    other.says(&row, 200).await;
}

#[test]
fn a_port_that_is_taken_is_named_before_the_start_and_at_it() {
    let row = Row::of("port taken");
    let place = Place::new();
    let taken = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let listen = taken.local_addr().expect("bound").to_string();
    let args = ["--listen", &listen, "--admin", "127.0.0.1:0"];
    let (code, said) = place.run(&[&["serve"], &args[..]].concat());
    assert_eq!(code, 1);
    assert!(says_all(&said, &row.log), "{said}");
    let (code, said) = place.run(&[&["doctor"], &args[..]].concat());
    assert_eq!(code, 1);
    assert!(says_all(&said, &row.doctor), "{said}");
}

fn can_mount(place: &Place) -> bool {
    let tried = ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "disk"];
    place.command(&tried).status().expect("runs").success()
}

#[tokio::test]
async fn a_disk_that_is_full_is_said() {
    let place = Place::new();
    fs::create_dir(place.path("disk")).expect("made");
    assert!(
        can_mount(&place),
        "this test mounts: run it as root, or in a user namespace"
    );
    let row = Row::of("disk full, first start");
    let full = "mount -t tmpfs -o size=4k tmpfs disk && head -c 4096 /dev/zero > disk/filler; exec \"$0\" \"$@\"";
    let key = [
        "--key",
        "disk/relay.key",
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
    ];
    for (verb, words) in [("serve", &row.log), ("doctor", &row.doctor)] {
        let program = ["unshare", "-m", "sh", "-c", full, RELAY, verb];
        let (code, said) = ended(place.command(&program).args(key));
        assert_eq!(code, 1, "{said}");
        assert!(says_all(&said, words), "{words:?} in {said}");
    }
    let row = Row::of("disk full, later");
    let small = "mount -t tmpfs -o size=8k tmpfs disk && exec \"$0\" \"$@\"";
    let running = place.start_by(
        &["unshare", "-m", "sh", "-c", small],
        &["--key", "disk/relay.key"],
        |_| {},
    );
    let serving =
        async { while get(running.address("admin"), "/readyz").await.1 == "starting\n" {} };
    within(serving).await;
    let (status, text) = get(running.address("admin"), "/readyz").await;
    assert!(status == 200 && !says_all(&text, &row.probe), "{text}");
    // As this test's namespace does not have that disk: through the relay's own root.
    let filler = format!(
        "/proc/{}/root{}",
        running.child.id(),
        place.path("disk/filler").display()
    );
    fs::write(&filler, [0; 4096]).expect("the last room");
    running.says(&row, 200).await;
    fs::remove_file(&filler).expect("ours");
    running.is_fine_again(&row).await;
}

#[tokio::test]
async fn a_clock_that_is_off_is_said_by_the_relay_that_has_it() {
    let row = Row::of("clock 10 minutes off");
    let place = Place::new();
    place.fleet_key("fleet.key");
    let mesh = ["--mesh", "127.0.0.1:0", "--fleet-key", "fleet.key"];
    let first = place.start(&[&mesh[..], &["--key", "a.key"]].concat());
    let peer = ["--peer", first.text("mesh")];
    let second = place.start(&[&mesh[..], &["--key", "b.key"], &peer].concat());
    let late = place.start_by(
        &[],
        &[&mesh[..], &["--key", "c.key"], &peer].concat(),
        |command| {
            command
                .env("LD_PRELOAD", "/usr/$LIB/faketime/libfaketimeMT.so.1")
                .env("FAKETIME", "-10m")
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        },
    );
    late.says(&row, 200).await;
    for right in [&first, &second] {
        let (status, text) = get(right.address("admin"), "/readyz").await;
        assert!(status == 200 && !text.contains("the clock"), "{text}");
    }
}

#[tokio::test]
async fn a_name_that_stands_for_nothing_is_said() {
    let row = Row::of("DNS dead");
    let place = Place::new();
    place.fleet_key("fleet.key");
    let mesh = ["--mesh", "127.0.0.1:0", "--fleet-key", "fleet.key"];
    let running = place.start(&[&mesh[..], &["--peer", "nobody.invalid:4001"]].concat());
    running.says(&row, 200).await;
}

#[tokio::test]
async fn buffers_that_the_system_does_not_give_are_said() {
    let row = Row::of("no right to larger UDP buffers");
    let place = Place::new();
    let rightless = [
        "setpriv",
        "--bounding-set=-net_admin",
        "--inh-caps=-net_admin",
    ];
    // More than any system gives to everybody.
    let many = ["--udp-buffer-bytes", "1073741824", "--workers", "1"];
    let running = place.start_by(&rightless, &many, |_| {});
    running.says(&row, 200).await;
}

#[tokio::test]
async fn a_relay_whose_memory_is_at_its_limit_lets_no_node_in_and_does_again() {
    let row = Row::of("memory at the cgroup's limit");
    let place = Place::new();
    let used = |mebibytes: u64| {
        place.write("memory.current", &format!("{}\n", mebibytes << 20));
    };
    place.write("memory.max", &format!("{}\n", 100 << 20));
    used(50);
    let cgroup = place.0.path().to_str().expect("text").to_owned();
    let running = place.start(&["--cgroup", &cgroup]);
    let relay: RelayAddr = running.text("address").parse().expect("a relay's address");
    let listen = running.address("listen");
    let _here = Node::welcomed_at(listen, relay.id.0).await;
    used(96);
    running.says(&row, 503).await;
    let mut late = Node::silent_at(listen, relay.id.0).await;
    let Reply::Refused(refused) = late.ask(support::hello(1)).await else {
        panic!("let in")
    };
    assert_eq!(refused.reason(), Reason::Full, "{}", refused.text);
    used(80);
    running.is_fine_again(&row).await;
    Node::welcomed_at(listen, relay.id.0).await;
}

/// A certificate that ends in that year, and its key, in files.
fn certificate(place: &Place, year: i32) {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(["relay.example".to_owned()]).expect("a name");
    params.not_before = date_time_ymd(2000, 1, 1);
    params.not_after = date_time_ymd(year, 1, 1);
    let certificate = params.self_signed(&key).expect("signed");
    let pem = |what: &str, der: &[u8]| {
        let text = data_encoding::BASE64.encode(der);
        format!("-----BEGIN {what}-----\n{text}\n-----END {what}-----\n")
    };
    place.write("tls.crt", &pem("CERTIFICATE", certificate.der()));
    place.secret("tls.key", &pem("PRIVATE KEY", &key.serialize_der()));
}

#[tokio::test]
async fn an_expired_certificate_is_said_until_there_is_another() {
    let row = Row::of("certificate expired");
    let place = Place::new();
    certificate(&place, 2020);
    let running = place.start(&["--tls-cert", "tls.crt", "--tls-key", "tls.key"]);
    running.says(&row, 503).await;
    certificate(&place, 2090);
    running.signal(Signal::SIGHUP);
    running.is_fine_again(&row).await;
}

#[test]
fn a_relay_whose_admin_port_speaks_tls_is_asked_by_the_same_settings() {
    let place = Place::new();
    certificate(&place, 2090);
    let mut running = place.start(&["--admin-tls-cert", "tls.crt", "--admin-tls-key", "tls.key"]);
    let (code, doctor) = running.doctor();
    assert_eq!(code, 0, "{doctor}");
    for what in ["ok       life", "ok       files"] {
        assert!(doctor.contains(what), "{doctor}");
    }
    let (code, report) = running.beside("bugreport");
    assert_eq!(code, 0, "{report}");
    assert!(
        report.contains("relay up") && !report.contains("0123456789abcdef"),
        "{report}"
    );
    let (code, drained) = running.beside("drain");
    assert_eq!(code, 0, "{drained}");
    assert!(running.child.wait().expect("it ends").success());
}

#[test]
fn every_row_of_the_table_is_provoked() {
    let rows = TABLE.lines().filter(|line| line.starts_with("| "));
    let source = include_str!("faults.rs");
    // The head is none.
    for row in rows.skip(1) {
        let fault = row[2..].split(" | ").next().expect("a fault");
        assert!(source.contains(&format!("Row::of(\"{fault}\")")), "{fault}");
    }
    assert!(Path::new(RELAY).exists());
}

#[tokio::test]
async fn settings_that_were_not_taken_are_said_until_they_are() {
    let place = Place::new();
    place.write("relay.toml", "max_nodes = 5\n");
    let running = place.start(&["--config", "relay.toml"]);
    let row = Row::of("settings that cannot be, read again");
    place.write("relay.toml", "max_nodes = 0\n");
    running.signal(Signal::SIGHUP);
    running.says_of_itself(&row, 200).await;
    let (code, doctor) = running.doctor();
    assert!(says_all(&doctor, &row.doctor), "{doctor}");
    assert_eq!(code, 2, "it reads the same settings: {doctor}");
    let row_of_waiting = Row::of("settings that wait for a restart");
    place.write("relay.toml", "max_nodes = 5\nrealm = \"other\"\n");
    running.signal(Signal::SIGHUP);
    running.says(&row_of_waiting, 200).await;
    place.write("relay.toml", "max_nodes = 5\n");
    running.signal(Signal::SIGHUP);
    running.is_fine_again(&row).await;
    running.is_fine_again(&row_of_waiting).await;
}

#[tokio::test]
async fn a_relay_that_has_all_its_nodes_says_so() {
    let place = Place::new();
    let running = place.start(&["--max-nodes", "1"]);
    let row = Row::of("as many nodes as may be");
    let relay: RelayAddr = running.text("address").parse().expect("an address");
    let node = Node::welcomed_at(running.address("listen"), relay.id.0).await;
    running.says(&row, 200).await;
    drop(node);
    running.is_fine_again(&row).await;
}
