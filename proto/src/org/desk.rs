//! Where an organisation's people sign in: what its desk says of itself, signed, so that a node that knows the organisation's key is sent
//! to no other provider, whoever answers at the desk's address.

use aws_lc_rs::digest;
use bytes::Bytes;
use data_encoding::BASE64URL_NOPAD;

use super::{
    credential::lives,
    signed::{Document, InvalidDocument, VERSION, array, of_this_version},
};
use crate::{
    id::{NodeId, OrgId, RelayAddr, TlsPin},
    identity::{MAX_DOMAIN_BYTES, MAX_FIELD_BYTES},
    wire::message::org as schema,
};

/// Largest signed desk.
pub const MAX_DESK_BYTES: usize = 8 << 10;
/// Most relays and most scopes that it names.
pub const MAX_ENTRIES: usize = 16;
/// Longest issuer identifier, client's name and secret, and scope.
const MAX_TEXT_BYTES: usize = 512;
/// What is hashed for a nonce is nothing else's.
const NONCE_CONTEXT: &[u8] = b"remora sign-in 1\0";

/// How somebody signs in.
#[derive(Clone, PartialEq, Eq)]
pub struct Desk {
    /// The organisation.
    pub issuer: OrgId,
    /// Its name.
    pub company: String,
    /// Its domain.
    pub domain: String,
    /// Where its people are, up to [`MAX_ENTRIES`].
    pub relays: Vec<RelayAddr>,
    /// Issuer identifier of the provider.
    pub provider: String,
    /// What the provider calls this program.
    pub client_id: String,
    /// No secret, in a program that everybody has (RFC 8252 §8.5); some providers insist.
    pub client_secret: Option<String>,
    /// What is asked for, up to [`MAX_ENTRIES`].
    pub scopes: Vec<String>,
    /// Of the certificate that the desk itself shows; `None`: something in front of it has one.
    pub tls: Option<TlsPin>,
    /// The desk also wants the access token, to ask the provider's userinfo endpoint for what the ID token does not say.
    pub userinfo: bool,
    /// Seconds since 1970.
    pub issued: u64,
    /// Seconds since 1970.
    pub expires: u64,
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Desk({}, {}, {})",
            self.domain, self.provider, self.client_id
        )
    }
}

impl Document for Desk {
    type Raw = schema::Desk;
    const CONTEXT: &'static str = "remora desk 1";
    const MAX_BYTES: usize = MAX_DESK_BYTES;

    fn issuer(&self) -> OrgId {
        self.issuer
    }

    fn to_raw(&self) -> schema::Desk {
        schema::Desk {
            version: VERSION,
            issuer: Bytes::copy_from_slice(&self.issuer.0),
            company: self.company.clone(),
            domain: self.domain.clone(),
            relays: self.relays.iter().map(ToString::to_string).collect(),
            provider: self.provider.clone(),
            client_id: self.client_id.clone(),
            client_secret: self.client_secret.clone().unwrap_or_default(),
            scopes: self.scopes.clone(),
            issued: self.issued,
            expires: self.expires,
            tls: self
                .tls
                .map(|pin| Bytes::copy_from_slice(&pin.0))
                .unwrap_or_default(),
            userinfo: self.userinfo,
        }
    }

    fn from_raw(raw: schema::Desk) -> Result<Self, InvalidDocument> {
        of_this_version(raw.version)?;
        lives(raw.issued, raw.expires)?;
        if raw.relays.len() > MAX_ENTRIES {
            return Err(InvalidDocument::Field("relays"));
        }
        let relays = raw.relays.iter().map(|relay| relay.parse());
        let is_word = |text: &String| is_word(text, 1..=MAX_TEXT_BYTES);
        let words = [&raw.provider, &raw.client_id];
        if !words.into_iter().all(is_word) || !self::is_word(&raw.client_secret, 0..=MAX_TEXT_BYTES)
        {
            return Err(InvalidDocument::Field("provider or client"));
        }
        let has_openid = raw.scopes.iter().any(|scope| scope == "openid");
        if raw.scopes.len() > MAX_ENTRIES || !has_openid || !raw.scopes.iter().all(is_word) {
            return Err(InvalidDocument::Field("scopes"));
        }
        let is_short = |text: &str, max| (1..=max).contains(&text.len());
        if !is_short(&raw.company, MAX_FIELD_BYTES) || !is_short(&raw.domain, MAX_DOMAIN_BYTES) {
            return Err(InvalidDocument::Field("company or domain"));
        }
        Ok(Self {
            issuer: OrgId(array(&raw.issuer, "issuer")?),
            company: raw.company,
            domain: raw.domain,
            relays: relays
                .collect::<Result<_, _>>()
                .map_err(|_| InvalidDocument::Field("relays"))?,
            provider: raw.provider,
            client_id: raw.client_id,
            client_secret: Some(raw.client_secret).filter(|secret| !secret.is_empty()),
            scopes: raw.scopes,
            tls: match raw.tls.is_empty() {
                true => None,
                false => Some(TlsPin(array(&raw.tls, "certificate")?)),
            },
            userinfo: raw.userinfo,
            issued: raw.issued,
            expires: raw.expires,
        })
    }
}

/// Nothing that would be another word, or another line, wherever it is put.
fn is_word(text: &str, bytes: std::ops::RangeInclusive<usize>) -> bool {
    bytes.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// What a node asks its provider to put into the ID token (OpenID Connect Core 1.0 §3.1.2.1): base64url of SHA-256 of the
/// organisation's key and the node's. So a token is worth something for that node, at that organisation's desk, and for nobody else.
pub fn nonce(organisation: OrgId, node: NodeId) -> String {
    let bytes = [NONCE_CONTEXT, &organisation.0, &node.0].concat();
    BASE64URL_NOPAD.encode(digest::digest(&digest::SHA256, &bytes).as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        id::RelayId,
        org::signed::{Issuer, Signed},
    };

    fn desk(issuer: &Issuer) -> Desk {
        Desk {
            issuer: issuer.id(),
            company: "Contoso".into(),
            domain: "contoso.com".into(),
            relays: vec![RelayAddr {
                host_port: "relay.example:4433".into(),
                id: RelayId([7; 32]),
                tls: None,
            }],
            provider: "https://login.example/tenant".into(),
            client_id: "remora".into(),
            client_secret: None,
            scopes: vec!["openid".into(), "email".into()],
            tls: Some(TlsPin([9; 16])),
            userinfo: true,
            issued: 1,
            expires: 2,
        }
    }

    #[test]
    fn a_desk_says_what_its_organisation_has_signed_and_nothing_odd() {
        let issuer = Issuer::from_bytes(&[7; 32]);
        let signed = Signed::new(desk(&issuer), &issuer).expect("signed");
        let read = Signed::<Desk>::open(signed.bytes()).expect("read");
        assert_eq!(*read, desk(&issuer));
        let change: [fn(&mut Desk); 8] = [
            |desk| desk.provider = "https://login.example/\r\nx".into(),
            |desk| desk.provider.clear(),
            |desk| desk.client_id = "re mora".into(),
            |desk| desk.scopes = vec!["email".into()],
            |desk| desk.scopes = vec!["openid".into(); MAX_ENTRIES + 1],
            |desk| desk.relays = vec![desk.relays[0].clone(); MAX_ENTRIES + 1],
            |desk| desk.domain.clear(),
            |desk| desk.expires = desk.issued,
        ];
        for change in change {
            let mut odd = desk(&issuer);
            change(&mut odd);
            Signed::new(odd.clone(), &issuer).expect_err(&odd.provider);
        }
    }

    #[test]
    fn a_nonce_is_of_one_node_and_one_organisation() {
        let of = |org, node| nonce(OrgId([org; 32]), NodeId([node; 32]));
        assert_eq!(of(1, 1), of(1, 1));
        assert_ne!(of(1, 1), of(2, 1));
        assert_ne!(of(1, 1), of(1, 2));
        assert_eq!(of(1, 1).len(), 43);
    }
}
