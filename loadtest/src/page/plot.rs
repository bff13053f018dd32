//! Inline SVG: lines over a logarithmic axis, and bars.

use std::collections::BTreeMap;

use super::escape;

/// Pixels of a plot, and what is left around it for words.
const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 340.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 20.0;
const BOTTOM: f64 = 50.0;
/// Of a bar with its words.
const BAR: f64 = 24.0;
const BAR_LABEL: f64 = 380.0;
/// Lines of the grid, and one more.
const STEPS: u32 = 5;
/// As many as there are in the style; after these it starts over.
const COLOURS: [&str; 6] = ["--a", "--b", "--c", "--d", "--e", "--f"];

/// A bar.
#[derive(Debug)]
pub(super) struct Point {
    /// Those of a kind have a colour.
    pub(super) kind: String,
    pub(super) label: String,
    pub(super) value: f64,
}

/// Points of each name.
#[derive(Debug, Default)]
pub(super) struct Series(BTreeMap<String, Vec<(f64, f64)>>);

impl Series {
    /// One more, where both are known.
    pub(super) fn add(&mut self, name: &str, x: Option<f64>, y: Option<f64>) {
        if let (Some(x), Some(y)) = (x, y) {
            self.0.entry(name.to_owned()).or_default().push((x, y));
        }
    }

    /// Where some are seen at several places, those that are not say nothing in a plot: they stand in the table.
    pub(super) fn keep_lines(&mut self) {
        let is_line = |points: &Vec<(f64, f64)>| points.iter().any(|&(x, _)| x != points[0].0);
        if self.0.values().any(is_line) {
            self.0.retain(|_, points| is_line(points));
        }
    }

    fn points(&self) -> impl Iterator<Item = (f64, f64)> {
        self.0.values().flatten().copied()
    }
}

fn colour(number: usize) -> &'static str {
    COLOURS[number % COLOURS.len()]
}

/// A plot of lines; nothing when there is nothing to show.
pub(super) fn lines(title: &str, x_name: &str, y_name: &str, series: &Series) -> String {
    let Some(right) = series.points().map(|(x, _)| x).reduce(f64::max) else {
        return String::new();
    };
    let highest = nice(series.points().map(|(_, y)| y).fold(0.0, f64::max));
    // 0 has a place of its own on a logarithmic axis: left of 1.
    let scaled = |x: f64| (x + 1.0).log10();
    let x_at = |x: f64| LEFT + (WIDTH - LEFT - RIGHT) * scaled(x) / scaled(right.max(1.0));
    let y_at = |y: f64| HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * y / highest;
    let mut svg = String::new();
    for step in 0..=STEPS {
        let value = highest * f64::from(step) / f64::from(STEPS);
        let y = y_at(value);
        svg += &format!(
            "<line class=\"axis\" x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{}\" y2=\"{y:.1}\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            y + 4.0,
            short(value)
        );
    }
    let mut ticks: Vec<f64> = series.points().map(|(x, _)| x).collect();
    ticks.sort_by(f64::total_cmp);
    ticks.dedup();
    for tick in ticks {
        svg += &format!(
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            x_at(tick),
            HEIGHT - BOTTOM + 18.0,
            short(tick)
        );
    }
    svg += &format!(
        "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
        WIDTH - RIGHT,
        HEIGHT - 10.0,
        escape(x_name)
    );
    let mut legend = String::new();
    for (number, (name, points)) in series.0.iter().enumerate() {
        let points = merged(points);
        let colour = colour(number);
        let places = points.iter().map(|&(x, y)| (x_at(x), y_at(y)));
        let path: Vec<_> = places
            .clone()
            .map(|(x, y)| format!("{x:.1},{y:.1}"))
            .collect();
        svg += &format!(
            "<polyline points=\"{}\" style=\"stroke:var({colour})\"/>",
            path.join(" ")
        );
        for ((x, y), (_, value)) in places.zip(&points) {
            svg += &format!(
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" style=\"fill:var({colour})\"><title>{}: {}</title></circle>",
                escape(name),
                short(*value)
            );
        }
        legend += &format!(
            "<span style=\"color:var({colour})\">\u{25cf}</span> {} &nbsp; ",
            escape(name)
        );
    }
    figure(
        title,
        &format!("{} \u{b7} {legend}", escape(y_name)),
        HEIGHT,
        &svg,
    )
}

/// In order, and the mean of those in one place.
fn merged(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mut points = points.to_vec();
    points.sort_by(|one, other| one.0.total_cmp(&other.0));
    let alike = points.chunk_by(|one, other| one.0 == other.0);
    let mean = |alike: &[(f64, f64)]| {
        let (sum, count) = alike
            .iter()
            .fold((0.0, 0.0), |(sum, count), (_, y)| (sum + y, count + 1.0));
        (alike[0].0, sum / count)
    };
    alike.map(mean).collect()
}

/// A plot of bars, with a mark at a value; nothing when there are none.
pub(super) fn bars(title: &str, unit: &str, bars: &[Point], mark: Option<f64>) -> String {
    let Some(highest) = bars.iter().map(|bar| bar.value).reduce(f64::max) else {
        return String::new();
    };
    let highest = nice(highest.max(mark.unwrap_or_default()));
    let room = WIDTH - BAR_LABEL - 70.0;
    let rows = f64::from(u32::try_from(bars.len()).unwrap_or(u32::MAX));
    let height = rows * BAR + 10.0;
    let mut svg = String::new();
    let mut y = 5.0;
    let mut kinds: Vec<&str> = Vec::new();
    for bar in bars {
        if !kinds.contains(&&*bar.kind) {
            kinds.push(&bar.kind);
        }
        let number = kinds
            .iter()
            .position(|kind| *kind == bar.kind)
            .unwrap_or_default();
        let width = (room * bar.value / highest).max(0.0);
        svg += &format!(
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{BAR_LABEL}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{}\" rx=\"2\" style=\"fill:var({})\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            BAR_LABEL - 8.0,
            y + 16.0,
            escape(&bar.label),
            y + 3.0,
            BAR - 6.0,
            colour(number),
            BAR_LABEL + width + 6.0,
            y + 16.0,
            short(bar.value)
        );
        y += BAR;
    }
    if let Some(mark) = mark {
        let x = BAR_LABEL + room * mark / highest;
        svg +=
            &format!("<line class=\"mark\" x1=\"{x:.1}\" y1=\"0\" x2=\"{x:.1}\" y2=\"{height}\"/>");
    }
    figure(title, &escape(unit), height, &svg)
}

fn figure(title: &str, caption: &str, height: f64, svg: &str) -> String {
    let title = escape(title);
    format!(
        "<h2>{title}</h2><figure><svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{title}\">{svg}</svg>\
         <figcaption>{caption}</figcaption></figure>\n"
    )
}

/// The next round number above.
fn nice(value: f64) -> f64 {
    if value <= 0.0 || !value.is_finite() {
        return 1.0;
    }
    let unit = 10_f64.powf(value.log10().floor());
    let rounds = [1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.5, 10.0];
    let fitting = rounds.into_iter().find(|round| round * unit >= value);
    fitting.unwrap_or(10.0) * unit
}

/// As few digits as say it.
pub(super) fn short(value: f64) -> String {
    let magnitude = value.abs();
    let (scaled, unit) = match magnitude {
        _ if magnitude >= 1e6 => (value / 1e6, "M"),
        _ if magnitude >= 1e4 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let digits = match scaled.abs() {
        scaled if scaled >= 100.0 => 0,
        scaled if scaled >= 10.0 => 1,
        _ => 3,
    };
    let text = format!("{scaled:.digits$}");
    let text = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        &text
    };
    format!("{text}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers_and_numbers_are_short() {
        assert_eq!(
            [0.0, 0.9, 4.0, 4321.0, f64::NAN].map(nice),
            [1.0, 1.0, 4.0, 5000.0, 1.0]
        );
        let values = [0.0, 1.0625, 50.0, 4321.0, 10_000.0, 123_456.0, 2_500_000.0];
        assert_eq!(
            values.map(short),
            ["0", "1.062", "50", "4321", "10k", "123k", "2.5M"]
        );
    }

    #[test]
    fn points_in_one_place_are_one_and_lines_are_kept() {
        assert_eq!(
            merged(&[(5.0, 1.0), (1.0, 2.0), (5.0, 3.0)]),
            [(1.0, 2.0), (5.0, 2.0)]
        );
        let mut series = Series::default();
        for (name, x) in [("line", 1.0), ("line", 2.0), ("dot", 1.0)] {
            series.add(name, Some(x), Some(1.0));
        }
        series.keep_lines();
        assert_eq!(series.0.keys().collect::<Vec<_>>(), ["line"]);
    }

    #[test]
    fn nothing_makes_no_plot() {
        assert_eq!(lines("a", "b", "c", &Series::default()), "");
        assert_eq!(bars("a", "b", &[], Some(1.0)), "");
    }
}
