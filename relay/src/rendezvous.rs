//! Where records of hosts and devices are kept, and what is answered when somebody looks for one.
//!
//! [`Rendezvous`] is what a relay asks, and it does not know who answers: its own [`Shelf`], when it is alone, or with
//! [`Fleet`] those of the relays closest to the record's key.

// The relays closest to a key, asked together.
pub mod fleet;
// What this relay keeps, for its own nodes and for other relays.
pub mod shelf;
// What is known of a device.
pub mod sighting;
// Pure: records, their tombstones and deadlines.
pub mod store;

use std::{future::Future, pin::Pin};

use remora_proto::{
    id::NodeId,
    record::{Kind, RecordKey},
};

pub use self::{
    fleet::Fleet,
    shelf::Shelf,
    sighting::Sighting,
    store::{Ended, Found, Publication, PutRefused, Store, WithdrawRefused},
};

/// An answer that may take a round trip to other relays. (`async fn` in a trait cannot be used through `dyn`.)
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Keeps records under their keys.
pub trait Rendezvous: Send + Sync + 'static {
    /// Puts a record unless its key is held by another.
    fn put_if_absent(&self, publication: Publication) -> Pending<'_, Result<(), PutRefused>>;

    /// What is kept of a host under `key`.
    fn find(&self, key: RecordKey) -> Pending<'_, Found>;

    /// Ends `owner`'s record; look-ups are answered with `why` from now on.
    fn withdraw(
        &self,
        key: RecordKey,
        owner: NodeId,
        why: Ended,
    ) -> Pending<'_, Result<(), WithdrawRefused>>;

    /// What is known of the device under `key`; an answer within three seconds.
    fn seek(&self, key: RecordKey) -> Pending<'_, Option<Sighting>>;

    /// The node that put a record is gone. A host's stays where it is, but nothing is done for it any more: the node may have put it
    /// again, at another relay. A device is gone until it puts another.
    fn let_go(&self, key: RecordKey);

    /// Records that can be joined, or devices that are there, for the metric; what is kept elsewhere does not count.
    fn live_records(&self, kind: Kind) -> usize;

    /// Records and tombstones, or devices and when they were there last, for the metric.
    fn kept_records(&self, kind: Kind) -> usize;
}
