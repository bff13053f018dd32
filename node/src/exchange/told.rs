//! What a person or a script is told of what is exchanged, and what they may wish.

use std::{fs::File, path::PathBuf, sync::Arc};

use bytes::Bytes;
use data_encoding::{BASE64, HEXLOWER};
use remora_proto::{
    exchange::files::{Offer, Over, Whose},
    identity::Role,
    session::{Grants, Matter, Way},
};
use serde_json::{Value, json};

/// What a person wants.
#[derive(Clone, Debug, PartialEq)]
pub enum Wish {
    /// Offers a file.
    Send(PathBuf),
    /// Offers one that has been given, and stands nowhere on this disk.
    Give(Given),
    /// Takes one of the other side's.
    Accept(u32),
    /// Does not want one of the other side's, or not any more.
    Decline(u32),
    /// Takes back one of this side's.
    Withdraw(u32),
    /// Has this text on the clipboard.
    Copy(Bytes),
    /// Wants the text on the other side's clipboard.
    Paste,
}

/// A file that a page has given: open, and without a name on this disk, so that nothing is left of it when it is closed.
#[derive(Clone, Debug)]
pub struct Given {
    /// As it is called where it comes from.
    pub name: String,
    /// Its bytes.
    pub file: Arc<File>,
}

impl PartialEq for Given {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && Arc::ptr_eq(&self.file, &other.file)
    }
}

impl Wish {
    /// Whether a file goes somewhere by it: at the sharer's computer, that is the sharer's to say.
    pub fn moves_file(&self) -> bool {
        match self {
            Self::Send(_) | Self::Give(_) | Self::Accept(_) => true,
            Self::Decline(_) | Self::Withdraw(_) | Self::Copy(_) | Self::Paste => false,
        }
    }
}

/// Something that was exchanged, or is to be.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    /// A file is offered.
    FileOffered {
        /// By whom.
        whose: Whose,
        /// Of the offer; each side counts its own.
        number: u32,
        /// What.
        offer: Offer,
    },
    /// A file is under way; a few times a second at most.
    FileProgress {
        /// Whose offer.
        whose: Whose,
        /// Its number.
        number: u32,
        /// So many bytes are there.
        done: u64,
        /// Of so many.
        bytes: u64,
    },
    /// Nothing more comes of an offer.
    FileOver {
        /// Whose.
        whose: Whose,
        /// Its number.
        number: u32,
        /// What was offered.
        offer: Offer,
        /// Why.
        over: Over,
        /// Where it is, if it came.
        path: Option<PathBuf>,
    },
    /// The other side has text on its clipboard, of so many bytes; 0: none any more.
    ClipboardOffered(u32),
    /// This is it; UTF-8.
    Clipboard(Bytes),
    /// The picture on the other's card, as PNG.
    Portrait(Bytes),
}

/// For scripts.
pub fn grants_json(grants: Grants) -> Value {
    let names = grants
        .iter()
        .map(|(matter, way)| format!("{}_{}", matter.name(), way.name()));
    names.collect()
}

/// `clipboard ←→ · files →`, of the person of that role: to the right is away.
pub fn signs(grants: Grants, role: Role) -> String {
    let sign = |matter: Matter| {
        let has = |way| grants.has(matter, way);
        let arrows = match (has(Way::to(role)), has(Way::to(role.peer()))) {
            (false, false) => return None,
            (true, false) => "←",
            (false, true) => "→",
            (true, true) => "←→",
        };
        Some(format!("{} {arrows}", matter.name()))
    };
    let signs = [Matter::Clipboard, Matter::Files].into_iter();
    signs.filter_map(sign).collect::<Vec<_>>().join(" · ")
}

fn direction(whose: Whose) -> &'static str {
    match whose {
        Whose::Ours => "out",
        Whose::Theirs => "in",
    }
}

impl Told {
    /// As `--json` prints it.
    pub fn to_json(&self) -> Value {
        match self {
            Self::FileOffered {
                whose,
                number,
                offer,
            } => json!({
                "event": "file_offered", "direction": direction(*whose), "number": number,
                "name": offer.name.as_str(), "bytes": offer.bytes, "sha256": HEXLOWER.encode(&offer.hash),
            }),
            Self::FileProgress {
                whose,
                number,
                done,
                bytes,
            } => json!({
                "event": "file_progress", "direction": direction(*whose), "number": number, "done": done, "bytes": bytes,
            }),
            Self::FileOver {
                whose,
                number,
                offer,
                over,
                path,
            } => json!({
                "event": "file_over", "direction": direction(*whose), "number": number,
                "name": offer.name.as_str(), "bytes": offer.bytes, "code": over.name(),
                "path": path.as_ref().map(|path| path.to_string_lossy()),
            }),
            Self::ClipboardOffered(bytes) => json!({"event": "clipboard_offered", "bytes": bytes}),
            Self::Clipboard(text) => {
                json!({"event": "clipboard", "text": String::from_utf8_lossy(text)})
            }
            Self::Portrait(png) => json!({"event": "picture", "png": BASE64.encode(png)}),
        }
    }
}
