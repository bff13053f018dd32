//! The log for programs: a line of JSON for each event, and in each the relay's name, so that the lines of a fleet can be told apart where
//! they are kept together. What is said of a session stands in its span, `session`, with the id by which an operator knows it.

use std::{io, sync::Arc};

use tracing_subscriber::fmt::MakeWriter;

/// Writes to stderr, with a name at the beginning of each line.
#[derive(Clone, Debug)]
pub struct Named {
    /// What an object begins with.
    beginning: Arc<str>,
}

impl Named {
    /// With this relay's name.
    pub fn new(relay: &str) -> Self {
        let beginning = format!("{{\"relay\":{},", serde_json::Value::from(relay));
        Self {
            beginning: beginning.into(),
        }
    }

    fn line(&self, object: &[u8]) -> Vec<u8> {
        match object.strip_prefix(b"{") {
            Some(rest) => [self.beginning.as_bytes(), rest].concat(),
            None => object.to_vec(),
        }
    }
}

impl<'a> MakeWriter<'a> for Named {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

/// One event is written at once.
impl io::Write for &Named {
    fn write(&mut self, object: &[u8]) -> io::Result<usize> {
        io::Write::write_all(&mut io::stderr(), &self.line(object))?;
        Ok(object.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::Write::flush(&mut io::stderr())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_has_the_name_whatever_that_is() {
        for name in ["fra-1", "a \"b\"\\", "ü"] {
            let line = Named::new(name).line(b"{\"level\":\"INFO\"}\n");
            let object: serde_json::Value = serde_json::from_slice(&line).expect("JSON");
            assert_eq!(
                (&object["relay"], &object["level"]),
                (&name.into(), &"INFO".into())
            );
        }
        assert_eq!(Named::new("x").line(b"text"), b"text");
    }
}
