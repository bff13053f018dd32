//! In a browser elsewhere, where this computer has none: RFC 8628.
//!
//! Providers repeat no nonce in what they give for a device code. So it is not the computer that asks for the token, but the desk: who has
//! the code has begun, and there is no token that anybody else could bring.

use std::time::Duration;

use serde::Deserialize;
use tokio::time::{Instant, sleep, timeout_at};

use super::{
    grant::{Client, Denied, timed_out},
    login::PATIENCE,
    provider::failed,
    secret::Secret,
};
use crate::error::{Exit, Failure};

/// RFC 8628 §3.2, when the provider does not say.
const INTERVAL: Duration = Duration::from_secs(5);
/// RFC 8628 §3.5: each time it is told to slow down.
const SLOWER: Duration = Duration::from_secs(5);
/// Whatever a provider says.
const MAX_INTERVAL: Duration = Duration::from_secs(60);
/// Of the token request (RFC 8628 §3.4).
pub(crate) const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:device_code";
/// A failure's code: nobody has signed in yet.
pub(crate) const PENDING: &str = "PENDING";
/// A failure's code: the same, and it was asked too often.
pub(crate) const SLOW_DOWN: &str = "SLOW_DOWN";
/// Longest address and code that are shown.
const MAX_SHOWN_BYTES: usize = 300;

/// What the person is shown, and what is asked with meanwhile.
pub(crate) struct DeviceLogin {
    device_code: Secret,
    interval: Duration,
    until: Instant,
    /// Where to go with any browser.
    pub(crate) url: String,
    /// What to type there.
    pub(crate) user_code: String,
}

#[derive(Deserialize)]
struct Answer {
    device_code: Secret,
    user_code: String,
    verification_uri: String,
    expires_in: u64,
    interval: Option<u64>,
}

impl DeviceLogin {
    /// Asks for a code.
    ///
    /// # Errors
    /// The provider gives none.
    pub(crate) async fn begin(client: &Client<'_>) -> Result<Self, Failure> {
        let issuer = &client.provider.issuer;
        let Some(at) = &client.provider.device else {
            let line = format!(
                "{issuer} has no device codes; sign in on a computer with a browser, without --device-code"
            );
            return Err(Failure::new(Exit::Error, "NO_DEVICE_CODE", line));
        };
        let scope = client.scope();
        let answer = client.post(at, &[("scope", &scope)]).await?;
        if !answer.status.is_success() {
            let denied: Denied = answer.json().unwrap_or_default();
            return Err(denied.into_failure(issuer));
        }
        let given: Option<Answer> = answer.json();
        let given = given.filter(|given| {
            [&given.user_code, &given.verification_uri]
                .into_iter()
                .all(|text| is_shown(text))
        });
        let Some(given) = given else {
            return Err(failed(issuer, "its device code is none"));
        };
        let interval = given.interval.map_or(INTERVAL, Duration::from_secs);
        let life = Duration::from_secs(given.expires_in).min(PATIENCE);
        Ok(Self {
            device_code: given.device_code,
            interval: interval.min(MAX_INTERVAL),
            until: Instant::now() + life,
            url: given.verification_uri,
            user_code: given.user_code,
        })
    }

    /// Waits for the person, as long as the code lives: shows it to the desk again and again, which asks the provider.
    ///
    /// # Errors
    /// Nobody came, the person, the provider or the desk said no.
    pub(crate) async fn finish<T>(
        self,
        hand_in: impl AsyncFn(&str) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        timeout_at(self.until, self.poll(hand_in))
            .await
            .unwrap_or_else(|_| Err(timed_out()))
    }

    async fn poll<T>(
        &self,
        hand_in: impl AsyncFn(&str) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let mut interval = self.interval;
        loop {
            sleep(interval).await;
            match hand_in(&self.device_code).await {
                Err(failure) if failure.code == PENDING => {}
                Err(failure) if failure.code == SLOW_DOWN => interval += SLOWER,
                // RFC 8628 §3.5: a lost packet ends nothing.
                Err(failure) if failure.exit == Exit::Offline => interval *= 2,
                handed => return handed,
            }
            interval = interval.min(MAX_INTERVAL);
        }
    }
}

/// What may be written to a terminal.
fn is_shown(text: &str) -> bool {
    (1..=MAX_SHOWN_BYTES).contains(&text.len())
        && text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}
