//! Flags, the environment and one TOML file, in that order of force.
//!
//! ```text
//!  file ──┐ each value through its flag's own parser
//!  env  ──┼──▶ as flags, unless a stronger layer says otherwise ──▶ clap ──▶ Args ──▶ check ──▶ Loaded ──▶ files it names
//!  argv ──┘
//! ```
//!
//! All problems are said at once, each with where it stands: a value that cannot be read is left out, and the rest is looked at without it.
//!
//! What can be said is defined once, as the flags of [`ServeArgs`]: a key of the file is a flag's field, with the same values.

use std::{
    any::TypeId,
    collections::{BTreeMap, BTreeSet},
    env,
    error::Error as _,
    ffi::{OsStr, OsString},
    fmt, fs,
    net::AddrParseError,
    num::{IntErrorKind, NonZeroUsize, ParseIntError},
    path::{Path, PathBuf},
};

use clap::{
    Arg, ArgMatches, CommandFactory as _, FromArgMatches as _, error::ContextKind,
    parser::ValueSource,
};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{Args, ServeArgs, args::Fault, files};

/// Largest file that is read: every key at its longest is far below.
const MAX_FILE_BYTES: u64 = 256 << 10;

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// A line of the file, from 1.
    File(PathBuf, usize),
    /// A variable of the environment.
    Environment(String),
    /// The command line.
    Flag,
}

/// Something that cannot be: what, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem(String);

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why nothing was loaded.
#[derive(Debug)]
pub enum LoadError {
    /// The command line is none, or asks for help.
    CommandLine(clap::Error),
    /// At least one; and what is said without what is wrong, for whoever asks the relay that runs.
    Problems(Vec<Problem>, Box<Loaded>),
}

/// What was asked for, with all that was said about it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Checked.
    pub args: Args,
    /// What each key has, in the order of the flags; none for a verb without them.
    pub values: Vec<Value>,
}

/// A key, and what it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// As in the file.
    pub key: String,
    /// As typed; none where nobody said anything and there is no default.
    pub typed: Vec<String>,
    /// Who said so.
    pub origin: Origin,
}

/// What one may say about a key: as the file, the schema and the pages have it.
#[derive(Clone, Debug)]
pub struct Key {
    /// In the file.
    pub name: String,
    /// On the command line, without the dashes.
    pub flag: String,
    /// In the environment.
    pub variable: String,
    /// What is shown for its value, which is its unit.
    pub unit: Option<String>,
    /// Its purpose, and why its default is what it is.
    pub help: String,
    /// When nobody says anything.
    pub default: Option<String>,
    /// The only values, where there are only some.
    pub one_of: Vec<String>,
    /// A whole number.
    pub is_number: bool,
    /// Several values.
    pub is_list: bool,
    arg: Arg,
}

/// All keys, in the order of the flags.
pub fn keys() -> Vec<Key> {
    let command = <ServeArgs as clap::Args>::augment_args(clap::Command::new("relay"));
    let keys = command.get_arguments().filter_map(|arg| {
        let variable = arg.get_env()?.to_str()?.to_owned();
        let (name, flag) = (arg.get_id().as_str(), arg.get_long()?);
        // The file cannot say where it is.
        (name != "config").then(|| Key {
            name: name.to_owned(),
            flag: flag.to_owned(),
            variable,
            unit: arg
                .get_value_names()
                .and_then(|names| names.first())
                .map(ToString::to_string),
            help: arg
                .get_long_help()
                .or_else(|| arg.get_help())
                .map(ToString::to_string)
                .unwrap_or_default(),
            default: arg
                .get_default_values()
                .first()
                .and_then(|value| value.to_str())
                .map(str::to_owned),
            one_of: match arg.get_possible_values() {
                values if !arg.is_hide_possible_values_set() => values
                    .iter()
                    .map(|value| value.get_name().to_owned())
                    .collect(),
                _ => Vec::new(),
            },
            is_number: is_number(arg),
            is_list: matches!(arg.get_action(), clap::ArgAction::Append),
            arg: arg.clone(),
        })
    });
    keys.collect()
}

fn is_number(arg: &Arg) -> bool {
    let parsed = arg.get_value_parser().type_id();
    [
        TypeId::of::<u64>(),
        TypeId::of::<usize>(),
        TypeId::of::<NonZeroUsize>(),
    ]
    .into_iter()
    .any(|number| parsed == number)
}

/// What one layer says about a key.
struct Said {
    typed: Vec<String>,
    origin: Origin,
}

/// Something is said, and it cannot be made out what.
struct Unreadable;

/// What is said of each key.
type Layers = BTreeMap<String, Result<Said, Unreadable>>;

/// Reads the command line, the environment and the file that one of them names.
///
/// # Errors
/// The command line's first mistake, or all problems of the other layers, or of what all say together.
pub fn load(argv: impl IntoIterator<Item = OsString>) -> Result<Loaded, LoadError> {
    load_with(argv, |variable| env::var_os(variable))
}

/// The same in an environment of the caller's.
fn load_with(
    argv: impl IntoIterator<Item = OsString>,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Loaded, LoadError> {
    let argv: Vec<OsString> = argv.into_iter().collect();
    let command = without_environment(Args::command());
    let typed = command
        .clone()
        .try_get_matches_from(&argv)
        .map_err(|error| {
            // Help says what variables there are.
            let whole = (!error.use_stderr()).then(|| Args::command().try_get_matches_from(&argv));
            LoadError::CommandLine(whole.and_then(Result::err).unwrap_or(error))
        })?;
    let Some((depth, serve)) = serving(&typed) else {
        let args = Args::from_arg_matches(&typed).map_err(LoadError::CommandLine)?;
        return Ok(Loaded {
            args,
            values: Vec::new(),
        });
    };
    let keys = keys();
    let mut problems = Vec::new();
    // An empty variable is one that a template left empty.
    let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
    let path = serve.get_one::<PathBuf>("config").cloned();
    let path = path.or_else(|| variable("REMORA_RELAY_CONFIG").map(PathBuf::from));
    let mut said = path.map_or_else(Layers::default, |path| read(&path, &keys, &mut problems));
    for key in &keys {
        if let Some(value) = variable(&key.variable) {
            let origin = Origin::Environment(key.variable.clone());
            match value.into_string() {
                Ok(text) => {
                    let typed = vec![text];
                    said.insert(key.name.clone(), Ok(Said { typed, origin }));
                }
                Err(_) => {
                    problems.push(origin.problem(key, "is not UTF-8"));
                    said.insert(key.name.clone(), Err(Unreadable));
                }
            }
        }
    }
    let is_typed = |name: &str| serve.value_source(name) == Some(ValueSource::CommandLine);
    said.retain(|name, _| !is_typed(name));
    let (mut known, mut unknown) = (BTreeMap::new(), BTreeSet::new());
    for key in &keys {
        let Some(value) = said.remove(&key.name) else {
            continue;
        };
        let problem = value.as_ref().ok().and_then(|said| try_out(key, said));
        match value {
            Ok(value) if problem.is_none() => {
                known.insert(key.name.clone(), value);
            }
            Ok(_) | Err(Unreadable) => {
                unknown.insert(key.name.clone());
            }
        }
        problems.extend(problem);
    }
    let said = known;

    // The verb, what weaker layers said, what was typed.
    let (verb, rest) = argv.split_at((1 + depth).min(argv.len()));
    let weaker = keys
        .iter()
        .filter_map(|key| Some((key, said.get(&key.name)?)));
    let weaker = weaker.flat_map(|(key, said)| flags(key, &said.typed));
    let whole = verb
        .iter()
        .cloned()
        .chain(weaker)
        .chain(rest.iter().cloned());
    let matches = command
        .try_get_matches_from(whole)
        .map_err(LoadError::CommandLine)?;
    let args = Args::from_arg_matches(&matches).map_err(LoadError::CommandLine)?;
    let values = serving(&matches).map_or_else(Vec::new, |(_, matches)| {
        keys.iter().map(|key| value(key, matches, &said)).collect()
    });
    let loaded = Loaded { args, values };
    problems.extend(loaded.contradictions(&unknown));
    if problems.is_empty() {
        return Ok(loaded);
    }
    // Whoever mends these would be told of those next.
    problems.extend(loaded.unusable_files());
    Err(LoadError::Problems(problems, Box::new(loaded)))
}

impl Loaded {
    /// What all layers say together and cannot be; of `unknown` keys nobody can tell.
    fn contradictions(&self, unknown: &BTreeSet<String>) -> Vec<Problem> {
        let faults = self.args.serving().map_or_else(Vec::new, ServeArgs::check);
        let is_known = |key: &str| !unknown.contains(key);
        let faults = faults
            .iter()
            .filter(|fault| is_known(fault.key) && fault.needs.is_none_or(is_known));
        faults.filter_map(|fault| self.placed(fault)).collect()
    }

    /// Files that are named and cannot be used: keys, the token, certificates. Reads them.
    pub fn unusable_files(&self) -> Vec<Problem> {
        let faults = self.args.serving().map_or_else(Vec::new, files::unusable);
        faults
            .iter()
            .filter_map(|fault| self.placed(fault))
            .collect()
    }

    fn placed(&self, fault: &Fault) -> Option<Problem> {
        let key = keys().into_iter().find(|key| key.name == fault.key)?;
        let value = self.values.iter().find(|value| value.key == fault.key)?;
        Some(value.origin.problem(&key, &fault.what))
    }
}

impl Origin {
    /// A sentence about the key's value, with where that stands.
    fn problem(&self, key: &Key, what: &str) -> Problem {
        Problem(match self {
            Self::File(path, line) => format!("{}:{line}: {} {what}", path.display(), key.name),
            Self::Environment(variable) => format!("{variable} {what}"),
            Self::Default | Self::Flag => format!("--{} {what}", key.flag),
        })
    }
}

/// The environment is a layer of its own here.
fn without_environment(command: clap::Command) -> clap::Command {
    command
        .mut_args(|arg| arg.env(None::<&'static str>))
        .mut_subcommands(without_environment)
}

/// The matches of a verb that has all the flags, and how many words name it.
fn serving(matches: &ArgMatches) -> Option<(usize, &ArgMatches)> {
    let (verb, matches) = matches.subcommand()?;
    match verb {
        "serve" | "quickstart" | "drain" | "address" | "doctor" | "bugreport" => Some((1, matches)),
        "config" => match matches.subcommand()? {
            ("check" | "show", matches) => Some((2, matches)),
            _ => None,
        },
        _ => None,
    }
}

fn value(key: &Key, matches: &ArgMatches, said: &BTreeMap<String, Said>) -> Value {
    let typed = matches.get_raw(&key.name).into_iter().flatten();
    let origin = match (said.get(&key.name), matches.value_source(&key.name)) {
        (Some(said), _) => said.origin.clone(),
        (None, Some(ValueSource::CommandLine)) => Origin::Flag,
        (None, _) => Origin::Default,
    };
    Value {
        key: key.name.clone(),
        typed: typed
            .map(|value| value.to_string_lossy().into_owned())
            .collect(),
        origin,
    }
}

fn flags(key: &Key, typed: &[String]) -> impl Iterator<Item = OsString> {
    typed
        .iter()
        .map(|value| format!("--{}={value}", key.flag).into())
}

/// Whether the flag's own parser takes it.
fn try_out(key: &Key, said: &Said) -> Option<Problem> {
    let arg = key.arg.clone().env(None::<&'static str>);
    let command = clap::Command::new("value").no_binary_name(true).arg(arg);
    let error = command
        .try_get_matches_from(flags(key, &said.typed))
        .err()?;
    let what = match unfit_value(&error) {
        Some((value, fits)) => format!("cannot be `{value}`: {fits}"),
        None => format!(
            "cannot be {}: {}",
            said.typed.join(", "),
            one_line(&error.to_string())
        ),
    };
    Some(said.origin.problem(key, &what))
}

/// A value, and what would fit, when the message is one of the standard library's parsers, who do not know what it is for.
fn unfit_value(error: &clap::Error) -> Option<(String, &'static str)> {
    let parser = error.source()?;
    let fits = if parser.is::<AddrParseError>() {
        "it takes an IP address with a port, like 127.0.0.1:4433 or [::]:4433"
    } else if let Some(error) = parser.downcast_ref::<ParseIntError>() {
        if *error.kind() == IntErrorKind::Zero {
            "it takes a whole number from 1 up"
        } else {
            "it takes a whole number, without a sign"
        }
    } else {
        return None;
    };
    Some((error.get(ContextKind::InvalidValue)?.to_string(), fits))
}

/// What a mistake on the command line is, in one line and without clap's usage.
pub fn mistake(error: &clap::Error) -> String {
    match (unfit_value(error), error.get(ContextKind::InvalidArg)) {
        (Some((value, fits)), Some(flag)) => format!("`{value}` does not fit {flag}: {fits}"),
        _ => one_line(&error.to_string()),
    }
}

/// clap's message without its usage and without line breaks.
fn one_line(message: &str) -> String {
    let message = message.split("\n\nUsage:").next().unwrap_or(message);
    let message = message
        .split("\n\nFor more information")
        .next()
        .unwrap_or(message);
    let lines = message
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty());
    // What clap ends with a colon goes on in the next line.
    let words = lines.collect::<Vec<_>>().join("; ").replace(":; ", ": ");
    words.strip_prefix("error: ").unwrap_or(&words).to_owned()
}

/// What the file says; what it cannot say is a problem.
fn read(path: &Path, keys: &[Key], problems: &mut Vec<Problem>) -> Layers {
    let unread = |why: &dyn fmt::Display| {
        Problem(format!(
            "cannot read the configuration {}: {why}",
            path.display()
        ))
    };
    let text = match fs::metadata(path) {
        Ok(about) if about.len() > MAX_FILE_BYTES => {
            let why = format!("it has {} bytes, more than {MAX_FILE_BYTES}", about.len());
            problems.push(unread(&why));
            return Layers::new();
        }
        Ok(_) => fs::read_to_string(path),
        Err(error) => Err(error),
    };
    match text {
        Ok(text) => understand(path, &text, keys, problems),
        Err(error) => {
            problems.push(unread(&error));
            Layers::new()
        }
    }
}

fn understand(path: &Path, text: &str, keys: &[Key], problems: &mut Vec<Problem>) -> Layers {
    let line_at = |offset: usize| {
        1 + text
            .bytes()
            .take(offset)
            .filter(|&byte| byte == b'\n')
            .count()
    };
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut torn = BTreeSet::new();
    for error in errors {
        let line = line_at(error.span().map_or(0, |span| span.start));
        // What comes after the first slip of a line is its consequence.
        if torn.insert(line) {
            let what = error.message();
            problems.push(Problem(format!("{}:{line}: {what}", path.display())));
        }
    }
    let mut said = Layers::new();
    for (name, value) in table.get_ref() {
        let line = line_at(name.span().start);
        let origin = Origin::File(path.to_owned(), line);
        let key = keys.iter().find(|key| key.name == name.get_ref().as_ref());
        if torn.contains(&line) {
            said.extend(key.map(|key| (key.name.clone(), Err(Unreadable))));
            continue;
        }
        let Some(key) = key else {
            let near = nearest(name.get_ref(), keys);
            problems.push(Problem(format!(
                "{}:{line}: there is no key {}; {near}",
                path.display(),
                name.get_ref()
            )));
            continue;
        };
        match typed(key, value) {
            Ok(typed) => {
                said.insert(key.name.clone(), Ok(Said { typed, origin }));
            }
            Err(what) => {
                problems.push(origin.problem(key, what));
                said.insert(key.name.clone(), Err(Unreadable));
            }
        }
    }
    said
}

/// As it would be typed.
fn typed(key: &Key, value: &Spanned<DeValue<'_>>) -> Result<Vec<String>, &'static str> {
    let wanted = if key.is_list {
        "takes a text, or a list of them, like [\"one\", \"two\"]"
    } else if key.is_number {
        "takes a whole number, without quotes"
    } else {
        "takes one text, in quotes"
    };
    match value.get_ref() {
        DeValue::Array(several) if key.is_list => {
            let text = |value: &Spanned<DeValue<'_>>| {
                value.get_ref().as_str().map(str::to_owned).ok_or(wanted)
            };
            several.iter().map(text).collect()
        }
        DeValue::String(text) if !key.is_number => Ok(vec![text.to_string()]),
        DeValue::Integer(number) if key.is_number => {
            let number = i128::from_str_radix(number.as_str(), number.radix());
            number
                .map(|number| vec![number.to_string()])
                .map_err(|_| wanted)
        }
        DeValue::Array(_)
        | DeValue::String(_)
        | DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_)
        | DeValue::Table(_) => Err(wanted),
    }
}

/// What was meant, if it was nearly said.
fn nearest(name: &str, keys: &[Key]) -> String {
    let flag = format!("--{}", name.replace('_', "-"));
    let command = <ServeArgs as clap::Args>::augment_args(clap::Command::new("near"));
    let command = without_environment(command).no_binary_name(true);
    let meant = command
        .try_get_matches_from([OsStr::new(&flag)])
        .err()
        .and_then(|error| {
            error
                .get(ContextKind::SuggestedArg)
                .map(ToString::to_string)
        });
    let meant = meant.and_then(|flag| {
        let flag = flag.trim_start_matches('-').to_owned();
        keys.iter().find(|key| key.flag == flag)
    });
    match meant {
        Some(key) => format!("did you mean {}?", key.name),
        None => "`remora-relay config schema` says which there are".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn written(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(text.as_bytes()).expect("written");
        file
    }

    /// What a relay would be told by a file of this text, variables, and flags after the verb.
    fn told(file: &str, variables: &[(&str, &str)], flags: &[&str]) -> Result<Loaded, Vec<String>> {
        let there = written(file);
        let path = there.path().to_str().expect("text").to_owned();
        let argv = [&["remora-relay", "serve", "--config", &path][..], flags].concat();
        let loaded = load_with(argv.into_iter().map(OsString::from), |name| {
            let said = variables.iter().find(|(variable, _)| *variable == name);
            said.map(|(_, value)| value.into())
        });
        loaded.map_err(|error| match error {
            LoadError::CommandLine(error) => vec![mistake(&error)],
            LoadError::Problems(problems, _) => problems
                .iter()
                .map(|problem| problem.to_string().replace(&path, "relay.toml"))
                .collect(),
        })
    }

    fn of<'a>(loaded: &'a Loaded, key: &str) -> &'a Value {
        let value = loaded.values.iter().find(|value| value.key == key);
        value.expect("there is such a key")
    }

    #[test]
    fn flags_overrule_the_environment_and_that_the_file() {
        let file = "realm = \"file\"\nname = \"file\"\nmax_nodes = 0x10\npeers = [\"a:1\", \"b:2\"]\nmesh = \"[::]:4001\"\nfleet_key = \"k\"\n";
        let variables = [
            ("REMORA_RELAY_REALM", "environment"),
            ("REMORA_RELAY_NAME", "environment"),
            ("REMORA_RELAY_PEERS", "c:3,d:4"),
            ("REMORA_RELAY_LOG", ""),
        ];
        let loaded = told(file, &variables, &["--name", "flag"]).expect("fits");
        let serve = loaded.args.serving().expect("serves");
        assert_eq!((&*serve.name, &*serve.realm), ("flag", "environment"));
        assert_eq!(serve.max_nodes, 16);
        assert_eq!(serve.peers, ["c:3", "d:4"]);
        assert_eq!(of(&loaded, "name").origin, Origin::Flag);
        let realm = of(&loaded, "realm").origin.clone();
        assert_eq!(realm, Origin::Environment("REMORA_RELAY_REALM".into()));
        let max_nodes = of(&loaded, "max_nodes").origin.clone();
        assert!(matches!(max_nodes, Origin::File(_, 3)), "{max_nodes:?}");
        assert_eq!(
            of(&loaded, "log").origin,
            Origin::Default,
            "empty says nothing"
        );
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once_with_its_place() {
        let file = "listen = \"nowhere\"\nmax_node = 5\nmax_streams = \"many\"\nlog = 7\nobservers = \"127.0.0.1\"\n\nsession_burst = 1\n[deep]\npeers = 1\n";
        let variables = [("REMORA_RELAY_MAX_SESSIONS", "lots")];
        let problems = told(file, &variables, &["--tls-cert", "x"]).expect_err("wrong");
        for said in [
            "relay.toml:1: listen cannot be `nowhere`: it takes an IP address with a port, like 127.0.0.1:4433 or [::]:4433",
            "relay.toml:2: there is no key max_node; did you mean max_nodes?",
            "relay.toml:3: max_streams takes a whole number, without quotes",
            "relay.toml:4: log takes one text, in quotes",
            "relay.toml:5: observers cannot be `127.0.0.1`: it takes an IP address with a port, like 127.0.0.1:4433 or [::]:4433",
            "relay.toml:7: session_burst must be at least 65536",
            "--tls-cert needs --tls-key, too",
            "relay.toml:8: there is no key deep; `remora-relay config schema` says which there are",
            "REMORA_RELAY_MAX_SESSIONS cannot be `lots`: it takes a whole number, without a sign",
        ] {
            assert!(
                problems.iter().any(|problem| problem == said),
                "{said}\nin {problems:#?}"
            );
        }
        assert_eq!(problems.len(), 9, "{problems:#?}");
    }

    #[test]
    fn what_cannot_be_read_hides_nothing_but_what_hangs_on_it() {
        let file =
            "max_nodes = 0\nmesh = 7\npeers = [\"b:2\"]\nfleet_key = \"/nowhere/fleet.key\"\n";
        let problems = told(file, &[], &[]).expect_err("wrong");
        for (problem, said) in problems.iter().zip([
            "relay.toml:2: mesh takes one text, in quotes",
            "relay.toml:1: max_nodes must be at least 1",
            "relay.toml:4: fleet_key cannot be used: cannot read the fleet key /nowhere/fleet.key; ",
        ]) {
            assert!(problem.starts_with(said), "{problem}\nis not {said}");
        }
        assert_eq!(problems.len(), 3, "{problems:#?}");
    }

    #[test]
    fn a_slip_is_said_once() {
        for slip in [
            "listen = [::]:443",
            "listen = \"[::]:443",
            "listen \"[::]:443\"",
            "= 5",
        ] {
            let file = format!("name = \"a\"\n{slip}\nmax_nodes = 7\n");
            let problems = told(&file, &[], &[]).expect_err("wrong");
            assert_eq!(problems.len(), 1, "{slip}: {problems:#?}");
            assert!(problems[0].starts_with("relay.toml:2: "), "{problems:#?}");
        }
    }

    #[test]
    fn a_file_that_is_no_toml_or_not_there_says_so() {
        let problems = told("listen = \nname = 'a'\nname = 'b'\n", &[], &[]).expect_err("wrong");
        assert!(problems.len() >= 2, "{problems:#?}");
        assert!(problems[0].starts_with("relay.toml:1: "), "{problems:#?}");
        assert!(
            problems
                .iter()
                .any(|problem| problem.starts_with("relay.toml:3: ")),
            "{problems:#?}"
        );
        let nowhere = [
            "remora-relay",
            "config",
            "check",
            "--config",
            "/nowhere/relay.toml",
        ];
        let error = load_with(nowhere.map(OsString::from), |_| None).expect_err("not there");
        let LoadError::Problems(problems, _) = error else {
            panic!("{error:?}");
        };
        assert!(
            problems[0]
                .to_string()
                .starts_with("cannot read the configuration /nowhere/relay.toml: ")
        );
    }

    #[test]
    fn what_is_shown_can_be_said_by_a_file_and_means_the_same() {
        let flags = [
            "--name",
            "we \"quote\"",
            "--observer",
            "127.0.0.1:1,127.0.0.1:2",
        ];
        let loaded = told("max_nodes = 7\n", &[], &flags).expect("fits");
        let shown = super::super::describe::shown_as_file(&loaded.values);
        let again = told(&shown, &[], &[]).expect("fits");
        for (value, again) in loaded.values.iter().zip(&again.values) {
            assert_eq!(value.key, again.key);
            // A list may be typed in one word.
            assert_eq!(value.typed.join(","), again.typed.join(","), "{shown}");
        }
    }

    #[test]
    fn every_key_says_what_it_is_for_and_why_it_is_what_it_is() {
        for key in keys() {
            assert!(key.help.len() > 20, "{}", key.name);
            let has_reason = key.help.contains("The default: ");
            assert_eq!(
                key.default.is_some(),
                has_reason,
                "{}: {}",
                key.name,
                key.help
            );
            assert!(key.unit.is_some(), "{}", key.name);
            assert!(key.variable.starts_with("REMORA_RELAY_"));
        }
    }
}
