//! `remora admin`: what an operator does to relays, by their admin ports, and to an organisation, in a folder.

/// Where people sign in.
pub(crate) mod desk;
/// An issuer's folder.
mod folder;
/// An organisation.
mod org;
/// A relay's admin port.
mod port;
/// All relays at once.
mod relays;

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use self::port::{ANSWER_TIMEOUT, Port, Url};
use crate::{
    cli::{
        self,
        operator::{self, Operator, SessionCommand},
    },
    config::File,
    error::{Exit, Failure},
    event::milliseconds,
    terminal::console::print_data,
};

/// A relay that is drained says its last words to nodes and others, within three seconds, and then has no port any more.
const END_TIMEOUT: Duration = Duration::from_secs(3);

/// `remora admin`
///
/// # Errors
/// A relay is not reached, does not let us, or takes too long.
pub async fn run(file: &File, args: cli::Admin) -> Result<Exit, Failure> {
    let operator = match args.command {
        cli::AdminCommand::Operator(operator) => operator,
        cli::AdminCommand::Org(args) => return org::run(file, *args).await,
    };
    let ports = || port::ports(file, operator.access());
    let json = operator.access().json;
    match &operator {
        Operator::Relays(_) => relays::relays(&ports()?, json).await,
        Operator::Sessions(_) => relays::sessions(&ports()?, json).await,
        Operator::Session(SessionCommand::End(end)) => {
            relays::end(&ports()?, &end.id, &end.reason, json).await
        }
        Operator::Doctor(_) => relays::doctor(&ports()?, json).await,
        Operator::Bugreport(_) => relays::bugreport(&ports()?, json).await,
        Operator::Drain(args) => drain(file, args).await,
    }
}

/// The one that is meant: by its URL, or by its name among all.
async fn which(file: &File, args: &operator::Drain) -> Result<Port, Failure> {
    let mistake = |line: String| Failure::new(Exit::Usage, "USAGE", line);
    if let Some(url) = args.relay.as_deref().filter(|relay| relay.contains(':')) {
        let ports = port::at(vec![Url::parse(url)?], file.admin.as_ref(), &args.access)?;
        let [port] = <[Port; 1]>::try_from(ports).map_err(|_| mistake("no relay".into()))?;
        return Ok(port);
    }
    let ports = port::ports(file, &args.access)?;
    let Some(name) = &args.relay else {
        return <[Port; 1]>::try_from(ports)
            .map(|[port]| port)
            .map_err(|_| mistake("several relays are named; say which is to drain".into()));
    };
    let answers = relays::ask_all(&ports, "/v1/relay").await;
    let (mut named, mut silent) = (Vec::new(), None);
    for (port, (at, answer)) in ports.into_iter().zip(answers) {
        match answer {
            Ok(relay) if relay["name"] == **name => named.push(port),
            Ok(_) => {}
            Err(failure) => silent = Some((at, failure)),
        }
    }
    // One that does not say what it is called may be the one.
    if let (true, Some((at, failure))) = (named.is_empty(), silent) {
        let line = format!(
            "no relay says that it is called {name:?}, and {at} says nothing: {}",
            failure.line
        );
        return Err(Failure { line, ..failure });
    }
    <[Port; 1]>::try_from(named)
        .map(|[port]| port)
        .map_err(|found| {
            let count = found.len();
            mistake(format!(
                "{count} of the relays that answer are called {name:?}; `remora admin relays` shows them, and its URL names one"
            ))
        })
}

async fn drain(file: &File, args: &operator::Drain) -> Result<Exit, Failure> {
    let began = Instant::now();
    let port = which(file, args).await?;
    let first = port.ask("POST", "/drain", "", ANSWER_TIMEOUT).await?;
    let last = if args.wait {
        drained(&port, &first).await?
    } else {
        first.clone()
    };
    let told = told(&first, &last, began.elapsed());
    print_data(&if args.access.json {
        told.to_string()
    } else {
        line(&told)
    })?;
    Ok(Exit::Ok)
}

/// Waits until the relay has nothing left to wait for, which is at its deadline at the latest.
async fn drained(port: &Port, first: &Value) -> Result<Value, Failure> {
    if first["state"] == "drained" {
        return Ok(first.clone());
    }
    let deadline = Duration::from_millis(first["deadline_ms"].as_u64().unwrap_or_default());
    let patience = deadline + ANSWER_TIMEOUT;
    let drained = match port.ask("GET", "/drained", "", patience).await {
        // It ends as soon as it is drained, and may do so before it has said it.
        Err(failure) if failure.exit == Exit::Offline => {
            json!({"state": "drained", "sessions": 0, "cut_off": null})
        }
        drained => drained?,
    };
    port.closed(END_TIMEOUT).await;
    Ok(drained)
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

/// `drained in 22.1 s; sessions that left: 431, cut off: 0`
fn line(told: &Value) -> String {
    let sessions = told["sessions"].as_u64().unwrap_or_default();
    let seconds = told["seconds"].as_f64().unwrap_or_default();
    if told["state"] != "drained" {
        return format!(
            "draining; sessions that are told to move: {sessions}; --wait waits until they have"
        );
    }
    match told["cut_off"].as_u64() {
        Some(cut_off) => format!(
            "drained in {seconds:.1} s; sessions that left: {}, cut off: {cut_off}",
            sessions.saturating_sub(cut_off)
        ),
        None => format!(
            "drained in {seconds:.1} s; sessions that left: {sessions}, and the relay has ended"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_drained_is_a_line() {
        let first = json!({"state": "draining", "sessions": 12, "cut_off": 0});
        let last = json!({"state": "drained", "sessions": 0, "cut_off": 1});
        let all = told(&first, &last, Duration::from_millis(2_250));
        assert_eq!(
            line(&all),
            "drained in 2.2 s; sessions that left: 11, cut off: 1"
        );
        assert_eq!(
            (&all["sessions"], &all["remaining"], &all["cut_off"]),
            (&json!(12), &json!(0), &json!(1))
        );
        let all = told(&first, &first, Duration::ZERO);
        assert!(line(&all).starts_with("draining; sessions that are told to move: 12;"));
    }
}
