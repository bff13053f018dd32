//! Android: a device owner's DevicePolicyManager would restart (reboot) and sign out (logoutUser), an overlay of an accessibility service would hide the screen, and there is no administrator whose rights could be used.
//! None of that is written: whatever is asked for is refused as `UNSUPPORTED`.

use super::Backends;

/// None.
pub(super) fn backends() -> Backends {
    Backends::default()
}
