//! Settings that are read again while a relay runs: what changes at once, and what has to wait for a restart.

use std::env;

use tracing::Level;

use super::{
    Live, ServeArgs,
    layers::{self, LoadError, Loaded, Value},
};
use crate::admin::token::AdminToken;

/// Says how much is logged, which can be changed, too.
const LOG: &str = "log";

/// Reads again what a relay was started with.
#[derive(Debug)]
pub struct Reload {
    /// What holds, or will once it is started again.
    known: Loaded,
}

/// What is to be done.
#[derive(Debug)]
pub struct Change {
    /// From now on.
    pub live: Live,
    /// From now on.
    pub log: Level,
    /// Keys that were changed by this.
    pub changed: Vec<String>,
    /// Keys that say something else than before, and count from the next start.
    pub at_next_start: Vec<String>,
}

impl Reload {
    /// Of a relay that was started with this.
    pub fn new(started: Loaded) -> Self {
        Self { known: started }
    }

    /// What holds, or will once it is started again.
    pub fn values(&self) -> &[Value] {
        &self.known.values
    }

    /// Reads the environment's file and all else again.
    ///
    /// # Errors
    /// Everything that is wrong; then nothing is to be changed.
    pub fn read(&mut self) -> Result<Change, Vec<String>> {
        let loaded = layers::load(env::args_os()).map_err(|error| match error {
            LoadError::CommandLine(error) => vec![layers::mistake(&error)],
            LoadError::Problems(problems) => problems.iter().map(ToString::to_string).collect(),
        })?;
        let Some(serve) = loaded.args.serving() else {
            return Err(vec!["these are no settings of a relay".to_owned()]);
        };
        let (live, log) = (live(serve)?, serve.log);
        let different = loaded.values.iter().zip(&self.known.values);
        let different = different.filter(|(value, before)| value.typed != before.typed);
        let different = different.map(|(value, _)| value.key.clone());
        let (changed, at_next_start) =
            different.partition(|key| key == LOG || Live::KEYS.contains(&&**key));
        self.known = loaded;
        Ok(Change {
            live,
            log,
            changed,
            at_next_start,
        })
    }
}

/// The token may be another one in the same file.
fn live(serve: &ServeArgs) -> Result<Live, Vec<String>> {
    let token = serve.admin_token_file.as_deref().map(AdminToken::load);
    let token = token.transpose().map_err(|error| vec![error.to_string()])?;
    Ok(Live::new(serve, token))
}
