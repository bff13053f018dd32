//! Clipboard and files in a terminal: what lines mean, and what is told.

use std::path::PathBuf;

use remora_proto::{
    exchange::files::{Over, Whose},
    identity::Role,
    session::{Command, Grants, Matter, Way},
};

use super::{
    screen::{Meaning, fenced},
    style::Style,
};
use crate::{
    event::Input,
    exchange::{Told, Wish},
};

/// How `/clipboard` and `/files` are used.
const GRANT_HELP: &str = "on, off, to-me, to-them; also `off to-me`, `off to-them`";

/// For `/help`.
pub(super) const HELP: &str = "/clipboard or /files on|off|to-me|to-them   /clipboard get   /send FILE   /accept NUMBER   /decline NUMBER   /withdraw NUMBER";

/// What a line after its slash means, if it is about these.
pub(super) fn slash(line: &str, role: Role) -> Option<Meaning> {
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    let number = |wish: fn(u32) -> Wish| {
        Some(match rest.parse() {
            Ok(number) => exchange(wish(number)),
            Err(_) => Meaning::Say(format!("/{word} NUMBER: that of the file")),
        })
    };
    match (word, rest) {
        ("clipboard", "get") => Some(exchange(Wish::Paste)),
        ("clipboard", _) => Some(grant(Matter::Clipboard, rest, role)),
        ("files", _) => Some(grant(Matter::Files, rest, role)),
        ("copy", text) => Some(exchange(Wish::Copy(text.to_owned().into()))),
        ("send", "") => Some(Meaning::Say("/send FILE: its path".into())),
        ("send", path) => Some(exchange(Wish::Send(PathBuf::from(path)))),
        ("accept", _) => number(Wish::Accept),
        ("withdraw", _) => number(Wish::Withdraw),
        // Without a number it answers what was asked.
        ("decline", rest) if !rest.is_empty() => number(Wish::Decline),
        _ => None,
    }
}

fn exchange(wish: Wish) -> Meaning {
    Meaning::Wish(Input::Exchange(wish))
}

fn grant(matter: Matter, rest: &str, role: Role) -> Meaning {
    let (on, whereto) = match rest.strip_prefix("off") {
        Some("") => (false, "on"),
        Some(whereto) => (false, whereto.trim()),
        None => (true, rest),
    };
    let grants = match whereto {
        "on" => Grants::both(matter),
        "to-me" => Grants::of(matter, Way::to(role)),
        "to-them" => Grants::of(matter, Way::to(role.peer())),
        _ => return Meaning::Say(format!("/{}: {GRANT_HELP}", matter.name())),
    };
    Meaning::Wish(Input::Session(Command::Grant { grants, on }))
}

/// `clipboard ← from them, files → to them`, of this side's person.
fn listed(grants: Grants, role: Role) -> String {
    let one = |(matter, way): (Matter, Way)| match way == Way::to(role) {
        true => format!("{} to you", matter.name()),
        false => format!("{} to them", matter.name()),
    };
    grants.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// What is granted now.
pub(super) fn granted(grants: Grants, role: Role, style: Style) -> String {
    match grants.is_empty() {
        true => style.good("Neither clipboard nor files are shared."),
        false => style.warn(&format!("Shared from now on: {}.", listed(grants, role))),
    }
}

/// Sharer: what the helper would like.
pub(super) fn wanted(grants: Grants, peer: &str, style: Style) -> String {
    let how: Vec<_> = grants
        .iter()
        .map(|(matter, way)| {
            let whereto = match way {
                Way::ToHelper => "to-them",
                Way::ToSharer => "to-me",
            };
            format!("/{} {whereto}", matter.name())
        })
        .collect();
    style.strong(&format!(
        "{peer} would like: {}.  {} allows it",
        listed(grants, Role::Sharer),
        how.join(" and ")
    ))
}

/// What was exchanged.
pub(super) fn told(told: &Told, peer: &str, style: Style) -> Vec<String> {
    match told {
        Told::FileOffered {
            whose: Whose::Theirs,
            number,
            offer,
        } => vec![style.strong(&format!(
            "{peer} offers a file: {} ({}).  /accept {number} or /decline {number}",
            fenced(offer.name.as_str()),
            size(offer.bytes)
        ))],
        Told::FileOffered {
            whose: Whose::Ours,
            number,
            offer,
        } => vec![style.dim(&format!(
            "Offered: {} ({}).  /withdraw {number} takes it back",
            fenced(offer.name.as_str()),
            size(offer.bytes)
        ))],
        // The bytes of the path badge grow; a line every moment would drive everything else away.
        Told::FileProgress { .. } => vec![],
        Told::FileOver {
            whose,
            offer,
            over,
            path,
            ..
        } => {
            let name = fenced(offer.name.as_str());
            vec![match (over, path, whose) {
                (Over::Received, Some(path), _) => style.good(&format!(
                    "File received: {}",
                    fenced(&path.to_string_lossy())
                )),
                (Over::Received, None, _) => style.good(&format!("{peer} has received {name}.")),
                (over, _, whose) => style.warn(&format!("{name}: {}.", why(*over, *whose))),
            }]
        }
        Told::ClipboardOffered(0) | Told::Portrait(_) => vec![],
        Told::ClipboardOffered(bytes) => vec![style.dim(&format!(
            "{peer} has copied text ({}); insert it, or /clipboard get shows it",
            size(u64::from(*bytes))
        ))],
        Told::Clipboard(text) => String::from_utf8_lossy(text)
            .lines()
            .map(|line| format!("{} {}", style.dim("clipboard │"), fenced(line)))
            .collect(),
    }
}

fn why(over: Over, whose: Whose) -> &'static str {
    match (over, whose) {
        (Over::Received, _) => "received",
        (Over::Declined, Whose::Ours) => "the other person does not want it",
        (Over::Declined, Whose::Theirs) => "you do not want it",
        (Over::Withdrawn, Whose::Ours) => "you took it back",
        (Over::Withdrawn, Whose::Theirs) => "the other person took it back",
        (Over::Changed, _) => "what came is not what was offered; it was thrown away",
        (Over::DiskFull, Whose::Ours) => "the other computer has no room for it",
        (Over::DiskFull, Whose::Theirs) => "there is no room for it on this computer's disk",
        (Over::TooMany, _) => "too many files are waiting there",
        (Over::Failed, Whose::Ours) => "it could not be sent",
        (Over::Failed, Whose::Theirs) => "it could not be written here, or read there",
    }
}

/// `512 bytes`, `1.5 MB`
fn size(bytes: u64) -> String {
    let mut left = bytes;
    let mut rest = 0;
    for unit in ["bytes", "kB", "MB", "GB", "TB"] {
        if left < 1000 {
            return match unit {
                "bytes" => format!("{left} bytes"),
                unit => format!("{left}.{rest} {unit}"),
            };
        }
        (left, rest) = (left / 1000, left % 1000 / 100);
    }
    format!("{left} PB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whereto_is_said_from_where_one_sits() {
        let wish = |line, role| match slash(line, role) {
            Some(Meaning::Wish(Input::Session(Command::Grant { grants, on }))) => (grants, on),
            other => panic!("{other:?}"),
        };
        let to_helper = Grants::of(Matter::Clipboard, Way::ToHelper);
        assert_eq!(wish("clipboard to-them", Role::Sharer), (to_helper, true));
        assert_eq!(wish("clipboard to-me", Role::Helper), (to_helper, true));
        assert_eq!(
            wish("clipboard off to-me", Role::Helper),
            (to_helper, false)
        );
        let files = Grants::both(Matter::Files);
        assert_eq!(wish("files on", Role::Sharer), (files, true));
        assert_eq!(wish("files off", Role::Sharer), (files, false));
        assert!(matches!(
            slash("files perhaps", Role::Sharer),
            Some(Meaning::Say(_))
        ));
    }

    #[test]
    fn a_number_is_a_files_and_none_answers_the_question() {
        assert_eq!(slash("decline", Role::Sharer), None);
        assert_eq!(
            slash("decline 3", Role::Sharer),
            Some(exchange(Wish::Decline(3)))
        );
        assert_eq!(
            slash("accept 1", Role::Helper),
            Some(exchange(Wish::Accept(1)))
        );
        assert!(matches!(
            slash("accept all", Role::Helper),
            Some(Meaning::Say(_))
        ));
        let path = PathBuf::from("/tmp/a b.txt");
        assert_eq!(
            slash("send /tmp/a b.txt", Role::Helper),
            Some(exchange(Wish::Send(path)))
        );
    }

    #[test]
    fn sizes_are_short() {
        for (bytes, words) in [
            (0, "0 bytes"),
            (999, "999 bytes"),
            (1_550, "1.5 kB"),
            (10_000_000, "10.0 MB"),
        ] {
            assert_eq!(size(bytes), words);
        }
    }
}
