//! A relay's name in libp2p: a [`PeerId`] that is its [`RelayId`], so that one can be told from the other.
//!
//! As for keys of at most 42 bytes, it is the key itself as an "identity" multihash; but of the X25519 key that the relay has
//! anyway and proves in the Noise handshake, instead of one more key of libp2p's.

use libp2p::{PeerId, multihash::Multihash};
use remora_proto::id::RelayId;

/// The multihash that is no hash (<https://github.com/multiformats/multicodec>).
const IDENTITY: u64 = 0;

/// What libp2p calls the relay.
pub fn peer_id(relay: RelayId) -> PeerId {
    Multihash::wrap(IDENTITY, &relay.0)
        .ok()
        .and_then(|hash| PeerId::from_multihash(hash).ok())
        .expect("32 bytes are few enough for an identity multihash")
}

/// Which relay that is; none when it is none's.
pub fn relay_id(peer: &PeerId) -> Option<RelayId> {
    let hash: &Multihash<64> = peer.as_ref();
    let key = (hash.code() == IDENTITY).then(|| hash.digest().try_into().ok());
    key.flatten().map(RelayId)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relays_two_names_are_one() {
        let relay = RelayId([7; 32]);
        assert_eq!(relay_id(&peer_id(relay)), Some(relay));
        assert_ne!(peer_id(relay), peer_id(RelayId([8; 32])));
        let short = Multihash::wrap(IDENTITY, &[7; 31]).expect("short enough");
        let other = PeerId::from_multihash(short).expect("short enough");
        assert_eq!(relay_id(&other), None);
    }
}
