//! An organisation that people sign in at: its folder, its desk, and a certified provider (npm `oidc-provider`) that runs for real
//! (`tests/provider/*.mjs`).
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::Command,
    sync::Once,
};

use remora_proto::org::membership::Request;
use serde_json::{Value, json};

use super::support::{
    PATIENCE,
    process::{Ended, Home, Script, run},
};

pub(crate) const JSON: &str = "application/json";
pub(crate) const FORM: &str = "application/x-www-form-urlencoded";

pub(crate) fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/provider")
}

/// The scripts' libraries; from the package registry, once.
pub(crate) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if scripts().join("node_modules/.package-lock.json").exists() {
            return;
        }
        let output = Command::new("npm")
            .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
            .current_dir(scripts())
            .output()
            .expect("npm is needed to test signing in: apt-get install npm");
        assert!(output.status.success(), "npm ci: {output:?}");
    });
}

#[track_caller]
pub(crate) fn done(ended: Ended) -> Vec<String> {
    assert_eq!(ended.code, Some(0), "{ended:?}");
    ended.stdout
}

pub(crate) fn node(home: &Home, args: &[&str]) -> Command {
    let mut command = home.command("node");
    let script = scripts().join(args[0]);
    command.arg(script).args(&args[1..]);
    command
}

/// A provider of some people.
pub(crate) struct Provider {
    pub(crate) home: Home,
    _script: Script,
    pub(crate) issuer: String,
}

impl Provider {
    pub(crate) fn start() -> Self {
        install();
        let home = Home::new();
        let mut script = Script::start(node(&home, &["provider.mjs"]));
        let issuer = script.line(PATIENCE);
        Self {
            home,
            _script: script,
            issuer,
        }
    }

    pub(crate) fn host_port(&self) -> &str {
        self.issuer.strip_prefix("http://").expect("on loopback")
    }

    /// What a test wants of it.
    pub(crate) fn control(&self, wish: &Value) -> String {
        let (status, text) = post(self.host_port(), "/test", JSON, &wish.to_string());
        assert_eq!(status, 200, "{text}");
        text
    }

    /// A token of its key, that says so.
    pub(crate) fn token(&self, mint: &Value) -> String {
        self.control(&json!({"mint": mint}))
    }

    /// Somebody goes there with a browser; what the last page says.
    pub(crate) fn browse(&self, args: &[&str]) -> String {
        let ended = run(node(&self.home, &[&["browser.mjs"], args].concat()));
        done(ended).join("\n")
    }
}

/// Over plain HTTP on loopback.
pub(crate) fn post(host_port: &str, path: &str, kind: &str, body: &str) -> (u16, String) {
    let mut tcp = TcpStream::connect(host_port).expect("it listens");
    tcp.set_read_timeout(Some(PATIENCE)).expect("a socket");
    write!(
        tcp,
        "POST {path} HTTP/1.1\r\nhost: {host_port}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
    .expect("sent");
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("HTTP");
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    let body = match head.to_lowercase().contains("transfer-encoding: chunked") {
        // One chunk: these answers are short.
        true => body.lines().nth(1).unwrap_or_default().to_owned(),
        false => body.to_owned(),
    };
    (status.expect("a status"), body)
}

/// An organisation's folder, and its desk.
pub(crate) struct Office {
    pub(crate) admin: Home,
    pub(crate) desk: Script,
    pub(crate) listen: String,
    pub(crate) key: String,
}

impl Office {
    /// In which help is on.
    pub(crate) fn found(name: &str, domain: &str) -> (Home, String) {
        let admin = Home::new();
        let init = ["admin", "org", "init", "--name", name, "--domain", domain];
        let key = done(run(admin.remora(&init)))[0].clone();
        done(run(admin.remora(&["admin", "org", "policy", "enabled=on"])));
        (admin, key)
    }

    pub(crate) fn open(admin: Home, key: String, provider: &Provider, more: &[&str]) -> Self {
        let args = [
            "admin",
            "org",
            "serve",
            "--json",
            "--listen",
            "127.0.0.1:0",
            "--client-id",
            "remora",
            "--provider",
            &provider.issuer,
        ];
        let mut desk = Script::start(admin.remora(&[&args, more].concat()));
        let told = desk.expect("desk");
        assert_eq!(told["key"], key.as_str());
        let listen = told["listen"].as_str().expect("an address").to_owned();
        Self {
            admin,
            desk,
            listen,
            key,
        }
    }

    /// Contoso's.
    pub(crate) fn contoso(provider: &Provider, more: &[&str]) -> Self {
        let (admin, key) = Self::found("Contoso", "contoso.com");
        Self::open(admin, key, provider, more)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}#{}", self.listen, self.key)
    }

    pub(crate) fn org(&self, args: &[&str]) -> Vec<String> {
        done(run(self.admin.remora(&[&["admin", "org"], args].concat())))
    }

    /// What is said of an ID token there.
    pub(crate) fn hand_in(&self, request: &Request, token: &str) -> (u16, Value) {
        let body = json!({"request": request.to_string(), "id_token": token}).to_string();
        let (status, text) = post(&self.listen, "/credential", JSON, &body);
        (status, serde_json::from_str(&text).expect("JSON"))
    }
}

/// A person, from nothing to signed in; what they are told at the end.
pub(crate) fn set_up(home: &Home, office: &Office, provider: &Provider, login: &str) -> Value {
    let mut setup = Script::start(home.remora(&["setup", &office.url(), "--json"]));
    let told = setup.expect("sign_in");
    let page = provider.browse(&[told["url"].as_str().expect("an address"), login]);
    assert!(
        page.starts_with("200") && page.contains("Thank you"),
        "{page}"
    );
    let signed_in = setup.expect("signed_in");
    assert_eq!(setup.end(PATIENCE).code, Some(0));
    signed_in
}
