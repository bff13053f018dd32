//! Ctrl-C and SIGTERM: noticed at once, told to whoever asks; then everything ends in order, children first.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::bail;
use tokio::signal::unix::{SignalKind, signal};

/// How soon a wait ends after the signal.
const GLANCE: Duration = Duration::from_millis(50);

static TOLD: AtomicBool = AtomicBool::new(false);

/// Watches from now on, in a thread of its own: the load's thread has no time to wait for signals.
///
/// # Errors
/// What the system said.
pub fn watch() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let entered = runtime.enter();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    drop(entered);
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            });
            TOLD.store(true, Ordering::Relaxed);
        })?;
    Ok(())
}

/// Goes on unless somebody wants an end.
///
/// # Errors
/// When somebody does.
pub fn check() -> anyhow::Result<()> {
    if TOLD.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}

/// Waits until somebody wants an end.
pub async fn told() {
    while check().is_ok() {
        tokio::time::sleep(GLANCE).await;
    }
}
