//! Colours, only where a person looks at them.

use std::{env, io::IsTerminal};

/// Whether to use colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    colours: bool,
}

impl Style {
    /// Colours when standard error is a terminal, `NO_COLOR` (no-color.org) is not set and the terminal is not dumb.
    pub fn detect() -> Self {
        let unwanted = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            colours: std::io::stderr().is_terminal() && !unwanted && !dumb,
        }
    }

    /// No colours.
    pub fn plain() -> Self {
        Self { colours: false }
    }

    /// Whether there are any.
    pub fn has_colours(self) -> bool {
        self.colours
    }

    fn paint(self, sgr: &str, text: &str) -> String {
        if self.colours {
            format!("\x1b[{sgr}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// What matters most.
    pub fn strong(self, text: &str) -> String {
        self.paint("1", text)
    }

    /// What may be overlooked.
    pub fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    /// Something to be glad about.
    pub fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    /// Something to look at.
    pub fn warn(self, text: &str) -> String {
        self.paint("33", text)
    }

    /// Danger.
    pub fn bad(self, text: &str) -> String {
        self.paint("1;31", text)
    }
}
