//! What a provider says of itself: OpenID Connect Discovery 1.0 §4.

use serde::Deserialize;

use super::{
    token::{Claims, Keys},
    web::{Address, Web},
};
use crate::error::{Exit, Failure};

/// A provider's places.
#[derive(Debug)]
pub(crate) struct Provider {
    pub(crate) issuer: String,
    /// Of [`super::login`]: where a browser goes.
    pub(crate) authorization: Address,
    /// Of [`super::grant`].
    pub(crate) token: Address,
    /// Its keys.
    pub(crate) keys: Address,
    /// Of [`super::device`], where it has that.
    pub(crate) device: Option<Address>,
    /// RFC 7009.
    pub(crate) revocation: Option<Address>,
    /// OpenID Connect Core 1.0 §5.3.
    pub(crate) userinfo: Option<Address>,
    /// What can be asked for, where it says so.
    pub(crate) scopes: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Metadata {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
    device_authorization_endpoint: Option<String>,
    revocation_endpoint: Option<String>,
    userinfo_endpoint: Option<String>,
    scopes_supported: Option<Vec<String>>,
}

pub(crate) fn failed(issuer: &str, why: impl std::fmt::Display) -> Failure {
    let line = format!("the provider {issuer}: {why}; ask your administrator");
    Failure::new(Exit::Error, "PROVIDER", line)
}

impl Provider {
    /// Asks the provider of that issuer identifier.
    ///
    /// # Errors
    /// It does not answer, or with something else than its metadata.
    pub(crate) async fn discover(web: &Web, issuer: &str) -> Result<Self, Failure> {
        let base = issuer.trim_end_matches('/');
        let at = format!("{base}/.well-known/openid-configuration");
        let at: Address = at.parse().map_err(|error| failed(issuer, error))?;
        let answer = web.get(&at).await?;
        let metadata: Option<Metadata> = answer.json();
        let Some(metadata) = metadata.filter(|_| answer.status.is_success()) else {
            return Err(failed(
                issuer,
                "what is there is no OpenID Connect provider",
            ));
        };
        // §4.3: to the letter, or it could be anybody's.
        if metadata.issuer != issuer {
            let why = format!("it calls itself {:?}", metadata.issuer);
            return Err(failed(issuer, why));
        }
        let address = |text: String| text.parse().map_err(|error| failed(issuer, error));
        let maybe = |text: Option<String>| text.map(address).transpose();
        Ok(Self {
            authorization: address(metadata.authorization_endpoint)?,
            token: address(metadata.token_endpoint)?,
            keys: address(metadata.jwks_uri)?,
            device: maybe(metadata.device_authorization_endpoint)?,
            revocation: maybe(metadata.revocation_endpoint)?,
            userinfo: maybe(metadata.userinfo_endpoint)?,
            scopes: metadata.scopes_supported,
            issuer: metadata.issuer,
        })
    }

    /// What it says of whom it has given that access token to.
    ///
    /// # Errors
    /// It does not answer, has no such place, or says something else.
    pub(crate) async fn userinfo(&self, web: &Web, token: &str) -> Result<Claims, Failure> {
        let Some(at) = &self.userinfo else {
            return Err(failed(&self.issuer, "it has no userinfo endpoint"));
        };
        let answer = web.get_with(at, token).await?;
        let claims = answer.status.is_success().then(|| answer.json());
        claims
            .flatten()
            .ok_or_else(|| failed(&self.issuer, "its userinfo endpoint says nothing"))
    }

    /// The keys that it signs with now.
    ///
    /// # Errors
    /// It does not answer, or with something else.
    pub(crate) async fn keys(&self, web: &Web) -> Result<Keys, Failure> {
        let answer = web.get(&self.keys).await?;
        let keys = answer
            .status
            .is_success()
            .then(|| Keys::parse(&answer.body));
        keys.flatten()
            .ok_or_else(|| failed(&self.issuer, "its keys are none"))
    }
}
