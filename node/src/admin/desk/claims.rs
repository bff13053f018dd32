//! Who the claims say somebody is: pure. Company and domain are the organisation's own to say; a claim for the company wins only where an
//! administrator names one.

use std::{collections::BTreeMap, str::FromStr};

use data_encoding::HEXLOWER;
use remora_proto::{
    identity::Profile,
    org::{label::Label, policy::Policy},
};
use serde_json::Value;

use super::refusal::Refusal;
use crate::oidc::token::Claims;

/// What a claim is read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Field {
    /// What policies call the person.
    Subject,
    /// Their full name.
    Name,
    /// Their job title.
    JobTitle,
    /// Their company.
    Company,
    /// SHA-256 of their picture, in hex: what a claim's address leads to is not fetched.
    Picture,
    /// Their e-mail address, whose domain must be the organisation's.
    Email,
    /// Whether the provider has seen that it is theirs.
    Verified,
    /// The domain that the provider itself says that they are of.
    HostedDomain,
}

/// With the claims that they are read from when nobody says otherwise (OpenID Connect Core 1.0 §5.1; `hd` is Google's).
const FIELDS: [(Field, &str, &str); 8] = [
    (Field::Subject, "subject", "email"),
    (Field::Name, "name", "name"),
    (Field::JobTitle, "job-title", "job_title"),
    (Field::Company, "company", ""),
    (Field::Picture, "picture", "picture_sha256"),
    (Field::Email, "email", "email"),
    (Field::Verified, "verified", "email_verified"),
    (Field::HostedDomain, "hosted-domain", "hd"),
];

/// `FIELD=CLAIM`, of `--claim`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice(Field, String);

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let chosen = text.split_once('=').and_then(|(field, claim)| {
            let known = FIELDS.iter().find(|(_, name, _)| *name == field);
            known.map(|(field, ..)| Self(*field, claim.to_owned()))
        });
        chosen.ok_or_else(|| {
            let names: Vec<_> = FIELDS.iter().map(|(_, name, _)| *name).collect();
            format!("write FIELD=CLAIM, with a field of {}", names.join(", "))
        })
    }
}

/// Which claim each field is read from.
#[derive(Clone, Debug)]
pub(super) struct Mapping(BTreeMap<Field, String>);

impl Mapping {
    pub(super) fn new(chosen: &[Choice]) -> Self {
        let defaults = FIELDS
            .iter()
            .map(|(field, _, claim)| (*field, (*claim).to_owned()));
        let chosen = chosen
            .iter()
            .map(|Choice(field, claim)| (*field, claim.clone()));
        Self(defaults.chain(chosen).collect())
    }

    fn claim(&self, field: Field) -> &str {
        self.0.get(&field).map_or("", String::as_str)
    }

    fn value<'a>(&self, claims: &'a Claims, field: Field) -> Option<&'a Value> {
        claims.get(self.claim(field))
    }

    fn text<'a>(&self, claims: &'a Claims, field: Field) -> Option<&'a str> {
        let value = self.value(claims, field).and_then(Value::as_str);
        value.filter(|text| !text.trim().is_empty())
    }
}

/// Somebody whom the provider knows, of the organisation.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Person {
    /// What the provider calls them, and nobody else, ever.
    pub(super) account: String,
    pub(super) subject: Label,
    pub(super) profile: Profile,
    pub(super) picture: Option<[u8; 32]>,
}

/// Reads claims that were verified.
///
/// # Errors
/// Something is missing, or they are of somebody else's people.
pub(super) fn person(
    claims: &Claims,
    mapping: &Mapping,
    policy: &Policy,
) -> Result<Person, Refusal> {
    let account = claims.get("sub").and_then(Value::as_str);
    let account = account.filter(|account| !account.is_empty());
    let account = account.ok_or(Refusal::Claim("account (sub)"))?.to_owned();
    belongs(claims, mapping, &policy.domain)?;
    let subject = mapping.text(claims, Field::Subject);
    let subject = subject.map(str::to_ascii_lowercase);
    let subject = subject.and_then(|subject| subject.parse().ok());
    let name = mapping.text(claims, Field::Name);
    let title = mapping.text(claims, Field::JobTitle).unwrap_or_default();
    let company = mapping.text(claims, Field::Company);
    let company = company.unwrap_or(&policy.company);
    let profile = Profile::new(
        name.ok_or(Refusal::Claim("name"))?,
        title,
        company,
        &policy.domain,
    );
    let picture = mapping.text(claims, Field::Picture).and_then(|hex| {
        let hash = HEXLOWER.decode(hex.to_ascii_lowercase().as_bytes()).ok()?;
        hash.try_into().ok()
    });
    Ok(Person {
        account,
        subject: subject.ok_or(Refusal::Claim("name for policies"))?,
        profile: profile.map_err(|_| Refusal::Claim("name"))?,
        picture,
    })
}

/// Of a verified address in the organisation's domain; or by the provider's own word, where no address says who it is.
fn belongs(claims: &Claims, mapping: &Mapping, domain: &str) -> Result<(), Refusal> {
    let foreign = || Refusal::ForeignDomain(domain.to_owned());
    let hosted = mapping.text(claims, Field::HostedDomain);
    let is_hosted = hosted.is_some_and(|hosted| hosted.eq_ignore_ascii_case(domain));
    if hosted.is_some() && !is_hosted {
        return Err(foreign());
    }
    if is_hosted && mapping.claim(Field::Subject) != mapping.claim(Field::Email) {
        return Ok(());
    }
    let email = mapping.text(claims, Field::Email);
    let (_, of) = email
        .and_then(|email| email.rsplit_once('@'))
        .ok_or(Refusal::Claim("e-mail address"))?;
    // Some write it as text (or, Entra's xms_edov, as a number).
    let is_verified = match mapping.value(claims, Field::Verified) {
        Some(Value::Bool(verified)) => *verified,
        Some(Value::String(text)) => text == "true" || text == "1",
        Some(Value::Number(number)) => number.as_u64() == Some(1),
        Some(Value::Null | Value::Array(_) | Value::Object(_)) | None => false,
    };
    match (is_verified, of.eq_ignore_ascii_case(domain)) {
        (true, true) => Ok(()),
        (true, false) => Err(foreign()),
        (false, _) => Err(Refusal::EmailUnverified),
    }
}

#[cfg(test)]
mod tests {
    use remora_proto::id::OrgId;
    use serde_json::json;

    use super::*;

    fn read(claims: Value, chosen: &[&str]) -> Result<Person, Refusal> {
        let policy = Policy::first(OrgId([7; 32]), "Contoso", "contoso.com", 1, 2);
        let chosen: Vec<Choice> = chosen
            .iter()
            .map(|text| text.parse().expect("a choice"))
            .collect();
        let Value::Object(claims) = claims else {
            panic!("an object")
        };
        person(&claims, &Mapping::new(&chosen), &policy)
    }

    fn sam() -> Value {
        json!({
            "sub": "00u1", "email": "Sam.Okafor@Contoso.com", "email_verified": true, "name": "Sam Okafor",
            "job_title": "IT Support", "company": "Nobody asked", "picture_sha256": "AB".repeat(32),
        })
    }

    fn with(name: &str, value: Value) -> Value {
        let mut claims = sam();
        claims[name] = value;
        claims
    }

    #[test]
    fn a_3_claims_make_a_card_and_company_and_domain_are_the_organisations() {
        let person = read(sam(), &[]).expect("a person");
        assert_eq!(person.subject.as_str(), "sam.okafor@contoso.com");
        assert_eq!(person.account, "00u1");
        let profile = &person.profile;
        assert_eq!(
            (
                &profile.full_name[..],
                &profile.job_title[..],
                &profile.company[..],
                &profile.domain[..]
            ),
            ("Sam Okafor", "IT Support", "Contoso", "contoso.com")
        );
        assert_eq!(person.picture, Some([0xab; 32]));
        let chosen = ["company=company", "subject=login", "verified=xms_edov"];
        let mut claims = with("login", json!("sam"));
        claims["xms_edov"] = json!("1");
        claims["email_verified"] = json!(false);
        let person = read(claims, &chosen).expect("a person");
        assert_eq!(
            (person.subject.as_str(), &person.profile.company[..]),
            ("sam", "Nobody asked")
        );
        "job=title".parse::<Choice>().expect_err("no such field");
    }

    #[test]
    fn a_3_only_the_organisations_own_people_get_papers() {
        for (claims, code) in [
            (with("email_verified", json!(false)), "EMAIL_UNVERIFIED"),
            (with("email_verified", Value::Null), "EMAIL_UNVERIFIED"),
            (with("email_verified", json!("yes")), "EMAIL_UNVERIFIED"),
            (
                with("email", json!("sam@contoso.com.example")),
                "FOREIGN_DOMAIN",
            ),
            (with("email", json!("sam@x@fabrikam.com")), "FOREIGN_DOMAIN"),
            (with("email", json!("contoso.com")), "CLAIM"),
            (with("hd", json!("fabrikam.com")), "FOREIGN_DOMAIN"),
            (with("name", json!(" ")), "CLAIM"),
            (with("name", json!("x".repeat(200))), "CLAIM"),
            (with("sub", json!("")), "CLAIM"),
            (with("email", json!("ŝam@contoso.com")), "CLAIM"),
        ] {
            let shown = claims.to_string();
            assert_eq!(read(claims, &[]).expect_err(&shown).name(), code, "{shown}");
        }
        // The provider's own word is enough where no address says who it is.
        let mut claims = with("hd", json!("contoso.com"));
        claims["email_verified"] = json!(false);
        read(claims.clone(), &[]).expect_err("the address is who it is");
        claims["login"] = json!("sam");
        read(claims, &["subject=login"]).expect("a person");
    }
}
