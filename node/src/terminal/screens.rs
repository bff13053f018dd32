//! Which screen a sharer shows: `remora screens`, `--screen`, and what can be typed where the code is asked for (guide, A-9). Who chooses
//! none begins with the primary one, and the helper may look at the others.

use remora_proto::invitation::word::one_line;
use serde_json::{Value, json};

use super::{console::print_data, style::Style};
use crate::{
    cli,
    error::{Exit, Failure},
    share::{
        capture::{self, Monitor},
        desktop::Desktop,
    },
};

/// Of a name in a list.
const MAX_NAME_BYTES: usize = 64;

/// `remora screens`
///
/// # Errors
/// There is no display, or nobody reads it.
pub fn list(args: &cli::Screens) -> Result<Exit, Failure> {
    let monitors = capture::monitors(None).map_err(|error| {
        Failure::new(
            Exit::Error,
            "NO_DISPLAY",
            format!("{error}; {}", error.hint()),
        )
    })?;
    let numbered = (1u16..).zip(&monitors);
    if args.json {
        let screens: Vec<Value> = numbered
            .map(|(number, monitor)| {
                json!({
                    "number": number, "name": monitor.name, "x": monitor.rect.x, "y": monitor.rect.y,
                    "width": monitor.rect.width, "height": monitor.rect.height, "primary": monitor.primary,
                })
            })
            .collect();
        print_data(&json!({"v": 1, "screens": screens}).to_string())?;
    } else {
        for (number, monitor) in numbered {
            print_data(&line(number, monitor))?;
        }
    }
    Ok(Exit::Ok)
}

/// `1  DP-1  1920 × 1080  primary`
fn line(number: u16, monitor: &Monitor) -> String {
    let name = one_line(&monitor.name, MAX_NAME_BYTES);
    let (width, height) = (monitor.rect.width, monitor.rect.height);
    let primary = if monitor.primary { "  primary" } else { "" };
    format!("{number}  {name}  {width} × {height}{primary}")
}

/// This computer's screens, and the one that is shown alone.
#[derive(Debug)]
pub(super) struct Screens {
    monitors: Vec<Monitor>,
    chosen: Option<String>,
}

impl Screens {
    /// Those that there are; where there is no display, none.
    pub(super) fn of_this_computer() -> Self {
        let found = capture::monitors(None);
        let monitors = found.inspect_err(|error| tracing::debug!(%error, "no screens"));
        Self::new(monitors.unwrap_or_default())
    }

    fn new(monitors: Vec<Monitor>) -> Self {
        Self {
            monitors,
            chosen: None,
        }
    }

    /// The one of that name, or of that number in the list, is shown, and no other.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn choose(&mut self, text: &str) -> Result<(), Failure> {
        let text = text.trim();
        let named = self.monitors.iter().find(|monitor| monitor.name == text);
        let numbered = || {
            let number = text.parse::<usize>().ok()?.checked_sub(1)?;
            self.monitors.get(number)
        };
        let monitor = named.or_else(numbered).ok_or_else(|| {
            let text = one_line(text, MAX_NAME_BYTES);
            let line = format!("no screen here is called {text:?}; `remora screens` lists them");
            Failure::new(Exit::Usage, "NO_SCREEN", line)
        })?;
        self.chosen = Some(monitor.name.clone());
        Ok(())
    }

    /// What a person with several screens is told before the code is asked for.
    pub(super) fn question(&self, style: Style) -> Vec<String> {
        if self.monitors.len() < 2 || self.chosen.is_some() {
            return Vec::new();
        }
        let mut lines = vec![
            "Your helper will see your screens, one at a time. To show one alone, type `screen` and its number:".to_owned(),
        ];
        let numbered = (1u16..).zip(&self.monitors);
        lines.extend(
            numbered.map(|(number, monitor)| style.dim(&format!("  {}", line(number, monitor)))),
        );
        lines
    }

    /// `screen 2`, in the place of a code; what is said to that.
    pub(super) fn typed(&mut self, text: &str) -> Option<Result<String, Failure>> {
        let wanted = text.trim().strip_prefix("screen ")?;
        Some(self.choose(wanted).map(|()| {
            let name = self.chosen.as_deref().unwrap_or_default();
            format!(
                "Your helper will see {} and nothing else.",
                one_line(name, MAX_NAME_BYTES)
            )
        }))
    }

    /// What is shown.
    pub(super) fn desktop(&self) -> Desktop {
        match self.chosen.clone() {
            Some(name) => Desktop::Monitor {
                display: None,
                name,
            },
            None => Desktop::X11(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::share::capture::Rect;

    fn screens(names: &[&str]) -> Screens {
        let monitor = |(id, name): (u16, &&str)| Monitor {
            id,
            name: (*name).to_owned(),
            rect: Rect::of_size((640, 480)),
            primary: id == 0,
        };
        Screens::new((0..).zip(names).map(monitor).collect())
    }

    #[test]
    fn a_screen_is_chosen_by_its_name_or_its_number() {
        let chosen = |text: &str| {
            let mut screens = screens(&["DP-1", "2", "HDMI-1"]);
            let done = screens.choose(text).map_err(|failure| failure.code);
            done.map(|()| screens.chosen.expect("chosen"))
        };
        assert_eq!(chosen("DP-1"), Ok("DP-1".into()));
        assert_eq!(chosen(" 3 "), Ok("HDMI-1".into()));
        assert_eq!(chosen("2"), Ok("2".into()), "a name before a number");
        for none in ["0", "4", "", "dp-1", "99999999999999999999"] {
            assert_eq!(chosen(none), Err("NO_SCREEN"), "{none:?}");
        }
    }

    #[test]
    fn who_has_one_screen_is_asked_nothing() {
        let style = Style::plain();
        assert!(screens(&["DP-1"]).question(style).is_empty());
        assert!(screens(&[]).question(style).is_empty());
        let mut two = screens(&["DP-1", "HDMI-1"]);
        let told = two.question(style).join("\n");
        assert!(told.contains("2  HDMI-1  640 × 480"), "{told}");
        assert!(two.typed("4060-r0gx").is_none());
        let said = two.typed("screen 2").expect("understood").expect("there");
        assert!(said.contains("HDMI-1"), "{said}");
        assert!(two.question(style).is_empty());
        assert!(two.typed("screen 3").expect("understood").is_err());
    }
}
