//! The real binary: what it prints, how it fails, how it ends.
#![cfg(unix)]

#[path = "support/node.rs"]
mod support;

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use remora_proto::{
    id::{RelayAddr, SessionId},
    wire::message::control,
};
use support::{Node, get, within};

fn command(directory: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_remora-relay"));
    command
        .args(args)
        .current_dir(directory)
        .env_clear()
        .stdin(Stdio::null());
    command
}

/// Output of a start that fails.
fn fails(directory: &Path, args: &[&str]) -> (i32, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command(directory, args).output().expect("runs");
    let stderr = String::from_utf8(stderr).expect("text");
    assert_eq!(stdout, b"", "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "one line: {stderr}");
    (status.code().expect("ends by itself"), stderr)
}

const ANY_PORTS: [&str; 4] = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];

/// A relay that is up.
struct Running {
    child: Child,
    stdout: BufReader<ChildStdout>,
    object: serde_json::Value,
}

impl Running {
    fn start(directory: &Path, args: &[&str]) -> Self {
        let args = [&["serve", "--json"], &ANY_PORTS[..], args].concat();
        let mut child = command(directory, &args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("runs");
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("a line");
        Self {
            child,
            stdout,
            object: serde_json::from_str(&line).expect("an object"),
        }
    }

    fn text(&self, field: &str) -> &str {
        self.object[field].as_str().expect("text")
    }

    fn address(&self, field: &str) -> SocketAddr {
        self.text(field).parse().expect("an address")
    }

    async fn node(&self) -> Node {
        let relay: RelayAddr = self.text("address").parse().expect("a relay's address");
        Node::welcomed_at(self.address("listen"), relay.id.0)
            .await
            .0
    }

    /// Waits for a line of the log that says this.
    fn hears(&mut self, says: &str) {
        let log = self.child.stderr.as_mut().expect("piped");
        let (mut heard, mut byte) = (Vec::new(), [0]);
        while !String::from_utf8_lossy(&heard).contains(says) {
            log.read_exact(&mut byte).expect("it goes on");
            heard.extend(byte);
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"));
        kill(pid, signal).expect("still there");
    }

    /// Exit status and what was said on stderr.
    fn end(mut self) -> (ExitStatus, String) {
        let mut stderr = String::new();
        self.child
            .stderr
            .take()
            .expect("piped")
            .read_to_string(&mut stderr)
            .expect("text");
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).expect("text");
        assert_eq!(rest, "", "the address is all there is on stdout");
        (self.child.wait().expect("ended"), stderr)
    }
}

#[test]
fn a_bad_command_line_is_one_line_and_exit_2() {
    let directory = tempfile::tempdir().expect("a directory");
    for (args, says) in [
        (&["serve", "--listen", "x"][..], "--listen"),
        (
            &["serve", "--listen", "nowhere"],
            "`nowhere` does not fit --listen <ADDR:PORT>: it takes an IP address with a port",
        ),
        (
            &["serve", "--max-nodes", "many"],
            "`many` does not fit --max-nodes <N>: it takes a whole number",
        ),
        (&["serve", "--tls-key", "x"], "--tls-key needs --tls-cert"),
        (&["serve", "--session-burst", "1.5"], "`1.5` does not fit"),
        (&["serve", "--listen"], "--listen"),
        (&["serve", "--advertise", "no-port"], "HOST:PORT"),
        (&["serve", "--max-nodes", "0"], "--max-nodes"),
        (&["serve", "--realm", ""], "--realm"),
        (&["fly"], "fly"),
        (&[], "quickstart"),
    ] {
        let (code, stderr) = fails(directory.path(), args);
        assert_eq!(code, 2, "{stderr}");
        assert!(stderr.contains(says), "{stderr}");
    }
    assert_eq!(
        fs::read_dir(directory.path()).expect("ours").count(),
        0,
        "nothing was created"
    );
}

#[test]
fn version_and_help_are_no_errors() {
    let directory = tempfile::tempdir().expect("a directory");
    for (args, says) in [
        (&["--version"][..], env!("CARGO_PKG_VERSION")),
        (&["--help"], "quickstart"),
        (&["serve", "--help"], "REMORA_RELAY_LISTEN"),
    ] {
        let output = command(directory.path(), args).output().expect("runs");
        assert_eq!(output.status.code(), Some(0));
        assert!(
            String::from_utf8(output.stdout)
                .expect("text")
                .contains(says)
        );
    }
}

#[test]
fn a_port_in_use_names_the_port_and_the_flag() {
    let directory = tempfile::tempdir().expect("a directory");
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let taken = udp.local_addr().expect("bound");
    let (code, stderr) = fails(
        directory.path(),
        &[
            "serve",
            "--listen",
            &taken.to_string(),
            "--admin",
            "127.0.0.1:0",
        ],
    );
    assert_eq!(code, 1);
    assert!(
        stderr.contains(&format!("UDP port {}", taken.port())) && stderr.contains("--listen"),
        "{stderr}"
    );

    let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let taken = tcp.local_addr().expect("bound");
    let (code, stderr) = fails(
        directory.path(),
        &[
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--admin",
            &taken.to_string(),
        ],
    );
    assert_eq!(code, 1);
    assert!(
        stderr.contains(&format!("TCP port {}", taken.port())) && stderr.contains("--admin"),
        "{stderr}"
    );

    let (code, stderr) = fails(directory.path(), &["serve", "--listen", "192.0.2.1:4433"]);
    assert_eq!(code, 1);
    assert!(
        stderr.contains("192.0.2.1:4433") && stderr.contains("--listen"),
        "{stderr}"
    );
}

#[test]
fn a_key_file_that_cannot_be_used_is_one_line_that_says_what_to_do() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("relay.key");
    for (bytes, mode, says) in [
        (&[7; 32][..], 0o644, "chmod 600"),
        (&[7; 31], 0o600, "31 bytes"),
        (&[0; 32], 0o600, "zeros"),
    ] {
        fs::write(&path, bytes).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("ours");
        let args = [&["serve", "--key", "relay.key"], &ANY_PORTS[..]].concat();
        let (code, stderr) = fails(directory.path(), &args);
        assert_eq!(code, 1);
        assert!(
            stderr.contains(says) && stderr.contains("relay.key"),
            "{stderr}"
        );
    }
    let args = [&["serve", "--key", "relay.key/below"], &ANY_PORTS[..]].concat();
    assert!(fails(directory.path(), &args).1.contains("--key"));
}

#[tokio::test]
async fn it_starts_serves_and_ends_on_sigterm() {
    let directory = tempfile::tempdir().expect("a directory");
    let running = Running::start(
        directory.path(),
        &[
            "--advertise",
            "relay.example.org:4433",
            "--log-format",
            "json",
        ],
    );
    let key = directory.path().join("remora-data/relay.key");
    let mode = |path: &Path| fs::metadata(path).expect("created").permissions().mode() & 0o777;
    assert_eq!(
        (mode(&key), mode(key.parent().expect("has one"))),
        (0o600, 0o700)
    );
    let relay: RelayAddr = running.text("address").parse().expect("a relay's address");
    assert_eq!(relay.host_port, "relay.example.org:4433");
    assert_eq!(running.text("id"), relay.id.to_string());

    let _node = running.node().await;
    let admin = running.address("admin");
    assert_eq!(get(admin, "/livez").await, (200, "ok\n".into()));
    assert_eq!(get(admin, "/readyz").await, (200, "ok\n".into()));
    let (status, metrics) = get(admin, "/metrics").await;
    assert_eq!(status, 200);
    for line in [
        "remora_relay_nodes_connected 1",
        "remora_relay_handshakes_total{profile=\"hop\",result=\"ok\"} 1",
    ] {
        assert!(
            metrics.lines().any(|found| found == line),
            "{line} in {metrics}"
        );
    }
    assert!(metrics.contains("remora_relay_build_info{commit="));

    running.signal(Signal::SIGTERM);
    let (status, log) = running.end();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(
        log.lines()
            .all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()),
        "{log}"
    );
    assert!(!log.contains("127.0.0.1"), "no addresses in the log: {log}");

    let again = Running::start(directory.path(), &[]);
    assert_eq!(again.text("id"), relay.id.to_string(), "the key stays");
    again.signal(Signal::SIGINT);
    assert_eq!(again.end().0.code(), Some(0));
}

#[tokio::test]
async fn a_second_signal_does_not_wait_for_sessions() {
    let directory = tempfile::tempdir().expect("a directory");
    let running = Running::start(directory.path(), &[]);
    let (mut host, mut joiner, code) =
        (running.node().await, running.node().await, support::code(1));
    host.done(code.publish()).await;
    let exchange = support::introduce(&mut host, &mut joiner, &code).await;
    support::admit(&mut host, &mut joiner, exchange).await;
    running.signal(Signal::SIGTERM);
    assert!(matches!(
        host.notice().await,
        control::relay_to_node::Body::Draining(_)
    ));
    assert_eq!(
        get(running.address("admin"), "/readyz").await,
        (503, "draining\n".into())
    );
    running.signal(Signal::SIGTERM);
    let (status, log) = within(async { running.end() }).await;
    assert_eq!(status.code(), Some(1));
    assert!(log.contains("sessions that were cut off: 1;"), "{log}");
}

#[test]
fn the_environment_counts_and_the_flag_counts_more() {
    let directory = tempfile::tempdir().expect("a directory");
    let output = command(directory.path(), &["serve"])
        .env("REMORA_RELAY_LISTEN", "nonsense")
        .output()
        .expect("runs");
    assert_eq!(output.status.code(), Some(2));
    let (code, _) = fails(directory.path(), &["serve", "--listen", "192.0.2.1:1"]);
    assert_eq!(code, 1);
}

/// What a run that ends by itself prints.
fn prints(directory: &Path, args: &[&str]) -> (i32, String, String) {
    let output = command(directory, args).output().expect("runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    let code = output.status.code().expect("ends by itself");
    (code, text(output.stdout), text(output.stderr))
}

#[test]
fn a_file_is_checked_shown_and_run_with() {
    let directory = tempfile::tempdir().expect("a directory");
    let directory = directory.path();
    let (code, schema, _) = prints(directory, &["config", "schema"]);
    let schema: serde_json::Value = serde_json::from_str(&schema).expect("JSON");
    assert_eq!(
        (code, &schema["properties"]["max_nodes"]["default"]),
        (0, &100_000.into())
    );

    let file = "listen = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\nname = \"fra-1\"\n";
    fs::write(directory.join("relay.toml"), file).expect("written");
    let with = ["--config", "relay.toml"];
    let (code, said, problems) = prints(directory, &[&["config", "check"], &with[..]].concat());
    assert_eq!((code, &*problems), (0, ""), "{said}");
    assert!(said.starts_with("ok: 3 keys are set"), "{said}");
    let (_, shown, _) = prints(directory, &[&["config", "show"], &with[..]].concat());
    assert!(
        shown.contains("name = \"fra-1\"  # relay.toml:3\n"),
        "{shown}"
    );
    let (_, shown, _) = prints(
        directory,
        &[&["config", "show", "--json"], &with[..]].concat(),
    );
    let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!(shown["name"]["said"]["line"], 3);
    let keys = |object: &serde_json::Value| {
        let keys = object.as_object().expect("an object").keys();
        keys.cloned().collect::<Vec<_>>()
    };
    assert_eq!(keys(&shown), keys(&schema["properties"]));

    let running = Running::start(directory, &with);
    running.signal(Signal::SIGTERM);
    assert!(running.end().0.success());

    fs::write(
        directory.join("relay.toml"),
        "max_nodes = 0\nnaem = \"x\"\n",
    )
    .expect("written");
    fs::write(directory.join("fleet.key"), "none").expect("written");
    let (code, _, problems) = prints(directory, &[&["serve"], &with[..]].concat());
    assert_eq!(code, 2);
    assert!(
        problems.contains("relay.toml:2: there is no key naem; did you mean name?"),
        "{problems}"
    );
    // What the file says is right, and what it names is not.
    let file = "mesh = \"127.0.0.1:0\"\nfleet_key = \"fleet.key\"\ntls_cert = \"none.crt\"\ntls_key = \"none.key\"\n";
    fs::write(directory.join("relay.toml"), file).expect("written");
    let check = ["config", "check", "--admin-token-file", "none"];
    let (code, _, problems) = prints(directory, &[&check[..], &with[..]].concat());
    for says in [
        "relay.toml:2: fleet_key cannot be used: ",
        "relay.toml:3: tls_cert cannot be used: cannot read none.crt; ",
        "relay.toml:4: tls_key cannot be used: cannot read none.key; ",
        "--admin-token-file cannot be used: ",
    ] {
        assert!(problems.contains(says), "{says} in {problems}");
    }
    assert_eq!((code, problems.lines().count()), (1, 4), "{problems}");
    assert_eq!(problems.matches("tls_cert").count(), 1, "{problems}");
    let twice = problems
        .lines()
        .any(|line| line.matches("No such file").count() > 1);
    assert!(!twice, "{problems}");
}

#[tokio::test]
async fn what_can_be_changed_while_it_runs_is_and_the_rest_is_said() {
    let directory = tempfile::tempdir().expect("a directory");
    let directory = directory.path();
    let file = directory.join("relay.toml");
    fs::write(&file, "max_nodes = 1\n").expect("written");
    let mut running = Running::start(directory, &["--config", "relay.toml"]);
    let first = running.node().await;
    drop(first);
    fs::write(&file, "max_nodes = 2\nmax_sessions = 7\nlog = \"debug\"\n").expect("written");
    running.signal(Signal::SIGHUP);
    running.hears("settings read again changed=\"max_nodes,log\"");
    running
        .hears("these count from the next start; restart the relay for them keys=\"max_sessions\"");
    let _both = (running.node().await, running.node().await);

    // What would keep it from starting is not taken, either.
    for wrong in [
        "max_nodes = 0\n",
        "tls_cert = \"none\"\ntls_key = \"none\"\n",
    ] {
        fs::write(&file, wrong).expect("written");
        running.signal(Signal::SIGHUP);
        running.hears("not taken: all stays as it was problem=\"relay.toml:1: ");
    }
    // Held against what runs: what waits is named again.
    fs::write(&file, "max_nodes = 2\nmax_sessions = 7\nlog = \"debug\"\n").expect("written");
    running.signal(Signal::SIGHUP);
    running.hears("settings read again changed=\"\"");
    running.hears("restart the relay for them keys=\"max_sessions\"");
    let (_, metrics) = within(get(running.address("admin"), "/metrics")).await;
    for line in ["{result=\"applied\"} 2", "{result=\"refused\"} 2"] {
        let line = format!("remora_relay_config_reloads_total{line}");
        assert!(metrics.contains(&line), "{line} in {metrics}");
    }
    running.signal(Signal::SIGTERM);
    running.hears("drained, and ended cut_off=0");
    assert!(running.end().0.success());
}

#[tokio::test]
async fn a_report_has_what_holds_after_a_reload_and_the_token_may_be_another() {
    let directory = tempfile::tempdir().expect("a directory");
    let directory = directory.path();
    let token = |text: &str| {
        fs::write(directory.join("token"), text).expect("written");
        let only_ours = fs::Permissions::from_mode(0o600);
        fs::set_permissions(directory.join("token"), only_ours).expect("ours");
    };
    token("0123456789abcdef");
    let file = directory.join("relay.toml");
    fs::write(&file, "max_nodes = 7\nadmin_token_file = \"token\"\n").expect("written");
    let mut running = Running::start(directory, &["--config", "relay.toml"]);
    token("another-word-of-sixteen");
    fs::write(
        &file,
        "max_nodes = 8\nadmin_token_file = \"token\"\nrealm = \"other\"\n",
    )
    .expect("written");
    running.signal(Signal::SIGHUP);
    running.hears("settings read again changed=\"max_nodes,admin_token_file\"");
    let admin = running.address("admin").to_string();
    let beside = ["bugreport", "--admin", &admin, "--config", "relay.toml"];
    let (code, report, said) = prints(directory, &beside);
    assert_eq!(code, 0, "{said}");
    for says in [
        "max_nodes = 8  # relay.toml:1",
        "realm = \"default\"",
        "warning  settings     what is new of realm counts from the next start",
    ] {
        assert!(report.contains(says), "{says} in {report}");
    }
    running.signal(Signal::SIGTERM);
    assert!(running.end().0.success());
}

#[tokio::test]
async fn the_relay_that_runs_is_asked_whatever_is_wrong_with_its_file_by_now() {
    let directory = tempfile::tempdir().expect("a directory");
    let directory = directory.path();
    let secret = |file: &str, text: &str| {
        fs::write(directory.join(file), text).expect("written");
        let only_ours = fs::Permissions::from_mode(0o600);
        fs::set_permissions(directory.join(file), only_ours).expect("ours");
    };
    secret("token", "0123456789abcdef");
    secret("other", "fedcba9876543210");
    let file = directory.join("relay.toml");
    fs::write(&file, "admin_token_file = \"token\"\n").expect("written");
    let running = Running::start(directory, &["--config", "relay.toml"]);
    let admin = running.address("admin").to_string();
    let ask = |verb: &str, token: &str| {
        fs::write(
            &file,
            format!("max_nods = 3\nadmin_token_file = \"{token}\"\n"),
        )
        .expect("written");
        prints(
            directory,
            &[verb, "--admin", &admin, "--config", "relay.toml"],
        )
    };
    let (code, address, _) = ask("address", "nowhere");
    assert_eq!((code, address.trim()), (2, running.text("address")));
    let (code, found, said) = ask("doctor", "token");
    assert!(found.contains("ok       life         serving"), "{found}");
    assert!(
        said.contains("relay.toml:1: there is no key max_nods"),
        "{said}"
    );
    assert_eq!(code, 2);
    let (code, _, said) = ask("doctor", "other");
    assert!(
        said.contains("is not asked: this is not the admin token"),
        "{said}"
    );
    assert_eq!(code, 6);
    let (code, said, _) = ask("drain", "token");
    assert!(said.starts_with("drained in "), "{said}");
    assert_eq!(code, 2);
    // Whoever is told so finds the ports free.
    let at = running.address("admin");
    assert!(TcpListener::bind(at).is_ok(), "{at}");
    assert!(running.end().0.success());
}

#[tokio::test]
async fn the_admin_port_may_have_several_addresses() {
    let directory = tempfile::tempdir().expect("a directory");
    let both = ["--admin", "127.0.0.1:0,127.0.0.2:0"];
    let running = Running::start(directory.path(), &both);
    let admins = running.object["admins"].as_array().expect("a list").clone();
    assert!(admins.len() >= 2, "{admins:?}");
    for admin in admins {
        let at = admin.as_str().expect("text").parse().expect("an address");
        assert_eq!(within(get(at, "/livez")).await, (200, "ok\n".to_owned()));
    }
    running.signal(Signal::SIGTERM);
    assert!(running.end().0.success());
}

#[test]
fn quickstart_prints_the_address_and_what_each_of_the_two_types() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut child = command(
        directory.path(),
        &[&["quickstart"], &ANY_PORTS[..]].concat(),
    )
    .stdout(Stdio::piped())
    .stderr(Stdio::piped())
    .spawn()
    .expect("runs");
    let mut address = String::new();
    BufReader::new(child.stdout.take().expect("piped"))
        .read_line(&mut address)
        .expect("a line");
    let address = address.trim_end();
    assert!(address.parse::<RelayAddr>().is_ok(), "{address}");
    let mut said = String::new();
    let mut stderr = BufReader::new(child.stderr.take().expect("piped"));
    while !said.contains("Ctrl-C") {
        assert_ne!(stderr.read_line(&mut said).expect("text"), 0, "{said}");
    }
    for line in [
        "/udp   metrics",
        "   observer ",
        &format!("remora setup {address}"),
        "remora invite",
        "remora join",
    ] {
        assert!(said.contains(line), "{line} in {said}");
    }
    assert!(directory.path().join("remora-data/relay.key").exists());
    kill(
        Pid::from_raw(i32::try_from(child.id()).expect("a pid")),
        Signal::SIGINT,
    )
    .expect("still there");
    assert_eq!(child.wait().expect("ended").code(), Some(0));
}

#[tokio::test]
async fn two_relays_with_one_fleet_key_meet_and_without_it_nothing_starts() {
    let directory = tempfile::tempdir().expect("a directory");
    let directory = directory.path();
    let made = command(directory, &["fleet-key", "fleet.key"]).output();
    let made = made.expect("runs");
    assert!(made.status.success() && made.stdout.is_empty() && made.stderr.is_empty());
    let (code, stderr) = fails(directory, &["fleet-key", "fleet.key"]);
    assert_eq!(code, 1);
    assert!(stderr.contains("never overwritten"), "{stderr}");

    let mesh = ["--mesh", "127.0.0.1:0", "--fleet-key", "fleet.key"];
    let one = Running::start(directory, &[&mesh[..], &["--key", "one.key"]].concat());
    let seed = one.text("mesh");
    let other = ["--key", "other.key", "--peer", seed];
    let other = Running::start(directory, &[&mesh[..], &other].concat());
    for relay in [&one, &other] {
        let met = async {
            let mut ticks = tokio::time::interval(std::time::Duration::from_millis(20));
            loop {
                let (_, metrics) = get(relay.address("admin"), "/metrics").await;
                if metrics.contains("remora_relay_mesh_peers 1\n") {
                    return;
                }
                ticks.tick().await;
            }
        };
        within(met).await;
    }
    for relay in [one, other] {
        relay.signal(Signal::SIGTERM);
        assert!(relay.end().0.success());
    }

    for wrong in [
        &["--mesh", "127.0.0.1:0"][..],
        &["--peer", "relay:4001"],
        &[
            "--mesh",
            "127.0.0.1:0",
            "--fleet-key",
            "fleet.key",
            "--peer",
            "relay",
        ],
    ] {
        let serve = [&["serve"], &ANY_PORTS[..], wrong].concat();
        assert_eq!(fails(directory, &serve).0, 2, "{wrong:?}");
    }
    let key = directory.join("fleet.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("ours");
    let (code, stderr) = fails(directory, &[&["serve"], &ANY_PORTS[..], &mesh].concat());
    assert_eq!(code, 1);
    assert!(stderr.contains("chmod 600"), "{stderr}");
}

#[test]
fn the_program_alone_drains_the_relay_that_runs_beside_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let directory = directory.path();
    for (file, token) in [("token", "0123456789abcdef"), ("other", "0123456789abcdeX")] {
        let file = directory.join(file);
        fs::write(&file, token).expect("written");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("ours");
    }
    let running = Running::start(directory, &["--admin-token-file", "token"]);
    let admin = running.text("admin").to_owned();
    let drain = |more: &[&str]| prints(directory, &[&["drain", "--admin", &admin], more].concat());
    for (token, says) in [
        (&[][..], "--admin-token-file FILE"),
        (&["--admin-token-file", "other"], "admin token"),
    ] {
        let (code, said, why) = drain(token);
        assert_eq!((code, &*said), (6, ""), "{why}");
        assert!(why.contains(says), "{why}");
    }
    let with = ["--admin-token-file", "token", "--json"];
    let (code, said, why) = drain(&with);
    assert_eq!((code, &*why), (0, ""));
    let drained: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(
        (&drained["state"], &drained["sessions"]),
        (&"drained".into(), &0.into())
    );
    assert!(running.end().0.success(), "drained, it has ended");
    let (code, _, why) = drain(&with);
    assert_eq!(code, 5, "{why}");
}

#[tokio::test]
async fn lines_of_json_say_which_relay_and_which_session() {
    let directory = tempfile::tempdir().expect("a directory");
    let args = ["--log-format", "json", "--name", "fra-1"];
    let running = Running::start(directory.path(), &args);
    let (mut host, mut joiner) = (running.node().await, running.node().await);
    let code = support::code(1);
    host.done(code.publish()).await;
    let exchange = support::introduce(&mut host, &mut joiner, &code).await;
    let [allocated, _] = support::admit(&mut host, &mut joiner, exchange).await;
    let session = allocated.session;
    let release = control::Release { session };
    host.done(control::node_to_relay::Body::Release(release))
        .await;
    running.signal(Signal::SIGTERM);
    let (status, log) = running.end();
    assert_eq!(status.code(), Some(0), "{log}");
    let lines: Vec<serde_json::Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert!(lines.iter().all(|line| line["relay"] == "fra-1"), "{log}");
    let id = SessionId(session).to_string();
    for says in ["session allocated", "session ended"] {
        let mut said = lines
            .iter()
            .filter(|line| line["fields"]["message"] == says);
        let line = said.next().unwrap_or_else(|| panic!("{says}: {log}"));
        assert_eq!(line["fields"]["session"], id.as_str());
        assert_eq!(line["span"]["name"], "session");
        assert_eq!(line["span"]["id"], id.as_str());
        assert_eq!(said.next(), None);
    }
    assert!(!log.contains("127.0.0.1"), "no addresses at INFO: {log}");
}
