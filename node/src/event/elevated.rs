//! What a broker says, for scripts and for people.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "three messages are the broker's, among many"
)]

use remora_proto::{
    line::is_unsafe_in_line,
    wire::message::session::{
        ElevationReport, OrderRefusal, control::Body, elevation_report::What,
    },
};
use serde_json::{Value, json};

/// One object a message; `order` is the number of the order that it is about.
pub(super) fn json(body: &Body) -> Value {
    match body {
        Body::ElevationKey(_) => json!({"event": "elevation_ready"}),
        Body::ElevationReport(report) => report_json(report),
        _ => json!({"event": "elevation_order"}),
    }
}

fn report_json(report: &ElevationReport) -> Value {
    let order = report.order;
    let output = |stream, bytes| {
        let text = String::from_utf8_lossy(bytes);
        json!({"event": "run_output", "order": order, "stream": stream, "text": text})
    };
    match &report.what {
        Some(What::Admitted(admitted)) => {
            json!({"event": "credential_checked", "order": order, "admitted": admitted})
        }
        Some(What::Started(command)) => {
            json!({"event": "run_started", "order": order, "command": command})
        }
        Some(What::Stdout(bytes)) => output("stdout", bytes),
        Some(What::Stderr(bytes)) => output("stderr", bytes),
        Some(What::Ended(ended)) => json!({
            "event": "run_ended", "order": order, "status": ended.status, "left_out_bytes": ended.left_out_bytes,
        }),
        Some(What::Refused(_)) | None => {
            let (code, text) = refusal(report);
            json!({"event": "order_refused", "order": order, "code": code, "text": text})
        }
    }
}

/// Its name, and what it means.
fn refusal(report: &ElevationReport) -> (&'static str, &'static str) {
    let why = match report.what {
        Some(What::Refused(why)) => OrderRefusal::try_from(why).unwrap_or_default(),
        _ => OrderRefusal::OrderUnreadable,
    };
    match why {
        OrderRefusal::OrderUnreadable => (
            "ORDER_UNREADABLE",
            "the order did not arrive as it was given",
        ),
        OrderRefusal::OrderNoCredential => (
            "ORDER_NO_CREDENTIAL",
            "an administrator has to vouch for it first",
        ),
        OrderRefusal::OrderBusy => ("ORDER_BUSY", "as much runs as may at once"),
        OrderRefusal::OrderNotStarted => ("ORDER_NOT_STARTED", "the system does not start it"),
    }
}

/// Lines for people, of which the second part is the other computer's and may hold anything but what moves a cursor.
pub(crate) fn lines(body: &Body) -> Vec<(String, String)> {
    let said = |text: &str| vec![(text.to_owned(), String::new())];
    let Body::ElevationReport(report) = body else {
        return match body {
            Body::ElevationKey(_) => {
                said("/credential NAME says which administrator vouches; then /run COMMAND.")
            }
            _ => Vec::new(),
        };
    };
    let order = report.order;
    match &report.what {
        Some(What::Admitted(true)) => said("The administrator's name and password hold."),
        Some(What::Admitted(false)) => said(
            "That is no administrator's name and password there; after three, the rights are gone.",
        ),
        Some(What::Started(command)) => {
            vec![(format!("[{order}] runs as administrator:"), clean(command))]
        }
        Some(What::Stdout(bytes) | What::Stderr(bytes)) => String::from_utf8_lossy(bytes)
            .lines()
            .map(|line| (format!("[{order}]"), clean(line)))
            .collect(),
        Some(What::Ended(ended)) => {
            let left_out = match ended.left_out_bytes {
                0 => String::new(),
                bytes => format!("; {bytes} bytes of output were left out"),
            };
            vec![(
                format!("[{order}] has ended with {}{left_out}", ended.status),
                String::new(),
            )]
        }
        Some(What::Refused(_)) | None => {
            let (code, text) = refusal(report);
            said(&format!("Not done: {text} ({code})."))
        }
    }
}

fn clean(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\t' => ' ',
            c if is_unsafe_in_line(c) => '\u{fffd}',
            c => c,
        })
        .collect()
}
