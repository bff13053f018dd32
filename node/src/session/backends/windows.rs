//! Windows: a service would start programs with the administrator's token (LogonUser, CreateProcessAsUser in a job object that is closed to kill them), ExitWindowsEx(EWX_LOGOFF) would sign out, InitiateSystemShutdownEx restart, and BlockInput with a display that is switched off hide the screen.
//! None of that is written: whatever is asked for is refused as `UNSUPPORTED`.

use super::Backends;

/// None.
pub(super) fn backends() -> Backends {
    Backends::default()
}
