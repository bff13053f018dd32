//! The verb `quickstart`: from clean computers to a person who is helped, by the commands that README gives, typed as fast as a script does.
//!
//! ```text
//!  a network each:  remora-relay quickstart ─▶ remora setup ADDRESS ─▶ remora invite ─┐
//!                                              remora setup ADDRESS ─▶ remora join ◀─┘ the code ─▶ words, consent, a session, a line of chat
//! ```
//!
//! All are the programs as they are given to people, beside this one; each has an empty home, and no environment but that.

use std::{
    env,
    io::{BufRead as _, BufReader, Write as _},
    process::{Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, bail, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    cli::Quickstart,
    interrupt,
    process::{Child, Cores, beside},
    report,
    sites::{Site, Sites},
};

/// What is asked for in all, and longer than any step may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked whether somebody interrupts.
const LOOK: Duration = Duration::from_millis(200);
/// What each of the two types: setting up, and what it is for.
const COMMANDS_EACH: usize = 2;
/// What is said, to see that it arrives.
const GREETING: &str = "I see it.";

/// Measures and prints.
///
/// # Errors
/// When nobody is helped in the end: at which step, and what was said.
pub fn run(args: &Quickstart) -> anyhow::Result<Option<String>> {
    let began = Instant::now();
    let sites = Sites::new(3)?;
    let clock = Instant::now();
    let mut steps = Vec::new();
    let mut reached = |step: &'static str| steps.push((step, clock.elapsed()));

    let operator = Computer::new(sites.site(0))?;
    let mut relay = operator.start("remora-relay", &["quickstart"])?;
    let address = relay.line()?;
    reached("relay_up");
    let helper = Computer::new(sites.site(1))?;
    helper.run(&["setup", &address, "--name", "Sam Okafor"])?;
    let mut helping = helper.start("remora", &["invite", "--json"])?;
    let code = helping.hears("code")?;
    let code = code["code"].as_str().context("a code is text")?.to_owned();
    reached("code_shown");
    let sharer = Computer::new(sites.site(2))?;
    sharer.run(&["setup", &address, "--name", "Maria Lopez"])?;
    reached("sharer_set_up");
    let mut sharing = sharer.start("remora", &["join", "--json"])?;
    sharing.say(&code)?;
    let words = helping.hears("trust")?["words"].clone();
    ensure!(
        sharing.hears("trust")?["words"] == words,
        "the two read different words"
    );
    reached("words_shown");
    for who in [&mut helping, &mut sharing] {
        who.say("y")?;
    }
    helping.say("v")?;
    sharing.hears("consent_prompt")?;
    sharing.say("a")?;
    sharing.hears("started")?;
    helping.hears("started")?;
    helping.say(GREETING)?;
    let chat = sharing.hears("chat")?;
    ensure!(
        chat["text"] == GREETING,
        "what was said arrived as {}",
        chat["text"]
    );
    reached("helped");
    sharing.say("/leave")?;
    let ended = helping.hears("ended")?;
    ensure!(
        ended["end_reason"] == "SHARER_LEFT",
        "it ended otherwise: {ended}"
    );

    let ms = |at: Duration| report::rounded(at.as_secs_f64() * 1e3, 1);
    if args.json {
        let mut object = report::fleet_base("quickstart", 0, began.elapsed());
        let steps: serde_json::Map<_, _> = steps
            .iter()
            .map(|&(step, at)| (step.to_owned(), ms(at).into()))
            .collect();
        report::set(
            &mut object,
            json!({"commands_each": COMMANDS_EACH, "reached_ms": steps}),
        );
        report::print(&format!("{object}\n"))?;
    } else {
        let mut table = String::new();
        for (step, at) in &steps {
            table += &format!("{:<16} after {:>8.1} ms\n", step.replace('_', " "), ms(*at));
        }
        report::print(&format!(
            "{table}{COMMANDS_EACH} commands for each of the two, typed by a script\n"
        ))?;
    }
    let helped = steps.last().map_or(Duration::MAX, |&(_, at)| at);
    Ok((helped > PATIENCE).then(|| format!("nobody was helped within {PATIENCE:?}")))
}

/// One that was never used.
struct Computer<'a> {
    site: &'a Site,
    home: TempDir,
}

impl<'a> Computer<'a> {
    fn new(site: &'a Site) -> anyhow::Result<Self> {
        let home = tempfile::tempdir().context("no folder for a home")?;
        Ok(Self { site, home })
    }

    fn command(&self, program: &str, args: &[&str]) -> anyhow::Result<Command> {
        let mut command = Command::new(beside(program)?);
        command
            .args(args)
            .current_dir(self.home.path())
            .env_clear()
            .env("PATH", env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.home.path())
            .env("XDG_RUNTIME_DIR", self.home.path())
            .env("LANG", "C.UTF-8")
            .stderr(Stdio::null());
        Ok(command)
    }

    /// Runs `remora` to its end, which is a good one.
    fn run(&self, args: &[&str]) -> anyhow::Result<()> {
        let mut command = self.command("remora", args)?;
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        let output = self.site.within(move || Ok(command.output()?))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "remora {} ended with {}: {said}",
            args.join(" "),
            output.status
        );
        Ok(())
    }

    fn start(&self, program: &str, args: &[&str]) -> anyhow::Result<Program> {
        let command = self.command(program, args)?;
        let cores = Cores::divide(false, 1)?;
        let mut child = self
            .site
            .within(|| Child::start(command, &cores, Stdio::piped()))?;
        let output = child.output().context("its output is ours")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Program {
            name: format!("{program} {}", args.join(" ")),
            child,
            lines,
        })
    }
}

/// One that runs, until it is dropped.
struct Program {
    name: String,
    child: Child,
    lines: Receiver<String>,
}

impl Program {
    /// The next line that it writes.
    fn line(&mut self) -> anyhow::Result<String> {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            interrupt::check()?;
            match self.lines.recv_timeout(LOOK) {
                Ok(line) => return Ok(line),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    bail!("`{}` ended ({})", self.name, self.child.wait()?)
                }
            }
        }
        Err(anyhow!("`{}` says nothing for {PATIENCE:?}", self.name))
    }

    /// Goes on to that event.
    fn hears(&mut self, event: &str) -> anyhow::Result<Value> {
        loop {
            let line = self.line()?;
            let object: Value =
                serde_json::from_str(&line).with_context(|| format!("{}: {line}", self.name))?;
            if object["event"] == event {
                return Ok(object);
            }
        }
    }

    fn say(&mut self, line: &str) -> anyhow::Result<()> {
        let input = self.child.input.as_mut().context("its input is open")?;
        writeln!(input, "{line}").with_context(|| format!("`{}` does not listen", self.name))
    }
}
