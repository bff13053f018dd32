//! Tokens out of codes, at the provider's token endpoint (RFC 6749 §5).

use remora_proto::org::desk::Desk;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{
    provider::{Provider, failed},
    secret::Secret,
    web::{Address, FORM, Web},
};
use crate::{
    error::{Exit, Failure},
    http::Answer,
};

/// The scope that gives a refresh token (OpenID Connect Core 1.0 §11).
pub(crate) const OFFLINE: &str = "offline_access";

/// This program at that provider.
pub(crate) struct Client<'a> {
    pub(crate) web: &'a Web,
    pub(crate) provider: &'a Provider,
    pub(crate) desk: &'a Desk,
}

/// What the provider gives.
#[derive(Debug)]
pub(crate) struct Grant {
    pub(crate) id_token: Secret,
    /// For the userinfo endpoint.
    pub(crate) access_token: Option<Secret>,
    /// With which it gives the next one, without asking anybody.
    pub(crate) refresh_token: Option<Secret>,
}

#[derive(Deserialize)]
struct Given {
    id_token: Option<Secret>,
    access_token: Option<Secret>,
    refresh_token: Option<Secret>,
}

/// RFC 6749 §5.2, RFC 8628 §3.5.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Denied {
    #[serde(default)]
    pub(crate) error: String,
}

/// What came instead of tokens.
#[derive(Debug)]
pub(crate) enum NoGrant {
    /// The provider says why.
    Denied(Denied),
    /// Nobody answers.
    Failure(Failure),
}

impl From<Failure> for NoGrant {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl NoGrant {
    /// As a person gets to see it.
    pub(crate) fn into_failure(self, issuer: &str) -> Failure {
        match self {
            Self::Failure(failure) => failure,
            Self::Denied(denied) => denied.into_failure(issuer),
        }
    }
}

impl Denied {
    /// As a person gets to see it.
    pub(crate) fn into_failure(self, issuer: &str) -> Failure {
        match self.error.as_str() {
            "access_denied" => Failure::new(
                Exit::Declined,
                "SIGN_IN_DECLINED",
                format!("{issuer} was told no; run `remora sign-in` to try again"),
            ),
            "expired_token" => timed_out(),
            "invalid_grant" | "interaction_required" | "login_required" => Failure::new(
                Exit::NotPermitted,
                "SIGN_IN_ENDED",
                format!("{issuer} does not know you any more; run `remora sign-in`"),
            ),
            // Words of ours, or of whoever is there: not more than a name's.
            other => {
                let name: String = other
                    .chars()
                    .filter(|c| c.is_ascii_lowercase() || *c == '_')
                    .take(40)
                    .collect();
                failed(issuer, format!("it refuses to sign you in ({name})"))
            }
        }
    }
}

/// Nobody has signed in by then.
pub(crate) fn timed_out() -> Failure {
    Failure::new(
        Exit::TimedOut,
        "SIGN_IN_TIMEOUT",
        "nobody has signed in in time; run `remora sign-in` to try again",
    )
}

impl Client<'_> {
    /// With the fields that every request has.
    fn form(&self, fields: &[(&str, &str)]) -> Zeroizing<String> {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("client_id", &self.desk.client_id);
        if let Some(secret) = &self.desk.client_secret {
            form.append_pair("client_secret", secret);
        }
        form.extend_pairs(fields);
        Zeroizing::new(form.finish())
    }

    /// What is asked for, as one word. Some providers refuse everything when they are asked for what lasts.
    pub(crate) fn scope(&self) -> String {
        let supported = self.provider.scopes.as_ref();
        let has = |scope: &str| supported.is_none_or(|all| all.iter().any(|one| one == scope));
        let scopes = self.desk.scopes.iter().map(String::as_str);
        let asked: Vec<_> = scopes
            .filter(|scope| *scope != OFFLINE || has(scope))
            .collect();
        asked.join(" ")
    }

    /// Brings a form there.
    pub(crate) async fn post(
        &self,
        at: &Address,
        fields: &[(&str, &str)],
    ) -> Result<Answer, Failure> {
        let form = self.form(fields);
        let answer = self.web.post(at, FORM, form.as_bytes().to_vec()).await;
        Ok(answer?)
    }

    /// Asks for tokens.
    ///
    /// # Errors
    /// The provider does not give any.
    pub(crate) async fn tokens(&self, fields: &[(&str, &str)]) -> Result<Grant, NoGrant> {
        let answer = self.post(&self.provider.token, fields).await?;
        if !answer.status.is_success() {
            return Err(NoGrant::Denied(answer.json().unwrap_or_default()));
        }
        match answer.json() {
            Some(Given {
                id_token: Some(id_token),
                access_token,
                refresh_token,
            }) => Ok(Grant {
                id_token,
                access_token,
                refresh_token,
            }),
            Some(_) | None => {
                let why = "it gives no ID token";
                Err(NoGrant::Failure(failed(&self.provider.issuer, why)))
            }
        }
    }

    /// Asks for new ones without asking anybody.
    ///
    /// # Errors
    /// The provider does not give any: who signed in has signed out, is gone, or it has been too long.
    pub(crate) async fn refresh(&self, token: &str) -> Result<Grant, Failure> {
        let fields = [("grant_type", "refresh_token"), ("refresh_token", token)];
        let issuer = &self.provider.issuer;
        let grant = self.tokens(&fields).await;
        grant.map_err(|no| no.into_failure(issuer))
    }

    /// Tells the provider that the token is to be worth nothing (RFC 7009); whether it has a place to be told so.
    ///
    /// # Errors
    /// It does not answer, or refuses.
    pub(crate) async fn revoke(&self, token: &str) -> Result<bool, Failure> {
        let Some(at) = &self.provider.revocation else {
            return Ok(false);
        };
        let fields = [("token", token), ("token_type_hint", "refresh_token")];
        let answer = self.post(at, &fields).await?;
        match answer.status.is_success() {
            true => Ok(true),
            false => Err(failed(&self.provider.issuer, "it does not revoke")),
        }
    }
}
