//! What Prometheus would remember of last week: that most sessions found a direct path. Written as its own tool writes it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, ensure};

use super::rules::scale;

/// What the rules keep of it.
const SERIES: &str = "remora:paths_direct:ratio_rate1h";
const USUAL_RATIO: f64 = 0.9;
/// The rules look back to the day that ended a week ago.
const FROM_AGO: Duration = Duration::from_secs((7 + 1) * 24 * 3600 + 6 * 3600);
const UNTIL_AGO: Duration = Duration::from_secs((7 * 24 - 6) * 3600);
/// Values in that time.
const VALUES: u32 = 200;

/// Writes it into `data`, for relays of `fleets` whose time goes `speed` times as fast.
///
/// # Errors
/// When `promtool`, which stands beside `prometheus`, is not there, or cannot.
pub fn write(
    data: &Path,
    fleets: &[String],
    prometheus: Option<&Path>,
    speed: u32,
) -> anyhow::Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let text = data.with_extension("openmetrics");
    fs::write(&text, series(fleets, now, speed))?;
    let tool = prometheus.map_or_else(
        || PathBuf::from("promtool"),
        |path| path.with_file_name("promtool"),
    );
    let made = Command::new(&tool)
        .args(["tsdb", "create-blocks-from", "openmetrics"])
        .args([&text, data])
        .output()
        .with_context(|| {
            format!(
                "no {}, which comes with Prometheus (Debian: apt-get install prometheus)",
                tool.display()
            )
        })?;
    let said = String::from_utf8_lossy(&made.stderr);
    ensure!(made.status.success(), "promtool: {}", said.trim_end());
    Ok(())
}

fn series(fleets: &[String], now: Duration, speed: u32) -> String {
    let [from, until] = [FROM_AGO, UNTIL_AGO].map(|ago| now.saturating_sub(scale(ago, speed)));
    let step = until.saturating_sub(from) / VALUES;
    let mut text = format!("# TYPE {SERIES} gauge\n");
    for fleet in fleets {
        for number in 0..VALUES {
            let at = (from + step * number).as_secs_f64();
            text += &format!(
                "{SERIES}{{namespace=\"{fleet}\",job=\"remora-relay\"}} {USUAL_RATIO} {at:.3}\n"
            );
        }
    }
    text + "# EOF\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_week_is_as_long_ago_as_the_rules_look() {
        let now = Duration::from_secs(1_000_000_000);
        let text = series(&["a".to_owned()], now, 60);
        let times: Vec<f64> = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
            .collect();
        assert_eq!(times.len(), 200);
        let ago = |at: f64| now.as_secs_f64() - at;
        // From before 10,080 + 1,440 s ago until after 10,080 s ago.
        assert!(ago(times[0]) > 11_520.0 && ago(times[199]) < 10_080.0);
        assert!(times.is_sorted());
    }
}
