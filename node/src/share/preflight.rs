//! What this machine lacks for sharing its screen, and what to do about it: `remora preflight`.

#[cfg(unix)]
use x11rb::protocol::{composite, damage, randr, shape, shm, xfixes, xinput, xkb, xtest};

use super::capture::CaptureError;
#[cfg(unix)]
use super::x11::Display;

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is, and what it is for.
    pub what: &'static str,
    /// It is there.
    pub ok: bool,
    /// Sharing works without it, less well.
    pub optional: bool,
    /// What was found.
    pub detail: String,
    /// What to do; empty if it is there.
    pub fix: &'static str,
}

impl Finding {
    fn new(
        what: &'static str,
        ok: bool,
        optional: bool,
        detail: impl Into<String>,
        fix: &'static str,
    ) -> Self {
        Self {
            what,
            ok,
            optional,
            detail: detail.into(),
            fix: if ok { "" } else { fix },
        }
    }
}

/// Whether a screen can be shared with these findings.
pub fn can_share(findings: &[Finding]) -> bool {
    findings
        .iter()
        .all(|finding| finding.ok || finding.optional)
}

const DISPLAY: &str = "a display (DISPLAY)";

/// Looks at the display (by default `DISPLAY`); what it shows is neither captured nor changed.
pub fn preflight(display: Option<&str>) -> Vec<Finding> {
    #[cfg(unix)]
    {
        match Display::open(display) {
            Ok(display) => look(&display).unwrap_or_else(|error| vec![failed(&error)]),
            Err(error) => vec![failed(&error)],
        }
    }
    #[cfg(not(unix))]
    {
        match super::capture::open(display) {
            Ok(_) => Vec::new(),
            Err(error) => vec![failed(&error)],
        }
    }
}

fn failed(error: &CaptureError) -> Finding {
    let cause = std::error::Error::source(error)
        .map(|cause| format!(": {cause}"))
        .unwrap_or_default();
    Finding::new(
        DISPLAY,
        false,
        false,
        format!("{error}{cause}"),
        error.hint(),
    )
}

#[cfg(unix)]
fn look(display: &Display) -> Result<Vec<Finding>, CaptureError> {
    const SERVER: &str =
        "the X server was built or started without it; use Xorg, Xvfb or TigerVNC's server";
    let screen = display.screen();
    let (depth, visual) = (screen.root_depth, screen.root_visual);
    let size = format!("{} × {}", screen.width_in_pixels, screen.height_in_pixels);
    let mut findings = vec![Finding::new(DISPLAY, true, false, size, "")];
    if let Err(error) = super::capture::x11::refuse_wayland(display) {
        findings.push(Finding::new(
            "an X11 session",
            false,
            false,
            error.to_string(),
            error.hint(),
        ));
    }
    let pixels = display.check_pixels(depth, visual);
    let fix = pixels.as_ref().err().map_or("", CaptureError::hint);
    let detail = pixels
        .as_ref()
        .map_or_else(ToString::to_string, |()| format!("depth {depth}"));
    findings.push(Finding::new(
        "pixels of 24 bits",
        pixels.is_ok(),
        false,
        detail,
        fix,
    ));
    for (what, name, optional, fix) in [
        (
            "DAMAGE: what has changed",
            damage::X11_EXTENSION_NAME,
            false,
            SERVER,
        ),
        (
            "XFIXES: the cursor's shape",
            xfixes::X11_EXTENSION_NAME,
            false,
            SERVER,
        ),
        (
            "XTEST: the helper's keys and pointer",
            xtest::X11_EXTENSION_NAME,
            true,
            "without it the helper can only look",
        ),
        (
            "XKEYBOARD: the keyboard's layout",
            xkb::X11_EXTENSION_NAME,
            true,
            "without it the helper can only look",
        ),
        (
            "RANDR: monitors",
            randr::X11_EXTENSION_NAME,
            true,
            "without it the desktop is one monitor of fixed size",
        ),
        (
            "Composite: one window alone",
            composite::X11_EXTENSION_NAME,
            true,
            "without it only whole monitors are shared",
        ),
        (
            "XInput 2: the cursor's moves",
            xinput::X11_EXTENSION_NAME,
            true,
            "without it the cursor moves in jumps",
        ),
        (
            "SHAPE: the helper's pointer and pen",
            shape::X11_EXTENSION_NAME,
            true,
            "without it the helper cannot draw",
        ),
    ] {
        let ok = display.has(name)?;
        findings.push(Finding::new(what, ok, optional, name, fix));
    }
    findings.push(shared_memory(display)?);
    Ok(findings)
}

#[cfg(unix)]
fn shared_memory(display: &Display) -> Result<Finding, CaptureError> {
    let what = "MIT-SHM: pixels by shared memory";
    let ok = display.local && display.has(shm::X11_EXTENSION_NAME)?;
    let detail = if display.local {
        shm::X11_EXTENSION_NAME
    } else {
        "the display is on another machine"
    };
    Ok(Finding::new(
        what,
        ok,
        true,
        detail,
        "without it pixels are slower: share on the machine that has the screen",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn no_display_is_one_finding_that_says_what_to_do() {
        let findings = preflight(Some(":9999"));
        assert_eq!(findings.len(), 1);
        assert!(
            !findings[0].ok && !findings[0].fix.is_empty(),
            "{findings:?}"
        );
        assert!(!can_share(&findings));
    }

    #[test]
    fn what_is_optional_does_not_forbid_sharing() {
        let optional = Finding::new("a", false, true, "", "do this");
        let needed = Finding::new("b", false, false, "", "do that");
        assert!(can_share(std::slice::from_ref(&optional)));
        assert!(!can_share(&[optional, needed]));
    }
}
