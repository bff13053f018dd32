//! Signing in with the real binaries, at a certified provider (npm `oidc-provider`) that runs for real: `tests/provider/*.mjs`.

mod support;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::Once,
};

use remora::identity::Files;
use remora_proto::{
    id::OrgId,
    identity::Profile,
    org::{desk::nonce, membership::Request},
};
use serde_json::{Value, json};
use support::{
    PATIENCE,
    process::{Ended, Home, RelayProcess, Script, run},
};

const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/provider")
}

/// The scripts' libraries; from the package registry, once.
fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if scripts().join("node_modules/.package-lock.json").exists() {
            return;
        }
        let output = Command::new("npm")
            .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
            .current_dir(scripts())
            .output()
            .expect("npm is needed to test signing in: apt-get install npm");
        assert!(output.status.success(), "npm ci: {output:?}");
    });
}

#[track_caller]
fn done(ended: Ended) -> Vec<String> {
    assert_eq!(ended.code, Some(0), "{ended:?}");
    ended.stdout
}

fn node(home: &Home, args: &[&str]) -> Command {
    let mut command = home.command("node");
    let script = scripts().join(args[0]);
    command.arg(script).args(&args[1..]);
    command
}

/// A provider of some people.
struct Provider {
    home: Home,
    _script: Script,
    issuer: String,
}

impl Provider {
    fn start() -> Self {
        install();
        let home = Home::new();
        let mut script = Script::start(node(&home, &["provider.mjs"]));
        let issuer = script.line(PATIENCE);
        Self {
            home,
            _script: script,
            issuer,
        }
    }

    fn host_port(&self) -> &str {
        self.issuer.strip_prefix("http://").expect("on loopback")
    }

    /// What a test wants of it.
    fn control(&self, wish: &Value) -> String {
        let (status, text) = post(self.host_port(), "/test", JSON, &wish.to_string());
        assert_eq!(status, 200, "{text}");
        text
    }

    /// A token of its key, that says so.
    fn token(&self, mint: &Value) -> String {
        self.control(&json!({"mint": mint}))
    }

    /// Somebody goes there with a browser; what the last page says.
    fn browse(&self, args: &[&str]) -> String {
        let ended = run(node(&self.home, &[&["browser.mjs"], args].concat()));
        done(ended).join("\n")
    }
}

/// Over plain HTTP on loopback.
fn post(host_port: &str, path: &str, kind: &str, body: &str) -> (u16, String) {
    let mut tcp = TcpStream::connect(host_port).expect("it listens");
    tcp.set_read_timeout(Some(PATIENCE)).expect("a socket");
    write!(
        tcp,
        "POST {path} HTTP/1.1\r\nhost: {host_port}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
    .expect("sent");
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("HTTP");
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    let body = match head.to_lowercase().contains("transfer-encoding: chunked") {
        // One chunk: these answers are short.
        true => body.lines().nth(1).unwrap_or_default().to_owned(),
        false => body.to_owned(),
    };
    (status.expect("a status"), body)
}

/// An organisation's folder, and its desk.
struct Office {
    admin: Home,
    desk: Script,
    listen: String,
    key: String,
}

impl Office {
    /// In which help is on.
    fn found(name: &str, domain: &str) -> (Home, String) {
        let admin = Home::new();
        let init = ["admin", "org", "init", "--name", name, "--domain", domain];
        let key = done(run(admin.remora(&init)))[0].clone();
        done(run(admin.remora(&["admin", "org", "policy", "enabled=on"])));
        (admin, key)
    }

    fn open(admin: Home, key: String, provider: &Provider, more: &[&str]) -> Self {
        let args = [
            "admin",
            "org",
            "serve",
            "--json",
            "--listen",
            "127.0.0.1:0",
            "--client-id",
            "remora",
            "--provider",
            &provider.issuer,
        ];
        let mut desk = Script::start(admin.remora(&[&args, more].concat()));
        let told = desk.expect("desk");
        assert_eq!(told["key"], key.as_str());
        let listen = told["listen"].as_str().expect("an address").to_owned();
        Self {
            admin,
            desk,
            listen,
            key,
        }
    }

    /// Contoso's.
    fn contoso(provider: &Provider, more: &[&str]) -> Self {
        let (admin, key) = Self::found("Contoso", "contoso.com");
        Self::open(admin, key, provider, more)
    }

    fn url(&self) -> String {
        format!("http://{}#{}", self.listen, self.key)
    }

    fn org(&self, args: &[&str]) -> Vec<String> {
        done(run(self.admin.remora(&[&["admin", "org"], args].concat())))
    }

    /// What is said of an ID token there.
    fn hand_in(&self, request: &Request, token: &str) -> (u16, Value) {
        let body = json!({"request": request.to_string(), "id_token": token}).to_string();
        let (status, text) = post(&self.listen, "/credential", JSON, &body);
        (status, serde_json::from_str(&text).expect("JSON"))
    }
}

/// A person, from nothing to signed in; what they are told at the end.
fn set_up(home: &Home, office: &Office, provider: &Provider, login: &str) -> Value {
    let mut setup = Script::start(home.remora(&["setup", &office.url(), "--json"]));
    let told = setup.expect("sign_in");
    let page = provider.browse(&[told["url"].as_str().expect("an address"), login]);
    assert!(
        page.starts_with("200") && page.contains("Thank you"),
        "{page}"
    );
    let signed_in = setup.expect("signed_in");
    assert_eq!(setup.end(PATIENCE).code, Some(0));
    signed_in
}

fn config(home: &Home, extension: &str) -> PathBuf {
    home.path()
        .join("config/remora/config")
        .with_extension(extension)
}

/// A computer's key, without anybody's papers.
fn request(home: &Home) -> Request {
    let files = Files::beside(&config(home, "toml"));
    let profile = Profile::new("Sam", "", "", "").expect("a profile");
    files.request(profile).expect("a key")
}

/// The person's computer is so many hours ahead: their papers are older there.
fn hours_later(home: &Home, hours: u32) -> Script {
    let mut command = home.command("faketime");
    command
        .args(["-f", &format!("+{hours}h"), support::process::REMORA])
        .args(["join", "--json"])
        .env("REMORA_RELAY_ONLY", "true");
    Script::start(command)
}

/// Somebody joins; how it ends: at the relay, which sees that their clock is ahead, after the papers were looked at.
fn joins(home: &Home, hours: u32) -> String {
    let mut script = hours_later(home, hours);
    let ended = script.end(PATIENCE);
    let last = ended.stdout.last().expect("an event");
    let error: Value = serde_json::from_str(last).expect("JSON");
    error["code"].as_str().expect("a code").to_owned()
}

#[test]
fn a_3_two_people_sign_in_with_one_step_each_and_see_verified_cards() {
    let provider = Provider::start();
    let relay = RelayProcess::start(&[]);
    let (admin, key) = Office::found("Contoso", "contoso.com");
    let assign = [
        "admin",
        "org",
        "assign",
        "sam.okafor@contoso.com",
        "help-desk-operator",
    ];
    done(run(admin.remora(&assign)));
    let office = Office::open(
        admin,
        key,
        &provider,
        &["--enrol", "--relay", &relay.address],
    );
    let (sam, maria) = (Home::new(), Home::new());
    let signed_in = set_up(&sam, &office, &provider, "sam");
    assert_eq!(signed_in["full_name"], "Sam Okafor");
    assert_eq!(signed_in["job_title"], "IT Support");
    assert_eq!(signed_in["subject"], "sam.okafor@contoso.com");
    let permissions = signed_in["permissions"].as_array().expect("a list");
    assert!(permissions.contains(&json!("control")), "{signed_in}");
    assert_eq!(
        set_up(&maria, &office, &provider, "maria")["permissions"],
        json!([])
    );
    let mode = fs::metadata(config(&sam, "sign-in"))
        .expect("kept")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600, "nobody else reads it");
    // No relay, no name, no file: the desk has said it all.
    let mut helper = Script::start(sam.remora(&["invite", "--json"]));
    let code = helper.expect("code")["code"].clone();
    let mut sharer = Script::start(maria.remora(&["join", "--json"]));
    sharer.say(code.as_str().expect("text"));
    for (script, name, title) in [
        (&mut helper, "Maria Lopez", "Accountant"),
        (&mut sharer, "Sam Okafor", "IT Support"),
    ] {
        script.expect("connected");
        let told = script.expect("trust");
        let card = &told["peer"];
        assert_eq!(
            (&card["full_name"], &card["job_title"]),
            (&json!(name), &json!(title))
        );
        assert_eq!(
            (&card["company"], &card["domain"]),
            (&json!("Contoso"), &json!("contoso.com"))
        );
        assert_eq!(card["verified"], true);
        assert_eq!(told["warnings"], json!([]));
        assert_eq!(told["permitted"]["mode"], "control");
    }
}

#[test]
fn e_10_at_a_device_that_is_not_enrolled_both_sign_in_and_both_accept_before_it_begins() {
    let provider = Provider::start();
    let relay = RelayProcess::start(&[]);
    let (admin, key) = Office::found("Contoso", "contoso.com");
    for args in [
        &["policy", "allow-unenrolled=on"][..],
        &["assign", "sam.okafor@contoso.com", "help-desk-operator"],
    ] {
        done(run(admin.remora(&[&["admin", "org"], args].concat())));
    }
    // Who signs in there enrols no device by that.
    let office = Office::open(admin, key, &provider, &["--relay", &relay.address]);
    let (sam, maria) = (Home::new(), Home::new());
    for (home, login) in [(&sam, "sam"), (&maria, "maria")] {
        set_up(home, &office, &provider, login);
        done(run(home.remora(&["sign-out"])));
    }
    let signs_in = |home: &Home, verb: &str, login: &str| {
        let mut script = Script::start(home.remora(&[verb, "--json"]));
        let told = script.expect("sign_in");
        let page = provider.browse(&[told["url"].as_str().expect("an address"), login]);
        assert!(page.contains("Thank you"), "{page}");
        script.expect("signed_in");
        script
    };
    // The code is there right after the helper has signed in.
    let mut helper = signs_in(&sam, "invite", "sam");
    let code = helper.expect("code")["code"].clone();
    let mut sharer = signs_in(&maria, "join", "maria");
    sharer.say(code.as_str().expect("text"));
    for script in [&mut helper, &mut sharer] {
        script.expect("connected");
    }
    let at_helper = helper.expect("trust");
    assert_eq!(
        at_helper["warnings"][0]["code"], "UNENROLLED",
        "{at_helper}"
    );
    assert_eq!(at_helper["peer"]["full_name"], "Maria Lopez");
    let at_sharer = sharer.expect("trust");
    assert_eq!(at_sharer["peer"]["full_name"], "Sam Okafor");
    assert_eq!(at_sharer["peer"]["verified"], true);
    // The helper accepts by choosing, with the warning seen; until then the sharer is asked nothing, and nothing begins.
    helper.say("c");
    assert_eq!(sharer.expect("consent_prompt")["mode"], "control");
    helper.expect("awaiting_consent");
    sharer.say("a");
    for script in [&mut sharer, &mut helper] {
        assert_eq!(script.expect("started")["mode"], "control");
    }
}

#[test]
fn a_3_a_headless_computer_signs_in_by_a_code_that_is_typed_elsewhere() {
    let provider = Provider::start();
    let relay = RelayProcess::start(&[]);
    let (admin, key) = Office::found("Contoso", "contoso.com");
    let office = Office::open(admin, key, &provider, &["--relay", &relay.address]);
    let home = Home::new();
    let args = ["setup", &office.url(), "--device-code", "--json"];
    let mut setup = Script::start(home.remora(&args));
    let told = setup.expect("sign_in");
    let text = |name: &str| told[name].as_str().expect("text").to_owned();
    let page = provider.browse(&[&text("url"), "sam", &text("user_code")]);
    assert!(page.contains("Sign-in Success"), "{page}");
    assert_eq!(setup.expect("signed_in")["full_name"], "Sam Okafor");
    assert_eq!(setup.end(PATIENCE).code, Some(0));
    // What the provider gave for it gets the next papers, without asking anybody.
    let before = fs::read(config(&home, "papers")).expect("papers");
    assert_eq!(joins(&home, 7), "CLOCK_OFF");
    assert_ne!(fs::read(config(&home, "papers")).expect("papers"), before);
    // A device code that nobody has begun with gets nothing.
    let body = json!({"request": request(&home).to_string(), "device_code": "x"}).to_string();
    let (status, said) = post(&office.listen, "/credential", JSON, &body);
    assert_eq!(status, 400, "{said}");
}

#[test]
fn a_3_a_token_that_is_not_for_this_organisation_and_computer_gets_nothing() {
    let provider = Provider::start();
    let office = Office::contoso(&provider, &[]);
    let organisation: OrgId = office.key.parse().expect("a key");
    let (home, thief) = (Home::new(), Home::new());
    let (own, stolen) = (request(&home), request(&thief));
    let ours = nonce(organisation, own.node);
    let other_organisation = nonce(OrgId([7; 32]), own.node);
    let cases = [
        (
            json!({"claims": {"nonce": ours, "aud": "another"}}),
            "TOKEN_AUDIENCE",
        ),
        (
            json!({"claims": {"nonce": ours, "aud": ["remora", "another"]}}),
            "TOKEN_AUDIENCE",
        ),
        (
            json!({"claims": {"nonce": ours, "iss": "https://evil.example"}}),
            "TOKEN_ISSUER",
        ),
        (
            json!({"claims": {"nonce": other_organisation}}),
            "TOKEN_NONCE",
        ),
        (json!({"claims": {}}), "TOKEN_NONCE"),
        (
            json!({"claims": {"nonce": ours, "email_verified": false}}),
            "EMAIL_UNVERIFIED",
        ),
        (
            json!({"claims": {"nonce": ours, "email": "sam@fabrikam.com"}}),
            "FOREIGN_DOMAIN",
        ),
        (json!({"claims": {"nonce": ours, "name": ""}}), "CLAIM"),
        (
            json!({"claims": {"nonce": ours}, "alg": "none"}),
            "TOKEN_ALGORITHM",
        ),
        (
            json!({"claims": {"nonce": ours}, "alg": "HS256"}),
            "TOKEN_ALGORITHM",
        ),
        (
            json!({"claims": {"nonce": ours}, "typ": "at+jwt"}),
            "TOKEN_MALFORMED",
        ),
    ];
    for (mint, code) in &cases {
        let (status, said) = office.hand_in(&own, &provider.token(mint));
        assert_eq!(said["code"], *code, "{mint}");
        assert!(status == 401 || status == 403, "{status}");
    }
    // Of another provider, whose keys have the same names.
    let other = Provider::start();
    let forged = other.token(&json!({"claims": {"nonce": ours, "iss": provider.issuer}}));
    assert_eq!(office.hand_in(&own, &forged).1["code"], "TOKEN_SIGNATURE");
    // The very token that Sam's computer would be signed in with, at the thief's.
    let good = provider.token(&json!({"claims": {"nonce": ours}}));
    assert_eq!(office.hand_in(&stolen, &good).1["code"], "TOKEN_NONCE");
    let (status, said) = office.hand_in(&own, &good);
    assert_eq!(status, 200, "{said}");
    // And what was refused stays so although the account is known now.
    let without = provider.token(&json!({"claims": {}}));
    assert_eq!(office.hand_in(&stolen, &without).1["code"], "TOKEN_NONCE");
    for rubbish in ["", "{}", "[]", r#"{"request":"x","id_token":"y"}"#] {
        assert_eq!(
            post(&office.listen, "/credential", JSON, rubbish).0,
            400,
            "{rubbish}"
        );
    }
    assert_eq!(post(&office.listen, "/", JSON, "").0, 404);
    assert_eq!(post(&office.listen, "/.well-known/remora", JSON, "").0, 405);
    let large = "x".repeat(20 << 10);
    assert_eq!(office.hand_in(&own, &large).1["code"], "TOKEN_MALFORMED");
}

#[test]
fn a_3_clocks_may_differ_by_two_minutes_between_provider_and_desk() {
    let provider = Provider::start();
    let office = Office::contoso(&provider, &[]);
    let organisation: OrgId = office.key.parse().expect("a key");
    let home = Home::new();
    let own = request(&home);
    let mint = json!({"claims": {"nonce": nonce(organisation, own.node)}});
    let at = |skew: i64| {
        provider.control(&json!({"skew": skew}));
        office.hand_in(&own, &provider.token(&mint)).1
    };
    for skew in [0, 90, -90] {
        assert!(at(skew)["papers"].is_string(), "{skew}");
    }
    assert_eq!(at(300)["code"], "TOKEN_NOT_YET");
    assert_eq!(at(-900)["code"], "TOKEN_EXPIRED");
}

#[test]
fn a_3_a_provider_that_changes_its_keys_is_asked_for_them_again() {
    let provider = Provider::start();
    let office = Office::contoso(&provider, &[]);
    let organisation: OrgId = office.key.parse().expect("a key");
    let home = Home::new();
    let own = request(&home);
    let mint = json!({"claims": {"nonce": nonce(organisation, own.node)}});
    let old = provider.token(&mint);
    assert_eq!(office.hand_in(&own, &old).0, 200);
    // RS256 before, ES256 now, and again.
    for _ in 0..2 {
        provider.control(&json!({"rotate": true}));
        assert_eq!(office.hand_in(&own, &provider.token(&mint)).0, 200);
        assert_eq!(
            office.hand_in(&own, &old).1["code"],
            "TOKEN_KEY",
            "withdrawn"
        );
    }
    // Strangers who name keys do not have it asked for ever.
    for _ in 0..20 {
        office.hand_in(&own, &old);
    }
    provider.control(&json!({"rotate": true}));
    assert_eq!(
        office.hand_in(&own, &provider.token(&mint)).1["code"],
        "TOKEN_KEY"
    );
}

#[test]
fn a_3_papers_are_renewed_without_asking_until_the_person_is_out() {
    let provider = Provider::start();
    let relay = RelayProcess::start(&[]);
    let (admin, key) = Office::found("Contoso", "contoso.com");
    let office = Office::open(admin, key, &provider, &["--relay", &relay.address]);
    let home = Home::new();
    set_up(&home, &office, &provider, "sam");
    let papers = || fs::read(config(&home, "papers")).expect("papers");
    let kept = || fs::read(config(&home, "sign-in")).expect("kept");
    let (first, token) = (papers(), kept());
    // Before the half of their life nobody is asked.
    assert_eq!(joins(&home, 5), "CLOCK_OFF");
    assert_eq!(papers(), first);
    // The provider has forgotten the token that it gave before, so both were replaced.
    assert_eq!(joins(&home, 7), "CLOCK_OFF");
    let second = papers();
    assert_ne!(second, first);
    assert_ne!(kept(), token);
    // Whom the organisation revokes, it signs for no more; what they have is worth nothing, as everybody is told.
    office.org(&[
        "revoke",
        "sam.okafor@contoso.com",
        "--relay",
        &relay.address,
    ]);
    assert_eq!(joins(&home, 13), "REVOKED");
    assert_eq!(papers(), second);
    office.org(&[
        "revoke",
        "sam.okafor@contoso.com",
        "--undo",
        "--relay",
        &relay.address,
    ]);
    // Whom the provider does not know any more is asked to sign in, and cannot.
    provider.control(&json!({"disable": "sam"}));
    let mut script = hours_later(&home, 13);
    assert_eq!(
        script.expect("sign_in")["provider"],
        provider.issuer.as_str()
    );
}

#[test]
fn a_3_who_is_not_signed_in_is_asked_on_joining_and_who_signs_out_is_out() {
    let provider = Provider::start();
    let relay = RelayProcess::start(&[]);
    let (admin, key) = Office::found("Contoso", "contoso.com");
    let office = Office::open(admin, key, &provider, &["--relay", &relay.address]);
    let home = Home::new();
    set_up(&home, &office, &provider, "sam");
    let token = fs::read_to_string(config(&home, "sign-in")).expect("kept");
    let token: Value = serde_json::from_str(&token).expect("JSON");
    let out = done(run(home.remora(&["sign-out", "--json"])));
    let out: Value = serde_json::from_str(&out[0]).expect("JSON");
    assert_eq!(
        (&out["was_signed_in"], &out["revoked"]),
        (&json!(true), &json!(true))
    );
    assert!(!config(&home, "papers").exists() && !config(&home, "sign-in").exists());
    // At the provider, too: a copy of what was kept is worth nothing.
    let form = format!(
        "grant_type=refresh_token&client_id=remora&refresh_token={}",
        token["refresh_token"].as_str().expect("a token")
    );
    let (_, said) = post(provider.host_port(), "/token", FORM, &form);
    assert!(said.contains("invalid_grant"), "{said}");
    let mut joining = Script::start(home.remora(&["join", "--json"]));
    let told = joining.expect("sign_in");
    let page = provider.browse(&[told["url"].as_str().expect("an address"), "sam"]);
    assert!(page.contains("Thank you"), "{page}");
    joining.expect("signed_in");
    joining.say("4060r0gx");
    assert_eq!(joining.expect("error")["code"], "UNKNOWN_CODE");
    // Who says no at the provider is told so at once.
    done(run(home.remora(&["sign-out"])));
    let mut joining = Script::start(home.remora(&["join", "--json"]));
    let told = joining.expect("sign_in");
    let page = provider.browse(&[told["url"].as_str().expect("an address"), "sam", "decline"]);
    assert!(page.contains("not signed in"), "{page}");
    assert_eq!(joining.expect("error")["code"], "SIGN_IN_DECLINED");
    assert_eq!(joining.end(PATIENCE).code, Some(3));
}

#[test]
fn a_3_somebody_elses_desk_is_told_by_its_key_before_anybody_signs_in() {
    let provider = Provider::start();
    let office = Office::contoso(&provider, &[]);
    let home = Home::new();
    let wrong = format!("http://{}#{}", office.listen, OrgId([9; 32]));
    let refused = run(home.remora(&["setup", &wrong]));
    assert_eq!(refused.code, Some(7), "{refused:?}");
    assert!(refused.line().contains("DESK_KEY"), "{refused:?}");
    assert!(!config(&home, "toml").exists());
    let nobody = run(home.remora(&["setup", "http://127.0.0.1:1"]));
    assert_eq!(nobody.code, Some(5), "{nobody:?}");
    let plain = run(home.remora(&["setup", "http://desk.example.org"]));
    assert_eq!(plain.code, Some(2), "{plain:?}");
    let no_desk = run(home.remora(&["setup", &provider.issuer]));
    assert!(no_desk.line().contains("NOT_A_DESK"), "{no_desk:?}");
    // Without a key it is shown, for who wants to compare.
    let open = format!("http://{}", office.listen);
    let mut setup = Script::start(home.remora(&["setup", &open, "--json"]));
    assert_eq!(setup.expect("organisation")["key"], office.key.as_str());
    setup.expect("sign_in");
}

/// A certificate for this computer, and its key, in files.
fn certificate(home: &Home) -> [String; 2] {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("made");
    let pem = |what: &str, der: &[u8]| {
        let text = data_encoding::BASE64.encode(der);
        let path = home.path().join(what.replace(' ', "-"));
        let pem = format!("-----BEGIN {what}-----\n{text}\n-----END {what}-----\n");
        fs::write(&path, pem).expect("written");
        path.display().to_string()
    };
    [
        pem("CERTIFICATE", made.cert.der()),
        pem("PRIVATE KEY", &made.signing_key.serialize_der()),
    ]
}

#[test]
fn a_3_a_desk_is_reached_by_tls_and_nobody_else_is_taken_for_it() {
    let provider = Provider::start();
    let (admin, key) = Office::found("Contoso", "contoso.com");
    let [certificate, secret] = certificate(&admin);
    let tls = ["--tls-cert", &certificate, "--tls-key", &secret];
    let office = Office::open(admin, key, &provider, &tls);
    let home = Home::new();
    let url = format!("https://{}#{}", office.listen, office.key);
    let unknown = run(home.remora(&["setup", &url]));
    assert_eq!(
        unknown.code,
        Some(7),
        "no authority that is trusted: {unknown:?}"
    );
    let mut setup = home.remora(&["setup", &url, "--json"]);
    setup.env("SSL_CERT_FILE", &certificate);
    let mut setup = Script::start(setup);
    let told = setup.expect("sign_in");
    provider.browse(&[told["url"].as_str().expect("an address"), "sam"]);
    assert_eq!(setup.expect("signed_in")["full_name"], "Sam Okafor");
    // In the open there is no desk.
    let serve = [
        "admin",
        "org",
        "serve",
        "--client-id",
        "x",
        "--provider",
        &provider.issuer,
    ];
    let open = run(office
        .admin
        .remora(&[&serve[..], &["--listen", "0.0.0.0:0"]].concat()));
    assert_eq!(open.code, Some(2), "{open:?}");
    assert!(open.line().contains("--tls-cert"), "{open:?}");
}

#[test]
fn a_3_a_desk_signs_the_policy_anew_before_it_is_stale() {
    let provider = Provider::start();
    let admin = Home::new();
    let org = |args: &[&str]| {
        let mut command = admin.command("faketime");
        command
            .args(["-f", "-25h", support::process::REMORA, "admin", "org"])
            .args(args);
        done(run(command))
    };
    let key = org(&["init", "--name", "Contoso", "--domain", "contoso.com"])[0].clone();
    org(&["policy", "enabled=on"]);
    let relay = RelayProcess::start(&[]);
    let mut office = Office::open(admin, key, &provider, &["--relay", &relay.address]);
    assert_eq!(office.desk.expect("policy")["policy"], 3);
    let shown = office.org(&["show", "--json"]);
    let shown: Value = serde_json::from_str(&shown[0]).expect("JSON");
    assert_eq!(
        (&shown["policy"], &shown["settings"]["enabled"]),
        (&json!(3), &json!("on"))
    );
    let issued = shown["issued_unix_s"].as_u64().expect("a time");
    assert!(issued + 3600 > remora::identity::unix_s(), "of today");
}

#[test]
fn a_4_an_address_that_another_account_has_used_gets_nothing() {
    let provider = Provider::start();
    let mut office = Office::contoso(&provider, &[]);
    let home = Home::new();
    set_up(&home, &office, &provider, "sam");
    assert_eq!(
        office.desk.expect("signed")["subject"],
        "sam.okafor@contoso.com"
    );
    // The address is Maria's now, says the provider.
    provider.control(&json!({"claims": {"maria": {"email": "sam.okafor@contoso.com"}}}));
    let other = Home::new();
    let mut setup = Script::start(other.remora(&["setup", &office.url(), "--json"]));
    let told = setup.expect("sign_in");
    provider.browse(&[told["url"].as_str().expect("an address"), "maria"]);
    assert_eq!(setup.expect("error")["code"], "OTHER_ACCOUNT");
    assert_eq!(setup.end(PATIENCE).code, Some(6));
    assert_eq!(office.desk.expect("refused")["code"], "OTHER_ACCOUNT");
}

#[test]
fn a_3_a_second_organisations_helper_is_let_in_where_it_is_trusted() {
    let provider = Provider::start();
    let relay = RelayProcess::start(&[]);
    let (admin, key) = Office::found("Fabrikam", "fabrikam.com");
    done(run(admin.remora(&[
        "admin",
        "org",
        "assign",
        "jo@fabrikam.com",
        "help-desk-operator",
    ])));
    let fabrikam = Office::open(
        admin,
        key,
        &provider,
        &["--enrol", "--relay", &relay.address],
    );
    let (admin, key) = Office::found("Contoso", "contoso.com");
    let contoso = Office::open(
        admin,
        key,
        &provider,
        &["--enrol", "--relay", &relay.address],
    );
    let (jo, maria) = (Home::new(), Home::new());
    set_up(&jo, &fabrikam, &provider, "jo");
    set_up(&maria, &contoso, &provider, "maria");
    let meet = || {
        let mut helper = Script::start(jo.remora(&["invite", "--json"]));
        let code = helper.expect("code")["code"].clone();
        let mut sharer = Script::start(maria.remora(&["join", "--json"]));
        sharer.say(code.as_str().expect("text"));
        helper.expect("connected");
        sharer.expect("connected");
        (helper, sharer)
    };
    let (helper, sharer) = meet();
    for mut script in [helper, sharer] {
        assert_eq!(script.expect("ended")["end_reason"], "ORG_MISMATCH");
    }
    for (office, other, domain) in [
        (&contoso, &fabrikam, "fabrikam.com"),
        (&fabrikam, &contoso, "contoso.com"),
    ] {
        let trust = [
            "trust",
            &other.key,
            "--domain",
            domain,
            "--permission",
            "view",
            "--permission",
            "offer",
            "--permission",
            "connector",
            "--relay",
            &relay.address,
        ];
        office.org(&trust);
    }
    // With what each of their desks gives now.
    set_up(&jo, &fabrikam, &provider, "jo");
    set_up(&maria, &contoso, &provider, "maria");
    let (_helper, mut sharer) = meet();
    let told = sharer.expect("trust");
    assert_eq!(told["peer"]["domain"], "fabrikam.com");
    assert_eq!(told["peer"]["verified"], true);
    assert_eq!(
        told["permitted"]["mode"], "view",
        "no more than it is trusted with"
    );
}
