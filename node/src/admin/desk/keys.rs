//! Tokens that the provider has signed: its keys are kept for some minutes, and asked for again when a token names one that is not among
//! them. Strangers name keys, too, and device codes; so the provider is asked so many times a minute and no more.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use remora_proto::org::desk::Desk;
use tokio::sync::Mutex;

use super::refusal::Refusal;
use crate::{
    error::Failure,
    oidc::{
        device::GRANT_TYPE,
        grant::{Client, Grant, NoGrant},
        provider::Provider,
        token::{Expected, Invalid, Keys, Token, verify},
        web::Web,
    },
};

/// A key that the provider has withdrawn is believed for no longer.
const KEEP: Duration = Duration::from_secs(600);
/// In which so much is done and no more.
const WINDOW: Duration = Duration::from_secs(60);
/// A provider changes its keys every few weeks.
const MAX_LOOKS: u32 = 6;
/// Twenty people with a device code each ask twelve times.
const MAX_EXCHANGES: u32 = 240;

/// Checks tokens of one provider, for one client.
pub(super) struct Verifier {
    web: Web,
    desk: Desk,
    /// Held while the provider is asked for keys: one question at a time, and who waits for it has the answer.
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    keys: Option<(Arc<Keys>, Instant)>,
    looks: Used,
    exchanges: Used,
}

/// How often something was done in this [`WINDOW`].
#[derive(Default)]
struct Used {
    since: Option<Instant>,
    times: u32,
}

impl Used {
    /// Whether it may be done once more.
    fn once_more(&mut self, max: u32, now: Instant) -> bool {
        if self.since.is_none_or(|since| now >= since + WINDOW) {
            self.since = Some(now);
            self.times = 0;
        }
        let may = self.times < max;
        self.times += u32::from(may);
        may
    }
}

impl Verifier {
    pub(super) fn new(desk: &Desk) -> Self {
        Self {
            web: Web::default(),
            desk: desk.clone(),
            known: Mutex::default(),
        }
    }

    /// Whether the token is to be believed, at that time in seconds since 1970.
    pub(super) async fn verify(
        &self,
        token: &str,
        nonce: &str,
        now: u64,
    ) -> Result<Token, Refusal> {
        let expected = Expected {
            issuer: &self.desk.provider,
            client_id: &self.desk.client_id,
            nonce,
            now,
        };
        let (keys, of) = self.keys(None).await.map_err(Refusal::Provider)?;
        match verify(token, &keys, expected) {
            Err(Invalid::UnknownKey) => {
                let (keys, _) = self.keys(Some(of)).await.map_err(Refusal::Provider)?;
                Ok(verify(token, &keys, expected)?)
            }
            verified => Ok(verified?),
        }
    }

    /// With what the provider's userinfo endpoint says of the same person and the token does not.
    pub(super) async fn complete(&self, token: Token, access: &str) -> Result<Token, Refusal> {
        let provider = Provider::discover(&self.web, &self.desk.provider).await;
        let provider = provider.map_err(Refusal::Provider)?;
        let more = provider.userinfo(&self.web, access).await;
        let more = more.map_err(Refusal::Provider)?;
        // OpenID Connect Core 1.0 §5.3.2: or it could be somebody else's access token.
        if more.get("sub").is_none() || more.get("sub") != token.claims.get("sub") {
            return Err(Refusal::OtherUserinfo);
        }
        let mut claims = more;
        claims.extend(token.claims);
        Ok(Token { claims, ..token })
    }

    /// What the provider gives for a device code.
    pub(super) async fn exchange(&self, device_code: &str) -> Result<Grant, Refusal> {
        let mut held = self.known.lock().await;
        let may = held.exchanges.once_more(MAX_EXCHANGES, Instant::now());
        drop(held);
        if !may {
            return Err(Refusal::Busy);
        }
        let provider = Provider::discover(&self.web, &self.desk.provider).await;
        let client = Client {
            web: &self.web,
            provider: &provider.map_err(Refusal::Provider)?,
            desk: &self.desk,
        };
        let fields = [("grant_type", GRANT_TYPE), ("device_code", device_code)];
        match client.tokens(&fields).await {
            Ok(grant) => Ok(grant),
            Err(NoGrant::Failure(failure)) => Err(Refusal::Provider(failure)),
            Err(NoGrant::Denied(denied)) => Err(match denied.error.as_str() {
                "authorization_pending" => Refusal::Pending,
                "slow_down" => Refusal::SlowDown,
                "access_denied" => Refusal::Declined,
                "expired_token" => Refusal::TimedOut,
                _ => Refusal::Malformed,
            }),
        }
    }

    /// The provider's keys; newer ones than of `known`, if it may be asked.
    async fn keys(&self, known: Option<Instant>) -> Result<(Arc<Keys>, Instant), Failure> {
        let mut held = self.known.lock().await;
        let now = Instant::now();
        let kept = held.keys.clone();
        if let Some((keys, of)) = kept.filter(|(_, of)| now < *of + KEEP) {
            let is_newer = known.is_none_or(|known| of > known);
            if is_newer || !held.looks.once_more(MAX_LOOKS, now) {
                return Ok((keys, of));
            }
        }
        let provider = Provider::discover(&self.web, &self.desk.provider).await?;
        let keys = Arc::new(provider.keys(&self.web).await?);
        held.keys = Some((Arc::clone(&keys), now));
        Ok((keys, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_have_the_provider_asked_a_few_times_a_minute() {
        let mut used = Used::default();
        let now = Instant::now();
        let times = |used: &mut Used, at| (0..100).filter(|_| used.once_more(6, at)).count();
        assert_eq!(times(&mut used, now), 6);
        let last = now + WINDOW - Duration::from_millis(1);
        assert_eq!(times(&mut used, last), 0);
        assert_eq!(times(&mut used, now + WINDOW), 6);
    }
}
