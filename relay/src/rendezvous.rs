//! Where locator records are kept, and what is answered when somebody looks for one.
//!
//! [`Rendezvous`] is the seam for the DHT: a relay asks it and does not know who answers. Until then
//! [`MemoryRendezvous`] keeps the records of this relay's own nodes.

// Pure: records, their tombstones and deadlines.
pub mod store;

use std::{
    future::Future,
    pin::Pin,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use remora_proto::{id::NodeId, record::LocatorKey};

pub use self::store::{Ended, Found, Publication, PutRefused, Store, WithdrawRefused};

/// An answer that may take a round trip through the DHT. (`async fn` in a trait cannot be used through `dyn`.)
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

    /// Records that can be joined, for the metric; what is kept elsewhere does not count.
    fn live_records(&self) -> usize;
}

/// Records in this process's memory, gone with it: their codes live ten minutes at most.
///
/// A lock instead of a task: every use is a few map operations, and none waits while holding it.
#[derive(Debug)]
pub struct MemoryRendezvous(Mutex<Store>);

impl MemoryRendezvous {
    /// An empty store of at most `capacity` records and tombstones.
    pub fn new(capacity: usize) -> Self {
        Self(Mutex::new(Store::new(capacity)))
    }

    fn with<T>(&self, act: impl FnOnce(&mut Store, Instant) -> T) -> T {
        let mut store = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        act(&mut store, Instant::now())
    }
}

impl Rendezvous for MemoryRendezvous {
    fn put_if_absent(&self, publication: Publication) -> Pending<'_, Result<(), PutRefused>> {
        Box::pin(async move { self.with(|store, now| store.put_if_absent(publication, now)) })
    }

    fn find(&self, key: LocatorKey) -> Pending<'_, Found> {
        Box::pin(async move { self.with(|store, now| store.find(key, now)) })
    }

    fn withdraw(
        &self,
        key: LocatorKey,
        owner: NodeId,
        why: Ended,
    ) -> Pending<'_, Result<(), WithdrawRefused>> {
        Box::pin(async move { self.with(|store, now| store.withdraw(key, owner, why, now)) })
    }

    fn live_records(&self) -> usize {
        self.with(Store::live_records)
    }
}
