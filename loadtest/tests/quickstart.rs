//! README's first screen, by the programs that it names, on computers that were never used.

use std::process::Command;

use serde_json::Value;

#[test]
fn a_second_computer_is_helped_after_two_commands() {
    let run = Command::new(env!("CARGO_BIN_EXE_remora-loadtest"))
        .args(["quickstart", "--json"])
        .output()
        .expect("the binary runs");
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{said}");
    let found: Value = serde_json::from_slice(&run.stdout).expect("an object");
    assert_eq!(found["verb"], "quickstart", "{found:#}");
    assert!(
        found["commands_each"]
            .as_u64()
            .is_some_and(|commands| commands <= 2)
    );
    for step in [
        "relay_up",
        "code_shown",
        "sharer_set_up",
        "words_shown",
        "helped",
    ] {
        assert!(found["reached_ms"][step].is_number(), "{step}: {found:#}");
    }
}
