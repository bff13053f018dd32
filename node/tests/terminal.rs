//! The real binaries in terminals of their own: what people see, and what their keys do.

mod support;

use std::{
    cell::RefCell,
    collections::BTreeSet,
    fs::File,
    io::Write,
    net::{Ipv4Addr, UdpSocket},
    os::unix::process::ExitStatusExt,
    time::Duration,
};

use nix::sys::signal::Signal;
use remora_proto::{id::RelayId, noise::StaticKey};
use support::{
    KILL_LIMIT, LEAVE_LIMIT, PATIENCE, chat_line,
    process::{Home, REMORA, RelayProcess, Script, relay_binary, run},
    terminal::{Terminal, WIDE},
};

/// Before a relay (5 s) or a helper's computer (30 s) would be given up.
const PROMPTLY: Duration = Duration::from_secs(4);
const MANY: usize = 1_000;
const SAM: &str = "\u{2068}Sam Okafor\u{2069}";
const MARIA: &str = "\u{2068}Maria Lopez\u{2069}";
const CODE_PROMPT: &str = "Code from your helper: ";

/// Two people who have been told about one relay, and a terminal each.
struct Scene {
    helper_home: Home,
    sharer_home: Home,
    size: (u16, u16),
}

impl Scene {
    fn new(relay: &str) -> Self {
        let scene = Self {
            helper_home: Home::new(),
            sharer_home: Home::new(),
            size: WIDE,
        };
        for (home, name) in [
            (&scene.helper_home, "Sam Okafor"),
            (&scene.sharer_home, "Maria Lopez"),
        ] {
            let end = run(home.remora(&["setup", relay, "--name", name]));
            assert_eq!(end.code, Some(0), "{end:?}");
        }
        scene
    }

    /// A helper's terminal, and the code on its screen.
    fn invite(&self, args: &[&str]) -> (Terminal, String) {
        let command = self.helper_home.remora(&[&["invite"], args].concat());
        let mut helper = Terminal::open("the helper", &command, self.size);
        helper.expect("Your code is:  ");
        let code = helper.until(" ");
        assert_eq!(code.len(), "4060-r0gx".len(), "{code}");
        helper.expect("On the other computer, please run:   remora join");
        (helper, code)
    }

    fn join(&self) -> Terminal {
        let command = self.sharer_home.remora(&["join"]);
        let mut sharer = Terminal::open("the sharer", &command, self.size);
        sharer.expect(CODE_PROMPT);
        sharer
    }

    /// Both see each other's trust card, and the same words.
    fn introduced(&self) -> (Terminal, Terminal) {
        let (mut helper, code) = self.invite(&[]);
        let mut sharer = self.join();
        sharer.enter(&forgiving(&code));
        let words = [(&mut helper, MARIA), (&mut sharer, SAM)].map(|(person, peer)| {
            person.expect("Connected · relayed via ");
            person.expect(peer);
            person.expect("UNVERIFIED: nobody vouches for this yet");
            person.expect("Read these words to each other:  ");
            person.until("\n").trim().to_owned()
        });
        assert_eq!(words[0], words[1], "the words on both screens");
        assert_eq!(words[0].split_whitespace().count(), 3, "{words:?}");
        (helper, sharer)
    }

    /// Both are in a session that shows the screen only, although control was asked for.
    fn active(&self) -> (Terminal, Terminal) {
        let (mut helper, mut sharer) = self.introduced();
        for person in [&mut helper, &mut sharer] {
            person.expect("Words the same? [y]es [n]o");
        }
        // One after the other, or what one says might stand before or after what the other hears.
        helper.enter("y");
        helper.expect("You said the words are the same.");
        sharer.expect(&format!("{SAM} says the words are the same."));
        sharer.enter("y");
        sharer.expect("You said the words are the same.");
        helper.expect(&format!("{MARIA} says the words are the same."));
        helper.enter("c");
        sharer.expect(&format!("{SAM} wants: FULL CONTROL"));
        sharer.expect("[a]llow control  [s]creen only  [d]ecline   answers itself \"no\" in 4:5");
        helper.expect(&format!("Waiting for {MARIA} to answer… 4:5"));
        sharer.enter("s");
        for person in [&mut helper, &mut sharer] {
            person.expect("Session started · view · relayed via ");
            person.expect("● view · ");
        }
        (helper, sharer)
    }
}

/// As people type it: capitals, a space, look-alikes.
fn forgiving(code: &str) -> String {
    format!(
        "  {} ",
        code.to_uppercase()
            .replace('-', " ")
            .replace('0', "o")
            .replace('1', "l")
    )
}

fn wrong(code: &str) -> String {
    let last = if code.ends_with('0') { "1" } else { "0" };
    format!("{}{last}", &code[..code.len() - 1])
}

fn type_chat(mut keyboard: File) -> impl FnOnce() {
    move || {
        for n in 0..MANY {
            let line = chat_line(n) + "\r";
            keyboard.write_all(line.as_bytes()).expect("it listens");
        }
    }
}

/// Every chat line of `peer` that was shown.
fn heard(screen: &str, peer: &str) -> Vec<String> {
    let begin = format!("{peer}: \u{2068}");
    let lines = screen.lines().filter_map(|line| line.split_once(&begin));
    lines
        .map(|(_, text)| text.trim_end().trim_end_matches('\u{2069}').to_owned())
        .collect()
}

// ---- a whole session ---------------------------------------------------------------------------

#[test]
fn three_terminals_play_a_session_with_a_thousand_lines_each_way() {
    let home = Home::new();
    let mut quickstart = home.command(relay_binary());
    quickstart.args([
        "quickstart",
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
    ]);
    let mut relay = Terminal::open("the relay", &quickstart, WIDE);
    relay.expect("On each of the two machines, once:");
    relay.expect("remora setup ");
    let address = relay.until("\n").trim().to_owned();

    let scene = Scene::new(&address);
    let (mut helper, mut sharer) = scene.active();
    let typing = [&helper, &sharer].map(|person| std::thread::spawn(type_chat(person.keyboard())));
    let last = chat_line(MANY - 1);
    helper.expect(&format!("{MARIA}: \u{2068}{last}\u{2069}"));
    sharer.expect(&format!("{SAM}: \u{2068}{last}\u{2069}"));
    for typing in typing {
        typing.join().expect("typed");
    }

    helper.enter("/leave");
    sharer.expect_within(&format!("{SAM} left · HELPER_LEFT · "), LEAVE_LIMIT);
    helper.expect("You left · HELPER_LEFT · ");
    assert_eq!((helper.end(), sharer.end()), (0, 0));
    let all: Vec<String> = (0..MANY).map(chat_line).collect();
    assert_eq!(heard(&helper.text(), MARIA), all, "what the helper saw");
    assert_eq!(heard(&sharer.text(), SAM), all, "what the sharer saw");

    relay.press("\x03");
    assert_eq!(relay.end(), 0);
}

#[test]
fn a_sharer_who_leaves_is_known_to_have_left() {
    let relay = RelayProcess::start(&[]);
    let scene = Scene::new(&relay.address);
    let (mut helper, mut sharer) = scene.active();
    // Ctrl-C leaves as /leave does.
    sharer.press("\x03");
    helper.expect_within(&format!("{MARIA} left · SHARER_LEFT · "), LEAVE_LIMIT);
    sharer.expect("You left · SHARER_LEFT · ");
    assert_eq!((helper.end(), sharer.end()), (0, 0));
}

#[test]
fn when_the_sharer_is_killed_the_helper_is_told() {
    let relay = RelayProcess::start(&[]);
    let (mut helper, mut sharer) = Scene::new(&relay.address).active();
    sharer.kill();
    let lost = format!("Nothing is heard of {MARIA}. Reconnecting for ");
    helper.expect_within(&lost, KILL_LIMIT);
    helper.expect("○ reconnecting · ");
    helper.enter("/leave");
    helper.expect("You left · HELPER_LEFT · ");
    assert_eq!((helper.end(), sharer.end_by_signal()), (0, 9));
}

#[test]
fn when_the_helper_is_killed_the_sharer_is_told() {
    let relay = RelayProcess::start(&[]);
    let (mut helper, mut sharer) = Scene::new(&relay.address).active();
    helper.kill();
    let lost = format!("Nothing is heard of {SAM}. Reconnecting for ");
    sharer.expect_within(&lost, KILL_LIMIT);
    sharer.enter("/leave");
    sharer.expect("You left · SHARER_LEFT · ");
    assert_eq!((sharer.end(), helper.end_by_signal()), (0, 9));
}

#[test]
fn a_request_that_is_declined_ends_the_session_for_both() {
    let relay = RelayProcess::start(&[]);
    let (mut helper, mut sharer) = Scene::new(&relay.address).introduced();
    helper.enter("v");
    sharer.expect(&format!("{SAM} wants: to SEE YOUR SCREEN (not to use it)."));
    sharer.enter("n");
    sharer.expect("Please answer with one of the letters in brackets.");
    sharer.enter("d");
    sharer.expect("You declined · DECLINED · ");
    helper.expect(&format!("{MARIA} declined · DECLINED · "));
    assert_eq!((helper.end(), sharer.end()), (3, 3));
}

#[test]
fn words_that_differ_are_shouted_about() {
    let relay = RelayProcess::start(&[]);
    let (mut helper, mut sharer) = Scene::new(&relay.address).introduced();
    sharer.enter("n");
    for person in [&mut helper, &mut sharer] {
        person.expect("The words differed: SOMEBODY MAY SIT IN BETWEEN.");
        person.expect("SAS_MISMATCH");
    }
    assert_eq!((helper.end(), sharer.end()), (7, 7));
}

// ---- codes -------------------------------------------------------------------------------------

#[test]
fn wrong_codes_are_told_to_both_and_the_third_burns() {
    let relay = RelayProcess::start(&[]);
    let scene = Scene::new(&relay.address);
    let (mut helper, code) = scene.invite(&[]);
    let mut sharer = scene.join();
    for (tries, left) in [(1, 2), (2, 1), (3, 0)] {
        sharer.enter(&wrong(&code));
        sharer.expect("WRONG_CODE: ");
        sharer.expect(&format!("({left} tr"));
        sharer.expect(CODE_PROMPT);
        helper.expect(&format!("Someone tried a wrong code ({tries} of 3)."));
    }
    helper.expect("CODE_BURNED: ");
    helper.expect("run `remora invite` for a new one");
    assert_eq!(helper.end(), 7);
    // Even the right one is of no use now.
    sharer.enter(&code);
    sharer.expect("CODE_BURNED: ");
    sharer.expect(CODE_PROMPT);
    sharer.press("\x03");
    sharer.end();
}

#[test]
fn expired_used_and_withdrawn_codes_are_told_apart_and_another_is_asked_for() {
    let relay = RelayProcess::start(&[]);
    let scene = Scene::new(&relay.address);
    let (mut expiring, expired) = scene.invite(&["--valid", "5"]);
    expiring.expect("CODE_EXPIRED: ");
    assert_eq!(expiring.end(), 4);
    let mut sharer = scene.join();
    sharer.enter(&expired);
    sharer.expect("CODE_EXPIRED: this code has expired; please ask your helper for a new one");

    let (mut helper, used) = scene.invite(&[]);
    let mut first = scene.join();
    first.enter(&used);
    helper.expect(MARIA);
    sharer.expect(CODE_PROMPT);
    sharer.enter(&used);
    sharer.expect("CODE_USED: this code has been used already");

    let (mut other, withdrawn) = scene.invite(&[]);
    other.enter("n");
    other.expect("Your code is:  ");
    let new = other.until(" ");
    assert_ne!(withdrawn, new);
    sharer.expect(CODE_PROMPT);
    sharer.enter(&new);
    sharer.expect(SAM);
    other.expect(MARIA);
}

#[test]
fn a_withdrawn_code_is_refused_as_withdrawn() {
    let relay = RelayProcess::start(&[]);
    let scene = Scene::new(&relay.address);
    let (mut helper, code) = scene.invite(&[]);
    helper.press("\x03");
    helper.expect("Cancelled.");
    assert_eq!(helper.end(), 0);
    let mut sharer = scene.join();
    sharer.enter(&code);
    sharer.expect("CODE_CANCELLED: ");
}

#[test]
fn what_cannot_be_a_code_is_said_at_once_and_costs_no_try() {
    let relay = RelayProcess::start(&[]);
    let scene = Scene::new(&relay.address);
    let (mut helper, code) = scene.invite(&[]);
    let mut sharer = scene.join();
    for (typed, why) in [
        ("406u-r0gx", "a code never has the letter u; is it a v?"),
        ("4060-r0g", "a code has 8 letters and digits, this has 7"),
        ("4060-r0g!", "a code has only letters and digits, not `!`"),
    ] {
        sharer.enter(typed);
        sharer.expect(&format!("INVALID_CODE: {why}"));
        sharer.expect(CODE_PROMPT);
    }
    sharer.enter(&forgiving(&code));
    sharer.expect(SAM);
    helper.expect(MARIA);
    assert!(
        !helper.text().contains("wrong code"),
        "the helper was not bothered"
    );
}

#[test]
fn the_code_stays_out_of_the_arguments() {
    let relay = RelayProcess::start(&[]);
    let scene = Scene::new(&relay.address);
    let (helper, sharer) = scene.active();
    for person in [&helper, &sharer] {
        let args = std::fs::read(format!("/proc/{}/cmdline", person.pid())).expect("readable");
        let args: BTreeSet<&[u8]> = args
            .split(|byte| *byte == 0)
            .filter(|arg| !arg.is_empty())
            .collect();
        let known = [REMORA.as_bytes(), b"invite", b"join"];
        assert!(args.iter().all(|arg| known.contains(arg)), "{args:?}");
    }
}

// ---- the way out --------------------------------------------------------------------------------

#[test]
fn nobody_has_to_wait_for_a_relay_that_does_not_answer() {
    for verb in ["invite", "join"] {
        let nobody = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let id = RelayId(StaticKey::generate().public());
        let place = nobody.local_addr().expect("an address");
        let home = Home::new();
        let command = home.remora(&[verb, "--relay", &format!("{place}/{id}")]);
        let mut person = Terminal::open("somebody", &command, WIDE);
        // Only when it has asked the relay is it sure to be there.
        nobody.recv(&mut [0; 2048]).expect("a packet");
        person.press("\x03");
        assert_eq!(
            person.status(PROMPTLY).signal(),
            Some(Signal::SIGINT as i32)
        );
    }
}

#[test]
fn nobody_has_to_wait_for_a_helper_whose_computer_hangs() {
    let relay = RelayProcess::start(&[]);
    let scene = Scene::new(&relay.address);
    let (helper, code) = scene.invite(&[]);
    helper.signal(Signal::SIGSTOP);
    let mut sharer = scene.join();
    sharer.enter(&code);
    sharer.press("\x03");
    sharer.expect_within("NO_CODE", PROMPTLY);
    assert_eq!(sharer.end(), 2);
}

#[test]
fn leaving_at_the_question_for_the_code_gives_the_terminal_back() {
    let relay = RelayProcess::start(&[]);
    let mut sharer = Scene::new(&relay.address).join();
    sharer.press("\x03");
    sharer.expect("NO_CODE: no code was given");
    assert_eq!(sharer.end(), 2);
}

// ---- the screen --------------------------------------------------------------------------------

/// Rows with something on them.
fn rows(screen: &vt100::Screen) -> Vec<String> {
    let (_, columns) = screen.size();
    screen
        .rows(0, columns.into())
        .map(|row| row.trim_end().to_owned())
        .filter(|row| !row.is_empty())
        .collect()
}

fn last_row(screen: &vt100::Screen) -> String {
    rows(screen).pop().unwrap_or_default()
}

#[test]
fn the_countdown_runs_in_one_place() {
    let relay = RelayProcess::start(&[]);
    let mut scene = Scene::new(&relay.address);
    // Narrow: the prompt takes two rows, and is renewed there.
    scene.size = (30, 40);
    let command = scene.helper_home.remora(&["invite"]);
    let mut helper = Terminal::open("the helper", &command, scene.size);
    let seen = RefCell::new(BTreeSet::new());
    helper.screen("three moments of a countdown", |screen| {
        let contents = screen.contents();
        let left = contents
            .split_once("Waiting… ")
            .map(|(_, left)| left[..4].to_owned());
        let mut seen = seen.borrow_mut();
        seen.extend(left.filter(|left| left.starts_with("9:5")));
        seen.len() == 3
    });
    helper.screen("one countdown", |screen| {
        screen.contents().matches("Waiting…").count() == 1
    });
}

#[test]
fn the_prompt_and_what_was_typed_survive_incoming_lines() {
    let relay = RelayProcess::start(&[]);
    let (mut helper, mut sharer) = Scene::new(&relay.address).introduced();
    // Before the session, where no clock renews the prompt.
    sharer.press("y");
    sharer.screen("a letter", |screen| last_row(screen).ends_with("> y"));
    helper.enter("y");
    sharer.screen("the line, and the prompt below it", |screen| {
        let rows = rows(screen);
        let said = rows
            .iter()
            .position(|row| row.contains("says the words are the same."));
        said.is_some_and(|said| said + 2 == rows.len())
            && rows
                .last()
                .is_some_and(|row| row.starts_with("Words the same?") && row.ends_with("> y"))
    });
    sharer.enter("");
    helper.enter("v");
    sharer.expect("[a]llow  [d]ecline");
    sharer.enter("a");
    for person in [&mut helper, &mut sharer] {
        person.expect("● view · ");
    }
    sharer.press("half of a ");
    sharer.screen("half a line", |screen| {
        last_row(screen).ends_with("> half of a")
    });
    for n in 0..3 {
        helper.enter(&format!("interruption {n}"));
        sharer.screen("an interruption above what is being typed", |screen| {
            let rows = rows(screen);
            let [.., above, last] = &rows[..] else {
                return false;
            };
            above.contains(&format!("interruption {n}"))
                && last.starts_with("● view · ")
                && last.ends_with("> half of a")
        });
    }
    sharer.enter("line");
    helper.expect(&format!("{MARIA}: \u{2068}half of a line\u{2069}"));
}

#[test]
fn chat_cannot_drive_the_other_terminal() {
    let relay = RelayProcess::start(&[]);
    let scene = Scene::new(&relay.address);
    let (mut helper, code) = scene.invite(&["--mode", "view"]);
    // The sharer is a script, which can send what no keyboard can.
    let mut command = scene.sharer_home.remora(&["join", "--json"]);
    command.env("REMORA_CODE", &code);
    let mut sharer = Script::start(command);
    for kind in ["connected", "trust", "consent_prompt"] {
        sharer.expect(kind);
    }
    sharer.say("a");
    helper.expect("● view · ");
    sharer.say("\x1b[2J\x1b]0;owned\x07 \u{202e}gone");
    helper.expect(": \u{2068}\u{fffd}[2J\u{fffd}]0;owned\u{fffd} \u{fffd}gone\u{2069}");
    let raw = helper.raw();
    assert!(
        !raw.contains("\x1b[2J") && !raw.contains("\x1b]"),
        "nothing of it was obeyed"
    );
}

#[test]
fn colours_are_for_terminals_whose_owner_wants_them() {
    let relay = RelayProcess::start(&[]);
    let scene = Scene::new(&relay.address);
    let colours = |raw: &str| raw.contains("\x1b[1m") || raw.contains("\x1b[0m");
    let (helper, _) = scene.invite(&[]);
    assert!(colours(&helper.raw()), "a terminal");
    for (name, value) in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let mut command = scene.helper_home.remora(&["invite"]);
        command.env(name, value);
        let mut helper = Terminal::open("the helper", &command, WIDE);
        helper.expect("On the other computer");
        assert!(!colours(&helper.raw()), "{name}={value}: {}", helper.raw());
    }
}

#[test]
fn a_terminal_that_does_not_know_its_size_is_written_to_like_a_pipe() {
    let relay = RelayProcess::start(&[]);
    let scene = Scene::new(&relay.address);
    let mut helper = Terminal::open("the helper", &scene.helper_home.remora(&["invite"]), (0, 0));
    helper.expect("On the other computer, please run:");
    let mut sharer = Terminal::open("the sharer", &scene.sharer_home.remora(&["join"]), (0, 0));
    sharer.expect(CODE_PROMPT.trim_end());
    assert!(
        !helper.text().contains("Ctrl-C cancels >"),
        "no prompt that moves"
    );
}

#[test]
fn without_a_terminal_the_code_is_data_and_nothing_is_painted() {
    let relay = RelayProcess::start(&[]);
    let scene = Scene::new(&relay.address);
    let invite = scene.helper_home.remora(&["invite", "--mode", "view"]);
    let mut helper = Script::start(invite);
    let code = helper.line(PATIENCE);
    assert_eq!(code.len(), "4060-r0gx".len(), "{code}");
    let mut mistaken = Script::start(scene.sharer_home.remora(&["join"]));
    mistaken.say(&wrong(&code));
    let mistaken = mistaken.end(PATIENCE);
    assert_eq!(mistaken.code, Some(7), "one try");

    let mut sharer = Script::start(scene.sharer_home.remora(&["join", "--json"]));
    sharer.say(&forgiving(&code));
    for kind in ["connected", "trust", "consent_prompt"] {
        sharer.expect(kind);
    }
    sharer.say("a");
    sharer.expect("started");
    sharer.say("hello");
    sharer.say("/leave");
    let helper = helper.end(PATIENCE);
    assert_eq!(
        (helper.code, helper.stdout.len()),
        (Some(0), 0),
        "{helper:?}"
    );
    for (text, holds) in [
        (&helper.stderr, "Someone tried a wrong code (1 of 3)."),
        (&helper.stderr, "Maria Lopez\u{2069}: \u{2068}hello\u{2069}"),
        (&helper.stderr, "SHARER_LEFT"),
        (&mistaken.stderr, "Code from your helper:"),
        (&mistaken.stderr, "WRONG_CODE"),
    ] {
        assert!(text.contains(holds), "{holds:?} in {text}");
        assert!(!text.contains('\x1b'), "painted: {text:?}");
    }
}
