//! What can be wrong before there is a session: each is one line that says what to do, and an exit code of its own.

mod support;

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    process::Command,
    sync::Arc,
    time::Duration,
};

use remora_proto::{
    id::{RelayAddr, RelayId},
    noise::{self, Profile, ServerConfig, StaticKey},
};
use support::process::{Ended, Home, RelayProcess, Script, run};

/// A relay that does not answer is given up after five seconds.
const UNREACHABLE_LIMIT: Duration = Duration::from_secs(10);

/// Runs it, checks that it said one line with `holds` in it, and nothing on standard output.
#[track_caller]
fn fails(command: Command, exit: i32, holds: &[&str]) {
    let end = run(command);
    check(&end, exit, holds);
    assert!(end.stdout.is_empty(), "{end:?}");
}

#[track_caller]
fn check(end: &Ended, exit: i32, holds: &[&str]) {
    let line = end.line();
    assert!(line.starts_with("remora: "), "{line}");
    for text in holds {
        assert!(line.contains(text), "{text:?} in {line}");
    }
    assert_eq!(end.code, Some(exit), "{line}");
}

/// The address of nobody in particular at that place.
fn at(place: impl ToString) -> String {
    let id = RelayId(StaticKey::generate().public());
    let host_port = place.to_string();
    RelayAddr {
        host_port,
        id,
        tls: None,
    }
    .to_string()
}

// ---- the command line ----------------------------------------------------------------------------

#[test]
fn a_flag_that_does_not_exist_is_named() {
    let home = Home::new();
    for args in [
        &["invite", "--colour"][..],
        &["--colour", "join"],
        &["status", "--colour", "x"],
    ] {
        fails(
            home.remora(args),
            2,
            &["USAGE", "--colour", "remora --help"],
        );
    }
}

#[test]
fn a_value_that_cannot_be_is_named_with_its_flag() {
    let home = Home::new();
    let cases: [(&[&str], &[&str]); 7] = [
        (&["invite", "--valid", "4"], &["--valid", "4"]),
        (
            &["invite", "--valid", "abc"],
            &["abc", "--valid", "say how many seconds, from 5 to 600"],
        ),
        (
            &["join", "--page-port", "http"],
            &["http", "--page-port", "say a port from 1 to 65535"],
        ),
        (&["invite", "--valid", "601"], &["--valid", "601"]),
        (
            &["invite", "--mode", "godlike"],
            &["--mode", "view", "control"],
        ),
        (&["demo", "--json", "--interactive"], &["--interactive"]),
        (&["frobnicate"], &["frobnicate"]),
    ];
    for (args, holds) in cases {
        fails(home.remora(args), 2, holds);
    }
    fails(home.remora(&[]), 2, &["remora --help"]);
}

#[test]
fn an_address_that_is_none_says_what_one_looks_like() {
    let home = Home::new();
    let key = RelayId(StaticKey::generate().public()).to_string();
    for verb in ["invite", "join", "status"] {
        fails(
            home.remora(&[verb, "--relay", "relay.example:4433"]),
            2,
            &["HOST:PORT/KEY", "copy the whole line"],
        );
    }
    for address in [
        format!("relay.example/{key}"),
        format!("relay.example:0/{key}"),
    ] {
        fails(home.remora(&["setup", &address]), 2, &["no valid port"]);
    }
    fails(
        home.remora(&["setup", &format!("relay.example:4433/{}", &key[1..])]),
        2,
        &["key"],
    );
    let mut command = home.remora(&["invite"]);
    command.env("REMORA_RELAY", "nonsense");
    fails(command, 2, &["HOST:PORT/KEY"]);
}

#[test]
fn a_name_that_is_too_long_is_said_before_anything_happens() {
    let home = Home::new();
    let name = "x".repeat(1000);
    fails(
        home.remora(&["setup", &at("relay.example:1"), "--name", &name]),
        2,
        &["your profile", "shorten"],
    );
    assert!(!home.path().join("config").exists(), "nothing was written");
}

// ---- settings ------------------------------------------------------------------------------------

#[test]
fn a_mistake_in_the_settings_file_is_shown_with_its_line() {
    let home = Home::new();
    let folder = home.path().join("config/remora");
    fs::create_dir_all(&folder).expect("a folder");
    let path = folder.join("config.toml");
    for (text, line, what) in [
        (
            "relay = \"a:1/k\"\n\n[profile]\nful_name = \"x\"\n",
            4,
            "ful_name",
        ),
        ("relay = 7\n", 1, "string"),
        ("# mine\n\nrelay = \"x\n", 3, ""),
    ] {
        fs::write(&path, text).expect("written");
        let place = format!("{}:{line}: ", path.display());
        for verb in ["invite", "join", "status"] {
            fails(home.remora(&[verb]), 2, &["CONFIG", &place, what]);
        }
    }
    fs::write(&path, "relay = \"relay.example:1\"\n").expect("written");
    fails(
        home.remora(&["invite"]),
        2,
        &["CONFIG", "settings file", "copy the whole line"],
    );
    fs::write(&path, [0xff, 0xfe]).expect("written");
    fails(home.remora(&["invite"]), 2, &["CONFIG", "config.toml"]);
}

#[test]
fn a_settings_file_that_is_named_must_be_there() {
    let home = Home::new();
    fails(
        home.remora(&["invite", "--config", "/nonexistent/r.toml"]),
        2,
        &["CONFIG", "/nonexistent/r.toml"],
    );
}

#[test]
fn without_a_relay_one_is_told_how_to_get_one() {
    let home = Home::new();
    for verb in ["invite", "join", "status"] {
        fails(
            home.remora(&[verb]),
            2,
            &[
                "no relay is known",
                "remora setup HOST:PORT/KEY",
                "remora demo",
            ],
        );
    }
}

#[test]
fn an_empty_variable_is_none_and_a_switch_is_said_in_any_of_the_usual_words() {
    let home = Home::new();
    let with = |variables: &[(&str, &str)], args: &[&str]| {
        let mut command = home.remora(args);
        command.envs(variables.iter().copied());
        command
    };
    let empty = ["REMORA_RELAY", "REMORA_TCP_ONLY", "REMORA_CONFIG"].map(|name| (name, ""));
    fails(with(&empty, &["invite"]), 2, &["no relay is known"]);
    let address = at(nobody());
    let args = ["invite", "--relay", &address];
    for word in ["1", "true", "YES", "on"] {
        let command = with(&[("REMORA_TCP_ONLY", word)], &args);
        fails(command, 5, &["RELAY_UNREACHABLE", "by TCP"]);
    }
    for word in ["0", "false"] {
        let command = with(&[("REMORA_TCP_ONLY", word)], &args);
        fails(command, 5, &["by UDP", "is the address right? Nor by TCP"]);
    }
    let command = with(&[("REMORA_TCP_ONLY", "maybe")], &args);
    fails(
        command,
        2,
        &["--tcp-only", "maybe", "say 1 or true, 0 or false"],
    );
}

#[test]
fn help_names_the_flags_that_mean_something() {
    let home = Home::new();
    for (verb, has_page) in [("invite", true), ("join", true), ("status", false)] {
        let help = run(home.remora(&[verb, "--help"])).stdout.join("\n");
        assert_eq!(help.contains("--page-port"), has_page, "{help}");
        assert!(help.contains("--tcp-only"), "{help}");
    }
}

#[test]
fn after_setup_no_command_needs_to_be_told_the_relay() {
    let relay = RelayProcess::start(&[]);
    let home = Home::new();
    let setup = run(home.remora(&[
        "setup",
        &relay.address,
        "--name",
        "Sam Okafor",
        "--company",
        "Contoso",
    ]));
    assert_eq!(setup.code, Some(0));
    for text in ["config/remora/config.toml", "the relay answers"] {
        assert!(setup.line().contains(text), "{setup:?}");
    }
    assert!(!setup.line().contains("But"), "{setup:?}");
    assert_eq!(run(home.remora(&["status"])).code, Some(0));
    // What was set up stays when the next setup does not say otherwise.
    assert_eq!(
        run(home.remora(&["setup", &relay.address, "--company", "Fabrikam"])).code,
        Some(0)
    );

    let mut helper = Script::start(home.remora(&["invite", "--json"]));
    let code = helper.expect("code")["code"]
        .as_str()
        .expect("text")
        .to_owned();
    let mut sharer = Script::start(home.remora(&["join", "--json"]));
    sharer.say(&code);
    sharer.expect("connected");
    let trust = sharer.expect("trust");
    assert_eq!(
        (
            trust["peer"]["full_name"].as_str(),
            trust["peer"]["company"].as_str()
        ),
        (Some("Sam Okafor"), Some("Fabrikam"))
    );
}

#[test]
fn setup_saves_a_relay_that_is_away_and_says_so() {
    let home = Home::new();
    // Not a name that any resolver would be asked for.
    let setup = run(home.remora(&["setup", &at("relay..example:4433")]));
    assert_eq!(setup.code, Some(0), "{setup:?}");
    for text in ["Saved to", "not reached", "RELAY_UNKNOWN", "check the name"] {
        assert!(setup.line().contains(text), "{setup:?}");
    }
    // It is the one that later commands try.
    fails(home.remora(&["invite"]), 5, &["relay..example:4433"]);
}

#[test]
fn setup_saves_a_relay_with_another_key_and_fails() {
    let relay = RelayProcess::start(&[]);
    let home = Home::new();
    fails(
        home.remora(&["setup", &at(relay.host_port())]),
        7,
        &["RELAY_KEY", "saved to", "copy the address again"],
    );
    fails(home.remora(&["invite"]), 7, &["RELAY_KEY"]);
}

// ---- the relay -----------------------------------------------------------------------------------

#[test]
fn a_relay_whose_name_nobody_knows_is_said_to_be_unknown() {
    let home = Home::new();
    // Not a name that any resolver would be asked for.
    let address = at("relay..example:4433");
    for verb in ["invite", "join"] {
        fails(
            home.remora(&[verb, "--relay", &address]),
            5,
            &["RELAY_UNKNOWN", "relay..example:4433", "check the name"],
        );
    }
    // A read command has its answer all the same.
    let status = run(home.remora(&["status", "--relay", &address]));
    check(&status, 5, &["RELAY_UNKNOWN"]);
    assert!(status.stdout[0].contains("not reachable"), "{status:?}");
}

/// Where nobody listens.
fn nobody() -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    socket.local_addr().expect("an address")
}

#[test]
fn where_nobody_listens_one_is_told_at_once() {
    let home = Home::new();
    let address = at(nobody());
    for verb in ["invite", "join"] {
        fails(
            home.remora(&[verb, "--relay", &address]),
            5,
            &[
                "RELAY_UNREACHABLE",
                "nobody listens",
                "refused",
                "is it running",
            ],
        );
    }
}

#[test]
fn setup_says_that_an_address_was_cut_off() {
    let relay = RelayProcess::start(&[]);
    let home = Home::new();
    let cut = format!("{}/{}", relay.host_port(), relay.key());
    let setup = run(home.remora(&["setup", &cut]));
    assert_eq!(setup.code, Some(0), "{setup:?}");
    for text in [
        "the relay answers",
        "where UDP is blocked",
        "/TLS",
        "copy the whole line",
    ] {
        assert!(setup.line().contains(text), "{setup:?}");
    }
}

#[test]
fn setup_keeps_what_was_cut_off_if_it_knows_it_whether_the_relay_is_there_or_not() {
    let relay = RelayProcess::start(&[]);
    let home = Home::new();
    let (whole, cut) = (
        relay.address.clone(),
        format!("{}/{}", relay.host_port(), relay.key()),
    );
    let saved = || {
        let path = home.path().join("config/remora/config.toml");
        fs::read_to_string(path).expect("saved")
    };
    assert_eq!(run(home.remora(&["setup", &whole])).code, Some(0));
    let mut relay = Some(relay);
    for said in ["the relay answers", "not reached"] {
        let setup = run(home.remora(&["setup", &cut]));
        assert_eq!(setup.code, Some(0), "{setup:?}");
        for text in [said, "/TLS that was saved with this key before is kept"] {
            assert!(setup.line().contains(text), "{setup:?}");
        }
        assert!(!setup.line().contains("But"), "{setup:?}");
        assert!(saved().contains(&whole), "{}", saved());
        drop(relay.take());
    }
}

#[test]
fn a_relay_that_does_not_answer_is_given_up_in_time() {
    let home = Home::new();
    // Bound, so that nobody else answers there; never read.
    let nobody = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = at(nobody.local_addr().expect("an address"));
    let all = [("invite", false), ("join", false), ("invite", true)].map(|(verb, json)| {
        let mut args = vec![verb, "--relay", &address];
        args.extend(json.then_some("--json"));
        (Script::start(home.remora(&args)), json)
    });
    for (mut script, json) in all {
        let end = script.end(UNREACHABLE_LIMIT);
        check(&end, 5, &["RELAY_UNREACHABLE", "is it running"]);
        assert_eq!(end.stdout.len(), usize::from(json), "{end:?}");
    }
    // A read command has its answer all the same.
    let mut status = Script::start(home.remora(&["status", "--json", "--relay", &address]));
    let end = status.end(UNREACHABLE_LIMIT);
    check(&end, 5, &["RELAY_UNREACHABLE"]);
    let report: serde_json::Value = serde_json::from_str(&end.stdout[0]).expect("an object");
    assert_eq!(
        (&report["relay"]["reachable"], &report["sessions"]),
        (&false.into(), &serde_json::json!([]))
    );
}

#[test]
fn a_relay_with_another_key_is_not_trusted() {
    let relay = RelayProcess::start(&[]);
    let home = Home::new();
    let address = at(relay.host_port());
    for verb in ["invite", "join"] {
        fails(
            home.remora(&[verb, "--relay", &address]),
            7,
            &["RELAY_KEY", "copy the address again"],
        );
    }
    // A read command has its answer all the same, and does not take it for a relay that is away.
    let status = run(home.remora(&["status", "--relay", &address]));
    check(&status, 7, &["RELAY_KEY", "copy the address again"]);
    assert!(status.stdout[0].contains("another key"), "{status:?}");
    assert!(!status.stdout[0].contains("reachable"), "{status:?}");
}

#[test]
fn a_relay_without_room_says_to_try_later() {
    for limit in ["--max-nodes-per-network", "--max-nodes"] {
        let relay = RelayProcess::start(&[limit, "1"]);
        let home = Home::new();
        let invite = home.remora(&["invite", "--json", "--relay", &relay.address]);
        let mut first = Script::start(invite);
        first.expect("code");
        fails(
            home.remora(&["join", "--relay", &relay.address]),
            5,
            &["RELAY_FULL", "your network", "try again"],
        );
    }
}

#[test]
fn a_relay_that_speaks_another_quic_version_asks_for_an_update() {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = at(socket.local_addr().expect("an address"));
    // Ends with the test's process.
    std::thread::spawn(move || {
        let mut packet = [0; 2048];
        while let Ok((len, from)) = socket.recv_from(&mut packet) {
            if let Some(answer) = version_negotiation(&packet[..len]) {
                socket.send_to(&answer, from).expect("sent");
            }
        }
    });
    let home = Home::new();
    for verb in ["invite", "join"] {
        fails(
            home.remora(&[verb, "--relay", &address]),
            1,
            &["VERSION_MISMATCH", "update remora"],
        );
    }
}

/// RFC 9000 §17.2.1: the client's connection ids, swapped, and a version that it does not speak.
fn version_negotiation(initial: &[u8]) -> Option<Vec<u8>> {
    const ONE_THAT_NOBODY_SPEAKS: [u8; 4] = *b"MNX9";
    let (first, rest) = initial.split_first()?;
    let rest = rest.get(4..).filter(|_| first & 0x80 != 0)?;
    let (length, rest) = rest.split_first()?;
    let (destination, rest) = rest.split_at_checked((*length).into())?;
    let (length, rest) = rest.split_first()?;
    let source = rest.get(..(*length).into())?;
    let id = |id: &[u8]| [&[u8::try_from(id.len()).expect("at most 20")], id].concat();
    Some(
        [
            &[0xc0, 0, 0, 0, 0],
            &id(source)[..],
            &id(destination),
            &ONE_THAT_NOBODY_SPEAKS,
        ]
        .concat(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_speaks_another_protocol_asks_for_an_update() {
    let key = StaticKey::generate();
    let id = RelayId(key.public());
    let server = ServerConfig::new(&[Profile::Hop], key, b"remora-relay/99");
    let endpoint = quinn::Endpoint::new(
        noise::endpoint_config(&[Profile::Hop]),
        Some(quinn::ServerConfig::with_crypto(Arc::new(server))),
        UdpSocket::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("a port"),
        Arc::new(quinn::TokioRuntime),
    )
    .expect("an endpoint");
    let host_port = endpoint.local_addr().expect("an address").to_string();
    let accepting = tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            // Refused within the handshake.
            assert!(incoming.await.is_err());
        }
    });
    let address = RelayAddr {
        host_port,
        id,
        tls: None,
    }
    .to_string();
    let failing = tokio::task::spawn_blocking(move || {
        let home = Home::new();
        fails(
            home.remora(&["invite", "--relay", &address]),
            1,
            &["VERSION_MISMATCH", "update remora"],
        );
    });
    failing.await.expect("as it should");
    accepting.abort();
}

#[test]
fn a_clock_that_is_far_off_is_said_to_be() {
    let relay = RelayProcess::start(&[]);
    let home = Home::new();
    for (offset, direction) in [("+3h", "180 min ahead of"), ("-3h", "behind")] {
        let mut command = home.command("faketime");
        command
            // Timers are to go on as they do.
            .env("DONT_FAKE_MONOTONIC", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .args(["-f", offset, support::process::REMORA])
            .args(["invite", "--relay", &relay.address]);
        fails(command, 1, &["CLOCK_OFF", direction, "timedatectl"]);
    }
}

#[test]
fn a_relay_that_is_told_too_many_codes_says_when_to_try_again() {
    let relay = RelayProcess::start(&["--lookups-per-minute", "1"]);
    let home = Home::new();
    let end = (0..20)
        .map(|_| {
            let mut command = home.remora(&["join", "--relay", &relay.address]);
            command.env("REMORA_CODE", "zzzz-zzzz");
            run(command)
        })
        .find(|end| !end.stderr.contains("UNKNOWN_CODE"))
        .expect("a limit");
    check(&end, 1, &["RATE_LIMITED"]);
}
