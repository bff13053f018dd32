//! Where locator records are kept, and what is answered when somebody looks for one.
//!
//! [`Rendezvous`] is what a relay asks, and it does not know who answers: its own [`Shelf`], when it is alone, or with
//! [`Fleet`] those of the relays closest to the record's key.

// The relays closest to a key, asked together.
pub mod fleet;
// What this relay keeps, for its own nodes and for other relays.
pub mod shelf;
// Pure: records, their tombstones and deadlines.
pub mod store;

use std::{future::Future, pin::Pin};

use remora_proto::{id::NodeId, record::LocatorKey};

pub use self::{
    fleet::Fleet,
    shelf::Shelf,
    store::{Ended, Found, Publication, PutRefused, Store, WithdrawRefused},
};

/// An answer that may take a round trip to other relays. (`async fn` in a trait cannot be used through `dyn`.)
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Keeps records under their locator keys.
pub trait Rendezvous: Send + Sync + 'static {
    /// Puts a record unless its key is held by another.
    fn put_if_absent(&self, publication: Publication) -> Pending<'_, Result<(), PutRefused>>;

    /// What is kept under `key`.
    fn find(&self, key: LocatorKey) -> Pending<'_, Found>;

    /// Ends `owner`'s record; look-ups are answered with `why` from now on.
    fn withdraw(
        &self,
        key: LocatorKey,
        owner: NodeId,
        why: Ended,
    ) -> Pending<'_, Result<(), WithdrawRefused>>;

    /// The node that put a record is gone: it stays where it is, but nothing is done for it any more. The node may have put it
    /// again, at another relay.
    fn let_go(&self, key: LocatorKey);

    /// Records that can be joined, for the metric; what is kept elsewhere does not count.
    fn live_records(&self) -> usize;

    /// Records and tombstones, for the metric.
    fn kept_records(&self) -> usize;
}
