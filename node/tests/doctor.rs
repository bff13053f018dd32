//! `remora doctor` and `remora bugreport`, with the real programs.

mod support;

use std::fs;

use serde_json::Value;
use support::process::{Ended, Home, RelayProcess, run};

fn findings(ended: &Ended) -> Vec<Value> {
    let line = ended.stdout.last().unwrap_or_else(|| panic!("{ended:?}"));
    let object: Value = serde_json::from_str(line).expect("an object");
    assert_eq!(object["event"], "doctor", "{object}");
    object["findings"].as_array().expect("findings").clone()
}

fn verdict<'a>(findings: &'a [Value], what: &str) -> &'a str {
    let found = findings.iter().find(|found| found["what"] == what);
    found
        .and_then(|found| found["verdict"].as_str())
        .unwrap_or_else(|| panic!("{findings:?}"))
}

#[test]
fn what_is_wrong_here_is_said_with_what_to_do() {
    let (relay, home) = (RelayProcess::start(&[]), Home::new());
    let with = ["doctor", "--json", "--relay", &relay.address];
    let fine = run(home.remora(&with));
    assert_eq!(fine.code, Some(0), "{fine:?}");
    let found = findings(&fine);
    for what in ["settings", "organisation", "relay", "udp"] {
        assert_eq!(verdict(&found, what), "ok", "{what}: {found:?}");
    }
    // There is no display where tests run.
    assert_eq!(verdict(&found, "display"), "warning");

    let nowhere = relay.address.replacen(relay.host_port(), "127.0.0.1:1", 1);
    let gone = run(home.remora(&["doctor", "--json", "--relay", &nowhere]));
    assert_eq!(gone.code, Some(1), "{gone:?}");
    assert_eq!(verdict(&findings(&gone), "relay"), "fault");

    let settings = home.path().join("config/remora");
    fs::create_dir_all(&settings).expect("made");
    fs::write(settings.join("config.toml"), "relai = \"x\"\n").expect("written");
    let broken = run(home.remora(&with));
    assert_eq!(broken.code, Some(1), "{broken:?}");
    let found = findings(&broken);
    assert_eq!(verdict(&found, "settings"), "fault");
    assert!(found.iter().any(|found| {
        found["text"]
            .as_str()
            .is_some_and(|text| text.contains("relai"))
    }));
}

#[test]
fn a_report_names_nobody_and_no_address() {
    let (relay, home) = (RelayProcess::start(&[]), Home::new());
    let settings = home.path().join("config/remora");
    fs::create_dir_all(&settings).expect("made");
    let file = format!(
        "relay = \"{}\"\n[profile]\nfull_name = \"Maria Lopez\"\ncompany = \"Fabrikam\"\n",
        relay.address
    );
    fs::write(settings.join("config.toml"), file).expect("written");
    for more in [&["bugreport"][..], &["bugreport", "--json"]] {
        let report = run(home.remora(more));
        assert_eq!(report.code, Some(0), "{report:?}");
        let text = report.stdout.join("\n");
        for part in [env!("CARGO_PKG_VERSION"), "organisation", "display"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        for never in ["Maria", "Fabrikam", "127.0.0.1", relay.key()] {
            assert!(!text.contains(never), "{never} in {text}");
        }
    }
}
