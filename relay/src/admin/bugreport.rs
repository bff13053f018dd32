//! All that is known of a relay, as one text that can be sent to somebody: what it is, what it was told, what is wrong, what it counts,
//! and the last lines of its log. Nothing secret is in any of them: settings name the files of keys and tokens, not what is in these; of
//! nodes there are counts.

use std::fmt::Write as _;

use crate::health::Finding;

/// The parts of a report.
#[derive(Clone, Debug, Default)]
pub struct Report {
    text: String,
}

impl Report {
    /// One that says what it is.
    pub fn new() -> Self {
        let mut report = Self::default();
        let version = env!("CARGO_PKG_VERSION");
        let commit = env!("REMORA_COMMIT");
        let system = std::env::consts::OS;
        let machine = std::env::consts::ARCH;
        report.add(
            "remora-relay",
            &format!("version {version}\ncommit {commit}\nsystem {system} {machine}\n"),
        );
        report
    }

    /// A part with its heading.
    pub fn add(&mut self, heading: &str, text: &str) {
        // Into a String, which never fails.
        writeln!(self.text, "=== {heading} ===\n{text}").ok();
    }

    /// What was looked at.
    pub fn add_findings(&mut self, found: &[Finding]) {
        let lines = found.iter().map(Finding::line);
        self.add("doctor", &lines.collect::<String>());
    }

    /// The whole.
    pub fn into_text(self) -> String {
        self.text
    }
}
