//! What a file may be called here, whatever the other side calls it: always a single name in the folder it is put into, on every
//! system, that looks like what it is.

use std::fmt;

use crate::line::is_unsafe_in_line;

/// Longest name in bytes: file systems take 255, and ` (123)` and the like have to fit, too.
pub const MAX_NAME_BYTES: usize = 200;
/// Longest that a peer may send.
pub const MAX_OFFERED_NAME_BYTES: usize = 255;
/// Longest ending that is kept when a name is cut.
const MAX_ENDING_BYTES: usize = 20;
/// When nothing is left of it.
const NAMELESS: &str = "file";

/// Names of devices on Windows, with any ending (Naming Files, Paths, and Namespaces; learn.microsoft.com).
const DEVICES: [&str; 6] = ["con", "prn", "aux", "nul", "conin$", "conout$"];

/// A name that is safe to create in a folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileName(String);

impl FileName {
    /// Makes one of what a peer or a path says: the last part of a path, without what no name should hold.
    pub fn new(said: &str) -> Self {
        let last = said.rsplit(['/', '\\']).next().unwrap_or_default();
        let kept: String = last
            .chars()
            .filter(|&c| !is_unsafe_in_line(c) && !is_invisible(c))
            .map(|c| if "<>:\"|?*".contains(c) { '_' } else { c })
            .collect();
        // A leading dot hides it; dots and spaces at the end are lost on Windows.
        let at_edge = |c: char| c == '.' || c.is_whitespace();
        let name = match kept.trim_matches(at_edge) {
            "" => NAMELESS.to_owned(),
            name if is_device(name) => cut(&format!("_{name}")),
            name => cut(name),
        };
        Self(name.trim_matches(at_edge).to_owned())
    }

    /// As it stands.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same for another file, when this one is taken: `report (2).pdf`.
    #[must_use]
    pub fn numbered(&self, number: u32) -> Self {
        let (stem, ending) = self.split();
        Self(format!("{stem} ({number}){ending}"))
    }

    /// The part before the last dot, and the rest; a dot alone in front is none.
    fn split(&self) -> (&str, &str) {
        let dot = self.0.rfind('.').filter(|&at| at > 0);
        self.0.split_at(dot.unwrap_or(self.0.len()))
    }
}

/// Marks that change how neighbours are shown, or nothing: `invoice\u{061c}fdp.exe` would not look like what it is.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200c}'..='\u{200f}' | '\u{2060}'..='\u{2065}' | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e007f}')
}

fn is_device(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or_default();
    let stem = stem.trim_end().to_lowercase();
    let numbered = |of: &str| {
        stem.strip_prefix(of).is_some_and(|rest| {
            let mut digits = rest.chars();
            let one = matches!(digits.next(), Some('0'..='9' | '¹' | '²' | '³'));
            one && digits.next().is_none()
        })
    };
    DEVICES.contains(&stem.as_str()) || numbered("com") || numbered("lpt")
}

/// Shortens the part before the ending.
fn cut(name: &str) -> String {
    if name.len() <= MAX_NAME_BYTES {
        return name.to_owned();
    }
    let ending = name.rfind('.').map_or("", |at| &name[at..]);
    let ending = if ending.len() <= MAX_ENDING_BYTES {
        ending
    } else {
        ""
    };
    let mut end = MAX_NAME_BYTES - ending.len();
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{ending}", &name[..end])
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(said: &str) -> String {
        FileName::new(said).0
    }

    #[test]
    fn ordinary_names_stay_as_they_are() {
        for name in [
            "report.pdf",
            "Übersicht 2026.tar.gz",
            "漢字.txt",
            "a-b_c (1)",
            "no ending",
        ] {
            assert_eq!(made(name), name);
        }
    }

    #[test]
    fn nothing_of_a_path_is_left() {
        for (said, name) in [
            ("/etc/passwd", "passwd"),
            ("../../.ssh/authorized_keys", "authorized_keys"),
            ("..\\..\\boot.ini", "boot.ini"),
            (".bashrc", "bashrc"),
            ("...", "file"),
            ("", "file"),
            ("folder/", "file"),
            ("a\0b\nc", "abc"),
            ("C:evil", "C_evil"),
        ] {
            assert_eq!(made(said), name, "{said:?}");
        }
    }

    #[test]
    fn what_would_look_like_something_else_does_not() {
        assert_eq!(made("invoice\u{202e}fdp.exe"), "invoicefdp.exe");
        assert_eq!(made("a\u{200f}\u{61c}b.txt"), "ab.txt");
        assert_eq!(made("x.exe   ..."), "x.exe");
    }

    #[test]
    fn names_of_devices_are_none() {
        for said in ["con", "NUL.txt", "com1", "LPT9.x.y", "aux ", "COM².log"] {
            assert!(made(said).starts_with('_'), "{said}");
        }
        assert_eq!(made("console.log"), "console.log");
        assert_eq!(made("com10"), "com10");
    }

    #[test]
    fn a_long_name_keeps_its_ending() {
        let name = made(&format!("{}.pdf", "ä".repeat(150)));
        assert!(name.len() <= MAX_NAME_BYTES && name.ends_with("ä.pdf"));
        let name = made(&"ä".repeat(150));
        assert!(name.len() <= MAX_NAME_BYTES);
    }

    #[test]
    fn a_second_one_is_numbered_before_its_ending() {
        assert_eq!(FileName::new("a.b.pdf").numbered(2).as_str(), "a.b (2).pdf");
        assert_eq!(FileName::new("readme").numbered(3).as_str(), "readme (3)");
    }
}
