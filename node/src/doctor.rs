//! `remora doctor`: what is wrong with this computer's Remora, and what to do; `remora bugreport`: that, and what somebody else needs to
//! know to find out more. Looks where `remora preflight` and `remora netcheck` do.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};

use crate::{
    cli,
    config::File,
    control::unix_ms,
    error::{Exit, Failure},
    netcheck,
    share::preflight,
    status::board::sessions,
    terminal::console::print_data,
};

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    /// As it should be.
    Fine,
    /// Something goes less well.
    Warning,
    /// Something does not go at all.
    Fault,
}

impl Verdict {
    fn label(self) -> &'static str {
        match self {
            Self::Fine => "ok",
            Self::Warning => "warning",
            Self::Fault => "fault",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Which; as scripts have it.
    pub(crate) what: &'static str,
    /// How bad it is.
    pub(crate) verdict: Verdict,
    /// What was found; where it is not fine, what to do.
    pub(crate) text: String,
}

impl Found {
    pub(crate) fn new(what: &'static str, verdict: Verdict, text: impl Into<String>) -> Self {
        let text = text.into();
        Self {
            what,
            verdict,
            text,
        }
    }

    fn line(&self) -> String {
        format!(
            "{:<8} {:<12} {}",
            self.verdict.label(),
            self.what,
            self.text
        )
    }
}

/// `remora doctor`: exit code 1 where something does not go at all.
///
/// # Errors
/// Standard output is closed.
pub async fn run(file: Result<File, Failure>, args: cli::Doctor) -> Result<Exit, Failure> {
    let found = look(file, &args).await;
    if args.json {
        print_data(&object(&found).to_string())?;
    } else {
        for found in &found {
            print_data(&found.line())?;
        }
    }
    let worst = found.iter().map(|found| found.verdict).max();
    Ok(match worst {
        Some(Verdict::Fault) => Exit::Error,
        Some(Verdict::Fine | Verdict::Warning) | None => Exit::Ok,
    })
}

/// `remora bugreport`
///
/// # Errors
/// Standard output is closed.
pub async fn report(file: Result<File, Failure>, args: cli::Doctor) -> Result<Exit, Failure> {
    let settings = match &file {
        Ok(file) => redacted(file),
        Err(failure) => failure.line.clone(),
    };
    let about = format!(
        "version {}\nsystem {} {}\nsessions on this computer {}\n",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
        std::env::consts::ARCH,
        sessions().len()
    );
    let found = look(file, &args).await;
    if args.json {
        let mut report = object(&found);
        report["event"] = "bugreport".into();
        report["about"] = about.into();
        report["settings"] = settings.into();
        return print_data(&without_addresses(&report.to_string())).map(|()| Exit::Ok);
    }
    let lines: Vec<String> = found.iter().map(Found::line).collect();
    let text = format!(
        "=== remora ===\n{about}\n=== settings ===\n{settings}\n=== doctor ===\n{}",
        lines.join("\n")
    );
    print_data(&without_addresses(&text))?;
    Ok(Exit::Ok)
}

fn object(found: &[Found]) -> Value {
    let findings = found.iter().map(|found| {
        json!({
            "what": found.what,
            "verdict": found.verdict.label(),
            "text": found.text,
        })
    });
    let is_fine = found.iter().all(|found| found.verdict == Verdict::Fine);
    json!({"v": 1, "event": "doctor", "ok": is_fine, "findings": findings.collect::<Vec<_>>()})
}

async fn look(file: Result<File, Failure>, args: &cli::Doctor) -> Vec<Found> {
    let mut found = vec![display()];
    let file = match file {
        Ok(file) => file,
        Err(failure) => {
            found.push(Found::new("settings", Verdict::Fault, failure.line));
            return found;
        }
    };
    found.push(Found::new(
        "settings",
        Verdict::Fine,
        "the settings can be read",
    ));
    found.push(organisation(&file));
    match file.relays(&args.relays.relay) {
        Ok(relays) => found.extend(netcheck::findings(&relays, args.tcp.tcp_only).await),
        Err(failure) => found.push(Found::new("relay", Verdict::Fault, failure.line)),
    }
    found
}

/// Whoever only helps needs none.
fn display() -> Found {
    let all = preflight::preflight(None);
    let missing = all.iter().find(|one| !one.ok);
    match missing {
        None => Found::new("display", Verdict::Fine, "the screen can be shared"),
        Some(one) => {
            let effect = match preflight::can_share(&all) {
                true => "the screen can be shared, less well",
                false => "the screen cannot be shared; helping others goes",
            };
            let text = format!("{effect}: {} ({}); {}", one.what, one.detail, one.fix);
            Found::new("display", Verdict::Warning, text)
        }
    }
}

/// Papers that have run out are nobody's.
fn organisation(file: &File) -> Found {
    const WHAT: &str = "organisation";
    let member = file.beside().and_then(|files| files.member());
    match member {
        Err(failure) => Found::new(WHAT, Verdict::Fault, failure.line),
        Ok(None) => Found::new(
            WHAT,
            Verdict::Fine,
            "this computer belongs to no organisation",
        ),
        Ok(Some(member)) => {
            let papers = member.papers();
            let expires = papers.credential.expires;
            let left_s = expires.saturating_sub(unix_ms() / 1000);
            match left_s {
                0 => Found::new(
                    WHAT,
                    Verdict::Fault,
                    "the papers of your organisation have run out; `remora sign-in` gets new ones",
                ),
                _ => Found::new(
                    WHAT,
                    Verdict::Fine,
                    format!("papers hold for {} more hours", left_s / 3600),
                ),
            }
        }
    }
}

/// What the settings say, without who this is and whom they know.
fn redacted(file: &File) -> String {
    let admin = file.admin.as_ref();
    let kept = json!({
        "relay": file.relay.is_some(),
        "relays": file.relays.len(),
        "link_host": file.link_host.is_some(),
        "devices": file.devices.len(),
        "full_name": file.profile.full_name.is_some(),
        "organisation": file.organisation.is_some(),
        "admin_relays": admin.map_or(0, |admin| admin.relays.len()),
    });
    format!("{kept:#}")
}

/// Where an address stands in a text there is none afterwards.
fn without_addresses(text: &str) -> String {
    let is_part = |c: char| c.is_ascii_hexdigit() || matches!(c, '.' | ':' | '[' | ']' | '%');
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        if end == 0 {
            clean.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        }
        let (word, after) = rest.split_at(end);
        let bare = word.trim_end_matches(['.', ':']);
        let is_address = bare.parse::<IpAddr>().is_ok() || bare.parse::<SocketAddr>().is_ok();
        clean.push_str(if is_address { "ADDRESS" } else { bare });
        clean.push_str(&word[bare.len()..]);
        rest = after;
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_address_stays_in_a_report() {
        for (text, clean) in [
            ("seen as 198.51.100.4:41641.", "seen as ADDRESS."),
            ("at [2001:db8::1]:443, 10.0.0.1", "at ADDRESS, ADDRESS"),
            ("version 1.2.0\nfe80::1: no", "version 1.2.0\nADDRESS: no"),
            ("{\"a\":\"127.0.0.1\"}", "{\"a\":\"ADDRESS\"}"),
            ("=== doctor ===\nok", "=== doctor ===\nok"),
            ("12:30 of it: é", "12:30 of it: é"),
        ] {
            assert_eq!(without_addresses(text), clean);
        }
    }
}
