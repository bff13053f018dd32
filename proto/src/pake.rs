//! CPace (CPACE-RISTR255-SHA512, draft-irtf-cfrg-cpace-21), initiator-responder, with explicit key
//! confirmation in which the initiator goes first.
//!
//! States are types; each step consumes its state:
//!
//! ```text
//! joiner (initiator)                       host (responder)
//! Initiator::start ── Ya ────────────────▶ Responder::respond
//! Initiator::finish ◀──────────────── Yb ──┘
//!   │ Unconfirmed ── Ta: this is a guess ─▶ Responder::confirm ─▶ Keys, or a wrong code
//! Unconfirmed::confirm ◀────────────── Tb ──┘
//!   ▼ Keys
//! ```
//!
//! The host sends its tag only after the joiner's verified: whoever wants to learn whether a guess was right has
//! to show the guess first.

use aws_lc_rs::{
    digest::{Context, SHA512},
    hkdf::{HKDF_SHA512, KeyType, Salt},
    hmac,
};
use curve25519_dalek::{
    ristretto::{CompressedRistretto, RistrettoPoint},
    scalar::Scalar,
    traits::IsIdentity,
};
use zeroize::{Zeroize, Zeroizing};

use crate::random::Random;

const DSI: &[u8] = b"CPaceRistretto255";
const DSI_ISK: &[u8] = b"CPaceRistretto255_ISK";
const SHA512_BLOCK_BYTES: usize = 128;

/// A CPace public share: an encoded ristretto255 element.
pub type Share = [u8; 32];
/// A confirmation tag: HMAC-SHA512, first 32 bytes.
pub type Tag = [u8; 32];

/// The peer's share is no usable group element, or its tag does not verify: not the same code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the other side does not have the same code")]
pub struct Failed;

/// What both parties agree on without having to keep it secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inputs {
    /// Channel identifier: who talks to whom, in which role, through which record. Not sent.
    pub channel: Vec<u8>,
    /// Fresh randomness of both sides.
    pub session: Vec<u8>,
}

/// What a successful run gives both sides.
pub struct Keys {
    isk: Zeroizing<[u8; 64]>,
    confirm_a: Tag,
    confirm_b: Tag,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys(…)")
    }
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

impl Keys {
    fn new(isk: Zeroizing<[u8; 64]>, session: &[u8], ya: &Share, yb: &Share) -> Self {
        let mut hash = Context::new(&SHA512);
        hash.update(b"CPaceMac");
        hash.update(session);
        hash.update(&isk[..]);
        let key = hmac::Key::new(hmac::HMAC_SHA512, hash.finish().as_ref());
        let tag = |share: &Share| {
            let mac = hmac::sign(&key, &lv_cat(&[share, b""]));
            *mac.as_ref().first_chunk().expect("64 bytes")
        };
        Self {
            isk,
            confirm_a: tag(ya),
            confirm_b: tag(yb),
        }
    }

    fn derive<const N: usize>(&self, label: &[u8]) -> Zeroizing<[u8; N]> {
        let mut out = Zeroizing::new([0; N]);
        Salt::new(HKDF_SHA512, b"mnq1 pake")
            .extract(&self.isk[..])
            .expand(&[label], Length(N))
            .and_then(|okm| okm.fill(&mut out[..]))
            .expect("short output");
        out
    }

    /// Key of the inner Noise handshake.
    pub fn psk(&self) -> Zeroizing<[u8; 32]> {
        self.derive(b"psk")
    }

    /// Its public name.
    pub fn psk_id(&self) -> [u8; 16] {
        *self.derive(b"psk id")
    }
}

fn prepend_len(data: &[u8], out: &mut Vec<u8>) {
    let mut len = data.len();
    // LEB128
    loop {
        let byte = u8::try_from(len & 0x7f).expect("seven bits");
        len >>= 7;
        if len == 0 {
            out.push(byte);
            break;
        }
        out.push(byte | 0x80);
    }
    out.extend_from_slice(data);
}

/// Length-prefixed concatenation (CPace §3.3): no two different lists encode alike.
pub fn lv_cat(parts: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    for part in parts {
        prepend_len(part, &mut out);
    }
    out
}

fn generator(prs: &[u8], inputs: &Inputs) -> RistrettoPoint {
    let used = lv_cat(&[prs]).len() + lv_cat(&[DSI]).len();
    let pad = vec![0; SHA512_BLOCK_BYTES.saturating_sub(1 + used)];
    let string = Zeroizing::new(lv_cat(&[DSI, prs, &pad, &inputs.channel, &inputs.session]));
    let digest = aws_lc_rs::digest::digest(&SHA512, &string);
    let mut hash: [u8; 64] = digest.as_ref().try_into().expect("SHA-512");
    let point = RistrettoPoint::from_uniform_bytes(&hash);
    hash.zeroize();
    point
}

fn random_scalar(random: &mut Random) -> Zeroizing<Scalar> {
    let wide = Zeroizing::new(random.bytes::<64>());
    Zeroizing::new(Scalar::from_bytes_mod_order_wide(&wide))
}

fn shared(scalar: &Scalar, peer: &Share) -> Result<Zeroizing<[u8; 32]>, Failed> {
    let peer = CompressedRistretto(*peer).decompress().ok_or(Failed)?;
    let point = scalar * peer;
    if point.is_identity() {
        return Err(Failed);
    }
    Ok(Zeroizing::new(point.compress().to_bytes()))
}

fn isk(session: &[u8], k: &[u8; 32], ya: &Share, yb: &Share) -> Zeroizing<[u8; 64]> {
    let mut input = Zeroizing::new(lv_cat(&[DSI_ISK, session, k]));
    input.extend_from_slice(&lv_cat(&[ya, b""]));
    input.extend_from_slice(&lv_cat(&[yb, b""]));
    let digest = aws_lc_rs::digest::digest(&SHA512, &input);
    Zeroizing::new(digest.as_ref().try_into().expect("SHA-512"))
}

fn tags_equal(a: &Tag, b: &Tag) -> bool {
    bool::from(subtle::ConstantTimeEq::ct_eq(&a[..], &b[..]))
}

/// The joiner, before it has heard from the host.
pub struct Initiator {
    inputs: Inputs,
    scalar: Zeroizing<Scalar>,
    ya: Share,
}

impl Initiator {
    /// Begins with the code's symbols.
    pub fn start(prs: &[u8], inputs: Inputs, random: &mut Random) -> Self {
        Self::with_scalar(prs, inputs, random_scalar(random))
    }

    fn with_scalar(prs: &[u8], inputs: Inputs, scalar: Zeroizing<Scalar>) -> Self {
        let ya = (*scalar * generator(prs, &inputs)).compress().to_bytes();
        Self { inputs, scalar, ya }
    }

    /// Ya, to be sent.
    pub fn share(&self) -> Share {
        self.ya
    }

    /// Takes Yb; gives the tag to send.
    ///
    /// # Errors
    /// [`Failed`] when Yb is no usable group element.
    pub fn finish(self, yb: &Share) -> Result<(Unconfirmed, Tag), Failed> {
        let k = shared(&self.scalar, yb)?;
        let session = &self.inputs.session;
        let keys = Keys::new(isk(session, &k, &self.ya, yb), session, &self.ya, yb);
        let tag = keys.confirm_a;
        Ok((Unconfirmed(keys), tag))
    }
}

impl std::fmt::Debug for Initiator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Initiator(…)")
    }
}

/// The joiner's keys before the host has proved that it has the same code.
#[derive(Debug)]
pub struct Unconfirmed(Keys);

impl Unconfirmed {
    /// Takes the host's tag.
    ///
    /// # Errors
    /// [`Failed`]: whoever answered does not have the code.
    pub fn confirm(self, tag: &Tag) -> Result<Keys, Failed> {
        if tags_equal(&self.0.confirm_b, tag) {
            Ok(self.0)
        } else {
            Err(Failed)
        }
    }
}

/// The host, after it has answered a joiner's share.
#[derive(Debug)]
pub struct Responder {
    keys: Keys,
    yb: Share,
}

impl Responder {
    /// Answers Ya.
    ///
    /// # Errors
    /// [`Failed`] when Ya is no usable group element.
    pub fn respond(
        prs: &[u8],
        inputs: &Inputs,
        ya: &Share,
        random: &mut Random,
    ) -> Result<Self, Failed> {
        Self::with_scalar(prs, inputs, ya, random_scalar(random))
    }

    fn with_scalar(
        prs: &[u8],
        inputs: &Inputs,
        ya: &Share,
        scalar: Zeroizing<Scalar>,
    ) -> Result<Self, Failed> {
        let yb = (*scalar * generator(prs, inputs)).compress().to_bytes();
        let k = shared(&scalar, ya)?;
        let keys = Keys::new(isk(&inputs.session, &k, ya, &yb), &inputs.session, ya, &yb);
        Ok(Self { keys, yb })
    }

    /// Yb, to be sent.
    pub fn share(&self) -> Share {
        self.yb
    }

    /// Takes the joiner's tag; gives the keys and the tag to send.
    ///
    /// # Errors
    /// [`Failed`]: a wrong code, one of three tries.
    pub fn confirm(self, tag: &Tag) -> Result<(Keys, Tag), Failed> {
        if !tags_equal(&self.keys.confirm_a, tag) {
            return Err(Failed);
        }
        let answer = self.keys.confirm_b;
        Ok((self.keys, answer))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes32(text: &str) -> [u8; 32] {
        hex::decode(text)
            .expect("hex")
            .try_into()
            .expect("32 bytes")
    }

    fn inputs() -> Inputs {
        Inputs {
            channel: b"channel".to_vec(),
            session: b"session".to_vec(),
        }
    }

    /// draft-irtf-cfrg-cpace-21, appendix B.3: generator, shares and K. Its ISK binds the associated data "ADa"
    /// and "ADb", which our runs leave empty, so ISK is checked against the draft's formula here.
    #[test]
    fn matches_the_draft_test_vectors() {
        let inputs = Inputs {
            channel: hex::decode("6f630b425f726573706f6e6465720b415f696e69746961746f72")
                .expect("hex"),
            session: hex::decode("7e4b4791d6a8ef019b936c79fb7f2c57").expect("hex"),
        };
        let scalar = |text| Zeroizing::new(Scalar::from_bytes_mod_order(bytes32(text)));
        let a = scalar("da3d23700a9e5699258aef94dc060dfda5ebb61f02a5ea77fad53f4ff0976d08");
        let b = scalar("d2316b454718c35362d83d69df6320f38578ed5984651435e2949762d900b80d");
        let initiator = Initiator::with_scalar(b"Password", inputs.clone(), a.clone());
        let ya = bytes32("d40fb265a7abeaee7939d91a585fe59f7053f982c296ec413c624c669308f87a");
        assert_eq!(initiator.share(), ya);
        let responder =
            Responder::with_scalar(b"Password", &inputs, &ya, b).expect("a valid share");
        let yb = bytes32("08bcf6e9777a9c313a3db6daa510f2d398403319c2341bd506a92e672eb7e307");
        assert_eq!(responder.share(), yb);
        let k = shared(&a, &yb).expect("a valid share");
        let mut draft = lv_cat(&[DSI_ISK, &inputs.session, &k[..]]);
        draft.extend_from_slice(&lv_cat(&[&ya, b"ADa", &yb, b"ADb"]));
        assert_eq!(
            hex::encode(aws_lc_rs::digest::digest(&SHA512, &draft)),
            "4c5469a16b2364c4b944ebc1a79e51d1674ad47db26e8718154f59faebfaa52d\
             8346f30aa58377117eb20d527f2cbc5c76381f7fd372e89df8239f87f2e02ed1"
        );
        let (unconfirmed, tag) = initiator.finish(&yb).expect("a valid share");
        let (host, tag) = responder.confirm(&tag).expect("the same password");
        let joiner = unconfirmed.confirm(&tag).expect("the same password");
        assert_eq!((host.psk(), host.psk_id()), (joiner.psk(), joiner.psk_id()));
    }

    #[test]
    fn the_identity_and_non_points_are_refused() {
        let mut random = Random::seeded(1);
        for bad in [[0; 32], [0xff; 32]] {
            assert!(Responder::respond(b"x", &inputs(), &bad, &mut random).is_err());
            assert!(
                Initiator::start(b"x", inputs(), &mut random)
                    .finish(&bad)
                    .is_err()
            );
        }
    }

    #[test]
    fn another_password_channel_or_session_is_a_failure() {
        let mut random = Random::seeded(2);
        let other = |channel: &[u8], session: &[u8]| Inputs {
            channel: channel.into(),
            session: session.into(),
        };
        for (prs, theirs) in [
            (&b"wrong"[..], inputs()),
            (b"right", other(b"elsewhere", b"session")),
            (b"right", other(b"channel", b"replayed")),
        ] {
            let joiner = Initiator::start(prs, theirs, &mut random);
            let host = Responder::respond(b"right", &inputs(), &joiner.share(), &mut random)
                .expect("a valid share");
            let (unconfirmed, tag) = joiner.finish(&host.share()).expect("a valid share");
            let host_tag = host.keys.confirm_b;
            assert_eq!(host.confirm(&tag).expect_err("not the same"), Failed);
            assert_eq!(
                unconfirmed.confirm(&host_tag).expect_err("not the same"),
                Failed
            );
        }
    }

    proptest! {
        #[test]
        fn lv_cat_is_injective(
            a in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..5),
            b in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..5),
        ) {
            let cat = |parts: &[Vec<u8>]| lv_cat(&parts.iter().map(Vec::as_slice).collect::<Vec<_>>());
            prop_assert_eq!(cat(&a) == cat(&b), a == b);
        }
    }
}
