//! What a label can say: closed enums, so that a relay has as many series after a year as on its first scrape.

use std::fmt;

/// A closed set of a label's values.
pub trait Label: Copy + 'static {
    /// All of them, in the order of their numbers.
    const ALL: &'static [Self];

    /// As it stands in the metric.
    fn label(self) -> &'static str;

    /// Its number, from 0.
    fn index(self) -> usize;
}

macro_rules! labels {
    ($(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $label:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_meta])* $variant),+ }

        impl $name {
            /// As it stands in the metric.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label),+ }
            }
        }

        impl Label for $name {
            const ALL: &'static [Self] = &[$(Self::$variant),+];

            fn label(self) -> &'static str {
                Self::label(self)
            }

            fn index(self) -> usize {
                self as usize
            }
        }
    };
}

labels! {
    /// By whose keys a handshake is.
    Profile {
        /// A node's with this relay.
        Hop = "hop",
    }
}

labels! {
    /// How a handshake ended.
    Handshake {
        /// The node proved its key.
        Ok = "ok",
        /// It failed: wrong key, wrong protocol, or the node went away.
        Failed = "failed",
        /// It took too long.
        TimedOut = "timed_out",
        /// The relay had no room.
        Refused = "refused",
        /// The node's network has all the connections it may have.
        NetworkFull = "network_full",
        /// The node has to prove its address first.
        Retry = "retry",
    }
}

labels! {
    /// What a node asks.
    RequestKind {
        /// To be let in.
        Hello = "hello",
        /// To keep a code, or that a device is there.
        Publish = "publish",
        /// To end a code.
        Withdraw = "withdraw",
        /// Who waits under a code.
        Lookup = "lookup",
        /// To reach whoever waits under a code.
        Join = "join",
        /// To pass something on to the other of the two.
        Signal = "signal",
        /// To let the joiner in.
        Admit = "admit",
        /// Not to.
        Dismiss = "dismiss",
        /// To forget a session.
        Release = "release",
        /// That it is at another address.
        Here = "here",
        /// To keep its place without a connection.
        Park = "park",
        /// To carry a session that another relay carried.
        Rejoin = "rejoin",
        /// For an organisation's policy, or to keep one.
        Policy = "policy",
        /// Whether a device is there.
        Seek = "seek",
        /// To tell it something.
        Ring = "ring",
        /// To wait for help, or who waits.
        Queue = "queue",
        /// Nothing: it says how a session's path has gone.
        PathReport = "path_report",
        /// What this version does not know.
        Unknown = "unknown",
    }
}

labels! {
    /// Requests that take about as long as each other.
    RequestGroup {
        /// `publish`, `withdraw`, `lookup`, `seek`: the relays closest to a key are asked.
        Record = "record",
        /// `join`, `ring`, `signal`, `admit`, `dismiss`, `rejoin`: another node, or its relay, is told.
        Introduction = "introduction",
        /// Everything else, which is answered at once.
        Other = "other",
    }
}

impl RequestKind {
    /// By how long it takes.
    pub const fn group(self) -> RequestGroup {
        match self {
            Self::Publish | Self::Withdraw | Self::Lookup | Self::Seek => RequestGroup::Record,
            Self::Join | Self::Ring | Self::Signal | Self::Admit | Self::Dismiss | Self::Rejoin => {
                RequestGroup::Introduction
            }
            Self::Hello
            | Self::Release
            | Self::Here
            | Self::Park
            | Self::Policy
            | Self::Queue
            | Self::PathReport
            | Self::Unknown => RequestGroup::Other,
        }
    }
}

labels! {
    /// Whether what was asked was done.
    Outcome {
        /// It was.
        Ok = "ok",
        /// It was not, and who asked was told why.
        Refused = "refused",
    }
}

labels! {
    /// Why somebody, or something that a node wanted, was not let in.
    Denial {
        /// As many nodes as may be are here.
        NodesFull = "nodes_full",
        /// As many of the node's network as may be.
        NetworkFull = "network_full",
        /// As many connections by TCP as may be.
        StreamsFull = "streams_full",
        /// The node's program is too old.
        VersionTooOld = "version_too_old",
        /// The node, or its network, asks too often.
        RateLimited = "rate_limited",
        /// The relay is about to stop.
        Draining = "draining",
        /// As many sessions, codes or devices as may be are here.
        Full = "full",
    }
}

labels! {
    /// What a look-up of a code has found.
    Lookup {
        /// Somebody waits.
        Ok = "ok",
        /// Nobody does.
        UnknownCode = "unknown_code",
        /// Nobody does any more: used, burned, expired or taken back.
        Ended = "ended",
        /// This source asks too often.
        RateLimited = "rate_limited",
        /// No look-up can be like that.
        Malformed = "malformed",
    }
}

labels! {
    /// Why a code ended before its time.
    CodeEnd {
        /// The two have met.
        Used = "used",
        /// Tried wrongly too often.
        Burned = "burned",
        /// Its time was over.
        Expired = "expired",
        /// Taken back.
        Cancelled = "cancelled",
    }
}

labels! {
    /// How a joiner's try ended.
    Introduction {
        /// With a session.
        Admitted = "admitted",
        /// The host said no.
        Dismissed = "dismissed",
        /// The host said the secret was wrong.
        WrongSecret = "wrong_secret",
        /// One of the two went away.
        PeerGone = "peer_gone",
        /// Neither came to an end in time.
        Expired = "expired",
    }
}

labels! {
    /// Where the two nodes of a session are.
    SessionPath {
        /// Both at this relay.
        Relayed = "relayed",
        /// One of them at another relay of the fleet.
        Bridged = "bridged",
    }
}

labels! {
    /// Whom a frame was sent on to.
    FrameLeg {
        /// A node, by UDP or by a stream.
        Node = "node",
        /// Another relay, at which the node is.
        Relay = "relay",
    }
}

labels! {
    /// How an allocation ended.
    SessionEnd {
        /// A node said so.
        Released = "released",
        /// A node's connection ended without a word.
        Lost = "lost",
        /// No frame for a while.
        Idle = "idle",
        /// The relay's drain ran out of time.
        Drained = "drained",
        /// An operator has ended it.
        Operator = "operator",
    }
}

labels! {
    /// How a connection by TCP ended.
    StreamEnd {
        /// The relay had no room.
        Refused = "refused",
        /// The node's network has all that it may have.
        NetworkFull = "network_full",
        /// No TLS, no WebSocket, or not of ours.
        Failed = "failed",
        /// It took too long to begin.
        TimedOut = "timed_out",
        /// The node closed it.
        Left = "left",
        /// The network did, or the node without a word.
        Lost = "lost",
        /// The node had nothing to say for long.
        Idle = "idle",
        /// Nothing that the node said was for the relay to answer.
        Unanswered = "unanswered",
        /// What came is not what comes by streams.
        Malformed = "malformed",
        /// The relay ends.
        Closing = "closing",
    }
}

labels! {
    /// Which way a datagram went by TCP.
    Direction {
        /// From a node.
        Received = "received",
        /// To a node.
        Sent = "sent",
    }
}

labels! {
    /// Whether settings that were read again could be used.
    Reload {
        /// They could.
        Applied = "applied",
        /// They could not, and all stays as it was.
        Refused = "refused",
    }
}

labels! {
    /// What the relays closest to a key are asked together.
    DhtKind {
        /// Who they are.
        Closest = "closest",
        /// To keep a record.
        Put = "put",
        /// What they keep.
        Find = "find",
        /// To end a record.
        Withdraw = "withdraw",
        /// What they know of a device.
        Seek = "seek",
    }
}

labels! {
    /// What became of such a question.
    DhtResult {
        /// Done, or found.
        Ok = "ok",
        /// An answer, and it is no: nothing is kept, or somebody else has the key, or there is no room.
        Negative = "negative",
        /// Too few relays answered.
        Failed = "failed",
    }
}

labels! {
    /// What another relay is asked.
    RpcKind {
        /// To keep, forget or find a record.
        Record = "record",
        /// To pass an introduction on, or a session's end.
        Introduction = "introduction",
        /// Who it is, and what an organisation's members want to know.
        Other = "other",
    }
}

labels! {
    /// What became of that.
    RpcResult {
        /// Done.
        Ok = "ok",
        /// An answer, and it is no.
        Refused = "refused",
        /// No answer.
        Unreachable = "unreachable",
    }
}

labels! {
    /// Why a relay is not let into the mesh.
    Stranger {
        /// It has another fleet key, or something in between has changed its first message.
        FleetKey = "fleet_key",
        /// Its clock is more than a minute away.
        Clock = "clock",
        /// It serves another name space.
        Realm = "realm",
        /// It speaks no version that this one does.
        Version = "version",
        /// It has come and gone too often.
        Flapping = "flapping",
        /// There are as many in touch as may be.
        Full = "full",
    }
}

/// What its operator can do.
impl fmt::Display for Stranger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FleetKey => {
                "it has another fleet key; give all relays the same file with --fleet-key"
            }
            Self::Clock => "its clock and this one are more than a minute apart; set both by NTP",
            Self::Realm => "it serves another realm; give all relays the same --realm",
            Self::Version => {
                "its version and this one have no messages in common; update the older"
            }
            Self::Flapping => "it came and went too often; it is let in again in a moment",
            Self::Full => "as many relays are in touch as may be",
        })
    }
}

labels! {
    /// Whether a session's frames go without a relay, and if not, why, by the word of its host.
    PathOutcome {
        /// They do.
        Direct = "direct",
        /// No way that was tried was answered.
        NoAnswer = "no_answer",
        /// Both are behind NATs that give each destination another port.
        HardNats = "hard_nats",
        /// One of the two is in a network that lets no UDP out.
        UdpBlocked = "udp_blocked",
        /// One of the two wants none.
        RelayOnly = "relay_only",
    }
}

labels! {
    /// By what a session's frames go.
    PathWay {
        /// From node to node.
        Direct = "direct",
        /// Through a relay, by UDP.
        Relay = "relay",
        /// Through a relay, by TCP.
        Stream = "stream",
    }
}

labels! {
    /// Why another relay carries a session.
    MoveCause {
        /// The one before is about to stop.
        Draining = "draining",
        /// The one before is gone, or silent.
        Lost = "lost",
        /// The new one is nearer to both.
        Nearer = "nearer",
        /// The other node said so.
        Peer = "peer",
    }
}

labels! {
    /// Whether one does.
    MoveResult {
        /// It does: this one.
        Ok = "ok",
        /// None: the two were still here when the time of this one's drain was over.
        CutOff = "cut_off",
    }
}

labels! {
    /// A thread of the datapath, by its number: beyond the seventh they are one, the busiest of them.
    WorkerName {
        /// The first.
        W0 = "0",
        /// The second.
        W1 = "1",
        /// The third.
        W2 = "2",
        /// The fourth.
        W3 = "3",
        /// The fifth.
        W4 = "4",
        /// The sixth.
        W5 = "5",
        /// The seventh.
        W6 = "6",
        /// The others.
        More = "more",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_has_its_own_number() {
        for (number, reason) in Denial::ALL.iter().enumerate() {
            assert_eq!(reason.index(), number);
        }
        assert_eq!(RequestKind::ALL.len(), RequestKind::Unknown.index() + 1);
    }
}
