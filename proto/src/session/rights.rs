//! Who may do what (SESSION.md §1.5): the terms a session begins with, and what they and its state allow at this moment.

use std::time::{Duration, Instant};

use super::{Durations, Grants, Matter, Mode, Refusal, SecurePrompt, Setup};
use crate::org::{
    permission::Permission,
    setting::{Setting, Settings},
    verdict::Verdict,
};

/// Whether somebody sits at the sharer's computer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// A person, who decides.
    #[default]
    Attended,
    /// Nobody need to.
    Unattended,
}

/// How the two came together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Entry {
    /// A code, typed into the program.
    #[default]
    Code,
    /// A link, opened in a browser: the screen only (guide, E-6).
    Link,
    /// A notice on the sharer's device.
    Notify,
    /// The sharer asked for help first.
    Request,
}

impl Entry {
    pub(super) fn cap(self) -> Mode {
        match self {
            Self::Link => Mode::View,
            Self::Code | Self::Notify | Self::Request => Mode::Control,
        }
    }
}

/// What somebody at an unattended computer may do about it (guide, U-6; §1.8 number 6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LocalEnd {
    /// Nothing.
    #[default]
    Forbid,
    /// Take the computer back, after being asked.
    Reclaim,
}

/// What the sharer's system can do. What it cannot is refused, never pretended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Platform {
    /// The most that it can let a helper do.
    pub mode: Mode,
    /// Run programs with an administrator's rights.
    pub elevates: bool,
    /// Hide its screen from whoever walks by.
    pub shields: bool,
    /// Come back into the session after a restart.
    pub restarts: bool,
    /// Press its own power key.
    pub power_key: bool,
}

impl Default for Platform {
    fn default() -> Self {
        Self {
            mode: Mode::Control,
            elevates: false,
            shields: false,
            restarts: false,
            power_key: false,
        }
    }
}

/// What a session begins with, beside what the helper is permitted ([`Verdict`]). The sharer's are in
/// force; the helper's only spare a question that would be refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Whether somebody sits there.
    pub kind: Kind,
    /// How the two came together.
    pub entry: Entry,
    /// Policy of the device: elevation is blocked (guide, D-3).
    pub elevation_blocked: bool,
    /// Policy: no restarts.
    pub restart_forbidden: bool,
    /// Policy: nothing is written.
    pub chat_blocked: bool,
    /// Policy: no clipboard, whatever the sharer grants.
    pub clipboard_blocked: bool,
    /// Policy: no files, whatever the sharer grants.
    pub files_blocked: bool,
    /// Policy: who is ended by an administrator after an administrator's rights were used is signed out.
    pub sign_out_on_kill: bool,
    /// Several people use the device at once: no restarts (guide, E-13).
    pub multi_user: bool,
    /// An earlier helper, who handed over to this one, had an administrator's rights: leaving means what it did then.
    pub elevated_before: bool,
    /// Policy, of unattended sessions.
    pub local_end: LocalEnd,
    /// Policy: where nobody is signed in, nobody is waited for.
    pub skip_wait: bool,
    /// Nobody is signed in.
    pub nobody_there: bool,
    /// What the sharer's system can do.
    pub platform: Platform,
    /// How long everything takes.
    pub durations: Durations,
}

impl Default for Terms {
    /// Of a session by code between two people of no organisation.
    fn default() -> Self {
        Self {
            kind: Kind::default(),
            entry: Entry::default(),
            elevation_blocked: false,
            restart_forbidden: false,
            chat_blocked: false,
            clipboard_blocked: false,
            files_blocked: false,
            sign_out_on_kill: false,
            multi_user: false,
            elevated_before: false,
            local_end: LocalEnd::default(),
            skip_wait: false,
            nobody_there: false,
            platform: Platform::default(),
            durations: Durations::default(),
        }
    }
}

impl Setup {
    /// The most that may be asked for: min(permission, entry cap, platform cap), row 11; `None`: nothing.
    pub fn cap(&self) -> Option<Mode> {
        let permitted = self.verdict.as_ref().ok()?.permitted()?;
        Some(
            permitted
                .min(self.terms.entry.cap())
                .min(self.terms.platform.mode),
        )
    }

    fn has(&self, permission: Permission) -> bool {
        let verdict = self.verdict.as_ref();
        verdict.is_ok_and(|verdict| verdict.permissions.has(permission))
    }

    /// Rows 11 and 20.
    pub(super) fn may_ask(&self, mode: Mode) -> Result<(), Refusal> {
        if self.cap().is_none_or(|cap| mode > cap) {
            return Err(Refusal::ModeNotPermitted);
        }
        match self.terms.kind {
            Kind::Unattended if !self.has(Permission::Unattended) => Err(Refusal::NoPermission),
            Kind::Attended | Kind::Unattended => Ok(()),
        }
    }

    /// Row 23.
    pub(super) fn may_elevate(&self) -> Result<(), Refusal> {
        // A permission of its own (guide, D-4).
        if !self.has(Permission::Elevation) {
            Err(Refusal::NoPermission)
        } else if self.terms.elevation_blocked {
            Err(Refusal::ElevationBlocked)
        } else if !self.terms.platform.elevates {
            Err(Refusal::Unsupported)
        } else {
            Ok(())
        }
    }
}

impl Terms {
    /// The same under what the organisation has set and knows of the device. Here, and nowhere else, a setting becomes what a session
    /// goes by; limits that the person has set are never widened.
    pub fn under(&self, verdict: &Verdict) -> Self {
        let terms = Self {
            multi_user: self.multi_user || verdict.multi_user,
            ..self.clone()
        };
        match &verdict.settings {
            Some(settings) => terms.with(settings),
            None => terms,
        }
    }

    fn with(self, settings: &Settings) -> Self {
        let is_on = |setting| settings.is_on(setting);
        Self {
            elevation_blocked: self.elevation_blocked || is_on(Setting::BlockElevation),
            restart_forbidden: self.restart_forbidden || is_on(Setting::BlockRestart),
            chat_blocked: self.chat_blocked || is_on(Setting::BlockChat),
            clipboard_blocked: self.clipboard_blocked || is_on(Setting::BlockClipboard),
            files_blocked: self.files_blocked || is_on(Setting::BlockFiles),
            sign_out_on_kill: self.sign_out_on_kill || is_on(Setting::SignOutOnKill),
            local_end: match is_on(Setting::UnattendedReclaim) {
                true => LocalEnd::Reclaim,
                false => self.local_end,
            },
            skip_wait: self.skip_wait || is_on(Setting::SkipWaitWhenNoUser),
            durations: limited(&self.durations, settings),
            ..self
        }
    }

    /// Row 8u: the sharer's device has been invited, and answers without a person.
    pub(super) fn is_alone(&self) -> bool {
        (self.kind, self.entry) == (Kind::Unattended, Entry::Notify)
    }

    /// What an organisation has set (guide, D-1).
    pub(super) fn may_chat(&self) -> Result<(), Refusal> {
        match self.chat_blocked {
            true => Err(Refusal::ChatBlocked),
            false => Ok(()),
        }
    }

    /// What an organisation has set. Who came by a link sees the screen, and that is all (guide, E-6).
    pub(super) fn may_exchange(&self, matter: Matter) -> Result<(), Refusal> {
        match (matter, self.entry) {
            (_, Entry::Link) => Err(Refusal::ModeNotPermitted),
            (Matter::Clipboard, _) if self.clipboard_blocked => Err(Refusal::ClipboardBlocked),
            (Matter::Files, _) if self.files_blocked => Err(Refusal::FilesBlocked),
            (Matter::Clipboard | Matter::Files, _) => Ok(()),
        }
    }

    /// Sharer: what nobody attends must be hidden from whoever walks by (guide, U-3).
    pub(super) fn has_prerequisites(&self) -> Result<(), Refusal> {
        match self.kind {
            Kind::Unattended if !self.platform.shields => Err(Refusal::PrerequisiteMissing),
            Kind::Attended | Kind::Unattended => Ok(()),
        }
    }

    /// Row 36.
    pub(super) fn may_restart(&self) -> Result<(), Refusal> {
        if self.multi_user || self.restart_forbidden {
            Err(Refusal::RestartUnavailable)
        } else if !self.platform.restarts {
            Err(Refusal::Unsupported)
        } else {
            Ok(())
        }
    }
}

fn limited(durations: &Durations, settings: &Settings) -> Durations {
    let time = |setting| Duration::from_secs(settings.value(setting).into());
    let limit = |ours: Option<Duration>, setting| {
        let theirs = Some(time(setting)).filter(|time| !time.is_zero());
        ours.into_iter().chain(theirs).min()
    };
    Durations {
        // An invitation's time has begun when it was shown.
        consent: durations.consent.min(time(Setting::ConsentSeconds)),
        unattended: time(Setting::UnattendedSeconds),
        freeze: time(Setting::FreezeSeconds),
        reconfirm: limit(durations.reconfirm, Setting::ReconfirmSeconds),
        max: limit(durations.max, Setting::MaxSeconds),
        idle: limit(durations.idle, Setting::IdleSeconds),
        ..durations.clone()
    }
}

/// What of the sharer's screen may leave, and what may be done to it. Nothing, until the session is active.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    /// The mode in force, when the session is active.
    pub mode: Option<Mode>,
    /// The sharer has paused.
    pub paused: bool,
    /// Nothing is heard of the helper.
    pub interrupted: bool,
    /// The sharer is asked for something on the sharer's screen, which the helper must not answer by a key.
    pub asked: bool,
    /// The sharer's system asks for something that must not be seen.
    pub prompt: Option<SecurePrompt>,
    /// The helper has an administrator's rights.
    pub elevated: bool,
    /// Until then neither side's input counts.
    pub frozen_until: Option<Instant>,
    /// What else may leave either computer just now: nothing while the session is halted.
    pub grants: Grants,
}

impl Rights {
    /// Whether the sharer's screen may leave its computer.
    pub fn may_show(self) -> bool {
        self.mode.is_some() && !self.is_halted()
    }

    /// The session is active, and nothing new is shown in it for now.
    pub fn is_halted(self) -> bool {
        self.paused || self.interrupted || self.prompt.is_some()
    }

    /// Why the helper's input may not be used; `None` when it may.
    pub fn input_refusal(self) -> Option<&'static str> {
        if self.mode != Some(Mode::Control) {
            Some("VIEW")
        } else if self.paused {
            Some("PAUSED")
        } else if self.interrupted {
            Some("INTERRUPTED")
        } else if self.asked {
            Some("ASKED")
        } else if self.frozen_until.is_some() {
            Some("INPUT_FROZEN")
        } else if self.prompt.is_some_and(|prompt| !prompt.takes_keys) {
            Some("SECURE_PROMPT")
        } else {
            None
        }
    }
}
