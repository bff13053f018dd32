//! Sessions that were begun on the page, each a program of its own: what it says of itself, the page shows in a line.

use std::{collections::BTreeMap, time::Duration};

use remora_proto::id::DeviceId;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Child,
    sync::mpsc,
    task::JoinSet,
    time::timeout,
};

use crate::{
    presence::child::Command,
    ui::{Asked, Call, PageSender},
};

/// At a time; more is no help desk.
const MAX_CALLS: usize = 16;
/// Told again when a page is opened; of more, the oldest that are over are forgotten.
const MAX_KEPT: usize = 200;
/// What programs say, and nobody has noted yet.
const QUEUE_SAID: usize = 64;
/// For the programs to take their leave, once they were asked to.
const FAREWELL: Duration = Duration::from_secs(3);

/// Of this page, counted from 1.
type Number = u32;

/// What a program says, or that it is over.
type Said = (Number, Option<Value>);

#[derive(Debug)]
pub(super) struct Calls {
    command: Command,
    to: PageSender,
    number: Number,
    /// By number, as the page knows them.
    shown: BTreeMap<Number, Value>,
    running: JoinSet<()>,
    said: (mpsc::Sender<Said>, mpsc::Receiver<Said>),
}

impl Calls {
    pub(super) fn new(command: Command, to: PageSender) -> Self {
        Self {
            command,
            to,
            number: 0,
            shown: BTreeMap::new(),
            running: JoinSet::new(),
            said: mpsc::channel(QUEUE_SAID),
        }
    }

    /// Invites.
    pub(super) fn begin(&mut self, call: Call) {
        let mode = call.mode.map(Asked::name);
        let shown = json!({
            "event": "call", "device": call.device, "mode": mode, "reason": call.reason, "state": "starting",
        });
        self.run(shown, &words(&call));
    }

    /// Helps somebody who waits for the desk.
    pub(super) fn take(&mut self, id: DeviceId) {
        let shown = json!({
            "event": "call", "device": null, "mode": null, "reason": "", "state": "starting",
        });
        self.run(shown, &["take".into(), "--page".into(), id.to_string()]);
    }

    fn run(&mut self, mut shown: Value, words: &[String]) {
        self.number = self.number.wrapping_add(1);
        let number = self.number;
        shown["number"] = number.into();
        self.shown.insert(number, shown);
        while self.running.try_join_next().is_some() {}
        let started = match self.running.len() < MAX_CALLS {
            true => self.start(words).map_err(|error| error.to_string()),
            false => Err(format!("{MAX_CALLS} sessions are open; end one first")),
        };
        match started {
            Ok(child) => {
                let said = self.said.0.clone();
                self.running.spawn(listen(number, child, said));
            }
            Err(text) => self.change(number, |shown| {
                shown["state"] = "failed".into();
                shown["text"] = text.into();
            }),
        }
        self.tell(number);
    }

    fn start(&self, words: &[String]) -> std::io::Result<Child> {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut command = self.command.started(&words)?;
        command.stdin(std::process::Stdio::null()).spawn()
    }

    /// Takes note of what one says. Cancel-safe.
    pub(super) async fn next(&mut self) {
        // Never ends: this side has a sender, too.
        let Some((number, said)) = self.said.1.recv().await else {
            return std::future::pending().await;
        };
        self.change(number, |shown| match said {
            Some(event) => note(shown, &event),
            None if is_over(shown) => {}
            None => shown["state"] = "failed".into(),
        });
        self.tell(number);
    }

    fn change(&mut self, number: Number, change: impl FnOnce(&mut Value)) {
        if let Some(shown) = self.shown.get_mut(&number) {
            change(shown);
        }
    }

    fn tell(&mut self, number: Number) {
        if let Some(shown) = self.shown.get(&number) {
            self.to.event(shown.clone());
        }
        while self.shown.len() > MAX_KEPT {
            let oldest = self.shown.iter().find(|(_, shown)| is_over(shown));
            let Some(oldest) = oldest.map(|(number, _)| *number) else {
                break;
            };
            self.shown.remove(&oldest);
        }
    }

    /// Lets them end: whoever pressed Ctrl-C pressed it for them, too.
    pub(super) async fn close(mut self) {
        let all = async { while self.running.join_next().await.is_some() {} };
        if timeout(FAREWELL, all).await.is_err() {
            tracing::info!("sessions go on in their windows");
        }
        self.running.detach_all();
    }
}

/// The command that invites.
fn words(call: &Call) -> Vec<String> {
    // Each in one word: none is taken for an option of its own, whatever it begins with.
    let device = call.device.as_ref().map(|name| format!("--device={name}"));
    let reason = device
        .as_ref()
        .filter(|_| !call.reason.is_empty())
        .map(|_| format!("--reason={}", call.reason));
    let mode = call.mode.map(|mode| format!("--mode={}", mode.name()));
    let words = ["invite", "--page"].map(String::from);
    let options = [device, reason, mode].into_iter().flatten();
    words.into_iter().chain(options).collect()
}

/// Until it ends.
async fn listen(number: Number, mut child: Child, said: mpsc::Sender<Said>) {
    if let Some(out) = child.stdout.take() {
        let mut lines = BufReader::new(out).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let event = serde_json::from_str(&line).unwrap_or_default();
            if said.send((number, Some(event))).await.is_err() {
                return;
            }
        }
    }
    if let Err(error) = child.wait().await {
        tracing::warn!(%error, "a session's program");
    }
    // The page goes with the program.
    said.send((number, None)).await.ok();
}

fn is_over(shown: &Value) -> bool {
    shown["state"] == "over" || shown["state"] == "failed"
}

/// What of an event concerns the line.
fn note(shown: &mut Value, event: &Value) {
    let state = match event["event"].as_str().unwrap_or_default() {
        "page" => {
            shown["url"] = event["url"].clone();
            return;
        }
        "device" => {
            shown["peer"] = event["peer"]["full_name"].clone();
            shown["warnings"] = event["warnings"].clone();
            return;
        }
        "trust" => {
            shown["peer"] = event["peer"]["full_name"].clone();
            shown["warnings"] = event["warnings"].clone();
            "trust"
        }
        "code" => "code",
        "notification" => {
            shown["agents"] = event["agents"].clone();
            event["state"].as_str().unwrap_or("sent")
        }
        "started" => {
            shown["mode"] = event["mode"].clone();
            "active"
        }
        "mode_changed" => {
            shown["mode"] = event["mode"].clone();
            "active"
        }
        "ended" => {
            shown["reason_code"] = event["end_reason"].clone();
            shown["duration_s"] = event["duration_s"].clone();
            "over"
        }
        "error" => {
            shown["reason_code"] = event["code"].clone();
            shown["text"] = event["text"].clone();
            "failed"
        }
        _ => return,
    };
    // What is over stays so: a program says why, and then that it ends.
    if !is_over(shown) {
        shown["state"] = state.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(events: &[Value]) -> Value {
        let mut shown = json!({"number": 1, "state": "starting"});
        for event in events {
            note(&mut shown, event);
        }
        shown
    }

    #[test]
    fn a_line_says_how_the_invitation_fares() {
        let delivered = json!({"event": "notification", "state": "delivered", "agents": 2});
        let shown = after(&[
            json!({"event": "page", "url": "http://127.0.0.1:1/#x"}),
            json!({"event": "notification", "state": "sent"}),
            delivered,
        ]);
        assert_eq!(
            (&shown["state"], &shown["agents"]),
            (&json!("delivered"), &json!(2))
        );
        assert_eq!(shown["url"], "http://127.0.0.1:1/#x");
        let shown = after(&[json!({"event": "notification", "state": "not_received"})]);
        assert_eq!(shown["state"], "not_received");
    }

    #[test]
    fn what_is_over_stays_over_and_says_why() {
        let shown = after(&[
            json!({"event": "started", "mode": "view"}),
            json!({"event": "ended", "end_reason": "DECLINED", "duration_s": 4.0}),
            json!({"event": "error", "code": "DECLINED", "text": "declined"}),
            json!({"event": "notification", "state": "sent"}),
        ]);
        assert_eq!(
            (&shown["state"], &shown["reason_code"]),
            (&json!("over"), &json!("DECLINED"))
        );
        let shown = after(&[
            json!({"event": "error", "code": "DEVICE_OFFLINE", "text": "last seen 3 h ago"}),
        ]);
        assert_eq!(
            (&shown["state"], &shown["text"]),
            (&json!("failed"), &json!("last seen 3 h ago"))
        );
    }
}
