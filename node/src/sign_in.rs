//! Signing in: a person proves to their organisation's provider who they are, the organisation's desk signs papers for this computer's key.
//!
//! ```text
//!  desk: who the provider is (signed) ─▶ provider: ID token, of this computer's key ─▶ desk: papers, for some hours
//!                                              ▲ refresh token, config.sign-in ── before they end ──┘
//! ```
//!
//! Neither token is worth anything here without the key: the nonce names it. The refresh token gets papers for no other computer, as the
//! desk knows whose it is.

/// What the desk says, and gives.
mod desk;
/// What is kept for the next time.
mod kept;

pub(crate) use self::desk::{CREDENTIAL, WELL_KNOWN};

use std::{
    env,
    io::{self, IsTerminal as _},
    process::Stdio,
    time::Duration,
};

use remora_proto::{
    identity::Profile,
    org::{
        desk::{Desk, nonce},
        membership::{Membership, Request},
        signed::{CLOCK_TOLERANCE_S, Signed},
    },
};
use serde_json::{Value, json};
use tokio::{process::Command, task::spawn_blocking, time::sleep};

use self::{
    desk::{Given, Shown},
    kept::Kept,
};
use crate::{
    cli::sign_in::{DeskAddr, How, SignIn, SignOut},
    config::{File, FileOrganisation},
    error::{Exit, Failure},
    identity::{Files, unix_s},
    oidc::{
        device::DeviceLogin,
        grant::{Client, Grant},
        login::Login,
        provider::Provider,
        secret::Secret,
        web::Web,
    },
    terminal::console::{print_data, print_note},
};

/// Between two looks whether papers are to be renewed, for programs that run for long.
const LOOK: Duration = Duration::from_secs(60);

/// Where this computer's person signs in.
struct Office<'a> {
    web: &'a Web,
    files: &'a Files,
    at: DeskAddr,
    desk: Signed<Desk>,
    request: Request,
}

/// What is said on the way.
#[derive(Clone, Copy, Debug)]
pub struct Voice {
    /// To a script.
    pub json: bool,
}

impl Voice {
    fn tell(self, mut event: Value, line: &str) -> Result<(), Failure> {
        if !self.json {
            return print_note(line);
        }
        event["v"] = 1.into();
        print_data(&event.to_string())
    }
}

fn no_desk() -> Failure {
    Failure::new(
        Exit::Usage,
        "NO_DESK",
        "this computer knows no organisation to sign in at; run `remora setup https://DESK` with the address that your administrator gives you",
    )
}

/// The desk of the settings file.
fn address(file: &File) -> Result<Option<DeskAddr>, Failure> {
    let Some(FileOrganisation { desk, key }) = &file.organisation else {
        return Ok(None);
    };
    let address = format!("{desk}#{key}").parse().map_err(|error| {
        let line = format!("`organisation` in the settings file: {error}");
        Failure::new(Exit::Usage, "CONFIG", line)
    })?;
    Ok(Some(address))
}

impl<'a> Office<'a> {
    /// Asks the desk where to sign in.
    async fn open(
        web: &'a Web,
        files: &'a Files,
        at: DeskAddr,
        profile: Profile,
    ) -> Result<Self, Failure> {
        let desk = desk::look(web, &at).await?;
        let request = files.request(profile)?;
        Ok(Self {
            web,
            files,
            at,
            desk,
            request,
        })
    }

    async fn provider(&self) -> Result<Provider, Failure> {
        Provider::discover(self.web, &self.desk.provider).await
    }

    fn client<'b>(&'b self, provider: &'b Provider) -> Client<'b> {
        Client {
            web: self.web,
            provider,
            desk: &self.desk,
        }
    }

    /// With the person.
    async fn sign_in(&self, how: How, voice: Voice) -> Result<Membership, Failure> {
        let provider = self.provider().await?;
        let client = self.client(&provider);
        match how.device_code {
            true => self.by_code(&client, voice).await,
            false => self.by_browser(&client, voice).await,
        }
    }

    async fn by_browser(&self, client: &Client<'_>, voice: Voice) -> Result<Membership, Failure> {
        let nonce = nonce(self.desk.issuer, self.request.node);
        let login = Login::begin(client, &nonce).await?;
        let issuer = &client.provider.issuer;
        voice.tell(
            json!({"event": "sign_in", "url": login.url, "provider": issuer}),
            &format!(
                "Sign in at {issuer}, in a browser on this computer, within five minutes:  {}",
                login.url
            ),
        )?;
        if !voice.json && io::stderr().is_terminal() {
            open_browser(&login.url);
        }
        let grant = login.finish().await?;
        self.papers(grant, None).await
    }

    async fn by_code(&self, client: &Client<'_>, voice: Voice) -> Result<Membership, Failure> {
        let login = DeviceLogin::begin(client).await?;
        let (url, code) = (&login.url, &login.user_code);
        voice.tell(
            json!({"event": "sign_in", "url": url, "user_code": code, "provider": client.provider.issuer}),
            &format!("Sign in with any browser:  {url}\nand type there:  {code}"),
        )?;
        let given = login
            .finish(async |code| self.hand_in(&Shown::DeviceCode(code)).await)
            .await?;
        self.keep(given.refresh_token)?;
        self.take(&given.papers)
    }

    /// Without.
    async fn renew(&self, kept: Kept) -> Result<Membership, Failure> {
        let provider = self.provider().await?;
        let grant = self.client(&provider).refresh(&kept.refresh_token).await?;
        self.papers(grant, Some(kept.refresh_token)).await
    }

    /// What the desk signs for whom the provider knows.
    async fn papers(&self, grant: Grant, before: Option<Secret>) -> Result<Membership, Failure> {
        // First: the provider may have made the one before worthless.
        self.keep(grant.refresh_token.or(before))?;
        let access = grant.access_token.filter(|_| self.desk.userinfo);
        let shown = Shown::Token(&grant.id_token, access.as_deref());
        let given = self.hand_in(&shown).await?;
        self.take(&given.papers)
    }

    async fn hand_in(&self, shown: &Shown<'_>) -> Result<Given, Failure> {
        desk::hand_in(self.web, &self.at, &self.request, shown).await
    }

    fn keep(&self, refresh_token: Option<Secret>) -> Result<(), Failure> {
        let provider = self.desk.provider.clone();
        let kept = refresh_token.map(|refresh_token| Kept {
            provider,
            refresh_token,
        });
        kept.map_or(Ok(()), |kept| kept.save(self.files))
    }

    /// Whoever has answered: only what the organisation itself has signed is kept.
    fn take(&self, papers: &[u8]) -> Result<Membership, Failure> {
        let given = Membership::open(papers, self.request.node).ok();
        let is_theirs = |given: &Membership| given.policy().header.issuer == self.desk.issuer;
        match given.is_some_and(|given| is_theirs(&given)) {
            true => self.files.take_bytes(papers),
            false => Err(desk::not_a_desk(&self.at.at)),
        }
    }
}

/// Where there is a desktop. That there is none, or no browser, is no matter: the address has been said.
fn open_browser(url: &str) {
    let has_desktop = ["DISPLAY", "WAYLAND_DISPLAY"]
        .into_iter()
        .any(|name| env::var_os(name).is_some());
    if !has_desktop {
        return;
    }
    let opened = Command::new("xdg-open")
        .arg(url)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    if let Err(error) = opened {
        tracing::debug!(%error, "xdg-open");
    }
}

fn welcome(voice: Voice, membership: &Membership) -> Result<(), Failure> {
    let credential = &membership.papers().credential;
    let profile = &credential.profile;
    let hours = credential.expires.saturating_sub(unix_s()) / 3600;
    let permissions: Vec<_> = credential
        .permissions
        .iter()
        .map(|permission| permission.to_string())
        .collect();
    voice.tell(
        json!({
            "event": "signed_in", "subject": credential.subject.as_str(), "full_name": profile.full_name, "job_title": profile.job_title,
            "company": profile.company, "domain": profile.domain, "permissions": permissions, "expires_unix_s": credential.expires,
            "organisation": credential.issuer.to_string(),
        }),
        &format!(
            "You are {} of {} ({}), for {hours} hours, and may: {}.",
            profile.full_name, profile.company, profile.domain, credential.permissions
        ),
    )
}

/// `remora setup https://DESK[#KEY]`: everything that this computer needs.
///
/// # Errors
/// The desk is not reached or not the organisation's, the person is not signed in, or this computer belongs to another organisation.
pub async fn set_up(
    file: &mut File,
    at: DeskAddr,
    profile: Profile,
    how: How,
    voice: Voice,
) -> Result<(), Failure> {
    let files = file.beside()?;
    let web = Web::default();
    let is_known = at.key.is_some();
    let office = Office::open(&web, &files, at, profile).await?;
    let desk = &office.desk;
    desk::check_home(&files, desk)?;
    if !is_known {
        voice.tell(
            json!({"event": "organisation", "domain": desk.domain, "company": desk.company, "key": desk.issuer.to_string()}),
            &format!(
                "{} ({}) has the key {}; compare it with your administrator's, or give it next time: {}#{}",
                desk.company, desk.domain, desk.issuer, office.at.at, desk.issuer
            ),
        )?;
    }
    let membership = office.sign_in(how, voice).await?;
    file.organisation = Some(FileOrganisation {
        desk: office.at.at.to_string(),
        key: desk.issuer.to_string(),
    });
    if !desk.relays.is_empty() {
        file.set_relays(&desk.relays);
    }
    welcome(voice, &membership)
}

/// `remora sign-in`
///
/// # Errors
/// As of [`set_up`].
pub async fn sign_in(file: &File, args: &SignIn) -> Result<Exit, Failure> {
    let at = address(file)?.ok_or_else(no_desk)?;
    let voice = Voice { json: args.json };
    with_person(file, at, args.how, voice).await?;
    Ok(Exit::Ok)
}

async fn with_person(file: &File, at: DeskAddr, how: How, voice: Voice) -> Result<(), Failure> {
    let (web, files) = (Web::default(), file.beside()?);
    let profile = file.profile(&Default::default())?;
    let office = Office::open(&web, &files, at, profile).await?;
    let membership = office.sign_in(how, voice).await?;
    welcome(voice, &membership)
}

/// `remora sign-out`: here in any case; at the provider, if it is there.
///
/// # Errors
/// What is kept cannot be removed.
pub async fn sign_out(file: &File, args: &SignOut) -> Result<Exit, Failure> {
    let files = file.beside()?;
    let kept = Kept::load(&files);
    let had = files.forget_papers()?;
    let revoked = match (kept, address(file)?) {
        (Ok(Some(kept)), Some(at)) => revoke(file, &files, at, &kept).await,
        (Ok(None), _) | (_, None) => Ok(false),
        (Err(failure), Some(_)) => Err(failure),
    };
    let (is_revoked, but) = match revoked {
        Ok(true) => (true, String::new()),
        Ok(false) => (
            false,
            " The provider was not told: it has given this computer nothing that lasts.".into(),
        ),
        Err(failure) => (
            false,
            format!(
                " The provider was not told ({}); what this computer had is gone all the same.",
                failure.line
            ),
        ),
    };
    let voice = Voice { json: args.json };
    let line = match had || is_revoked {
        true => "You are signed out.",
        false => "Nobody was signed in.",
    };
    voice.tell(
        json!({"event": "signed_out", "was_signed_in": had, "revoked": is_revoked}),
        &format!("{line}{but}"),
    )?;
    Ok(Exit::Ok)
}

async fn revoke(file: &File, files: &Files, at: DeskAddr, kept: &Kept) -> Result<bool, Failure> {
    let web = Web::default();
    let profile = file.profile(&Default::default())?;
    let office = Office::open(&web, files, at, profile).await?;
    if office.desk.provider != kept.provider {
        return Ok(false);
    }
    let provider = office.provider().await?;
    office.client(&provider).revoke(&kept.refresh_token).await
}

/// How far papers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Age {
    Fresh,
    /// Past the half of their life.
    Renewable,
    /// They hold no longer, or are not there.
    Over,
}

fn age(files: &Files) -> Result<Age, Failure> {
    let Some(member) = files.member()? else {
        return Ok(Age::Over);
    };
    let (papers, now) = (member.papers(), unix_s());
    let credential = &papers.credential;
    let half = credential.issued + (credential.expires - credential.issued) / 2;
    Ok(
        match papers.hold_at(now.saturating_add(CLOCK_TOLERANCE_S)) {
            true if now < half => Age::Fresh,
            true => Age::Renewable,
            false => Age::Over,
        },
    )
}

/// Papers from the provider's word that it still knows who has signed in; whether there is anything to ask it with.
async fn silently(file: &File, at: DeskAddr) -> Result<bool, Failure> {
    let (web, files) = (Web::default(), file.beside()?);
    if Kept::load(&files)?.is_none() {
        return Ok(false);
    }
    // One program at a time: a refresh token that is shown twice is taken for a stolen one, and no more worth anything.
    let locked = files.clone();
    let lock = spawn_blocking(move || kept::lock(&locked)).await;
    let _lock = lock.map_err(|error| Failure::internal("lock", error))??;
    if age(&files)? == Age::Fresh {
        return Ok(true);
    }
    let Some(kept) = Kept::load(&files)? else {
        return Ok(false);
    };
    let profile = file.profile(&Default::default())?;
    let office = Office::open(&web, &files, at, profile).await?;
    if office.desk.provider != kept.provider {
        return Ok(false);
    }
    office.renew(kept).await.map(|_| true)
}

/// Before somebody helps or is helped: of an organisation with a desk, they have signed in, and are asked to if they have not.
///
/// # Errors
/// They do not, or cannot.
pub async fn ensure(file: &File, json: bool) -> Result<(), Failure> {
    let Some(at) = address(file)? else {
        return Ok(());
    };
    let age = age(&file.beside()?)?;
    if age == Age::Fresh {
        return Ok(());
    }
    let voice = Voice { json };
    match (silently(file, at.clone()).await, age) {
        (Ok(true), _) | (Ok(false), Age::Fresh | Age::Renewable) => Ok(()),
        (Err(failure), Age::Fresh | Age::Renewable) => {
            tracing::warn!(%failure, "the papers are not renewed yet");
            Ok(())
        }
        // What no password helps against.
        (Err(failure), Age::Over) if failure.exit == Exit::Offline || failure.code == "REVOKED" => {
            Err(failure)
        }
        (Ok(false) | Err(_), Age::Over) => with_person(file, at, How::default(), voice).await,
    }
}

/// Renews papers for as long as the program runs; never returns. What does not work is tried again.
pub async fn keep(file: &File) {
    let mut complained = None;
    loop {
        if let Err(failure) = renew_if_due(file).await {
            if complained.replace(failure.code) != Some(failure.code) {
                tracing::warn!(%failure, "the papers are not renewed");
            }
        } else {
            complained = None;
        }
        sleep(LOOK).await;
    }
}

async fn renew_if_due(file: &File) -> Result<(), Failure> {
    let Some(at) = address(file)? else {
        return Ok(());
    };
    if age(&file.beside()?)? != Age::Fresh {
        silently(file, at).await?;
    }
    Ok(())
}
