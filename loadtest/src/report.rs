//! What is printed: progress for people who watch, a table or one JSON object at the end.

use std::{
    cell::Cell,
    collections::BTreeMap,
    fmt::{Display, Write as _},
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    cli::{Forward, Rate},
    measure::Measured,
};

/// Waiting for a core that is worth a word; waking up is a wait, too, of some percent.
const DISTURBED_RATIO: f64 = 0.1;

/// A line for people that is written over and over again, when somebody watches.
#[derive(Debug)]
pub struct Progress {
    watched: bool,
    shown: Cell<bool>,
}

impl Progress {
    /// Shows something only on a terminal.
    pub fn new() -> Self {
        Self {
            watched: io::stderr().is_terminal(),
            shown: Cell::new(false),
        }
    }

    /// Shows `text` in place of what was shown before.
    pub fn show(&self, text: &str) {
        if self.watched {
            self.shown.set(true);
            // Nobody there to read it: so be it.
            write!(io::stderr(), "\r\x1b[K{text}").ok();
        }
    }

    /// Shows nothing any more.
    pub fn clear(&self) {
        if self.shown.take() {
            write!(io::stderr(), "\r\x1b[K").ok();
        }
    }
}

impl Drop for Progress {
    /// So that whatever is said next, of a failure too, has the line to itself.
    fn drop(&mut self) {
        self.clear();
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

/// A line on standard error.
pub fn say(text: &str) {
    // When even standard error is closed, the exit code has to do.
    writeln!(io::stderr(), "remora-loadtest: {text}").ok();
}

/// A text on standard output.
///
/// # Errors
/// When nobody takes it.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// What scripts find in the figures of every verb (issue 4, "For scripts"); null where a verb has no such thing.
pub fn base(verb: &str, seed: u64, took: Duration) -> Value {
    json!({
        "verb": verb,
        "seed": seed,
        "duration_s": rounded(took.as_secs_f64(), 3),
        "sessions": null,
        "offered_fps": null,
        "delivered_fps": null,
        "loss_ratio": null,
        "relay_cpu_ns_per_frame": null,
        "relay_rss_bytes": null,
        "latency_us": {"p50": null, "p99": null},
    })
}

/// What scripts find in the figures of every verb about a fleet (issue 6, "For scripts"), where a verb looks at none of it.
pub fn fleet_base(verb: &str, seed: u64, took: Duration) -> Value {
    let times = json!({"p50": null, "p99": null, "max": null});
    let mut object = base(verb, seed, took);
    set(
        &mut object,
        json!({
            "relays": null,
            "ended": null,
            "messages_lost": null,
            "messages_duplicated": null,
            "moved": null,
            "move_ms": times,
            "gap_ms": times,
            "joins_ok": null,
            "joins_failed": null,
        }),
    );
    object
}

/// Puts the fields of `more` into `object`.
pub fn set(object: &mut Value, more: Value) {
    if let (Value::Object(object), Value::Object(more)) = (object, more) {
        object.extend(more);
    }
}

/// What failed, and how often, for scripts.
pub fn failures<K: ToString, N: Into<u64> + Copy>(faults: &BTreeMap<K, N>) -> Value {
    let each = faults.iter();
    each.map(|(fault, count)| (fault.to_string(), json!((*count).into())))
        .collect()
}

/// The same for people, in one line.
pub fn reasons<K: Display, N: Display>(faults: &BTreeMap<K, N>) -> String {
    let each = faults
        .iter()
        .map(|(fault, count)| format!("{fault} {count}"));
    each.collect::<Vec<_>>().join(", ")
}

/// Bytes as MiB, with a digit more.
pub fn mib(bytes: u64) -> String {
    let tenths = bytes * 10 / (1 << 20);
    format!("{}.{}", tenths / 10, tenths % 10)
}

/// What `forward` found.
#[derive(Debug)]
pub struct Finding<'a> {
    /// As typed.
    pub args: &'a Forward,
    /// The relay's.
    pub relay: &'a Measured,
    /// The other's, on the same load.
    pub rival: Option<&'a Measured>,
    /// Nodes of the relay's sessions.
    pub nodes: usize,
    /// Whose cores were whose.
    pub cores: &'a crate::process::Cores,
    /// From its start to its end.
    pub took: Duration,
}

impl Finding<'_> {
    /// The relay's CPU for a frame over the other's.
    pub fn ratio_cpu(&self) -> Option<f64> {
        self.ratio(|measured| measured.cpu_ns_per_frame())
    }

    fn ratio(&self, of: impl Fn(&Measured) -> Option<f64>) -> Option<f64> {
        let (ours, theirs) = (of(self.relay)?, of(self.rival?)?);
        (theirs > 0.0).then(|| ours / theirs)
    }

    /// For scripts (issue 4, "For scripts").
    pub fn json(&self) -> Value {
        let args = self.args;
        let mut object = base("forward", args.target.seed, self.took);
        set(&mut object, figures(self.relay));
        object["sessions"] = json!(args.sessions);
        object["nodes"] = json!(self.nodes);
        object["size_bytes"] = json!(args.size);
        object["mode"] = json!(args.mode_name());
        object["rate_fps"] = match args.rate {
            Rate::Max => json!("max"),
            Rate::PerSecond(frames) => json!(frames),
        };
        object["run_s"] = json!(args.seconds);
        object["runs"] = json!(args.runs);
        object["cores"] = self.cores.json();
        if let Some(rival) = self.rival {
            let mut vs = figures(rival);
            vs["name"] = json!(rival.name);
            object["vs"] = vs;
            object["ratio_cpu_per_frame"] = rounded_or_null(self.ratio_cpu(), 4);
            let latency = |of: usize| {
                let ratio = self.ratio(|measured| Some(measured.latency_us()[of]));
                rounded_or_null(ratio, 4)
            };
            object["ratio_latency"] = json!({"p50": latency(0), "p99": latency(1)});
        }
        object
    }

    /// For people.
    pub fn table(&self) -> String {
        let args = self.args;
        let pace = match args.rate {
            Rate::Max => "as fast as it goes".to_owned(),
            Rate::PerSecond(frames) => format!("{frames} frames/s"),
        };
        let mut text = format!(
            "forward · {} sessions · {} B · {} · {pace} · {} × {} s each · seed {} · cores: load {:?}, measured {:?}\n\n",
            args.sessions,
            args.size,
            args.mode_name(),
            args.runs,
            args.seconds,
            args.target.seed,
            self.cores.load,
            self.cores.measured,
        );
        text += &row([
            "",
            "CPU ns/frame",
            "(min - max)",
            "frames/s",
            "per core s",
            "cores",
            "loss",
            "p50 us",
            "p99 us",
            "RSS MiB",
        ]);
        for measured in std::iter::once(self.relay).chain(self.rival) {
            text += &measured_row(measured);
        }
        if let Some(rival) = self.rival {
            if let Some(ratio) = self.ratio_cpu() {
                // Writing to a String cannot fail.
                write!(text, "\nrelay / {}: CPU per frame {ratio:.3}", rival.name).ok();
            }
            for (name, of) in [("p50", 0), ("p99", 1)] {
                if let Some(ratio) = self.ratio(|measured| Some(measured.latency_us()[of])) {
                    write!(text, ", {name} {ratio:.3}").ok();
                }
            }
            if !rival.detail.is_empty() {
                write!(text, "  ({}: {})", rival.name, rival.detail).ok();
            }
        }
        text.trim_end().to_owned() + &self.disturbance()
    }

    /// A line more when the machine was not ours.
    fn disturbance(&self) -> String {
        let all = std::iter::once(self.relay).chain(self.rival);
        let waits = all.flat_map(|measured| measured.wait_ratios()).flatten();
        let most = waits.fold(0.0, f64::max);
        if most < DISTURBED_RATIO {
            return String::new();
        }
        let percent = most * 100.0;
        format!(
            "\nother programs had a core that was wanted here for up to {percent:.0} % of the time: frames/s and latency are of such a machine"
        )
    }
}

/// What a load came to.
pub fn figures(measured: &Measured) -> Value {
    let [p50, p99] = measured.latency_us();
    let [wait, load_wait] = measured.wait_ratios();
    let each = measured.each_cpu_ns_per_frame();
    let each: Vec<_> = each.map(|cpu| rounded(cpu, 1)).collect();
    json!({
        "offered_fps": rounded(measured.offered_fps(), 1),
        "delivered_fps": rounded(measured.delivered_fps(), 1),
        "loss_ratio": rounded(measured.loss_ratio(), 6),
        "delivered": measured.delivered(),
        "duplicated": measured.duplicated(),
        "foreign": measured.foreign(),
        "relay_cpu_ns_per_frame": rounded_or_null(measured.cpu_ns_per_frame(), 1),
        "relay_cpu_ns_per_frame_each": each,
        "frames_per_relay_core_s": rounded_or_null(measured.frames_per_core_s(), 0),
        "relay_core_use": rounded_or_null(measured.core_use(), 3),
        "relay_wait_ratio": rounded_or_null(wait, 3),
        "load_wait_ratio": rounded_or_null(load_wait, 3),
        "relay_rss_bytes": measured.rss_bytes(),
        "latency_us": {"p50": rounded(p50, 1), "p99": rounded(p99, 1)},
    })
}

fn measured_row(measured: &Measured) -> String {
    let number =
        |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.0}"));
    let [p50, p99] = measured.latency_us().map(|us| format!("{us:.0}"));
    let span = measured
        .each_cpu_ns_per_frame()
        .fold(None, |span: Option<[f64; 2]>, cpu| {
            let [low, high] = span.unwrap_or([cpu, cpu]);
            Some([low.min(cpu), high.max(cpu)])
        })
        .map_or_else(String::new, |[low, high]| format!("{low:.0} - {high:.0}"));
    let rss = measured.rss_bytes().map(mib);
    row([
        measured.name,
        &number(measured.cpu_ns_per_frame()),
        &span,
        &number(Some(measured.delivered_fps())),
        &number(measured.frames_per_core_s()),
        &measured
            .core_use()
            .map_or_else(|| "-".to_owned(), |cores| format!("{cores:.2}")),
        &format!("{:.3} %", measured.loss_ratio() * 100.0),
        &p50,
        &p99,
        &rss.unwrap_or_else(|| "-".to_owned()),
    ])
}

fn row(cells: [&str; 10]) -> String {
    let [name, cpu, span, fps, core, cores, loss, p50, p99, rss] = cells;
    let line = format!(
        "{name:<11}{cpu:>13}{span:>16}{fps:>10}{core:>12}{cores:>7}{loss:>9}{p50:>8}{p99:>8}{rss:>9}"
    );
    line.trim_end().to_owned() + "\n"
}

/// With so many digits behind the point.
pub fn rounded(value: f64, digits: i32) -> f64 {
    let unit = 10_f64.powi(digits);
    (value * unit).round() / unit
}

/// The same of what may not be known.
pub fn rounded_or_null(value: Option<f64>, digits: i32) -> Value {
    value.map_or(Value::Null, |value| json!(rounded(value, digits)))
}
