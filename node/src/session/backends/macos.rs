//! macOS: a launchd daemon would start programs, AppleEvents to loginwindow (kAELogOut, kAERestart) would sign out and restart, and CGCaptureAllDisplays would hide the screen.
//! None of that is written: whatever is asked for is refused as `UNSUPPORTED`.

use super::Backends;

/// None.
pub(super) fn backends() -> Backends {
    Backends::default()
}
