//! What went wrong with the relay, for the person who has to do something about it.

use quinn::{Connection, ConnectionError};
use remora_proto::{
    id::RelayAddr,
    record::CLOCK_TOLERANCE_MS,
    wire::message::control::{Reason, Refused, Welcome},
};

use super::{RequestError, unix_ms};
use crate::error::{Exit, Failure};

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Self {
        match &error {
            RequestError::Refused(refused) => Self::new(
                Exit::Error,
                refused.reason().as_str_name(),
                error.to_string(),
            ),
            RequestError::Lost => relay_lost(),
        }
    }
}

/// The failure of a command whose relay went away.
pub fn relay_lost() -> Failure {
    Failure::new(
        Exit::Offline,
        "RELAY_LOST",
        "the connection to the relay is lost; check your network and try again",
    )
}

/// No answer from the relay, or the network is in between.
pub const RELAY_UNREACHABLE: &str = "RELAY_UNREACHABLE";

/// Somebody else answers.
pub const RELAY_KEY: &str = "RELAY_KEY";

/// TLS alert numbers that Noise-QUIC uses, too.
const ALERT_HANDSHAKE_FAILURE: u8 = 40;
const ALERT_NO_APPLICATION_PROTOCOL: u8 = 120;

pub(super) fn connect_failure(relay: &RelayAddr, error: &ConnectionError) -> Failure {
    let at = &relay.host_port;
    let alert = |number| quinn::TransportErrorCode::crypto(number);
    let code = match error {
        ConnectionError::ConnectionClosed(close) => Some(close.error_code),
        ConnectionError::TransportError(error) => Some(error.code),
        _ => None,
    };
    match error {
        ConnectionError::TimedOut => Failure::new(
            Exit::Offline,
            RELAY_UNREACHABLE,
            format!(
                "no answer from the relay at {at} by UDP: is it running, is the address right, and does your network let UDP through?"
            ),
        ),
        ConnectionError::VersionMismatch => version_failure(at),
        _ if code == Some(quinn::TransportErrorCode::CONNECTION_REFUSED) => full_failure(at),
        _ if code == Some(alert(ALERT_NO_APPLICATION_PROTOCOL)) => version_failure(at),
        _ if code == Some(alert(ALERT_HANDSHAKE_FAILURE)) => Failure::new(
            Exit::Verification,
            RELAY_KEY,
            format!(
                "whoever answers at {at} does not have the key in the relay's address: copy the address again from your operator; if it is the same, do not use this relay"
            ),
        ),
        _ => Failure::new(
            Exit::Offline,
            RELAY_UNREACHABLE,
            format!("cannot connect to the relay at {at}: {error}"),
        ),
    }
}

fn full_failure(at: &str) -> Failure {
    Failure::new(
        Exit::Offline,
        "RELAY_FULL",
        format!(
            "the relay at {at} takes no more connections, or no more from your network; try again in some minutes, or ask its operator"
        ),
    )
}

fn version_failure(at: &str) -> Failure {
    Failure::new(
        Exit::Error,
        "VERSION_MISMATCH",
        format!(
            "the relay at {at} speaks another version of the protocol: update remora, or ask its operator to update remora-relay"
        ),
    )
}

/// Why a relay did not welcome us.
pub(super) enum HelloError {
    Refused(Refused),
    Lost,
    Malformed,
}

pub(super) fn hello_failure(
    relay: &RelayAddr,
    connection: &Connection,
    error: HelloError,
) -> Failure {
    match (error, connection.close_reason()) {
        (HelloError::Refused(refused), _) if refused.reason() == Reason::VersionTooOld => {
            version_failure(&relay.host_port)
        }
        (HelloError::Refused(refused), _) if refused.reason() == Reason::Full => {
            full_failure(&relay.host_port)
        }
        (HelloError::Refused(refused), _) => RequestError::Refused(refused).into(),
        (HelloError::Lost, Some(reason)) => connect_failure(relay, &reason),
        (HelloError::Lost, None) => relay_lost(),
        (HelloError::Malformed, _) => version_failure(&relay.host_port),
    }
}

pub(super) fn check_clock(welcome: &Welcome) -> Result<(), Failure> {
    let (here, there) = (unix_ms(), welcome.unix_ms);
    if here.abs_diff(there) <= CLOCK_TOLERANCE_MS {
        return Ok(());
    }
    let minutes = here.abs_diff(there) / 60_000;
    let direction = if here > there { "ahead of" } else { "behind" };
    let line = format!(
        "this computer's clock is {minutes} min {direction} the relay's: codes would not be found; set the clock (for example with `timedatectl set-ntp true`) and try again"
    );
    Err(Failure::new(Exit::Error, "CLOCK_OFF", line))
}
