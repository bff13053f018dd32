//! The helper looks at the screen, clicks, types, and compares: the part of the demo that finds out whether what is seen is
//! what is there.

use std::time::Duration;

use remora_picture::decode::Canvas;
use remora_proto::wire::message::session::{
    ButtonEvent, InputEvent, PointerEvent, input_event::Event as Key,
};
use tokio::time::{Instant, timeout};

use super::{
    Findings,
    players::{Player, STEP, meanwhile},
    stage::Stage,
};
use crate::{
    error::{Exit, Failure},
    help::view::{View, ViewError, stroke},
    share::capture::Rect,
};

/// What is typed: letters of every layout, none of which is like its neighbour.
const TYPED: &str = "Hello,Maria!äß€漢字12345";
/// From a key to its pixels; thrice what a person would put up with.
const KEY: Duration = Duration::from_secs(5);
/// A screen that nobody else draws on is exact within a second; on a machine with more to do than it can, pictures that
/// come late are thrown away and made again.
const EXACT: Duration = Duration::from_secs(40);
/// Somebody's own screen may never rest.
const EXACT_ELSEWHERE: Duration = Duration::from_secs(5);
/// Between two comparisons: what the screen shows and what has arrived differ for about so long.
const PAUSE: Duration = Duration::from_millis(100);

fn failure(error: ViewError) -> Failure {
    Failure::new(Exit::Error, "DEMO", error.to_string())
}

/// The helper sees the screen, clicks, and types; the view, which goes on.
pub(super) async fn look(
    helper: &mut Player,
    sharer: &mut Player,
    stage: &Stage,
    findings: &mut Findings,
) -> Result<View, Failure> {
    helper.notes("opens the screen")?;
    let (_, nothing) = tokio::sync::mpsc::channel(1);
    let frames = std::mem::replace(&mut helper.running.frames, nothing);
    let mut view = View::new(frames, helper.running.input.clone());
    if let Some(page) = helper.page_stream() {
        view = view.beside(page);
    }
    let seen = view.wait_until(STEP, |canvas| canvas.pixels().width > 0);
    meanwhile(helper, sharer, seen).await?.map_err(failure)?;
    let size = (view.canvas().pixels().width, view.canvas().pixels().height);
    helper.notes(&format!("sees {} × {} pixels", size.0, size.1))?;

    let clicking = click(&view, stage.next_letter());
    meanwhile(helper, sharer, clicking)
        .await?
        .map_err(failure)?;
    if meanwhile(helper, sharer, stage.wait_for_keyboard()).await? {
        let typing = type_text(&mut view, stage);
        meanwhile(helper, sharer, typing).await?.map_err(failure)?;
        findings.keys_arrived = stage.typed() == TYPED;
    }
    let (keys, took) = (view.latencies().samples().len(), view.latencies().clone());
    (findings.p50, findings.p95) = (took.quantile(0.5), took.quantile(0.95));
    helper.notes(&if findings.keys_arrived {
        format!("clicks, types, and sees {keys} letters appear")
    } else {
        "cannot type: another window has the keyboard, or keys were lost".to_owned()
    })?;

    let limit = if stage.is_ours() {
        EXACT
    } else {
        EXACT_ELSEWHERE
    };
    let comparing = compare(&mut view, stage, limit);
    findings.pixel_exact = meanwhile(helper, sharer, comparing).await??;
    sharer.notes(if findings.pixel_exact {
        "what the helper sees is this screen, to the last pixel"
    } else {
        "something on this screen does not rest: not compared"
    })?;
    let counts = view.counts();
    (findings.frames, findings.source) = (counts.frames, stage.source());
    Ok(view)
}

/// On the pixel in the middle.
async fn click(view: &View, place: Rect) -> Result<(), ViewError> {
    let pixels = view.canvas().pixels();
    let middle = |start: i16, length: u16, whole: u16| {
        let pixel = u32::from(start.unsigned_abs() + length / 2);
        (pixel * 0x1_0000 + 0x8000) / u32::from(whole.max(1))
    };
    let to = PointerEvent {
        x: middle(place.x, place.width, pixels.width),
        y: middle(place.y, place.height, pixels.height),
    };
    let button = |down| Key::Button(ButtonEvent { button: 1, down });
    let events = [Key::Pointer(to), button(true), button(false)];
    let events = events.map(|event| InputEvent { event: Some(event) });
    view.send(events.to_vec()).await
}

/// Key by key, each once the one before is seen. Stops when one is not seen, or would go to somebody else.
async fn type_text(view: &mut View, stage: &Stage) -> Result<(), ViewError> {
    for letter in TYPED.chars() {
        if !stage.has_keyboard() {
            break;
        }
        let place = stage.next_letter();
        let before = part(view.canvas(), place);
        let changed = |canvas: &Canvas| part(canvas, place) != before;
        match view.key_to_pixel(stroke(letter.into()), KEY, changed).await {
            Ok(_) => {}
            Err(ViewError::TooLate) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The pixels there.
fn part(canvas: &Canvas, place: Rect) -> Vec<Option<[u8; 3]>> {
    let (left, top) = (place.x.unsigned_abs(), place.y.unsigned_abs());
    let rows = top..top.saturating_add(place.height);
    let row = |y| (left..left.saturating_add(place.width)).map(move |x| canvas.pixel(x, y));
    rows.flat_map(row).collect()
}

/// Lets the screen rest, and looks until the picture is the screen's own.
async fn compare(view: &mut View, stage: &Stage, limit: Duration) -> Result<bool, Failure> {
    stage.rest(true);
    let equal = become_equal(view, stage, limit).await;
    // Whoever opens the page now is to find it lively.
    stage.rest(false);
    equal
}

async fn become_equal(view: &mut View, stage: &Stage, limit: Duration) -> Result<bool, Failure> {
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        if stage.equals(view.canvas())? {
            return Ok(true);
        }
        if let Ok(Err(error)) = timeout(PAUSE, view.next()).await {
            return Err(failure(error));
        }
    }
    Ok(false)
}
