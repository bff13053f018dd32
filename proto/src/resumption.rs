//! What lets a session go on after the sharer's computer has restarted (rows 34 and 36 of `SESSION.md` §1.4).
//!
//! ```text
//!  inner connection ── exporter ──▶ secret ─┬─▶ code 0, 1, 2 …   where the two meet: the helper is the host, as it was
//!                                           └─▶ bind ─▶ PSK      of the next inner connection, which nobody else has
//! ```
//!
//! The helper keeps the secret in memory, and waits with it only after it has asked for the restart and the sharer has said yes. The
//! sharer's is in a file (`Token`) for as long: 600 s by its clock, and it is erased with the first connection. A code here is no
//! secret worth much, as any other; whoever has only that does not get through the handshake. Nobody is asked for anything, so the
//! other side must be who it was: `fingerprint`.

use std::time::Duration;

use aws_lc_rs::{
    digest::{Context, SHA256},
    hkdf::{HKDF_SHA256, KeyType, Prk, Salt},
};
use bytes::Bytes;
use prost::Message as _;
use zeroize::Zeroizing;

use crate::{
    code::Code,
    id::{NodeId, RelayAddr},
    identity::{Introduction, Profile},
    random::Random,
    rendezvous::InnerKeys,
    session::{Entry, Kind, Method, Mode, Receipt, Resumed, SasState},
    wire::message::session as schema,
};

/// Of a token; whoever reads another one cannot know what it means.
const VERSION: u32 = 1;
const LABEL: &[u8] = b"remora resumption";
const LABEL_CODE: &[u8] = b"remora resumption code";
const LABEL_PSK: &[u8] = b"remora resumption psk";
const LABEL_FINGERPRINT: &[u8] = b"remora resumption peer";
const LEN: usize = 32;
/// Relays that are tried afterwards; of more, the first.
const MAX_RELAYS: usize = 16;
/// Longest token that is read: sixteen addresses and some numbers.
pub const MAX_TOKEN_BYTES: usize = 16 << 10;

struct Length;

impl KeyType for Length {
    fn len(&self) -> usize {
        LEN
    }
}

/// The secret of one session. Wiped on drop.
#[derive(Clone)]
pub struct Resumption(Zeroizing<[u8; LEN]>);

impl std::fmt::Debug for Resumption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Resumption(…)")
    }
}

impl Resumption {
    /// From the inner connection's exporter (RFC 8446 §7.5): a function of output, label and context.
    ///
    /// # Errors
    /// The exporter's: the handshake is not over.
    pub fn export<E>(
        exporter: impl FnOnce(&mut [u8], &[u8], &[u8]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut secret = Zeroizing::new([0; LEN]);
        exporter(&mut secret[..], LABEL, &[])?;
        Ok(Self(secret))
    }

    /// Where the two meet; the next number where that is another's, or was used up.
    pub fn code(&self, number: u32) -> Code {
        let seed = self.derived(&[LABEL_CODE, &number.to_be_bytes()]);
        Code::generate(&mut Random::shared(&seed))
    }

    /// The keys of a rendezvous, which from now on nobody knows who has not the secret, too.
    pub fn bind(&self, keys: InnerKeys) -> InnerKeys {
        let prk = Salt::new(HKDF_SHA256, &self.0[..]).extract(&keys.psk[..]);
        InnerKeys {
            psk: expanded(&prk, &[LABEL_PSK]),
            ..keys
        }
    }

    fn derived(&self, info: &[&[u8]]) -> Zeroizing<[u8; LEN]> {
        expanded(&Prk::new_less_safe(HKDF_SHA256, &self.0[..]), info)
    }
}

fn expanded(prk: &Prk, info: &[&[u8]]) -> Zeroizing<[u8; LEN]> {
    let mut out = Zeroizing::new([0; LEN]);
    prk.expand(info, Length)
        .and_then(|okm| okm.fill(&mut out[..]))
        .expect("one block");
    out
}

/// Who somebody is, for as long as a session may be resumed: what is on the card, and, where an organisation vouches for it, the
/// node. Without an organisation a node's key is of one connection, and the secret has to do.
pub fn fingerprint(introduction: &Introduction, node: NodeId) -> [u8; 32] {
    let profile = &introduction.profile;
    let mut hash = Context::new(&SHA256);
    hash.update(LABEL_FINGERPRINT);
    let words = [
        &profile.full_name,
        &profile.job_title,
        &profile.company,
        &profile.domain,
    ];
    for word in words {
        let length = u64::try_from(word.len()).unwrap_or(u64::MAX);
        hash.update(&length.to_be_bytes());
        hash.update(word.as_bytes());
    }
    if introduction.papers.is_some() {
        hash.update(&node.0);
    }
    let mut out = [0; 32];
    out.copy_from_slice(hash.finish().as_ref());
    out
}

/// What a sharer's computer keeps while it restarts.
#[derive(Clone, Debug)]
pub struct Token {
    /// The session's secret.
    pub resumption: Resumption,
    /// Who the helper is: its [`fingerprint`].
    pub peer: [u8; 32],
    /// Milliseconds since 1970.
    pub deadline_ms: u64,
    /// Where to begin to look; at most 16 are kept.
    pub relays: Vec<RelayAddr>,
    /// Whether somebody sits there.
    pub kind: Kind,
    /// How the two came together.
    pub entry: Entry,
    /// Who the sharer is, whom the helper knows by that.
    pub profile: Profile,
    /// What goes on.
    pub resumed: Resumed,
}

/// Bytes that are no token, or one of another version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is damaged, or of another version")]
pub struct InvalidToken;

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Token {
    /// For a file that nobody else can read.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let Resumed {
            mode,
            paused,
            receipt,
        } = &self.resumed;
        let token = schema::ResumeToken {
            version: VERSION,
            secret: Bytes::copy_from_slice(&self.resumption.0[..]),
            peer: Bytes::copy_from_slice(&self.peer),
            deadline_ms: self.deadline_ms,
            relays: self
                .relays
                .iter()
                .take(MAX_RELAYS)
                .map(ToString::to_string)
                .collect(),
            mode: mode.to_schema().into(),
            paused: *paused,
            unattended: self.kind == Kind::Unattended,
            notified: self.entry == Entry::Notify,
            duration_ms: millis(receipt.duration),
            most: receipt.mode.unwrap_or(*mode).to_schema().into(),
            consent: receipt
                .consent
                .map_or(schema::ConsentMethod::Unspecified, Method::to_schema)
                .into(),
            elevated: receipt.elevated,
            chat_sent: receipt.chat_sent,
            chat_received: receipt.chat_received,
            verified: receipt.sas == SasState::Verified,
            profile: Some(self.profile.to_schema()),
        };
        Zeroizing::new(token.encode_to_vec())
    }

    /// Of such a file; whether it is still good is not looked at.
    ///
    /// # Errors
    /// It is none.
    pub fn decode(bytes: &[u8]) -> Result<Self, InvalidToken> {
        let token = schema::ResumeToken::decode(bytes).map_err(|_| InvalidToken)?;
        let key = |bytes: &Bytes| <[u8; LEN]>::try_from(&bytes[..]).map_err(|_| InvalidToken);
        if token.version != VERSION || token.relays.len() > MAX_RELAYS {
            return Err(InvalidToken);
        }
        let relays = token.relays.iter().map(|relay| relay.parse());
        let relays = relays.collect::<Result<_, _>>().map_err(|_| InvalidToken)?;
        let mode = Mode::from_schema(token.mode()).ok_or(InvalidToken)?;
        let most = Mode::from_schema(token.most()).ok_or(InvalidToken)?;
        let profile = token.profile.clone().unwrap_or_default();
        let profile = Profile::from_schema(&profile).map_err(|_| InvalidToken)?;
        Ok(Self {
            resumption: Resumption(Zeroizing::new(key(&token.secret)?)),
            peer: key(&token.peer)?,
            deadline_ms: token.deadline_ms,
            relays,
            kind: match token.unattended {
                true => Kind::Unattended,
                false => Kind::Attended,
            },
            entry: match token.notified {
                true => Entry::Notify,
                false => Entry::Code,
            },
            profile,
            resumed: Resumed {
                mode,
                paused: token.paused,
                receipt: Receipt {
                    duration: Duration::from_millis(token.duration_ms),
                    mode: Some(most),
                    consent: Some(token.consent())
                        .filter(|consent| *consent != schema::ConsentMethod::Unspecified)
                        .map(Method::from_schema),
                    elevated: token.elevated,
                    chat_sent: token.chat_sent,
                    chat_received: token.chat_received,
                    sas: match token.verified {
                        true => SasState::Verified,
                        false => SasState::Unverified,
                    },
                    ..Receipt::default()
                },
            },
        })
    }

    /// For how long it is good, at this time. A clock that was set back makes it no better than it was.
    pub fn left(&self, unix_ms: u64) -> Option<Duration> {
        let left = self.deadline_ms.checked_sub(unix_ms)?;
        let left = Duration::from_millis(left).min(crate::session::T_RESTART);
        Some(left).filter(|left| !left.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::T_RESTART;

    fn resumption(secret: u8) -> Resumption {
        Resumption(Zeroizing::new([secret; LEN]))
    }

    fn token() -> Token {
        Token {
            resumption: resumption(7),
            peer: [9; 32],
            deadline_ms: 1_000_000,
            relays: vec![],
            kind: Kind::Attended,
            entry: Entry::Code,
            profile: Profile::new("Maria Lopez", "", "Fabrikam", "").expect("valid"),
            resumed: Resumed {
                mode: Mode::Control,
                paused: true,
                receipt: Receipt {
                    duration: Duration::from_secs(61),
                    mode: Some(Mode::Control),
                    consent: Some(Method::User),
                    elevated: true,
                    chat_sent: 3,
                    chat_received: 4,
                    sas: SasState::Verified,
                    ..Receipt::default()
                },
            },
        }
    }

    fn keys() -> InnerKeys {
        InnerKeys {
            psk_id: [1; 16],
            psk: Zeroizing::new([2; 32]),
            context: vec![3],
        }
    }

    #[test]
    fn both_draw_the_same_codes_and_nobody_else_does() {
        let code = |secret, number| resumption(secret).code(number).to_string();
        assert_eq!(code(7, 0), code(7, 0));
        assert_ne!(code(7, 0), code(7, 1));
        assert_ne!(code(7, 0), code(8, 0));
    }

    #[test]
    fn a_code_without_the_secret_leads_to_other_keys() {
        let bound = |secret| resumption(secret).bind(keys());
        assert_eq!(bound(7).psk, bound(7).psk);
        assert_ne!(bound(7).psk, bound(8).psk);
        assert_ne!(bound(7).psk, keys().psk);
        assert_eq!(bound(7).psk_id, keys().psk_id, "its name is no secret");
    }

    #[test]
    fn a_token_says_what_goes_on_and_is_good_for_ten_minutes() {
        let token = token();
        let read = Token::decode(&token.encode()).expect("whole");
        assert_eq!(read.resumed, token.resumed);
        assert_eq!(read.profile, token.profile);
        assert_eq!(
            (read.peer, read.kind, read.entry),
            (token.peer, token.kind, token.entry)
        );
        assert_eq!(*read.resumption.0, *token.resumption.0);
        assert_eq!(read.left(999_999), Some(Duration::from_millis(1)));
        assert_eq!(read.left(1_000_000), None);
        assert_eq!(read.left(0), Some(T_RESTART), "a clock that was set back");
        for cut in [0, 10, 50] {
            assert_eq!(
                Token::decode(&token.encode()[..cut]).err(),
                Some(InvalidToken)
            );
        }
    }
}
