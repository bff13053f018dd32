//! Settings: what was typed wins over the environment, the environment over the file. All that is wrong in the file is
//! said with its line.

use std::{
    collections::BTreeMap,
    env, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use remora_proto::{
    id::{DeviceId, RelayAddr},
    identity::Profile,
    org::label::Label,
};
use serde::{Deserialize, Serialize};

use crate::{
    cli::ProfileArgs,
    error::{Exit, Failure},
    identity::{Files, Identity},
    session::resume::Place,
};

/// A failure's code: nothing here says which device that is.
pub const UNKNOWN_DEVICE: &str = "UNKNOWN_DEVICE";

/// The settings file.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// The relay's address.
    pub relay: Option<String>,
    /// The same of several, of which the nearest is used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub relays: Vec<String>,
    /// The host that links to a code name, instead of the relay's.
    pub link_host: Option<String>,
    /// Names of devices, and their ids, for `remora invite --device`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub devices: BTreeMap<String, String>,
    /// Who this computer's person is.
    #[serde(default)]
    pub profile: FileProfile,
    /// Where this computer's person signs in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub organisation: Option<FileOrganisation>,
    /// The relays that this computer's person operates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin: Option<FileAdmin>,
    /// Where it was read from.
    #[serde(skip)]
    path: Option<PathBuf>,
}

/// Its `[profile]` table.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct FileProfile {
    /// Shown largest.
    pub full_name: Option<String>,
    /// May be missing.
    pub job_title: Option<String>,
    /// May be missing.
    pub company: Option<String>,
    /// May be missing.
    pub domain: Option<String>,
}

/// Its `[organisation]` table, written by `remora setup URL`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct FileOrganisation {
    /// Its desk: `https://HOST`.
    pub desk: String,
    /// Its key: whoever answers at the desk must have it.
    pub key: String,
}

/// Its `[admin]` table, for `remora admin`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct FileAdmin {
    /// The admin ports of the relays: `http://HOST:PORT` or `https://HOST:PORT`.
    #[serde(default)]
    pub relays: Vec<String>,
    /// File of their token.
    pub token_file: Option<PathBuf>,
    /// File of the authorities that vouch for what they show.
    pub ca: Option<PathBuf>,
    /// File of a client certificate that counts as the token.
    pub client_cert: Option<PathBuf>,
    /// File of its key.
    pub client_key: Option<PathBuf>,
}

/// Where this user's files of this program are.
///
/// # Errors
/// There is no home folder.
pub fn folder() -> Result<PathBuf, Failure> {
    Ok(path(None)?.with_file_name(""))
}

fn no_home() -> Failure {
    usage("there is no home folder to keep settings in; name a file with --config".into())
}

/// Where the settings file is, when nobody says otherwise.
fn default_path() -> Option<PathBuf> {
    let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".config"));
    let base = env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(home)?;
    Some(base.join("remora").join("config.toml"))
}

/// The settings file `named` on the command line, or the default one; it need not be there.
///
/// # Errors
/// There is no home folder.
pub(crate) fn path(named: Option<&Path>) -> Result<PathBuf, Failure> {
    named
        .map(Path::to_path_buf)
        .or_else(default_path)
        .ok_or_else(no_home)
}

fn usage(line: String) -> Failure {
    Failure::new(Exit::Usage, "CONFIG", line)
}

impl File {
    /// Reads the file `named` on the command line, which must exist, or the default one, which may not.
    ///
    /// # Errors
    /// Unreadable, or not what a settings file looks like: with file, line and what to do.
    pub fn load(named: Option<&Path>) -> Result<Self, Failure> {
        let Some(path) = named.map(Path::to_path_buf).or_else(default_path) else {
            return Ok(Self::default());
        };
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound && named.is_none() => {
                return Ok(Self::default().at(path));
            }
            Err(error) => {
                let path = path.display();
                return Err(usage(format!(
                    "cannot read the settings file {path}: {error}; check its name and permissions"
                )));
            }
        };
        let file: Self = toml::from_str(&text).map_err(|error| {
            let line = 1 + error
                .span()
                .map_or(0, |span| text[..span.start].matches('\n').count());
            usage(format!(
                "{}:{line}: {}",
                path.display(),
                error.message().replace('\n', " ")
            ))
        })?;
        Ok(file.at(path))
    }

    fn at(self, path: PathBuf) -> Self {
        let path = Some(path);
        Self { path, ..self }
    }

    /// An empty one that is to be written there, or at the default place.
    pub fn new(named: Option<&Path>) -> Self {
        let path = named.map(Path::to_path_buf).or_else(default_path);
        Self {
            path,
            ..Self::default()
        }
    }

    /// The key and the papers beside it.
    ///
    /// # Errors
    /// There is no home folder.
    pub fn beside(&self) -> Result<Files, Failure> {
        let path = self.path.as_deref().ok_or_else(no_home)?;
        Ok(Files::beside(path))
    }

    /// Where is kept how to come back after a restart; `None`: there is no home folder.
    pub fn place(&self) -> Option<Place> {
        self.path.as_deref().map(Place::beside)
    }

    /// Who the person is in a session: what their organisation has signed, else what was typed or stands in the file.
    ///
    /// # Errors
    /// What is there does not hold.
    pub fn identity(&self, typed: &ProfileArgs) -> Result<Identity, Failure> {
        let member = match &self.path {
            Some(path) => Files::beside(path).member()?,
            None => None,
        };
        let signed = member
            .as_ref()
            .and_then(|member| member.papers().credential.picture);
        let portrait = match &self.path {
            Some(path) => Files::beside(path).portrait(signed.as_ref()),
            None => None,
        };
        let profile = match &member {
            Some(member) => member.papers().credential.profile.clone(),
            None => self.profile(typed)?,
        };
        let member = member.map(Arc::new);
        Ok(Identity {
            profile,
            member,
            portrait,
        })
    }

    /// Writes the file and its folder; gives its path.
    ///
    /// # Errors
    /// What the system says.
    pub fn save(&self, named: Option<&Path>) -> Result<PathBuf, Failure> {
        let path = path(named)?;
        let text = toml::to_string(self).map_err(|error| Failure::internal("settings", error))?;
        let write = || {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            fs::write(&path, text)
        };
        write().map_err(|error| usage(format!("cannot write {}: {error}", path.display())))?;
        Ok(path)
    }

    /// The device of this name in the settings, or of this id, or of this name in the organisation; then with that name, which it has to
    /// show.
    ///
    /// # Errors
    /// It is none of these, or what stands in the settings is no id.
    pub fn device(&self, name: &str) -> Result<(DeviceId, Option<Label>), Failure> {
        if let Some(stored) = self.devices.get(name) {
            let id = stored.parse().map_err(|error| {
                usage(format!(
                    "`{name}` below [devices] in the settings file: {error}"
                ))
            })?;
            return Ok((id, None));
        }
        let error = match name.parse() {
            Ok(id) => return Ok((id, None)),
            Err(error) => error,
        };
        if let (Ok(label), Some(member)) = (name.parse::<Label>(), self.beside()?.member()?)
            && let Some(id) = member.policy().listed.get(&label)
        {
            return Ok((*id, Some(label)));
        }
        let line = format!(
            "`{name}` is no device's id ({error}), nor a name below [devices] in the settings file or in your organisation's policy; \
             `remora agent` says the id there"
        );
        Err(Failure::new(Exit::Usage, UNKNOWN_DEVICE, line))
    }

    /// The relays to use: those that were typed, else those of the file.
    ///
    /// # Errors
    /// None is known, or one of the file's is not an address.
    pub fn relays(&self, typed: &[RelayAddr]) -> Result<Vec<RelayAddr>, Failure> {
        if !typed.is_empty() {
            return Ok(typed.to_vec());
        }
        let one = self.relay.iter().map(|relay| ("relay", relay));
        let several = self.relays.iter().map(|relay| ("relays", relay));
        let parse = |(key, text): (&str, &String)| {
            text.parse()
                .map_err(|error| usage(format!("`{key}` in the settings file: {error}")))
        };
        let relays: Vec<_> = one.chain(several).map(parse).collect::<Result<_, _>>()?;
        if relays.is_empty() {
            return Err(usage(
                "no relay is known: run `remora setup HOST:PORT/KEY` with the line your relay printed, or give --relay; \
                 to try everything on this computer, run `remora demo`"
                    .into(),
            ));
        }
        Ok(relays)
    }

    /// From now on, these.
    pub fn set_relays(&mut self, relays: &[RelayAddr]) {
        let texts = relays.iter().map(ToString::to_string);
        (self.relay, self.relays) = match relays {
            [relay] => (Some(relay.to_string()), Vec::new()),
            _ => (None, texts.collect()),
        };
    }

    /// Who the person is.
    ///
    /// # Errors
    /// A field is too long.
    pub fn profile(&self, typed: &ProfileArgs) -> Result<Profile, Failure> {
        let of_file = &self.profile;
        let pick = |typed: &Option<String>, stored: &Option<String>| {
            typed.clone().or_else(|| stored.clone()).unwrap_or_default()
        };
        let mut full_name = pick(&typed.name, &of_file.full_name);
        if full_name.trim().is_empty() {
            full_name = login_name();
        }
        Profile::new(
            &full_name,
            &pick(&typed.job_title, &of_file.job_title),
            &pick(&typed.company, &of_file.company),
            &pick(&typed.domain, &of_file.domain),
        )
        .map_err(|error| {
            usage(format!(
                "your profile: {error}; shorten it on the command line or in the settings file"
            ))
        })
    }
}

/// The account's full name, else its login name.
fn login_name() -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::getuid())
        .ok()
        .flatten();
    let names = user.map(|user| {
        let gecos = user
            .gecos
            .to_string_lossy()
            .split(',')
            .next()
            .unwrap_or_default()
            .trim()
            .to_owned();
        (gecos, user.name)
    });
    match names {
        Some((full, _)) if !full.is_empty() => full,
        Some((_, login)) => login,
        None => "unknown".into(),
    }
}

#[cfg(test)]
mod tests {
    use remora_proto::id::RelayId;

    use super::*;

    #[expect(
        clippy::unwrap_in_result,
        reason = "the file system is not what is tested"
    )]
    fn parse(text: &str) -> Result<File, Failure> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("config.toml");
        fs::write(&path, text).expect("written");
        File::load(Some(&path))
    }

    #[test]
    fn a_mistake_is_shown_with_its_line() {
        let failure =
            parse("relay = \"a\"\n\n[profile]\nful_name = \"x\"\n").expect_err("unknown key");
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.line.contains("config.toml:4:"), "{failure}");
        assert!(failure.line.contains("ful_name"), "{failure}");
    }

    #[test]
    fn what_was_typed_wins() {
        let file =
            parse("[profile]\nfull_name = \"File\"\ncompany = \"Contoso\"\n").expect("valid");
        let typed = ProfileArgs {
            name: Some("Typed".into()),
            ..ProfileArgs::default()
        };
        let profile = file.profile(&typed).expect("valid");
        assert_eq!(
            (profile.full_name.as_str(), profile.company.as_str()),
            ("Typed", "Contoso")
        );
    }

    #[test]
    fn settings_survive_saving() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("deep").join("config.toml");
        let relay = |port| {
            let text = format!("relay.example:{port}/{}", RelayId([7; 32]));
            text.parse::<RelayAddr>().expect("an address")
        };
        for relays in [vec![relay(1)], vec![relay(1), relay(2)]] {
            let mut file = File {
                profile: FileProfile {
                    full_name: Some("Sam".into()),
                    ..FileProfile::default()
                },
                ..File::default()
            };
            file.set_relays(&relays);
            file.save(Some(&path)).expect("saved");
            let loaded = File::load(Some(&path)).expect("valid");
            assert_eq!(loaded.relays(&[]).expect("valid"), relays);
            assert_eq!(loaded.profile.full_name, file.profile.full_name);
            assert_eq!(loaded.relays(&[relay(3)]).expect("valid"), [relay(3)]);
        }
    }

    #[test]
    fn a_named_file_must_exist() {
        let failure = File::load(Some(Path::new("/nonexistent/x.toml"))).expect_err("missing");
        assert!(failure.line.contains("/nonexistent/x.toml"), "{failure}");
    }
}
