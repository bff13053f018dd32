//! `remora admin`: what an operator does to a relay, by its admin port, and to an organisation, in a folder. Plain HTTP, as that port
//! speaks: it is for the same computer or a network of the operator's own.

/// Where people sign in.
pub(crate) mod desk;
/// An issuer's folder.
mod folder;
/// An organisation.
mod org;

use std::{
    env, fs, io,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::{
    cli,
    config::File,
    error::{Exit, Failure},
    event::milliseconds,
    terminal::console::print_data,
};

/// To reach the port, and for an answer that waits for nothing.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer answers are none of a relay's.
const MAX_ANSWER_BYTES: u64 = 64 << 10;
/// Where the token is when it stands in no file.
const TOKEN_VARIABLE: &str = "REMORA_ADMIN_TOKEN";

/// `remora admin`
///
/// # Errors
/// The relay is not reached, does not let us, or takes too long.
pub async fn run(file: &File, args: cli::Admin) -> Result<Exit, Failure> {
    match args.command {
        cli::AdminCommand::Drain(args) => drain(args).await,
        cli::AdminCommand::Org(args) => org::run(file, *args).await,
    }
}

/// A relay's admin port, and what is presented there.
struct Port {
    host_port: String,
    token: String,
}

async fn drain(args: cli::Drain) -> Result<Exit, Failure> {
    let began = Instant::now();
    let port = Port {
        host_port: host_port(&args.relay)?,
        token: token(args.token_file.as_deref())?,
    };
    let first = port.ask("POST", "/drain", ANSWER_TIMEOUT).await?;
    let last = if args.wait {
        port.drained(&first).await?
    } else {
        first.clone()
    };
    let told = told(&first, &last, began.elapsed());
    print_data(&if args.json {
        told.to_string()
    } else {
        line(&told)
    })?;
    Ok(Exit::Ok)
}

impl Port {
    /// Waits until the relay has nothing left to wait for, which is at its deadline at the latest.
    async fn drained(&self, first: &Value) -> Result<Value, Failure> {
        if first["state"] == "drained" {
            return Ok(first.clone());
        }
        let deadline = Duration::from_millis(first["deadline_ms"].as_u64().unwrap_or_default());
        let drained = self.ask("GET", "/drained", deadline + ANSWER_TIMEOUT).await;
        match drained {
            // It ends as soon as it is drained, and may do so before it has said it.
            Err(failure) if failure.exit == Exit::Offline => {
                Ok(json!({"state": "drained", "sessions": 0, "cut_off": null}))
            }
            drained => drained,
        }
    }

    async fn ask(&self, method: &str, path: &str, patience: Duration) -> Result<Value, Failure> {
        let Self { host_port, token } = self;
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {host_port}\r\nauthorization: Bearer {token}\r\n\
             content-length: 0\r\nconnection: close\r\n\r\n"
        );
        let response = timeout(patience, exchange(host_port, request.as_bytes())).await;
        let response = response.map_err(|_| {
            let line = format!("no answer from {host_port} within {} s", patience.as_secs());
            Failure::new(Exit::TimedOut, "ADMIN_TIMEOUT", line)
        })?;
        let response = response.map_err(|error| {
            let line = format!("the admin port {host_port} is not reached: {error}");
            Failure::new(Exit::Offline, "ADMIN_OFFLINE", line)
        })?;
        answer(&response)
    }
}

async fn exchange(host_port: &str, request: &[u8]) -> io::Result<String> {
    let mut stream = TcpStream::connect(host_port).await?;
    stream.write_all(request).await?;
    let mut response = String::new();
    let mut limited = stream.take(MAX_ANSWER_BYTES);
    limited.read_to_string(&mut response).await?;
    if response.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(response)
}

/// What a relay said, or why it did not do it.
fn answer(response: &str) -> Result<Value, Failure> {
    let (head, body) = response.split_once("\r\n\r\n").unwrap_or((response, ""));
    let status = head.split(' ').nth(1).unwrap_or_default();
    match status {
        "200" => serde_json::from_str(body).map_err(|_| not_a_relay()),
        "401" | "403" => Err(Failure::new(
            Exit::NotPermitted,
            "NOT_PERMITTED",
            body.trim(),
        )),
        _ => Err(not_a_relay()),
    }
}

fn not_a_relay() -> Failure {
    let line = "what answers there is no relay's admin port; give the one of --admin, like http://127.0.0.1:9090";
    Failure::new(Exit::Error, "NOT_A_RELAY", line)
}

/// Host and port of `http://HOST:PORT`, or of what stands for it.
fn host_port(url: &str) -> Result<String, Failure> {
    let rest = url.strip_prefix("http://").unwrap_or(url);
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (host, port) = rest.rsplit_once(':').unwrap_or((rest, "9090"));
    let is_host = !host.is_empty()
        && !host.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control());
    if !is_host || port.parse::<u16>().is_err() {
        let line = format!(
            "{url:?} is no admin port; give the one of the relay's --admin, like http://127.0.0.1:9090"
        );
        return Err(Failure::new(Exit::Usage, "USAGE", line));
    }
    Ok(format!("{host}:{port}"))
}

/// From a file or the environment: an argument stands in `ps` for everybody to read.
fn token(file: Option<&Path>) -> Result<String, Failure> {
    let text = match file {
        Some(path) => fs::read_to_string(path).map_err(|error| {
            let line = format!("cannot read the token in {}: {error}", path.display());
            Failure::new(Exit::Error, "NO_TOKEN", line)
        })?,
        None => env::var(TOKEN_VARIABLE).map_err(|_| {
            let line =
                format!("give the relay's admin token: --token-file FILE, or {TOKEN_VARIABLE}");
            Failure::new(Exit::Usage, "NO_TOKEN", line)
        })?,
    };
    let text = text.trim();
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Failure::new(
            Exit::Usage,
            "NO_TOKEN",
            "the admin token is one word",
        ));
    }
    Ok(text.to_owned())
}

fn told(first: &Value, last: &Value, took: Duration) -> Value {
    let cut_off = last["cut_off"].as_u64();
    let before = first["cut_off"].as_u64().unwrap_or_default();
    json!({
        "v": 1,
        "event": "drain",
        "state": last["state"],
        "sessions": first["sessions"],
        "remaining": last["sessions"],
        "cut_off": cut_off.map(|all| all.saturating_sub(before)),
        "seconds": milliseconds(took).round() / 1e3,
    })
}

/// `drained: 431 sessions left in 22.1 s, 0 cut off`
fn line(told: &Value) -> String {
    let sessions = told["sessions"].as_u64().unwrap_or_default();
    let seconds = told["seconds"].as_f64().unwrap_or_default();
    if told["state"] != "drained" {
        return format!(
            "draining: {sessions} sessions are told to move; --wait waits until they have"
        );
    }
    match told["cut_off"].as_u64() {
        Some(cut_off) => format!(
            "drained: {} sessions left in {seconds:.1} s, {cut_off} cut off",
            sessions.saturating_sub(cut_off)
        ),
        None => {
            format!("drained: {sessions} sessions left in {seconds:.1} s, and the relay has ended")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_named_as_a_page_would_be() {
        for (url, expected) in [
            ("http://127.0.0.1:9090", "127.0.0.1:9090"),
            (
                "http://relay-0.example.org:9090/",
                "relay-0.example.org:9090",
            ),
            ("[::1]:9090", "[::1]:9090"),
            ("relay-0", "relay-0:9090"),
        ] {
            assert_eq!(host_port(url).expect("a port"), expected);
        }
        for bad in [
            "",
            "http://",
            "https://relay:9090/x",
            "a b:1",
            "relay:x",
            "http://h\r\nx: y:1",
        ] {
            assert_eq!(host_port(bad).expect_err(bad).exit, Exit::Usage);
        }
    }

    #[test]
    fn what_a_relay_says_is_understood_and_what_others_say_is_not() {
        let drained = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{\"state\":\"drained\",\"sessions\":0,\"cut_off\":1}\n";
        let last = answer(drained).expect("facts");
        let first = json!({"state": "draining", "sessions": 12, "cut_off": 0});
        let all = told(&first, &last, Duration::from_millis(2_250));
        assert_eq!(line(&all), "drained: 11 sessions left in 2.2 s, 1 cut off");
        assert_eq!(
            (&all["sessions"], &all["remaining"], &all["cut_off"]),
            (&json!(12), &json!(0), &json!(1))
        );
        let all = told(&first, &first, Duration::ZERO);
        assert!(line(&all).starts_with("draining: 12 sessions"));
        let refused = answer("HTTP/1.1 403 Forbidden\r\n\r\nthis relay has no admin token\n")
            .expect_err("refused");
        assert_eq!(
            (refused.exit, &refused.line[..]),
            (Exit::NotPermitted, "this relay has no admin token")
        );
        for other in [
            "",
            "HTTP/1.1 200 OK\r\n\r\n<html>",
            "HTTP/1.1 404 Not Found\r\n\r\n",
            "SSH-2.0-x",
        ] {
            assert_eq!(answer(other).expect_err("none").code, "NOT_A_RELAY");
        }
    }
}
