//! Everything at once, as in a company: a relay, an organisation whose people sign in at a real provider, a helper's computer, and a device
//! at which several are logged in, each with a display, a session bus and notifications.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

use super::{
    desktop::Desktop,
    display::{Program, Xvfb, eventually},
    office::{Office, Provider, done, set_up},
    support::{
        PATIENCE,
        process::{Home, RelayProcess, Script, run},
    },
};

/// Of every display.
pub(crate) const SIZE: (u16, u16) = (1024, 768);

/// Contoso: Sam helps, Maria is helped.
pub(crate) struct Company {
    pub(crate) relay: RelayProcess,
    pub(crate) sam: Home,
    pub(crate) maria: Home,
    _office: Office,
    _provider: Provider,
}

impl Company {
    /// In which Sam has that role, and this is set.
    pub(crate) fn new(role: &str, settings: &[&str]) -> Self {
        let provider = Provider::start();
        let relay = RelayProcess::start(&[]);
        let (admin, key) = Office::found("Contoso", "contoso.com");
        let org = |args: &[&str]| done(run(admin.remora(&[&["admin", "org"], args].concat())));
        org(&["assign", "sam.okafor@contoso.com", role]);
        if !settings.is_empty() {
            org(&[&["policy"], settings].concat());
        }
        let desk = ["--enrol", "--relay", &relay.address];
        let office = Office::open(admin, key, &provider, &desk);
        let (sam, maria) = (Home::new(), Home::new());
        for (home, login) in [(&sam, "sam"), (&maria, "maria")] {
            set_up(home, &office, &provider, login);
        }
        Self {
            relay,
            sam,
            maria,
            _office: office,
            _provider: provider,
        }
    }

    /// Somebody logs in at the device.
    pub(crate) fn login(&self, number: usize) -> Login {
        Login::new(&self.maria, number)
    }

    /// The helper's program.
    pub(crate) fn helps(&self, args: &[&str]) -> Script {
        Script::start(self.sam.remora(&[args, &["--json"]].concat()))
    }
}

/// Somebody who is logged in at the device.
pub(crate) struct Login {
    pub(crate) display: Xvfb,
    pub(crate) desktop: Desktop,
    folder: PathBuf,
    more: Vec<(&'static str, String)>,
}

impl Login {
    fn new(home: &Home, number: usize) -> Self {
        let folder = home.path().join(format!("login-{number}"));
        for part in ["run", "bin"] {
            fs::create_dir_all(folder.join(part)).expect("a folder");
        }
        let display = Xvfb::start(SIZE.0, SIZE.1);
        // As a real screen is.
        let lit = ["--output", "screen", "--gamma", "1:1:1"];
        display.run("xrandr", &lit).succeed();
        // In the place of a browser: keeps what it is given.
        let page = folder.join("page");
        let script = format!(
            "#!/bin/sh\ncat \"$1\" > {0}.new && mv {0}.new {0}\n",
            page.display()
        );
        let browser = folder.join("bin/xdg-open");
        fs::write(&browser, script).expect("written");
        fs::set_permissions(&browser, fs::Permissions::from_mode(0o755)).expect("ours");
        Self {
            display,
            desktop: Desktop::new(home),
            folder,
            more: Vec::new(),
        }
    }

    /// With this in its environment, too.
    pub(crate) fn with(mut self, name: &'static str, value: impl AsRef<Path>) -> Self {
        self.more.push((name, value.as_ref().display().to_string()));
        self
    }

    /// `remora` there.
    pub(crate) fn remora(&self, home: &Home, args: &[&str]) -> Command {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = home.remora(args);
        command
            .env("DISPLAY", self.display.name())
            .env("XDG_RUNTIME_DIR", self.folder.join("run"))
            .env("DBUS_SESSION_BUS_ADDRESS", &self.desktop.address)
            .env(
                "PATH",
                format!("{}:{path}", self.folder.join("bin").display()),
            )
            .envs(self.more.iter().cloned());
        command
    }

    /// `remora agent` there, and the device's id.
    pub(crate) fn agent(&self, home: &Home, more: &[&str]) -> (Script, String) {
        let args = [&["agent", "--json"], more].concat();
        let mut agent = Script::start(self.remora(home, &args));
        let device = agent.expect("device");
        if device["attached"] == false {
            agent.expect("online");
        }
        let id = device["device"].as_str().expect("text").to_owned();
        (agent, id)
    }

    /// The page that the browser was led to there.
    pub(crate) fn page(&self) -> String {
        let page = self.folder.join("page");
        let led = eventually("a page", || fs::read_to_string(&page).ok());
        let url = led
            .split_once("url=")
            .and_then(|(_, rest)| rest.split_once("\">"));
        url.expect("an address").0.replace("&amp;", "&")
    }

    /// A terminal, at the left, in which is kept what is typed.
    pub(crate) fn terminal(&self) -> (Program, PathBuf) {
        let file = self.folder.join("typed");
        let keep = format!("cat > {}", file.display());
        let place = ["-geometry", "80x24+0+150", "-u8", "-e", "sh", "-c", &keep];
        (self.display.run("xterm", &place), file)
    }
}

/// Two people's browsers, one window each.
pub(crate) struct Hands(Script);

impl Hands {
    pub(crate) fn new(home: &Home) -> Self {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser");
        if !scripts
            .join("node_modules/playwright-core/package.json")
            .exists()
        {
            let mut npm = Command::new("npm");
            npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]);
            let done = npm.current_dir(&scripts).status();
            assert!(done.is_ok_and(|status| status.success()), "npm ci");
        }
        let mut command = home.command("node");
        command.arg(scripts.join("journey.mjs"));
        command.envs(std::env::var("REMORA_CHROMIUM").map(|path| ("REMORA_CHROMIUM", path)));
        let mut hands = Script::start(command);
        assert_eq!(hands.line(PATIENCE), "ready");
        Self(hands)
    }

    #[track_caller]
    fn act(&mut self, wish: &Value) {
        self.0.say(&wish.to_string());
        let said = self.0.line(PATIENCE);
        assert_eq!(said, "done", "{wish}");
    }

    pub(crate) fn open(&mut self, page: &str, url: &str) {
        self.act(&json!({"page": page, "open": url}));
    }

    #[track_caller]
    pub(crate) fn click(&mut self, page: &str, button: &str) {
        self.act(&json!({"page": page, "click": button}));
    }

    #[track_caller]
    pub(crate) fn sees(&mut self, page: &str, text: &str) {
        self.act(&json!({"page": page, "sees": text}));
    }

    #[track_caller]
    pub(crate) fn fill(&mut self, page: &str, label: &str, text: &str) {
        self.act(&json!({"page": page, "fill": label, "text": text}));
    }

    /// Into the other screen, with Enter at the end.
    #[track_caller]
    pub(crate) fn types(&mut self, page: &str, text: &str) {
        self.act(&json!({"page": page, "types": text}));
    }

    /// The other screen is there, and has that colour.
    #[track_caller]
    pub(crate) fn screen(&mut self, page: &str, colour: [u8; 3]) {
        self.act(&json!({"page": page, "screen": colour}));
    }

    /// For people to look at, if `REMORA_ARTEFACTS` names a directory.
    pub(crate) fn picture(&mut self, page: &str, name: &str) {
        if let Some(folder) = std::env::var_os("REMORA_ARTEFACTS") {
            let file = Path::new(&folder).join(format!("journey-{name}.png"));
            self.act(&json!({"page": page, "picture": file}));
        }
    }
}
