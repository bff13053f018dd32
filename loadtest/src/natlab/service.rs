//! A task in a router's namespace, for as long as somebody wants it.

use std::future::Future;

use patchbay::Router;
use tokio::task::JoinHandle;

/// Ends when it is dropped.
#[derive(Debug)]
pub(super) struct Service(JoinHandle<()>);

impl Service {
    /// Begins.
    ///
    /// # Errors
    /// The namespace is gone.
    pub(super) fn spawn(
        router: &Router,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> anyhow::Result<Self> {
        Ok(Self(router.spawn(|_| task)?))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.0.abort();
    }
}
