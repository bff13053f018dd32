//! A session's code as a link, for people to whom one sends links: `https://HOST/j#4060-r0gx`. The part behind `#` stays out of every
//! server's log. Who comes by one shows the screen, and no more (guide, E-6).

use std::str::FromStr;

use remora_proto::{
    code::{Code, InvalidCode},
    session::Entry,
};

/// Links as the guide has them: `https://aka.ms/rh?passcode=4060r0gx`.
const PASSCODE: &str = "passcode=";

/// What somebody typed, pasted or opened to get help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// The code.
    pub code: Code,
    /// A link, or the code alone.
    pub entry: Entry,
}

impl FromStr for Given {
    type Err = InvalidCode;

    /// A code, or a link that has one. Whatever else is in the link, also whose host it names, is of no account: nothing is asked of it.
    fn from_str(text: &str) -> Result<Self, InvalidCode> {
        let text = text.trim();
        let (code, entry) = match in_link(text) {
            Some(code) => (code, Entry::Link),
            None => (text, Entry::Code),
        };
        let code = code.parse()?;
        Ok(Self { code, entry })
    }
}

fn in_link(text: &str) -> Option<&str> {
    let (scheme, rest) = text.split_once("://")?;
    let is_web = ["http", "https"]
        .iter()
        .any(|web| scheme.eq_ignore_ascii_case(web));
    let (before, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let query = before.split_once('?').map_or("", |(_, query)| query);
    let passcode = query
        .split('&')
        .find_map(|pair| pair.strip_prefix(PASSCODE));
    is_web.then(|| passcode.unwrap_or(fragment))
}

/// The link to a code.
pub fn link(host: &str, code: &str) -> String {
    let bare: String = code.chars().filter(|c| *c != '-').collect();
    format!("https://{host}/j#{bare}")
}

/// A host that a link can name: a name or an address, perhaps with a port.
///
/// # Errors
/// It is none.
pub fn host(text: &str) -> Result<String, &'static str> {
    let fits = (1..=253 + 6).contains(&text.len())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || ".-:[]".contains(c));
    match fits {
        true => Ok(text.to_owned()),
        false => Err("say a host, such as help.example.org"),
    }
}

/// The host of a relay's `HOST:PORT`.
pub fn host_of(host_port: &str) -> &str {
    host_port
        .rsplit_once(':')
        .map_or(host_port, |(host, _)| host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(text: &str) -> Result<Given, InvalidCode> {
        text.parse()
    }

    #[test]
    fn e_6_both_forms_of_a_link_are_understood_and_are_no_code() {
        let code: Code = "4060-r0gx".parse().expect("a code");
        for text in [
            "https://help.contoso.com/j#4060r0gx",
            "https://help.contoso.com/j#4060-R0GX ",
            "HTTPS://aka.ms/rh?passcode=4060r0gx",
            "https://aka.ms/rh?a=b&passcode=4060r0gx#top",
            "http://127.0.0.1:8080/j#4060r0gx",
        ] {
            let expected = Given {
                code: code.clone(),
                entry: Entry::Link,
            };
            assert_eq!(given(text), Ok(expected), "{text}");
        }
        let plain = given(" 4O6O rogx").expect("a code");
        assert_eq!((plain.code, plain.entry), (code, Entry::Code));
        for text in [
            "https://aka.ms/rh",
            "ftp://a/j#4060r0gx",
            "https://a/j#",
            "https://a/j#4060r0gu",
        ] {
            assert!(given(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_link_leads_back_to_its_code() {
        let text = link("help.contoso.com", "4060-r0gx");
        assert_eq!(text, "https://help.contoso.com/j#4060r0gx");
        assert_eq!(given(&text).map(|given| given.entry), Ok(Entry::Link));
        assert_eq!(host_of("relay.example:443"), "relay.example");
        assert_eq!(host_of("[::1]:443"), "[::1]");
        assert!(host("help.contoso.com:8443").is_ok() && host("a/b").is_err() && host("").is_err());
    }
}
