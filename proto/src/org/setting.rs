//! What an organisation may set: one row a setting, with its key on the wire, its default and its range (MESSAGES.md 8.7).

use std::collections::BTreeMap;

use super::signed::InvalidDocument;
use crate::wire::message::org as schema;

/// What values a setting has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `off` and `on`: 0 and 1.
    Switch,
    /// A whole number.
    Number {
        /// Smallest.
        min: u32,
        /// Largest.
        max: u32,
        /// 0 is allowed, too: never.
        or_never: bool,
    },
}

/// One thing that an organisation may set. (18 was how long reports of sessions are kept: nothing keeps any.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Setting {
    /// Anybody of the organisation may help at all. Off until somebody has thought of it.
    Enabled = 1,
    /// Sharers may be helped at devices that are not enrolled. Of helpers' devices and unattended help it says nothing.
    AllowUnenrolled = 2,
    /// No chat.
    BlockChat = 3,
    /// No administrator's rights for helpers (`EnableSecureCredentialPrompting` of the guide).
    BlockElevation = 4,
    /// No restart by helpers.
    BlockRestart = 5,
    /// No clipboard, whatever the sharer grants.
    BlockClipboard = 6,
    /// No files, whatever the sharer grants.
    BlockFiles = 7,
    /// The local user may reclaim an unattended device.
    UnattendedReclaim = 8,
    /// An unattended session does not wait where nobody is signed in.
    SkipWaitWhenNoUser = 9,
    /// A session that an administrator ends signs the sharer out when there was elevation.
    SignOutOnKill = 10,
    /// How long a code is good.
    CodeSeconds = 11,
    /// How long a sharer may think.
    ConsentSeconds = 12,
    /// How long an unattended prompt waits.
    UnattendedSeconds = 13,
    /// How long both are frozen.
    FreezeSeconds = 14,
    /// How often the sharer is asked again.
    ReconfirmSeconds = 15,
    /// How long a session may be.
    MaxSeconds = 16,
    /// How long nobody may do anything.
    IdleSeconds = 17,
}

const fn number(min: u32, max: u32) -> Kind {
    Kind::Number {
        min,
        max,
        or_never: false,
    }
}

const DURATION_OR_NEVER: Kind = Kind::Number {
    min: 60,
    max: 86_400,
    or_never: true,
};

/// Setting, name, kind, default.
const TABLE: [(Setting, &str, Kind, u32); 17] = [
    (Setting::Enabled, "enabled", Kind::Switch, 0),
    (
        Setting::AllowUnenrolled,
        "allow-unenrolled",
        Kind::Switch,
        0,
    ),
    (Setting::BlockChat, "block-chat", Kind::Switch, 0),
    (Setting::BlockElevation, "block-elevation", Kind::Switch, 0),
    (Setting::BlockRestart, "block-restart", Kind::Switch, 0),
    (Setting::BlockClipboard, "block-clipboard", Kind::Switch, 0),
    (Setting::BlockFiles, "block-files", Kind::Switch, 0),
    (
        Setting::UnattendedReclaim,
        "unattended-reclaim",
        Kind::Switch,
        0,
    ),
    (
        Setting::SkipWaitWhenNoUser,
        "skip-wait-when-no-user",
        Kind::Switch,
        0,
    ),
    (Setting::SignOutOnKill, "sign-out-on-kill", Kind::Switch, 0),
    (Setting::CodeSeconds, "code-seconds", number(60, 600), 600),
    (
        Setting::ConsentSeconds,
        "consent-seconds",
        number(30, 300),
        300,
    ),
    (
        Setting::UnattendedSeconds,
        "unattended-seconds",
        number(30, 300),
        30,
    ),
    (
        Setting::FreezeSeconds,
        "freeze-seconds",
        number(30, 300),
        30,
    ),
    (
        Setting::ReconfirmSeconds,
        "reconfirm-seconds",
        DURATION_OR_NEVER,
        0,
    ),
    (Setting::MaxSeconds, "max-seconds", DURATION_OR_NEVER, 0),
    (Setting::IdleSeconds, "idle-seconds", DURATION_OR_NEVER, 0),
];

/// Text that sets nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSetting {
    /// Not `NAME=VALUE`, or of no setting.
    #[error("{0:?} sets nothing; say NAME=VALUE, with a name of `remora admin org show`")]
    Unknown(String),
    /// Not among its values.
    #[error("{0} is on or off")]
    Switch(&'static str),
    /// Outside its range.
    #[error("{name} is a whole number from {min} to {max}{never}", never = if *.or_never { ", or 0 for never" } else { "" })]
    Range {
        /// Which setting.
        name: &'static str,
        /// Smallest.
        min: u32,
        /// Largest.
        max: u32,
        /// Or 0.
        or_never: bool,
    },
}

impl Setting {
    /// All, by key.
    pub fn all() -> impl Iterator<Item = Self> {
        TABLE.iter().map(|row| row.0)
    }

    fn row(self) -> &'static (Self, &'static str, Kind, u32) {
        let row = TABLE.iter().find(|row| row.0 == self);
        row.expect("every setting has a row")
    }

    /// As people write it.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// The value as people write it.
    pub fn show(self, value: u32) -> String {
        match (self.row().2, value) {
            (Kind::Switch, 0) => "off".to_owned(),
            (Kind::Switch, _) => "on".to_owned(),
            (Kind::Number { or_never: true, .. }, 0) => "never".to_owned(),
            (Kind::Number { .. }, value) => value.to_string(),
        }
    }

    fn allows(self, value: u32) -> bool {
        match self.row().2 {
            Kind::Switch => value <= 1,
            Kind::Number { min, max, or_never } => {
                (min..=max).contains(&value) || (or_never && value == 0)
            }
        }
    }

    /// Reads `NAME=VALUE`.
    ///
    /// # Errors
    /// [`InvalidSetting`].
    pub fn parse(text: &str) -> Result<(Self, u32), InvalidSetting> {
        let unknown = || InvalidSetting::Unknown(text.to_owned());
        let (name, value) = text.split_once('=').ok_or_else(unknown)?;
        let row = TABLE.iter().find(|row| row.1 == name);
        let &(setting, name, kind, _) = row.ok_or_else(unknown)?;
        match kind {
            Kind::Switch => match value {
                "on" => Ok((setting, 1)),
                "off" => Ok((setting, 0)),
                _ => Err(InvalidSetting::Switch(name)),
            },
            Kind::Number { min, max, or_never } => {
                let value = if value == "never" { "0" } else { value };
                let value = value.parse().ok();
                let out_of_range = InvalidSetting::Range {
                    name,
                    min,
                    max,
                    or_never,
                };
                let value = value.filter(|&value| setting.allows(value));
                Ok((setting, value.ok_or(out_of_range)?))
            }
        }
    }
}

/// What is set. Defaults are not written down.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings(BTreeMap<Setting, u32>);

impl Settings {
    /// A switch's, or a number's, value.
    pub fn value(&self, setting: Setting) -> u32 {
        self.0
            .get(&setting)
            .map_or_else(|| setting.row().3, |value| *value)
    }

    /// Whether a switch is on.
    pub fn is_on(&self, setting: Setting) -> bool {
        self.value(setting) != 0
    }

    /// Sets it. The value comes from [`Setting::parse`].
    pub fn set(&mut self, setting: Setting, value: u32) {
        if value == setting.row().3 {
            self.0.remove(&setting);
        } else {
            self.0.insert(setting, value);
        }
    }

    pub(crate) fn to_raw(&self) -> Vec<schema::Setting> {
        let row = |(&setting, &value)| schema::Setting {
            key: setting as u32,
            value,
        };
        self.0.iter().map(row).collect()
    }

    /// What is not understood might restrict, so that nothing is passed over.
    pub(crate) fn from_raw(raw: &[schema::Setting]) -> Result<Self, InvalidDocument> {
        const INVALID: InvalidDocument = InvalidDocument::Field("settings");
        let mut settings = BTreeMap::new();
        for schema::Setting { key, value } in raw {
            let row = TABLE.iter().find(|row| row.0 as u32 == *key);
            let setting = row.ok_or(INVALID)?.0;
            let ascends = settings
                .last_key_value()
                .is_none_or(|(&last, _)| last < setting);
            if !ascends || !setting.allows(*value) || *value == setting.row().3 {
                return Err(INVALID);
            }
            settings.insert(setting, *value);
        }
        Ok(Self(settings))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_is_read_and_shown() {
        for setting in Setting::all() {
            let default = Settings::default().value(setting);
            assert!(setting.allows(default), "{setting:?}");
            let text = format!("{}={}", setting.name(), setting.show(default));
            assert_eq!(Setting::parse(&text), Ok((setting, default)));
        }
        assert_eq!(
            Setting::parse("consent-seconds=301")
                .expect_err("too long")
                .to_string(),
            "consent-seconds is a whole number from 30 to 300"
        );
        assert_eq!(
            Setting::parse("idle-seconds=1")
                .expect_err("too short")
                .to_string(),
            "idle-seconds is a whole number from 60 to 86400, or 0 for never"
        );
        assert!(Setting::parse("enabled=1").is_err());
        assert!(Setting::parse("enabled").is_err());
        assert!(Setting::parse("root=on").is_err());
    }

    #[test]
    fn help_is_off_and_so_are_unenrolled_devices_until_somebody_has_thought_of_it() {
        let settings = Settings::default();
        assert!(!settings.is_on(Setting::Enabled));
        assert!(!settings.is_on(Setting::AllowUnenrolled));
    }

    #[test]
    fn there_is_one_form_and_nothing_is_passed_over() {
        let raw = |rows: &[(u32, u32)]| {
            let rows = rows
                .iter()
                .map(|&(key, value)| schema::Setting { key, value });
            Settings::from_raw(&rows.collect::<Vec<_>>())
        };
        let mut settings = Settings::default();
        settings.set(Setting::Enabled, 1);
        settings.set(Setting::IdleSeconds, 600);
        assert_eq!(raw(&[(1, 1), (17, 600)]), Ok(settings.clone()));
        assert_eq!(Settings::from_raw(&settings.to_raw()), Ok(settings.clone()));
        for refused in [
            &[(17, 600), (1, 1)][..],
            &[(1, 1), (1, 1)],
            &[(1, 0)],
            &[(1, 2)],
            &[(99, 1)],
        ] {
            assert!(raw(refused).is_err(), "{refused:?}");
        }
        settings.set(Setting::Enabled, 0);
        settings.set(Setting::IdleSeconds, 0);
        assert_eq!(settings, Settings::default());
    }
}
