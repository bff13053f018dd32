//! The page in Debian's Chromium: `node/tests/browser/*.mjs` play both people, this file plays the node.
//!
//! A script opens a TCP connection for each page it wants, and speaks lines of JSON:
//!
//! | script says | answer |
//! |---|---|
//! | `{"role": "helper" \| "sharer" \| null}`, first | `{"url"}` |
//! | `{"event": …}`, `{"transient": …}` | goes to the page |
//! | `{"frame": hex}` | goes to the page |
//! | `{"close": true}` | the node ends |
//! | | `{"wish": …}` for each [`FromPage`], as `Debug` writes it |

use std::{
    env,
    fs::File,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use remora::ui::{FromPage, Ui, UiChannels};
use remora_proto::identity::Role;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    process::Command,
    task::JoinSet,
    time::timeout,
};

/// Of one script, with its browser; they take a few seconds.
const LIMIT: Duration = Duration::from_secs(110);
const CHROMIUM: &str = "/usr/bin/chromium";

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser")
}

/// Where `remora` and `remora-relay` are.
fn binaries() -> PathBuf {
    let folder = Path::new(env!("CARGO_BIN_EXE_remora"))
        .parent()
        .expect("a folder")
        .to_path_buf();
    assert!(
        folder.join("remora-relay").exists(),
        "remora-relay is not built: run cargo build --workspace --bins first"
    );
    folder
}

/// Pictures of the screens are left here.
fn pictures() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("browser")
}

fn wish(wish: &FromPage) -> String {
    if let FromPage::Join { given } = wish {
        // It hides in `Debug`.
        return format!("Join {}", given.code);
    }
    if let FromPage::HandOver { code } = wish {
        return format!("HandOver {code}");
    }
    format!("{wish:?}")
}

/// One page: a server, driven by a script.
async fn play(stream: TcpStream) {
    stream.set_nodelay(true).expect("TCP_NODELAY");
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    let Ok(Some(first)) = lines.next_line().await else {
        return;
    };
    let first: Value = serde_json::from_str(&first).expect("JSON");
    let role = match first["role"].as_str() {
        Some("helper") => Some(Role::Helper),
        Some("sharer") => Some(Role::Sharer),
        _ => None,
    };
    let (
        ui,
        UiChannels {
            to_page,
            mut from_page,
        },
    ) = Ui::open(role, 0).expect("opens");
    let folder = tempfile::tempdir().expect("a folder");
    ui.keep_in(folder.path().to_owned().into());
    let mut ui = Some(ui);
    let url = ui.as_ref().map(Ui::url);
    let mut out = vec![json!({"url": url})];
    loop {
        for line in out.drain(..) {
            if write
                .write_all(format!("{line}\n").as_bytes())
                .await
                .is_err()
            {
                return;
            }
        }
        tokio::select! {
            line = lines.next_line() => {
                let Ok(Some(line)) = line else { return };
                let mut line: Value = serde_json::from_str(&line).expect("JSON");
                if let Some(event) = line.get_mut("event") {
                    to_page.event(event.take());
                }
                if let Some(event) = line.get_mut("transient") {
                    to_page.transient(event.take());
                }
                if let Some(frame) = line["frame"].as_str() {
                    let taken = to_page.frame(hex::decode(frame).expect("hex").into());
                    out.push(json!({"frame": taken}));
                }
                if line["close"] == true && let Some(ui) = ui.take() {
                    ui.close().await;
                }
            }
            said = from_page.recv(), if ui.is_some() => {
                let Some(said) = said else { return };
                out.push(json!({"wish": wish(&said)}));
            }
        }
    }
}

/// The script's libraries; from the package registry, once.
async fn install() {
    if scripts()
        .join("node_modules/playwright-core/package.json")
        .exists()
    {
        return;
    }
    let mut npm = Command::new("npm");
    npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
        .current_dir(scripts());
    let output = npm
        .output()
        .await
        .expect("npm is needed to test the page: apt-get install npm");
    assert!(
        output.status.success(),
        "npm ci: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

async fn screens(direction: &str) {
    play_script("screens.mjs", direction).await;
}

async fn run(script: &str) {
    play_script(script, "").await;
}

async fn play_script(script: &str, direction: &str) {
    let chromium = env::var("REMORA_CHROMIUM").unwrap_or_else(|_| CHROMIUM.into());
    assert!(
        Path::new(&chromium).exists(),
        "{chromium} is needed to test the page: apt-get install chromium"
    );
    install().await;
    std::fs::create_dir_all(pictures()).expect("a directory for pictures");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let port = listener.local_addr().expect("an address").port();
    let serving = async {
        let mut pages = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.expect("accepts");
            pages.spawn(play(stream));
        }
    };
    let log = pictures().join(format!("{script}{direction}.log"));
    let file = File::create(&log).expect("a log");
    let mut child = Command::new("node");
    // While working on one test: REMORA_ONLY is a regular expression for names.
    child.args(
        env::var("REMORA_ONLY")
            .ok()
            .map(|only| format!("--test-name-pattern={only}")),
    );
    let child = child
        .arg("--test-reporter=spec")
        .arg(scripts().join(script))
        .env("REMORA_BRIDGE", port.to_string())
        .env("REMORA_CHROMIUM", &chromium)
        .env("REMORA_PICTURES", pictures())
        .env("REMORA_DIRECTION", direction)
        .env("REMORA_BIN", binaries())
        .stdin(Stdio::null())
        .stdout(file.try_clone().expect("a second handle"))
        .stderr(file)
        .kill_on_drop(true)
        .status();
    let status = tokio::select! {
        status = timeout(LIMIT, child) => status.map(|status| status.expect("node is needed to test the page: apt-get install nodejs")),
        () = serving => unreachable!("serves until the script is done"),
    };
    let said = std::fs::read_to_string(&log).unwrap_or_default();
    let status = status.unwrap_or_else(|_| panic!("{script} takes longer than {LIMIT:?}:\n{said}"));
    assert!(status.success(), "{script}:\n{said}");
    assert!(
        said.contains("pass ") && !said.contains("pass 0\n"),
        "{script} tested nothing:\n{said}"
    );
}

#[tokio::test]
async fn a_real_screen_is_seen_and_controlled_from_the_page() {
    run("session.mjs").await;
}

#[tokio::test]
async fn e_14_the_helper_copies_code_or_link_and_gets_to_the_question() {
    run("helper.mjs").await;
}

#[tokio::test]
async fn c_3_the_sharer_gets_from_the_boxes_to_the_end_and_allows_nothing_unseen() {
    run("sharer.mjs").await;
}

#[tokio::test]
async fn files_go_and_come_through_the_page() {
    run("files.mjs").await;
}

#[tokio::test]
async fn e_9_a_help_desk_invites_devices_with_what_its_role_permits() {
    run("lobby.mjs").await;
}

#[tokio::test]
async fn the_page_speaks_the_browsers_language() {
    run("words.mjs").await;
}

#[tokio::test]
async fn d_11_the_viewer_is_exact_sends_what_hands_do_and_says_who_it_is() {
    run("viewer.mjs").await;
}

#[tokio::test]
async fn every_screen_can_be_read_by_day_by_night_and_on_a_telephone() {
    screens("ltr").await;
}

#[tokio::test]
async fn every_screen_runs_from_right_to_left() {
    screens("rtl").await;
}
