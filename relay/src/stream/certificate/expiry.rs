//! When a certificate ends: of X.509 (RFC 5280 §4.1) only as much as leads there. What does not is nothing, not an error: whoever checks
//! the certificate says what is wrong with it.

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The moment after which nobody takes it, seconds since 1970, of a certificate in DER.
pub fn not_after(certificate: &[u8]) -> Option<i64> {
    let (certificate, _) = within(certificate, SEQUENCE)?;
    let (mut fields, _) = within(certificate, SEQUENCE)?;
    if fields.first() == Some(&VERSION) {
        fields = any(fields)?.2;
    }
    // Serial number, algorithm, issuer.
    for _ in 0..3 {
        fields = any(fields)?.2;
    }
    let (validity, _) = within(fields, SEQUENCE)?;
    let (_, _, not_after) = any(validity)?;
    let (tag, time, _) = any(not_after)?;
    unix_s(tag, time)
}

/// A value of this kind, and what follows it.
fn within(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, value, rest) = any(bytes)?;
    (found == tag).then_some((value, rest))
}

/// A value with its tag, and what follows it.
fn any(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let [tag, length, rest @ ..] = bytes else {
        return None;
    };
    let (length, rest) = match length {
        short @ 0..=0x7f => (usize::from(*short), rest),
        long @ 0x81..=0x84 => {
            let (length, rest) = rest.split_at_checked(usize::from(long - 0x80))?;
            let length = length
                .iter()
                .fold(0, |length, byte| length << 8 | usize::from(*byte));
            (length, rest)
        }
        _ => return None,
    };
    let (value, rest) = rest.split_at_checked(length)?;
    Some((*tag, value, rest))
}

/// YYMMDDHHMMSSZ, or YYYYMMDDHHMMSSZ, as RFC 5280 §4.1.2.5 allows no others.
fn unix_s(tag: u8, time: &[u8]) -> Option<i64> {
    let digits = time.strip_suffix(b"Z")?;
    let is_number = digits.iter().all(u8::is_ascii_digit);
    let (year, rest) = match (tag, digits.len()) {
        (UTC_TIME, 12) if is_number => {
            let year = number(&digits[..2]);
            (year + if year < 50 { 2000 } else { 1900 }, &digits[2..])
        }
        (GENERALIZED_TIME, 14) if is_number => (number(&digits[..4]), &digits[4..]),
        _ => return None,
    };
    let [month, day, hour, minute, second] = [0, 2, 4, 6, 8].map(|at| number(&rest[at..at + 2]));
    if !(1..=12).contains(&month) {
        return None;
    }
    // The year begins in March, so that its last day is the leap day.
    let (year, month) = match month {
        3.. => (year, month - 3),
        _ => (year - 1, month + 9),
    };
    let leaps = year / 4 - year / 100 + year / 400;
    let days = 365 * year + leaps + (153 * month + 2) / 5 + day - 1;
    // From the first of March of year 0 to the first of January 1970.
    const TO_1970: i64 = 719_468;
    Some((days - TO_1970) * 86_400 + hour * 3600 + minute * 60 + second)
}

fn number(digits: &[u8]) -> i64 {
    let digit = |digit: &u8| i64::from(digit - b'0');
    digits
        .iter()
        .map(digit)
        .fold(0, |sum, digit| 10 * sum + digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_as_it_is_written() {
        for (tag, text, unix) in [
            (UTC_TIME, "700101000000Z", 0),
            (UTC_TIME, "491231235959Z", 2_524_607_999),
            (GENERALIZED_TIME, "20240229120000Z", 1_709_208_000),
            (GENERALIZED_TIME, "20500101000000Z", 2_524_608_000),
            (UTC_TIME, "261130014543Z", 1_796_003_143),
        ] {
            assert_eq!(unix_s(tag, text.as_bytes()), Some(unix), "{text}");
        }
        for (tag, text) in [
            (UTC_TIME, "20240229120000Z"),
            (GENERALIZED_TIME, "240229120000Z"),
            (UTC_TIME, "2402291200Z"),
            (UTC_TIME, "240229120000"),
            (UTC_TIME, "24022912000xZ"),
            (UTC_TIME, "241329120000Z"),
        ] {
            assert_eq!(unix_s(tag, text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_certificate_ends_when_it_says() {
        let pair = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::new(["x.example".to_owned()]).expect("a name");
        params.not_after = rcgen::date_time_ymd(2031, 7, 9);
        let certificate = params.self_signed(&pair).expect("a certificate");
        let der = certificate.der();
        assert_eq!(not_after(der), Some(1_941_321_600));
        for length in 0..der.len().min(100) {
            assert_eq!(not_after(&der[..length]), None);
        }
    }
}
