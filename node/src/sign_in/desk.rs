//! What an organisation's desk says, and gives: the other side of `remora admin org serve`.

use data_encoding::BASE64URL_NOPAD;
use remora_proto::{
    line::is_unsafe_in_line,
    org::{
        desk::Desk,
        membership::{Request, holds_at},
        signed::Signed,
    },
};
use serde::Deserialize;
use serde_json::json;

use crate::{
    cli::sign_in::DeskAddr,
    error::{Exit, Failure},
    identity::{Files, unix_s},
    oidc::{
        device::{PENDING, SLOW_DOWN},
        secret::Secret,
        web::{Address, JSON, NoAnswer, Web},
    },
};

/// Where a desk says what it is.
pub(crate) const WELL_KNOWN: &str = "/.well-known/remora";
/// Where it signs.
pub(crate) const CREDENTIAL: &str = "/credential";

#[derive(Deserialize)]
struct Document {
    desk: String,
}

#[derive(Default, Deserialize)]
struct Refused {
    #[serde(default)]
    code: String,
    #[serde(default)]
    text: String,
}

/// Codes of a desk (`admin::desk::refusal`), and what they mean to this program.
const CODES: [(&str, Exit); 23] = [
    ("TOKEN_MALFORMED", Exit::Verification),
    ("TOKEN_ALGORITHM", Exit::Verification),
    ("TOKEN_KEY", Exit::Verification),
    ("TOKEN_SIGNATURE", Exit::Verification),
    ("TOKEN_ISSUER", Exit::Verification),
    ("TOKEN_AUDIENCE", Exit::Verification),
    ("TOKEN_EXPIRED", Exit::Verification),
    ("TOKEN_NOT_YET", Exit::Verification),
    ("TOKEN_NONCE", Exit::Verification),
    ("TOKEN_ACCESS", Exit::Verification),
    ("CLAIM", Exit::NotPermitted),
    ("EMAIL_UNVERIFIED", Exit::NotPermitted),
    ("FOREIGN_DOMAIN", Exit::NotPermitted),
    ("OTHER_ACCOUNT", Exit::NotPermitted),
    ("REVOKED", Exit::NotPermitted),
    ("SIGN_IN_DECLINED", Exit::Declined),
    ("SIGN_IN_TIMEOUT", Exit::TimedOut),
    (PENDING, Exit::Error),
    (SLOW_DOWN, Exit::Error),
    ("MALFORMED", Exit::Error),
    ("BUSY", Exit::Offline),
    ("PROVIDER", Exit::Offline),
    ("DESK", Exit::Offline),
];

pub(super) fn not_a_desk(at: &Address) -> Failure {
    let line = format!(
        "what answers at {at} is no organisation's desk; give the address that your administrator gives you"
    );
    Failure::new(Exit::Error, "NOT_A_DESK", line)
}

/// Asks a desk who it is and where to sign in.
///
/// # Errors
/// It is not reached, or not of the organisation whose it must be.
pub(super) async fn look(web: &Web, at: &DeskAddr) -> Result<Signed<Desk>, Failure> {
    let place = at.at.at(WELL_KNOWN);
    let (answer, shown) = match web.get(&place).await {
        // Who has the organisation's key needs no authority: what is there is signed, and names its certificate.
        Err(NoAnswer::Tls(..)) if at.key.is_some() => web.get_of_anybody(&place).await?,
        answered => (answered?, None),
    };
    let document: Option<Document> = answer.json();
    let document = document.filter(|_| answer.status.is_success());
    let bytes = document.and_then(|document| BASE64URL_NOPAD.decode(document.desk.as_bytes()).ok());
    let bytes = bytes.ok_or_else(|| not_a_desk(&at.at))?;
    let desk = Signed::<Desk>::open(&bytes).map_err(|_| not_a_desk(&at.at))?;
    if at.key.is_some_and(|key| key != desk.issuer) {
        let line = format!(
            "{} has the key {}, which is not the one that you gave: somebody else answers there; ask your administrator",
            at.at, desk.issuer
        );
        return Err(Failure::new(Exit::Verification, "DESK_KEY", line));
    }
    if !holds_at((desk.issued, desk.expires), unix_s()) {
        let line = format!(
            "what {} says of itself holds no longer, or a clock is wrong; check this computer's clock",
            at.at
        );
        return Err(Failure::new(Exit::Verification, "DESK_EXPIRED", line));
    }
    match shown {
        None => {}
        Some(shown) if desk.tls == Some(shown) => web.believe(&at.at, shown),
        Some(_) => {
            let line = format!(
                "no authority vouches for the certificate at {}, and it is not the desk's own: somebody stands in between, or a proxy \
                 needs a certificate; ask your administrator",
                at.at
            );
            return Err(Failure::new(Exit::Verification, "DESK_CERTIFICATE", line));
        }
    }
    Ok(desk)
}

/// Says before anybody signs in that this computer belongs to somebody else.
///
/// # Errors
/// It does.
pub(super) fn check_home(files: &Files, desk: &Desk) -> Result<(), Failure> {
    let member = files.member()?;
    let policy = member.map(|member| member.policy());
    match policy.filter(|policy| policy.header.issuer != desk.issuer) {
        None => Ok(()),
        Some(policy) => {
            let line = format!(
                "this computer belongs to {}; leave first, with `remora setup --leave-organisation`",
                policy.domain
            );
            Err(Failure::new(Exit::NotPermitted, "ORG_MISMATCH", line))
        }
    }
}

/// What the provider has given to who signs in.
pub(super) enum Shown<'a> {
    /// Of a browser on this computer, or without asking anybody; with an access token, if the desk wants one.
    Token(&'a str, Option<&'a str>),
    /// The desk asks for the token.
    DeviceCode(&'a str),
}

/// What the desk gives.
pub(super) struct Given {
    /// A membership.
    pub(super) papers: Vec<u8>,
    /// Of the provider, with a device code.
    pub(super) refresh_token: Option<Secret>,
}

#[derive(Deserialize)]
struct Answered {
    papers: String,
    refresh_token: Option<Secret>,
}

/// Shows it to the desk; what it has signed.
///
/// # Errors
/// It is not reached, or does not believe it, or does not let its person in.
pub(super) async fn hand_in(
    web: &Web,
    at: &DeskAddr,
    request: &Request,
    shown: &Shown<'_>,
) -> Result<Given, Failure> {
    let request = request.to_string();
    let body = match shown {
        Shown::Token(token, access) => {
            json!({"request": request, "id_token": token, "access_token": access})
        }
        Shown::DeviceCode(code) => json!({"request": request, "device_code": code}),
    };
    let answer = web
        .post(&at.at.at(CREDENTIAL), JSON, body.to_string())
        .await?;
    if answer.status.is_success() {
        let answered: Option<Answered> = answer.json();
        let given = answered.and_then(|answered| {
            let papers = BASE64URL_NOPAD.decode(answered.papers.as_bytes()).ok()?;
            let refresh_token = answered.refresh_token;
            Some(Given {
                papers,
                refresh_token,
            })
        });
        return given.ok_or_else(|| not_a_desk(&at.at));
    }
    let refused: Refused = answer.json().unwrap_or_default();
    let known = CODES.into_iter().find(|(code, _)| *code == refused.code);
    let (code, exit) = known.ok_or_else(|| not_a_desk(&at.at))?;
    // Shown as one short line, whoever has written it.
    let text: String = refused
        .text
        .chars()
        .filter(|c| !is_unsafe_in_line(*c))
        .take(300)
        .collect();
    let line = format!("{} does not sign for you: {text}", at.at);
    Err(Failure::new(exit, code, line))
}
