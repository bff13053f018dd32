//! Clipboard and files, of one side: the other one says whatever it likes, grants come and go, and the shell does what it is told, or not.
//!
//! Input: whose side it is, then steps.
#![no_main]

use std::collections::BTreeSet;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use prost::Message;
use remora_proto::{
    exchange::{
        clipboard::{self, Clipboard, MAX_CLIPBOARD_BYTES},
        files::{self, Files, MAX_OFFERS, Over, Whose},
        name::{FileName, MAX_NAME_BYTES},
    },
    identity::Role,
    line::is_unsafe_in_line,
    session::{Grants, Matter, Way},
    wire::message::session::{self as schema, control::Body},
};
use remora_proto_fuzz::Script;

const STEPS: usize = 256;

fuzz_target!(|data: &[u8]| {
    let mut script = Script(data);
    let role = match script.flag() {
        true => Role::Helper,
        false => Role::Sharer,
    };
    let mut side = Side {
        clipboard: Clipboard::new(role),
        files: Files::new(role),
        grants: Grants::NONE,
        role,
        sending: BTreeSet::new(),
        coming: BTreeSet::new(),
    };
    for _ in 0..STEPS {
        if script.is_empty() {
            break;
        }
        side.step(&mut script);
        side.listen();
    }
});

struct Side {
    clipboard: Clipboard,
    files: Files,
    grants: Grants,
    role: Role,
    /// Files that are under way from here.
    sending: BTreeSet<u32>,
    /// Offers of the other side that are not over.
    coming: BTreeSet<u32>,
}

impl Side {
    fn may(&self, matter: Matter, to: Role) -> bool {
        self.grants.has(matter, Way::to(to))
    }

    fn step(&mut self, script: &mut Script<'_>) {
        let number = u32::from(script.byte() % 16);
        let word = u64::from(script.word());
        match script.byte() % 15 {
            0 => self.grant(script.byte()),
            1 => self
                .clipboard
                .handle_local(Bytes::copy_from_slice(script.short())),
            2 => {
                self.clipboard.handle_wanted().ok();
            }
            3 => self.clipboard.handle_sent(),
            4 => self
                .clipboard
                .handle_content(number, Bytes::copy_from_slice(script.short())),
            5 => {
                let offer = files::Offer {
                    name: FileName::new(&String::from_utf8_lossy(script.short())),
                    bytes: word,
                    hash: [script.byte(); 32],
                };
                let may = self.may(Matter::Files, self.role.peer());
                let offered = self.files.offer(&offer);
                assert!(offered.is_err() || may);
            }
            6 => {
                let may = self.may(Matter::Files, self.role);
                assert!(self.files.accept(number).is_err() || may);
            }
            7 => {
                let whose = whose(script);
                let known = self.files.knows(whose, number);
                assert_eq!(self.files.give_up(whose, number).is_ok(), known);
            }
            8 => {
                self.files.handle_prepared(number, word, [1; 32]);
            }
            9 => {
                self.files.handle_stream(number, word);
            }
            10 => {
                self.sending.remove(&number);
                self.files.handle_sent(number);
            }
            11 => self.files.handle_cut_off(number),
            12 => {
                let over = if script.flag() {
                    Over::Failed
                } else {
                    Over::Received
                };
                self.files.handle_over(whose(script), number, over);
            }
            13 => self.hear(&likely(script, number, word)),
            _ => {
                if let Ok(schema::Control { body: Some(body) }) =
                    schema::Control::decode(script.long())
                {
                    self.hear(&body);
                }
            }
        }
    }

    fn grant(&mut self, bits: u8) {
        let all = [
            (Matter::Clipboard, Way::ToHelper),
            (Matter::Clipboard, Way::ToSharer),
            (Matter::Files, Way::ToHelper),
            (Matter::Files, Way::ToSharer),
        ];
        let granted = (0..).zip(all).filter(|(n, _)| bits >> n & 1 == 1);
        self.grants = granted.fold(Grants::NONE, |sum, (_, (matter, way))| {
            sum | Grants::of(matter, way)
        });
        self.clipboard.handle_grants(self.grants);
        self.files.handle_grants(self.grants);
    }

    fn hear(&mut self, body: &Body) {
        self.clipboard.handle_message(body);
        self.files.handle_message(body);
    }

    /// Nothing leaves, and nothing comes, without a grant; nothing has a name that leads elsewhere.
    fn listen(&mut self) {
        while let Some(output) = self.clipboard.poll_output() {
            match output {
                clipboard::Output::Send { text, .. } => {
                    assert!(self.may(Matter::Clipboard, self.role.peer()));
                    assert!(text.len() <= MAX_CLIPBOARD_BYTES);
                }
                clipboard::Output::Came(text) => {
                    assert!(self.may(Matter::Clipboard, self.role));
                    assert!(std::str::from_utf8(&text).is_ok());
                }
                clipboard::Output::Offered(bytes) => {
                    assert!(self.may(Matter::Clipboard, self.role));
                    assert!(usize::try_from(bytes).is_ok_and(|bytes| bytes <= MAX_CLIPBOARD_BYTES));
                }
                clipboard::Output::Tell(_) | clipboard::Output::Withdrawn => {}
            }
        }
        while let Some(output) = self.files.poll_output() {
            match output {
                files::Output::Offered { number, offer } => {
                    assert!(self.may(Matter::Files, self.role));
                    check(&offer.name);
                    assert!(self.coming.insert(number), "a number is one file's");
                }
                files::Output::Prepare { number, .. } => {
                    assert!(self.may(Matter::Files, self.role) && self.coming.contains(&number));
                }
                files::Output::Send { number, .. } => {
                    assert!(self.may(Matter::Files, self.role.peer()));
                    assert!(self.sending.insert(number), "once at a time");
                    assert_eq!(self.sending.len(), 1, "one at a time");
                }
                files::Output::Stop { whose, number } => {
                    if whose == Whose::Ours {
                        self.sending.remove(&number);
                    }
                }
                files::Output::Over { whose, number, .. } => match whose {
                    Whose::Ours => {
                        self.sending.remove(&number);
                    }
                    Whose::Theirs => {
                        self.coming.remove(&number);
                    }
                },
                files::Output::Tell(_) => {}
            }
        }
        assert!(self.coming.len() <= MAX_OFFERS);
    }
}

fn whose(script: &mut Script<'_>) -> Whose {
    match script.flag() {
        true => Whose::Ours,
        false => Whose::Theirs,
    }
}

/// What an honest side could say, at any moment.
fn likely(script: &mut Script<'_>, number: u32, word: u64) -> Body {
    let bytes = u32::try_from(word).unwrap_or(u32::MAX);
    match script.byte() % 5 {
        0 => Body::ClipboardOffer(schema::ClipboardOffer { number, bytes }),
        1 => Body::ClipboardRequest(schema::ClipboardRequest { number }),
        2 => Body::FileOffer(schema::FileOffer {
            number,
            name: String::from_utf8_lossy(script.short()).into_owned(),
            bytes: word,
            hash: Bytes::from_static(&[2; 32]),
        }),
        3 => Body::FileAccept(schema::FileAccept {
            number,
            offset: word,
            hash: Bytes::from_static(&[2; 32]),
        }),
        _ => Body::FileEnd(schema::FileEnd {
            number,
            yours: script.flag(),
            reason: i32::from(script.byte() % 9),
        }),
    }
}

/// A single name in whatever folder.
fn check(name: &FileName) {
    let text = name.as_str();
    assert!(!text.is_empty() && text.len() <= MAX_NAME_BYTES);
    assert!(!text.contains(['/', '\\', '\0', ':']) && !text.contains(is_unsafe_in_line));
    assert!(!text.starts_with('.') && !text.ends_with(['.', ' ']));
    assert_eq!(FileName::new(text), *name);
}
