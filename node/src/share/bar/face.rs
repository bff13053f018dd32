//! How the bar looks, and where its buttons are. Pure: from what is to be said to a picture.

use std::time::{Duration, Instant};

use super::{
    BarText, Question,
    canvas::{Canvas, Colour, Fonts, presentable},
};

/// Longest name in the bar, and the shortest that it is cut to where the screen is narrow: the buttons come first.
const MAX_NAME: usize = 40;
const MIN_NAME: usize = 8;
/// Longest name of a path.
const MAX_PATH: usize = 24;

// Sizes for a screen of 96 dots an inch.
const HEIGHT: f32 = 44.0;
const LETTERS: f32 = 18.0;
const MARGIN: f32 = 16.0;
const DOT: f32 = 12.0;
const BUTTON_HEIGHT: f32 = 30.0;
const BUTTON_PADDING: f32 = 12.0;
const BUTTON_GAP: f32 = 8.0;
const BUTTON_RADIUS: f32 = 6.0;
/// Of the line that says the mode in colour, too.
const ACCENT_HEIGHT: f32 = 3.0;

// Contrast of text on ground at least 7 : 1 (WCAG 2.2, 1.4.6); of white on LEAVE and on the buttons at least 4.5 : 1.
const GROUND: Colour = Colour(0x1c, 0x21, 0x2b);
const TEXT: Colour = Colour(0xff, 0xff, 0xff);
const QUIET: Colour = Colour(0xc3, 0xca, 0xd6);
const RULE: Colour = Colour(0x48, 0x50, 0x60);
const BUTTON: Colour = Colour(0x36, 0x3e, 0x4d);
const BUTTON_HOVERED: Colour = Colour(0x50, 0x5a, 0x6e);
const LEAVE: Colour = Colour(0xb3, 0x26, 0x1e);
const LEAVE_HOVERED: Colour = Colour(0xcf, 0x35, 0x2c);
/// The helper controls.
const RED: Colour = Colour(0xff, 0x5a, 0x4f);
/// The helper sees.
const BLUE: Colour = Colour(0x5a, 0xa9, 0xff);
/// Paused.
const AMBER: Colour = Colour(0xff, 0xc1, 0x4d);

/// What can be pressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Press {
    Chat,
    Pause,
    Resume,
    StopControl,
    Leave,
    Answer(Question, bool),
}

impl Press {
    fn label(self) -> &'static str {
        match self {
            Self::Chat => "Chat",
            Self::Pause => "Pause",
            Self::Resume => "Resume",
            Self::StopControl => "Stop control",
            Self::Leave => "Leave",
            Self::Answer(Question::Countdown { .. }, true) => "Start now",
            Self::Answer(Question::Elevation | Question::Restart | Question::Handover, true) => {
                "Allow"
            }
            Self::Answer(Question::SignOut, true) => "Leave and sign out",
            Self::Answer(Question::Reclaim, true) => "Take it back",
            Self::Answer(Question::SignOut | Question::Reclaim, false) => "Stay",
            Self::Answer(_, false) => "Decline",
        }
    }
}

/// A picture of the bar and where its buttons are.
pub(super) struct Face {
    pub(super) canvas: Canvas,
    /// From left to right: what, from where, to where.
    pub(super) buttons: Vec<(Press, f32, f32)>,
}

impl Face {
    /// The button at this column.
    pub(super) fn button_at(&self, x: i16, y: i16) -> Option<Press> {
        let inside = y >= 0 && y.unsigned_abs() < self.canvas.height;
        let at =
            |(_, from, to): &&(Press, f32, f32)| inside && (*from..*to).contains(&f32::from(x));
        self.buttons.iter().find(at).map(|(press, ..)| *press)
    }
}

/// How large it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    /// Against a screen of 96 dots an inch.
    pub(super) scale: f32,
    /// Pixels that it may be wide.
    pub(super) most: u16,
}

/// Where everything is.
struct Layout {
    words: [(String, Colour); 4],
    rule: f32,
    buttons: Vec<(Press, f32, f32)>,
    width: f32,
}

/// Draws it; a name that is too long for the screen is cut.
pub(super) fn draw(
    text: &BarText,
    elapsed: Duration,
    hovered: Option<Press>,
    look: Look,
    fonts: &mut Fonts,
) -> Face {
    let mut longest_name = MAX_NAME;
    let mut layout = lay_out(text, elapsed, longest_name, look.scale, fonts);
    while ceil(layout.width) > look.most && longest_name > MIN_NAME {
        longest_name -= 1;
        layout = lay_out(text, elapsed, longest_name, look.scale, fonts);
    }
    // Smaller letters are worse than a shorter name, and better than a Leave that is not on the screen.
    let mut scale = look.scale;
    if ceil(layout.width) > look.most {
        scale *= f32::from(look.most) / layout.width.ceil();
        layout = lay_out(text, elapsed, longest_name, scale, fonts);
    }
    paint(layout, mode_colour(text), hovered, scale, fonts)
}

fn lay_out(
    text: &BarText,
    elapsed: Duration,
    longest_name: usize,
    scale: f32,
    fonts: &mut Fonts,
) -> Layout {
    let size = LETTERS * scale;
    let (name, does) = sentence(text, longest_name);
    let quiet = match text.question {
        Some(_) => String::new(),
        None => format!(
            " · {} · {}",
            clock(elapsed),
            presentable(&text.path, MAX_PATH)
        ),
    };
    let shares = match (text.question, text.shares.as_str()) {
        (Some(_), _) | (None, "") => String::new(),
        (None, shares) => format!(" · {shares}"),
    };
    // As noticeable as a pause: something leaves that is not in sight.
    let words = [(name, TEXT), (does, TEXT), (shares, AMBER), (quiet, QUIET)];
    // The clock's place is as wide as it may become, or the buttons would move under the sharer's pointer.
    let wide = words
        .iter()
        .map(|(word, _)| fonts.measure(size, &digits_widest(word)))
        .sum::<f32>();
    let rule = words_start(scale) + wide + MARGIN * scale;
    let (buttons, width) = place_buttons(text, rule + MARGIN * scale, scale, fonts);
    Layout {
        words,
        rule,
        buttons,
        width,
    }
}

fn words_start(scale: f32) -> f32 {
    (MARGIN + DOT + 10.0) * scale
}

fn paint(
    layout: Layout,
    mode: Colour,
    hovered: Option<Press>,
    scale: f32,
    fonts: &mut Fonts,
) -> Face {
    let (size, height) = (LETTERS * scale, HEIGHT * scale);
    let mut canvas = Canvas::new(ceil(layout.width), ceil(height), GROUND);
    canvas.rounded(
        (0.0, 0.0),
        (layout.width.ceil(), ACCENT_HEIGHT * scale),
        0.0,
        mode,
    );
    let middle = (height + ACCENT_HEIGHT * scale) / 2.0;
    let dot = DOT * scale;
    canvas.rounded(
        (MARGIN * scale, middle - dot / 2.0),
        (dot, dot),
        dot / 2.0,
        mode,
    );
    // The middle of small letters is a third of their size above the baseline.
    let baseline = middle + size * 0.32;
    let mut pen = words_start(scale);
    for (word, colour) in &layout.words {
        pen = canvas.text(fonts, (pen, baseline), size, word, *colour);
    }
    canvas.rounded(
        (layout.rule, middle - 12.0 * scale),
        (scale, 24.0 * scale),
        0.0,
        RULE,
    );
    let top = middle - BUTTON_HEIGHT * scale / 2.0;
    for (press, from, to) in &layout.buttons {
        let ground = button_colour(*press, hovered == Some(*press));
        canvas.rounded(
            (*from, top),
            (to - from, BUTTON_HEIGHT * scale),
            BUTTON_RADIUS * scale,
            ground,
        );
        canvas.text(
            fonts,
            (from + BUTTON_PADDING * scale, baseline),
            size,
            press.label(),
            TEXT,
        );
    }
    Face {
        canvas,
        buttons: layout.buttons,
    }
}

/// The helper's name, and what the helper does.
fn sentence(text: &BarText, longest_name: usize) -> (String, String) {
    let name = presentable(&text.name, longest_name);
    let name = if name.trim().is_empty() {
        "Somebody without a name".to_owned()
    } else {
        name
    };
    let does = match text.question {
        Some(Question::Countdown { until, .. }) => {
            let left = clock(until.saturating_duration_since(Instant::now()));
            let who = match text.name.trim() {
                "" => name,
                _ => presentable(&text.who, longest_name),
            };
            return (who, format!(" will connect to this computer in {left}"));
        }
        Some(Question::Elevation) => " wants ADMINISTRATOR'S RIGHTS here",
        Some(Question::Restart) => " wants to RESTART this computer",
        Some(Question::Handover) => " wants to hand you over to ANOTHER HELPER",
        Some(Question::SignOut) => {
            " was administrator: leaving signs you out, unsaved work is lost"
        }
        Some(Question::Reclaim) => " is working at this computer",
        None if text.paused => " sees nothing: paused",
        None if text.administrator => " controls this computer as ADMINISTRATOR",
        None if text.control => " controls this computer",
        None => " sees this computer",
    };
    (name, does.to_owned())
}

fn mode_colour(text: &BarText) -> Colour {
    match (text.paused, text.control) {
        (true, _) => AMBER,
        (false, true) => RED,
        (false, false) => BLUE,
    }
}

fn button_colour(press: Press, hovered: bool) -> Colour {
    match (press, hovered) {
        (Press::Leave | Press::Answer(Question::SignOut, true), false) => LEAVE,
        (Press::Leave | Press::Answer(Question::SignOut, true), true) => LEAVE_HOVERED,
        (_, false) => BUTTON,
        (_, true) => BUTTON_HOVERED,
    }
}

fn place_buttons(
    text: &BarText,
    start: f32,
    scale: f32,
    fonts: &mut Fonts,
) -> (Vec<(Press, f32, f32)>, f32) {
    let pause = if text.paused {
        Press::Resume
    } else {
        Press::Pause
    };
    let stop = text.control.then_some(Press::StopControl);
    let mut pen = start;
    let mut buttons = Vec::new();
    let presses = match text.question {
        Some(question) => vec![
            Press::Answer(question, true),
            Press::Answer(question, false),
        ],
        None => [Some(Press::Chat), Some(pause), stop, Some(Press::Leave)]
            .into_iter()
            .flatten()
            .collect(),
    };
    for press in presses {
        let end =
            pen + fonts.measure(LETTERS * scale, press.label()) + 2.0 * BUTTON_PADDING * scale;
        buttons.push((press, pen, end));
        pen = end + BUTTON_GAP * scale;
    }
    (buttons, pen - BUTTON_GAP * scale + MARGIN * scale)
}

/// `02:14`, from an hour on `1:02:14`.
fn clock(elapsed: Duration) -> String {
    let seconds = elapsed.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 {
        format!("{hours}:{minutes:02}:{seconds:02}")
    } else {
        format!("{minutes:02}:{seconds:02}")
    }
}

fn digits_widest(text: &str) -> String {
    text.chars()
        .map(|char| if char.is_ascii_digit() { '0' } else { char })
        .collect()
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float that becomes an integer saturates; no bar is wider than a screen"
)]
fn ceil(value: f32) -> u16 {
    value.ceil() as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(control: bool, paused: bool) -> BarText {
        let (name, path) = ("Sam Okafor".to_owned(), "direct".to_owned());
        BarText {
            who: format!("{name} (Contoso)"),
            name,
            control,
            administrator: false,
            paused,
            since: Instant::now(),
            path,
            shares: String::new(),
            question: None,
        }
    }

    fn face(text: &BarText) -> Face {
        draw(
            text,
            Duration::from_secs(134),
            None,
            LOOK,
            &mut Fonts::new(),
        )
    }

    const LOOK: Look = Look {
        scale: 1.0,
        most: 1280,
    };

    fn labels(face: &Face) -> Vec<&'static str> {
        face.buttons
            .iter()
            .map(|(press, ..)| press.label())
            .collect()
    }

    #[test]
    fn u_2_whoever_is_there_reads_who_comes_when_and_can_say_yes_or_no() {
        let until = Instant::now() + Duration::from_secs(30);
        let mode = remora_proto::session::Mode::Control;
        let asked = BarText {
            question: Some(Question::Countdown { mode, until }),
            ..text(false, false)
        };
        let (who, does) = sentence(&asked, MAX_NAME);
        assert_eq!(who, "Sam Okafor (Contoso)");
        assert!(does.starts_with(" will connect to this computer in 00:"));
        let labels = |text: &BarText| {
            let face = face(text);
            let labels = face.buttons.iter().map(|(press, ..)| press.label());
            labels.collect::<Vec<_>>()
        };
        assert_eq!(labels(&asked), ["Start now", "Decline"]);
        let leaving = BarText {
            question: Some(Question::SignOut),
            ..text(true, false)
        };
        assert_eq!(labels(&leaving), ["Leave and sign out", "Stay"]);
    }

    #[test]
    fn buttons_follow_the_mode() {
        assert_eq!(
            labels(&face(&text(true, false))),
            ["Chat", "Pause", "Stop control", "Leave"]
        );
        assert_eq!(
            labels(&face(&text(false, false))),
            ["Chat", "Pause", "Leave"]
        );
        assert_eq!(
            labels(&face(&text(true, true))),
            ["Chat", "Resume", "Stop control", "Leave"]
        );
    }

    #[test]
    fn each_button_is_where_it_is_drawn_and_nothing_is_between() {
        let face = face(&text(true, false));
        for (press, from, to) in &face.buttons {
            let middle = ceil((from + to) / 2.0).cast_signed();
            assert_eq!(face.button_at(middle, 20), Some(*press));
            assert_eq!(face.button_at(middle, -1), None);
            assert_eq!(face.button_at(ceil(*to).cast_signed() + 2, 20), None);
        }
        assert_eq!(face.button_at(30, 20), None);
    }

    #[test]
    fn the_buttons_stay_where_they_are_while_the_clock_goes() {
        let text = text(true, false);
        let places = |seconds| {
            draw(
                &text,
                Duration::from_secs(seconds),
                None,
                LOOK,
                &mut Fonts::new(),
            )
            .buttons
        };
        assert_eq!(places(0), places(11 * 60 + 11));
    }

    #[test]
    fn a_long_name_is_cut_so_that_the_buttons_stay_on_the_screen() {
        let long = BarText {
            name: "W".repeat(300),
            ..text(true, false)
        };
        for most in [1280, 1024, 800, 640] {
            let look = Look { most, ..LOOK };
            let face = draw(&long, Duration::ZERO, None, look, &mut Fonts::new());
            assert!(
                face.canvas.width <= most + 2,
                "{} on {most}",
                face.canvas.width
            );
        }
    }

    #[test]
    fn what_else_is_shared_is_to_be_seen() {
        let quiet = text(false, false);
        let shares = "clipboard ←→ · files →".to_owned();
        let shares = BarText {
            shares,
            ..quiet.clone()
        };
        assert!(face(&shares).canvas.width > face(&quiet).canvas.width);
    }

    #[test]
    fn the_clock_goes_on_past_an_hour() {
        assert_eq!(clock(Duration::from_secs(134)), "02:14");
        assert_eq!(clock(Duration::from_secs(3_734)), "1:02:14");
    }

    #[test]
    fn nobody_is_nameless() {
        let nameless = BarText {
            name: "\u{200b} ".to_owned(),
            ..text(false, false)
        };
        assert_eq!(sentence(&nameless, MAX_NAME).0, "Somebody without a name");
    }
}
