//! Tokens that a test signs, each wrong in one thing.

use aws_lc_rs::{
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
        RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaKeyPair,
    },
};
use proptest::{collection::vec, prelude::*};
use serde_json::json;

use super::*;

const ISSUER: &str = "https://login.example.org";
const NOW: u64 = 1_700_000_000;

fn base64(bytes: impl AsRef<[u8]>) -> String {
    BASE64URL_NOPAD.encode(bytes.as_ref())
}

/// A provider with a key of each kind.
struct Provider {
    rsa: RsaKeyPair,
    ec: EcdsaKeyPair,
    ed: Ed25519KeyPair,
}

impl Provider {
    fn new() -> Self {
        let ec = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING);
        Self {
            rsa: RsaKeyPair::generate(KeySize::Rsa2048).expect("a key"),
            ec: ec.expect("a key"),
            ed: Ed25519KeyPair::generate().expect("a key"),
        }
    }

    fn jwks(&self) -> Value {
        // Of RSAPublicKey (RFC 8017, A.1.1) with 2048 bits: after two headers and a zero; the exponent is 65537.
        let rsa = &self.rsa.public_key().as_ref()[9..265];
        let point = self.ec.public_key().as_ref();
        json!({"keys": [
            {"kty": "RSA", "kid": "r", "use": "sig", "n": base64(rsa),
             "e": "AQAB"},
            {"kty": "EC", "kid": "e", "crv": "P-256", "alg": "ES256", "x": base64(&point[1..33]), "y": base64(&point[33..])},
            {"kty": "OKP", "kid": "d", "crv": "Ed25519", "x": base64(self.ed.public_key())},
            {"kty": "RSA", "kid": "x", "use": "enc", "n": base64(rsa), "e": "AQAB"},
            {"kty": "oct", "kid": "h", "k": "c2VjcmV0"},
            "rubbish",
        ]})
    }

    fn keys(&self) -> Keys {
        Keys::parse(self.jwks().to_string().as_bytes()).expect("keys")
    }

    fn signed(&self, head: &Value, claims: &Value) -> String {
        let message = format!(
            "{}.{}",
            base64(head.to_string()),
            base64(claims.to_string())
        );
        let bytes = message.as_bytes();
        let rsa = |encoding| {
            let mut signed = vec![0; self.rsa.public_modulus_len()];
            let random = SystemRandom::new();
            self.rsa
                .sign(encoding, &random, bytes, &mut signed)
                .expect("signed");
            signed
        };
        let signed = match head["alg"].as_str() {
            Some("RS256") => rsa(&RSA_PKCS1_SHA256),
            Some("PS256") => rsa(&RSA_PSS_SHA256),
            Some("ES256") => {
                let signed = self.ec.sign(&SystemRandom::new(), bytes).expect("signed");
                signed.as_ref().to_vec()
            }
            Some("EdDSA") => self.ed.sign(bytes).as_ref().to_vec(),
            _ => Vec::new(),
        };
        format!("{message}.{}", base64(signed))
    }

    fn verify(&self, head: &Value, claims: &Value) -> Result<Token, Invalid> {
        verify(&self.signed(head, claims), &self.keys(), expected())
    }
}

fn expected() -> Expected<'static> {
    Expected {
        issuer: ISSUER,
        client_id: "remora",
        nonce: "of-this-node",
        now: NOW,
    }
}

fn claims() -> Value {
    json!({"iss": ISSUER, "aud": "remora", "sub": "00u1", "nonce": "of-this-node", "iat": NOW, "exp": NOW + 3600})
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().expect("an object").remove(name);
    claims
}

#[test]
fn a_3_a_token_is_believed_with_a_key_of_its_kind() {
    let provider = Provider::new();
    for (alg, kid) in [
        ("RS256", "r"),
        ("PS256", "r"),
        ("ES256", "e"),
        ("EdDSA", "d"),
    ] {
        let head = json!({"alg": alg, "kid": kid, "typ": "JWT"});
        let token = provider.verify(&head, &claims()).expect(alg);
        assert!(token.is_bound);
        assert_eq!(token.claims["sub"], "00u1");
        // A single bit of what is signed, and of the signature.
        let signed = provider.signed(&head, &claims());
        for at in [signed.find('.').expect("parts") + 3, signed.len() - 5] {
            let mut changed = signed.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).expect("text");
            verify(&changed, &provider.keys(), expected()).expect_err(alg);
        }
        // Another provider's key of the same name.
        let other = Provider::new();
        let refused = verify(&signed, &other.keys(), expected()).expect_err(alg);
        assert_eq!(refused, Invalid::Signature);
    }
    // Without a name, every key of that kind is tried.
    provider
        .verify(&json!({"alg": "ES256"}), &claims())
        .expect("a key");
}

#[test]
fn a_3_a_token_does_not_choose_how_it_is_verified() {
    let provider = Provider::new();
    for (head, invalid) in [
        (json!({"alg": "none"}), Invalid::Algorithm),
        (json!({"alg": "None", "kid": "r"}), Invalid::Algorithm),
        (json!({"alg": "HS256", "kid": "r"}), Invalid::Algorithm),
        (json!({"alg": "HS256", "kid": "h"}), Invalid::Algorithm),
        (json!({"alg": "RS1", "kid": "r"}), Invalid::Algorithm),
        (json!({"alg": "RS256", "kid": "e"}), Invalid::UnknownKey),
        (json!({"alg": "ES256", "kid": "r"}), Invalid::UnknownKey),
        (json!({"alg": "RS256", "kid": "x"}), Invalid::UnknownKey),
        (json!({"alg": "RS256", "kid": "new"}), Invalid::UnknownKey),
        (
            json!({"alg": "EdDSA", "kid": "d", "crit": ["exp"]}),
            Invalid::Malformed,
        ),
        (
            json!({"alg": "EdDSA", "kid": "d", "typ": "at+jwt"}),
            Invalid::Malformed,
        ),
        (json!({"kid": "d"}), Invalid::Malformed),
    ] {
        let refused = provider.verify(&head, &claims()).expect_err("refused");
        assert_eq!(refused, invalid, "{head}");
    }
    // HS256 whose secret is what everybody knows: the public key.
    let message = format!(
        "{}.{}",
        base64(r#"{"alg":"HS256","kid":"e"}"#),
        base64(claims().to_string())
    );
    let secret = aws_lc_rs::hmac::Key::new(
        aws_lc_rs::hmac::HMAC_SHA256,
        provider.ec.public_key().as_ref(),
    );
    let tag = aws_lc_rs::hmac::sign(&secret, message.as_bytes());
    let forged = format!("{message}.{}", base64(tag));
    let refused = verify(&forged, &provider.keys(), expected()).expect_err("refused");
    assert_eq!(refused, Invalid::Algorithm);
    for text in [
        "",
        ".",
        "..",
        "a.b.c",
        "e30.e30.",
        "e30.e30.e30.e30",
        &"A".repeat(MAX_TOKEN_BYTES + 1),
    ] {
        verify(text, &provider.keys(), expected()).expect_err(text);
    }
}

#[test]
fn a_3_a_token_is_of_that_provider_for_this_program_and_that_computer() {
    let provider = Provider::new();
    let head = json!({"alg": "EdDSA", "kid": "d"});
    for (claims, invalid) in [
        (
            with("iss", json!("https://login.example.org/")),
            Invalid::Issuer,
        ),
        (
            with("iss", json!("https://evil.example.org")),
            Invalid::Issuer,
        ),
        (without("iss"), Invalid::Issuer),
        (with("aud", json!("another")), Invalid::Audience),
        (with("aud", json!(["another"])), Invalid::Audience),
        (with("aud", json!([])), Invalid::Audience),
        (with("aud", json!(["remora", "another"])), Invalid::Audience),
        (with("azp", json!("another")), Invalid::Audience),
        (without("aud"), Invalid::Audience),
        (with("nonce", json!("of-another-node")), Invalid::Nonce),
        (with("nonce", json!("")), Invalid::Nonce),
        (with("nonce", json!(7)), Invalid::Nonce),
    ] {
        let refused = provider.verify(&head, &claims).expect_err("refused");
        assert_eq!(refused, invalid, "{claims}");
    }
    let mut several = with("aud", json!(["remora", "another"]));
    several["azp"] = json!("remora");
    provider.verify(&head, &several).expect("for this program");
    let token = provider.verify(&head, &without("nonce")).expect("a token");
    assert!(!token.is_bound, "the desk has to know whose it is");
}

#[test]
fn a_3_clocks_differ_by_two_minutes_and_a_token_is_handed_in_at_once() {
    let provider = Provider::new();
    let head = json!({"alg": "EdDSA", "kid": "d"});
    let timed = |issued: i64, expires: i64| {
        let at = |offset| NOW.saturating_add_signed(offset);
        let mut claims = with("iat", json!(at(issued)));
        claims["exp"] = json!(at(expires));
        claims
    };
    for good in [
        timed(0, 3600),
        timed(-600, 3600),
        timed(120, 3600),
        timed(-300, -119),
        timed(-720, 3600),
        with("nbf", json!(NOW + 120)),
        with("exp", json!(1_700_003_600.5)),
    ] {
        provider.verify(&head, &good).expect("in time");
    }
    for (bad, invalid) in [
        (timed(121, 3600), Invalid::NotYet),
        (with("nbf", json!(NOW + 121)), Invalid::NotYet),
        (timed(-300, -120), Invalid::Expired),
        (timed(-721, 3600), Invalid::Expired),
        (without("exp"), Invalid::Malformed),
        (without("iat"), Invalid::Malformed),
        (with("exp", json!("2099-01-01")), Invalid::Malformed),
        (with("exp", json!(-5.0)), Invalid::Malformed),
    ] {
        let refused = provider.verify(&head, &bad).expect_err("out of time");
        assert_eq!(refused, invalid, "{bad}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_is_no_token_is_not_believed_whatever_it_is(parts in vec("[ -~]{0,40}", 0..5), head in "[a-z]{0,8}") {
        let keys = Keys::parse(br#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#);
        let keys = keys.expect("a key");
        let shaped = format!("{}.{}.{}", base64(r#"{"alg":"EdDSA"}"#), base64(parts.join(&head)), base64([0; 64]));
        for text in [parts.join("."), parts.concat(), shaped] {
            prop_assert!(verify(&text, &keys, expected()).is_err());
        }
    }

    #[test]
    fn keys_are_read_or_not_whatever_they_are(kty in "RSA|EC|OKP|oct", crv in "P-256|Ed25519|x", n in "[A-Za-z0-9_=-]{0,90}", e in "[A-Za-z0-9_-]{0,9}") {
        let jwks = json!({"keys": [{"kty": kty, "crv": crv, "n": n, "e": e, "x": n, "y": n}, {"kty": 1}, null]});
        let keys = Keys::parse(jwks.to_string().as_bytes()).expect("a set");
        prop_assert!(keys.0.len() <= 1);
        for alg in ["RS256", "PS256", "ES256", "EdDSA"] {
            let head = base64(json!({"alg": alg}).to_string());
            let token = format!("{head}.e30.{}", base64([1; 64]));
            prop_assert!(verify(&token, &keys, expected()).is_err());
        }
    }
}
