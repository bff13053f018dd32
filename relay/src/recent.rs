//! The last lines of the log, for whoever has to find out what went wrong and was not there: what operators see anyway, at most at INFO,
//! whatever the log's level is. So there is no address of a person in it, no key, no code.

use std::{
    collections::VecDeque,
    fmt, io,
    sync::{Arc, Mutex, PoisonError},
};

use tracing_subscriber::fmt::MakeWriter;

/// Some hours of a quiet relay, some minutes of a busy one.
const MAX_LINES: usize = 1000;
/// What is longer is cut.
const MAX_LINE_BYTES: usize = 1024;

/// The lines. Clones share them.
#[derive(Clone, Default)]
pub struct Recent(Arc<Mutex<VecDeque<String>>>);

impl fmt::Debug for Recent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recent(…)")
    }
}

impl Recent {
    /// All of them, oldest first, each with its end.
    pub fn text(&self) -> String {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().flat_map(|line| [line, "\n"]).collect()
    }

    fn add(&self, line: &str) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == MAX_LINES {
            lines.pop_front();
        }
        let ends = line.char_indices().map(|(at, c)| at + c.len_utf8());
        let end = ends.take_while(|&end| end <= MAX_LINE_BYTES).last();
        lines.push_back(line[..end.unwrap_or(0)].to_owned());
    }
}

/// One event of the log is written at once.
impl io::Write for &Recent {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for line in String::from_utf8_lossy(bytes).lines() {
            self.add(line);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Recent {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn the_last_lines_are_kept_and_none_is_long() {
        let recent = Recent::default();
        for n in 0..=MAX_LINES {
            let line = format!("line {n}\n");
            (&recent).write_all(line.as_bytes()).expect("it is memory");
        }
        let text = recent.text();
        assert_eq!(text.lines().count(), MAX_LINES);
        assert_eq!(text.lines().next(), Some("line 1"));
        (&recent)
            .write_all("é".repeat(MAX_LINE_BYTES).as_bytes())
            .expect("it is memory");
        let text = recent.text();
        assert_eq!(text.lines().last().map(str::len), Some(MAX_LINE_BYTES));
    }
}
