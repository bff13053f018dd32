//! Pixels to frames: what changed since the viewer's picture, tile by tile, each in the form that suits it.
//!
//! Pure: the owner says what is damaged, how many bytes it may cost and when; nothing is queued here. A tile that does not
//! fit stays dirty and is encoded later from pixels that are newer then, so nothing old is ever sent.
//!
//! Frames travel each on a stream of its own and arrive in any order. A viewer draws a frame as soon as it is there, unless
//! the frame names another that has to be drawn before: one under way that touches the same tiles. Whether there may be
//! such frames is the owner's to say (`Scope`); without them, a lost packet holds up nothing but its own frame. A frame
//! that is given up leaves its tiles unknown, and they are sent whole next time.
//!
//! A viewer says when it has drawn a frame. Of small ones it need not: QUIC's own acknowledgement will do, and a second one
//! would cost as much as the letter. The viewer therefore draws what comes after such a frame after it.
//!
//! ```text
//!  damage ─▶ what differs ─▶ motion: what has only moved ─▶ tile: a form for the rest ─▶ frame
//! ```
//!
//! The bytes of a frame are described in [`crate::frame`].

/// What has only moved.
mod motion;
/// The form that suits an area, and its bytes.
mod tile;

use self::{motion::Move, tile::Class};
use crate::frame::{Header, Kind, Place, Tile as FrameTile};

/// Side of a tile. Small enough that a typed letter costs little, large enough that a full screen has 510 of them.
const TILE: usize = 64;
/// Longest run of tiles that becomes one picture: more would hold up the first pixels of a large change.
const MAX_RUN_TILES: usize = 8;
/// Bytes of a budget for which a run may be one tile longer, more than most tiles take: where little may be sent, it is not
/// exceeded by a run of eight.
const RUN_TILE_BYTES: usize = 4 << 10;
/// Small changes are put together; of many, some are large.
const MAX_REJOINED: usize = 16;
/// What was not sent for so long (µs) is not part of a film.
const RARE_US: u64 = 1_000_000;

/// Frames that fit a packet, with room for its headers.
const QUIET_BYTES: usize = 1_000;

/// The longest header.
const HEADER_BYTES: usize = 32;

/// What is captured: rows of blue, green, red, unused.
#[derive(Clone, Copy, Debug)]
pub struct Picture<'a> {
    /// At least `stride · height` bytes.
    pub bytes: &'a [u8],
    /// Bytes from one row to the next.
    pub stride: usize,
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

impl<'a> Picture<'a> {
    fn row(&self, y: usize, x: usize, width: usize) -> &'a [u8] {
        &self.bytes[y * self.stride + x * 4..][..width * 4]
    }
}

/// A rectangle of pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// Left.
    pub x: usize,
    /// Top.
    pub y: usize,
    /// Never 0.
    pub width: usize,
    /// Never 0.
    pub height: usize,
}

impl Area {
    fn overlap(self, other: Self) -> Option<Self> {
        let (x, y) = (self.x.max(other.x), self.y.max(other.y));
        let right = (self.x + self.width).min(other.x + other.width);
        let bottom = (self.y + self.height).min(other.y + other.height);
        (x < right && y < bottom).then(|| Self {
            x,
            y,
            width: right - x,
            height: bottom - y,
        })
    }

    fn union(self, other: Self) -> Self {
        let (x, y) = (self.x.min(other.x), self.y.min(other.y));
        let right = (self.x + self.width).max(other.x + other.width);
        let bottom = (self.y + self.height).max(other.y + other.height);
        Self {
            x,
            y,
            width: right - x,
            height: bottom - y,
        }
    }
}

/// What a frame may cost.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Aimed at; the first tile is sent even if it is larger.
    pub bytes: usize,
    /// Of lossy tiles, 1–100.
    pub quality: u8,
}

/// Which changes a frame may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All, even of tiles that the frame under way touches, of which there may be one: it is drawn after that one.
    Overlapping,
    /// Of tiles that no frame under way touches.
    Apart,
    /// As `Apart`, and only what was not sent for a second: a letter, beside a film.
    Rare,
}

/// A finished frame.
#[derive(Clone, Debug)]
pub struct Frame {
    /// As it goes to the viewer.
    pub bytes: Vec<u8>,
    /// Acknowledged by the viewer.
    pub sequence: u32,
    /// The frame that has to be drawn before; its own sequence if there is none.
    pub after: u32,
    /// Every pixel the viewer has is exact.
    pub exact: bool,
    /// The viewer does not say when it has drawn it.
    pub quiet: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Tile {
    dirty: bool,
    /// The viewer has an approximation.
    lossy: bool,
    /// The viewer may have anything: it has had nothing yet, or a frame was given up. Always dirty.
    unknown: bool,
    /// The newest frame under way that touches it.
    under_way: Option<u32>,
    /// The one after which that is drawn, if it touches the tile, too, and is still under way.
    before: Option<u32>,
    /// Sequence of the frame it was last in: what was sent longest ago goes first, so that a letter never waits behind
    /// a video, and a video's tiles take turns.
    last_sent: u32,
    /// Capture time of that frame.
    sent_us: u64,
}

impl Tile {
    /// Nothing of it is known.
    const UNKNOWN: Self = Self {
        dirty: true,
        lossy: false,
        unknown: true,
        under_way: None,
        before: None,
        last_sent: 0,
        sent_us: 0,
    };

    /// Whether the frame `next`, captured at `now_us`, may hold its changes.
    fn is_due(&self, scope: Scope, next: u32, now_us: u64) -> bool {
        let apart = self.under_way.is_none_or(|sequence| sequence == next);
        let rare = self.sent_us == 0 || now_us.saturating_sub(self.sent_us) >= RARE_US;
        self.dirty
            && match scope {
                Scope::Overlapping => true,
                Scope::Apart => apart,
                Scope::Rare => apart && rare,
            }
    }
}

/// Remembers what the viewer has.
#[derive(Debug)]
pub struct Encoder {
    width: usize,
    height: usize,
    columns: usize,
    /// The pixels as they were when they were sent, 4 bytes each.
    sent: Vec<u8>,
    tiles: Vec<Tile>,
    sequence: u32,
    key_due: bool,
    /// The newest key frame.
    key: u32,
    /// The newest frame told that every pixel is exact.
    told_exact: bool,
}

impl Encoder {
    /// For a picture of this size; the first frame is a key frame.
    pub fn new(width: usize, height: usize) -> Self {
        let columns = width.div_ceil(TILE);
        let tiles = vec![Tile::UNKNOWN; columns * height.div_ceil(TILE)];
        Self {
            width,
            height,
            columns,
            sent: vec![0; width * height * 4],
            tiles,
            sequence: 0,
            key_due: true,
            key: 0,
            told_exact: false,
        }
    }

    /// Goes on counting where another encoder for the same viewer stopped.
    pub fn after(mut self, sequence: u32) -> Self {
        self.sequence = sequence;
        self
    }

    /// Of the newest frame.
    pub fn sequence(&self) -> u32 {
        self.sequence
    }

    /// The viewer has nothing any more, and nothing is under way.
    pub fn request_key(&mut self) {
        self.key_due = true;
        self.tiles.fill(Tile::UNKNOWN);
    }

    /// The viewer has drawn that frame.
    pub fn seen(&mut self, sequence: u32) {
        for tile in &mut self.tiles {
            if tile.under_way == Some(sequence) {
                (tile.under_way, tile.before) = (None, None);
            } else if tile.before == Some(sequence) {
                tile.before = None;
            }
        }
    }

    /// That frame was given up; nobody knows whether the viewer has drawn it. Frames that come after it are to be given up,
    /// too.
    pub fn give_up(&mut self, sequence: u32) {
        if sequence == self.key {
            self.request_key();
        }
        for tile in &mut self.tiles {
            if tile.under_way == Some(sequence) {
                // The one before may still arrive, and be drawn over what is sent from now on.
                *tile = Tile {
                    under_way: tile.before,
                    last_sent: tile.last_sent,
                    sent_us: tile.sent_us,
                    ..Tile::UNKNOWN
                };
            } else if tile.before == Some(sequence) {
                tile.before = None;
            }
        }
    }

    /// Something may have changed there; what lies outside the picture is cut off.
    pub fn damage(&mut self, area: Area) {
        let right = (area.x + area.width).min(self.width).div_ceil(TILE);
        let bottom = (area.y + area.height).min(self.height).div_ceil(TILE);
        for row in area.y / TILE..bottom {
            for column in area.x / TILE..right {
                self.tiles[row * self.columns + column].dirty = true;
            }
        }
    }

    fn next(&self) -> u32 {
        self.sequence.wrapping_add(1)
    }

    /// Sequence of the newest key frame.
    pub fn key(&self) -> u32 {
        self.key
    }

    /// Whether the next frame is a key frame. It goes alone: what overtook it could not be drawn.
    pub fn needs_key(&self) -> bool {
        self.key_due
    }

    /// Whether a frame of that scope is worth making.
    pub fn has_changes(&self, scope: Scope, now_us: u64) -> bool {
        let next = self.next();
        self.key_due
            || self
                .tiles
                .iter()
                .any(|tile| tile.is_due(scope, next, now_us))
    }

    /// Whether the viewer has approximations that can be made exact now, or is to be told that it has none.
    pub fn can_rest(&self) -> bool {
        let mut left = self
            .tiles
            .iter()
            .filter(|tile| tile.lossy || tile.dirty || tile.under_way.is_some())
            .peekable();
        if left.peek().is_none() {
            return !self.told_exact && !self.key_due;
        }
        left.any(|tile| tile.lossy && !tile.dirty && tile.under_way.is_none())
    }

    /// A frame of what changed, the rarely changing first, within `budget`; `None` when nothing did.
    pub fn encode(
        &mut self,
        picture: Picture<'_>,
        budget: Budget,
        scope: Scope,
        captured_us: u64,
    ) -> Option<Frame> {
        let key = self.key_due;
        let mut body = Body::new(self.next(), captured_us);
        let mut changed = self.changed_areas(picture, scope, captured_us);
        if changed.is_empty() && !key {
            return None;
        }
        let moves = self.moves(picture, &changed, scope);
        if !moves.is_empty() {
            self.copy(&moves, &mut body);
            changed = self.changed_areas(picture, scope, captured_us);
        }
        for (area, class) in self.runs(picture, changed, budget) {
            if !body.tiles.is_empty() && body.tiles.len() >= budget.bytes {
                break;
            }
            self.put(picture, area, class, budget.quality, &mut body);
        }
        if key {
            self.key = self.next();
        }
        self.key_due = false;
        Some(self.finish(body, key))
    }

    /// A frame that makes approximations exact, within `budget`, or says that everything is; `None` when neither is due.
    pub fn refine(
        &mut self,
        picture: Picture<'_>,
        budget: Budget,
        captured_us: u64,
    ) -> Option<Frame> {
        if !self.can_rest() {
            return None;
        }
        let mut body = Body::new(self.next(), captured_us);
        for index in 0..self.tiles.len() {
            let tile = self.tiles[index];
            if !tile.lossy || tile.dirty || tile.under_way.is_some() {
                continue;
            }
            if body.tiles.len() >= budget.bytes {
                break;
            }
            let area = self.tile_area(index);
            self.put(picture, area, Class::Drawn, budget.quality, &mut body);
        }
        Some(self.finish(body, false))
    }

    fn finish(&mut self, body: Body, key: bool) -> Frame {
        self.sequence = self.next();
        let own = Some(self.sequence);
        let exact = self.tiles.iter().all(|tile| {
            let alone = tile.under_way.is_none() || tile.under_way == own;
            !tile.dirty && !tile.lossy && alone
        }) && body.after == self.sequence;
        self.told_exact = exact;
        // One that has to wait for another is not drawn when it has arrived.
        let alone = !key && body.after == self.sequence;
        let header = Header {
            sequence: self.sequence,
            captured_ms: body.captured_us / 1000,
            after: body.after,
            key: key.then(|| (short(self.width), short(self.height))),
            exact,
            quiet: alone && body.tiles.len() <= QUIET_BYTES,
        };
        let mut bytes = Vec::with_capacity(HEADER_BYTES + body.tiles.len());
        header.write(&mut bytes);
        bytes.extend_from_slice(&body.tiles);
        Frame {
            bytes,
            sequence: self.sequence,
            after: body.after,
            exact,
            quiet: header.quiet,
        }
    }

    fn tile_area(&self, index: usize) -> Area {
        let (x, y) = (index % self.columns * TILE, index / self.columns * TILE);
        Area {
            x,
            y,
            width: TILE.min(self.width - x),
            height: TILE.min(self.height - y),
        }
    }

    /// For each dirty tile that is due what really differs; tiles in which nothing does are clean again.
    fn changed_areas(
        &mut self,
        picture: Picture<'_>,
        scope: Scope,
        now_us: u64,
    ) -> Vec<(usize, Area)> {
        let next = self.next();
        let mut changed = Vec::new();
        for index in 0..self.tiles.len() {
            let tile = self.tiles[index];
            if !tile.is_due(scope, next, now_us) {
                continue;
            }
            let area = self.tile_area(index);
            let differs = if tile.unknown {
                Some(area)
            } else {
                self.difference(picture, area)
            };
            match differs {
                Some(area) => changed.push((index, area)),
                None => self.tiles[index].dirty = false,
            }
        }
        changed
    }

    fn sent(&self) -> Picture<'_> {
        Picture {
            bytes: &self.sent,
            stride: self.width * 4,
            width: self.width,
            height: self.height,
        }
    }

    fn difference(&self, picture: Picture<'_>, area: Area) -> Option<Area> {
        let mut found: Option<Area> = None;
        for y in area.y..area.y + area.height {
            let (new, old) = (
                picture.row(y, area.x, area.width),
                self.sent().row(y, area.x, area.width),
            );
            if new == old {
                continue;
            }
            let differs = |at: &usize| new[at * 4..at * 4 + 3] != old[at * 4..at * 4 + 3];
            let Some(first) = (0..area.width).find(differs) else {
                continue;
            };
            let last = (0..area.width).rev().find(differs).unwrap_or(first);
            let row = Area {
                x: area.x + first,
                y,
                width: last - first + 1,
                height: 1,
            };
            found = Some(found.map_or(row, |found| found.union(row)));
        }
        found
    }

    // ---- what has only moved -------------------------------------------------------------

    /// What stood elsewhere in what the viewer has, and may be copied there.
    fn moves(&self, picture: Picture<'_>, changed: &[(usize, Area)], scope: Scope) -> Vec<Move> {
        let areas: Vec<Area> = changed.iter().map(|(_, area)| *area).collect();
        let apart = scope != Scope::Overlapping;
        let busy = |tile: &Tile| tile.unknown || (apart && tile.under_way.is_some());
        let mut moves = motion::find(picture, self.sent(), &areas);
        moves.retain(|Move { from, to }| !self.any_tile(*from, busy) && !self.any_tile(*to, busy));
        moves
    }

    /// Tells the viewer to copy, and does the same to what it is known to have. All copies are from the picture before.
    fn copy(&mut self, moves: &[Move], body: &mut Body) {
        let mut lossy = Vec::new();
        let mut rows = Vec::new();
        for Move { from, to } in moves {
            for index in self.tile_indices(*to) {
                let part = self.tile_area(index).overlap(*to);
                let source = part.map(|part| Area {
                    x: part.x - to.x + from.x,
                    y: part.y - to.y + from.y,
                    ..part
                });
                if source.is_some_and(|source| self.any_tile(source, |tile| tile.lossy)) {
                    lossy.push(index);
                }
            }
            for y in from.y..from.y + from.height {
                rows.extend_from_slice(self.sent().row(y, from.x, from.width));
            }
        }
        let mut rows = &rows[..];
        for Move { from, to } in moves {
            for y in to.y..to.y + to.height {
                let (row, rest) = rows.split_at(to.width * 4);
                let at = (y * self.width + to.x) * 4;
                self.sent[at..at + row.len()].copy_from_slice(row);
                rows = rest;
            }
            for area in [*from, *to] {
                self.each_tile(area, |tile| body.touch(tile));
            }
            self.damage(*to);
            let source = [short(from.x), short(from.y)];
            body.tile(*to, Kind::Copy, &source.map(u16::to_le_bytes).concat());
        }
        for index in lossy {
            self.tiles[index].lossy = true;
        }
    }

    fn tile_indices(&self, area: Area) -> Vec<usize> {
        let rows = area.y / TILE..=(area.y + area.height - 1) / TILE;
        let columns = self.columns;
        rows.flat_map(|row| {
            (area.x / TILE..=(area.x + area.width - 1) / TILE)
                .map(move |column| row * columns + column)
        })
        .collect()
    }

    fn any_tile(&self, area: Area, test: impl Fn(&Tile) -> bool) -> bool {
        self.tile_indices(area)
            .into_iter()
            .any(|index| test(&self.tiles[index]))
    }

    fn each_tile(&mut self, area: Area, mut change: impl FnMut(&mut Tile)) {
        for index in self.tile_indices(area) {
            change(&mut self.tiles[index]);
        }
    }

    // ---- forms ---------------------------------------------------------------------------

    /// Neighbours of one class become one picture; what was sent longest ago comes first.
    fn runs(
        &self,
        picture: Picture<'_>,
        changed: Vec<(usize, Area)>,
        budget: Budget,
    ) -> Vec<(Area, Class)> {
        let longest = (budget.bytes / RUN_TILE_BYTES).clamp(1, MAX_RUN_TILES);
        let mut runs: Vec<Run> = Vec::new();
        for (index, area) in changed {
            let (class, sent) = (tile::classify(picture, area), self.tiles[index].last_sent);
            match runs.last_mut() {
                Some(run)
                    if run.class == class
                        && run.last + 1 == index
                        && run.tiles < longest
                        && !index.is_multiple_of(self.columns) =>
                {
                    *run = Run {
                        area: run.area.union(area),
                        last: index,
                        tiles: run.tiles + 1,
                        oldest: run.oldest.min(sent),
                        class,
                    };
                }
                _ => runs.push(Run {
                    area,
                    class,
                    last: index,
                    tiles: 1,
                    oldest: sent,
                }),
            }
        }
        if runs.len() <= MAX_REJOINED {
            rejoin(&mut runs);
        }
        runs.sort_by_key(|run| (run.oldest, run.area.y));
        runs.into_iter().map(|run| (run.area, run.class)).collect()
    }

    fn put(
        &mut self,
        picture: Picture<'_>,
        area: Area,
        class: Class,
        quality: u8,
        body: &mut Body,
    ) {
        let form = tile::form(picture, area, class, quality);
        let lossy = form.kind == Kind::Jpeg;
        body.tile(area, form.kind, &form.payload);
        for y in area.y..area.y + area.height {
            let at = (y * self.width + area.x) * 4;
            self.sent[at..at + area.width * 4].copy_from_slice(picture.row(y, area.x, area.width));
        }
        for index in self.tile_indices(area) {
            let whole = self.tile_area(index);
            let covers = area.union(whole) == area;
            let tile = &mut self.tiles[index];
            body.touch(tile);
            // Neighbours in a run lend each other their height: what an unknown tile lacks stays unknown.
            tile.unknown &= !covers;
            tile.dirty = tile.unknown;
            tile.lossy = lossy || (tile.lossy && !covers);
            (tile.last_sent, tile.sent_us) = (body.sequence, body.captured_us);
        }
    }
}

/// Neighbouring tiles that become one picture.
struct Run {
    area: Area,
    class: Class,
    last: usize,
    tiles: usize,
    oldest: u32,
}

impl Run {
    /// Whether `below` is a small area that a border between tiles has cut off this one.
    fn goes_on_in(&self, below: &Self) -> bool {
        let size = |area: Area| area.width * area.height;
        let union = size(self.area.union(below.area));
        let drawn = self.class == Class::Drawn && below.class == Class::Drawn;
        // Other tiles may be under way.
        let columns = |area: Area| (area.x / TILE, (area.x + area.width - 1) / TILE);
        drawn
            && columns(self.area) == columns(below.area)
            && self.area.y + self.area.height == below.area.y
            && union <= TILE * TILE
            && union <= 2 * (size(self.area) + size(below.area))
    }
}

/// A letter that a border between tiles has cut in two is one again.
fn rejoin(runs: &mut Vec<Run>) {
    let mut at = 0;
    while at < runs.len() {
        let rest = runs.iter().skip(at + 1);
        let found = rest.clone().position(|below| runs[at].goes_on_in(below));
        let Some(found) = found else {
            at += 1;
            continue;
        };
        let below = runs.remove(at + 1 + found);
        let run = &mut runs[at];
        run.area = run.area.union(below.area);
        run.oldest = run.oldest.min(below.oldest);
    }
}

/// The tiles of a frame in the making.
#[derive(Debug)]
struct Body {
    sequence: u32,
    captured_us: u64,
    after: u32,
    /// As they go into the frame.
    tiles: Vec<u8>,
}

impl Body {
    fn new(sequence: u32, captured_us: u64) -> Self {
        Self {
            sequence,
            captured_us,
            after: sequence,
            tiles: Vec::new(),
        }
    }

    /// The frame changes or reads the tile: whatever is under way there comes before it.
    fn touch(&mut self, tile: &mut Tile) {
        if let Some(before) = tile.under_way.replace(self.sequence)
            && before != self.sequence
        {
            tile.before = Some(before);
            if self.after == self.sequence || is_newer(before, self.after) {
                self.after = before;
            }
        }
    }

    fn tile(&mut self, area: Area, kind: Kind, payload: &[u8]) {
        let place = Place {
            x: short(area.x),
            y: short(area.y),
            width: short(area.width),
            height: short(area.height),
        };
        let tile = FrameTile {
            place,
            kind,
            payload,
        };
        tile.write(&mut self.tiles);
    }
}

/// Whether frame `a` was made after `b`; sequences wrap.
fn is_newer(a: u32, b: u32) -> bool {
    a != b && a.wrapping_sub(b) <= u32::MAX / 2
}

fn short(value: usize) -> u16 {
    u16::try_from(value).expect("screens are below 65,536 pixels")
}

#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "colours made from positions"
)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::decode::Canvas;

    const WIDTH: usize = 300;
    const HEIGHT: usize = 260;
    const PLENTY: Budget = Budget {
        bytes: usize::MAX,
        quality: 80,
    };

    /// What a viewer makes of frames.
    struct Viewer {
        canvas: Canvas,
        forms: Vec<Kind>,
    }

    impl Viewer {
        fn new() -> Self {
            Self {
                canvas: Canvas::new(),
                forms: Vec::new(),
            }
        }

        /// A frame that waits for no other.
        fn draw(&mut self, frame: &Frame) {
            let drawn = self.canvas.draw(&frame.bytes.clone().into());
            let drawn = drawn.expect("a frame");
            assert_eq!((drawn.len(), drawn[0].sequence), (1, frame.sequence));
            self.forms.clone_from(&drawn[0].tiles);
        }

        fn assert_exact(&self, picture: &[u8]) {
            let seen = self.canvas.pixels().bytes.chunks(4);
            for (at, (seen, real)) in seen.zip(picture.chunks(4)).enumerate() {
                assert_eq!(seen, real, "pixel {},{}", at % WIDTH, at / WIDTH);
            }
        }
    }

    /// The viewer draws a frame and says so.
    fn show(encoder: &mut Encoder, viewer: &mut Viewer, frame: &Frame) {
        viewer.draw(frame);
        encoder.seen(frame.sequence);
    }

    /// Changes a part of the screen in one of a few ways.
    fn paint(bytes: &mut [u8], area: Area, colour: [u8; 3], how: u8) {
        for y in area.y..area.y + area.height {
            for x in area.x..area.x + area.width {
                let new = match how {
                    0 => colour,
                    1 => text(x, y, usize::from(colour[0])),
                    2 => photo(x + usize::from(colour[1]), y),
                    _ => [(x / 3) as u8, (y / 3) as u8, colour[2]],
                };
                bytes[(y * WIDTH + x) * 4..][..3].copy_from_slice(&new);
            }
        }
    }

    fn screen(colour: impl Fn(usize, usize) -> [u8; 3]) -> Vec<u8> {
        let pixel = |at: usize| {
            let [b, g, r] = colour(at % WIDTH, at / WIDTH);
            [b, g, r, 0]
        };
        (0..WIDTH * HEIGHT).flat_map(pixel).collect()
    }

    fn picture(bytes: &[u8]) -> Picture<'_> {
        Picture {
            bytes,
            stride: WIDTH * 4,
            width: WIDTH,
            height: HEIGHT,
        }
    }

    fn text(x: usize, y: usize, seed: usize) -> [u8; 3] {
        let on = (x / 2 * 7 + y / 3 * 13 + y * x / 5 + seed * 31).is_multiple_of(5);
        if on { [20, 20, 20] } else { [250, 250, 250] }
    }

    /// As on a page: no two lines are the same.
    fn letters(x: usize, y: usize) -> [u8; 3] {
        let stroke = (x / 8 * 131 + y / 14 * 7_919 + x % 8 / 2 * 31 + y % 14 / 2 * 57) as u64;
        let mixed = stroke.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mixed = (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let is_ink = y % 14 < 11 && mixed >> 56 < 90;
        if is_ink {
            [20, 20, 20]
        } else {
            [250, 250, 250]
        }
    }

    fn photo(x: usize, y: usize) -> [u8; 3] {
        let mix = (x * 2_654_435 + y * 40_503) as u32;
        [(x * 3 % 256) as u8, (y * 2 % 256) as u8, (mix >> 7) as u8]
    }

    /// QUIC begins with a window of 12,000 bytes, and what does not fit waits for a round trip and more.
    #[test]
    fn a_frame_of_a_small_budget_is_not_much_larger_whatever_is_shown() {
        let (width, height) = (1280, 320);
        let mut state = 1u64;
        let mut noise = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            if state >> 63 == 1 { 250 } else { 5 }
        };
        let bytes: Vec<u8> = (0..width * height * 4).map(|_| noise()).collect();
        let noise = Picture {
            bytes: &bytes,
            stride: width * 4,
            width,
            height,
        };
        let mut encoder = Encoder::new(width, height);
        let budget = Budget {
            bytes: 8 << 10,
            quality: 60,
        };
        for step in 0..4 {
            let frame = encoder.encode(noise, budget, Scope::Overlapping, step);
            let bytes = frame.expect("there is more").bytes.len();
            assert!((5_000..=12_000).contains(&bytes), "{bytes}");
        }
    }

    #[test]
    fn the_first_frame_is_the_whole_screen() {
        let bytes = screen(|x, y| text(x, y, 0));
        let (mut encoder, mut viewer) = (Encoder::new(WIDTH, HEIGHT), Viewer::new());
        let frame = encoder
            .encode(picture(&bytes), PLENTY, Scope::Overlapping, 7)
            .expect("a key frame");
        assert_eq!(frame.bytes[0], 0x13, "key and exact");
        show(&mut encoder, &mut viewer, &frame);
        viewer.assert_exact(&bytes);
        assert!(!encoder.has_changes(Scope::Overlapping, 8));
        assert!(
            encoder
                .encode(picture(&bytes), PLENTY, Scope::Overlapping, 8)
                .is_none(),
            "an idle screen costs nothing"
        );
    }

    #[test]
    fn a_typed_letter_costs_little() {
        let mut bytes = screen(|_, _| [250, 250, 250]);
        let (mut encoder, mut viewer) = (Encoder::new(WIDTH, HEIGHT), Viewer::new());
        let frame = encoder
            .encode(picture(&bytes), PLENTY, Scope::Overlapping, 0)
            .expect("key");
        show(&mut encoder, &mut viewer, &frame);
        for (x, y) in [(100, 50), (103, 55), (106, 60), (101, 64)] {
            bytes[(y * WIDTH + x) * 4..][..3].copy_from_slice(&[10, 10, 10]);
        }
        encoder.damage(Area {
            x: 90,
            y: 40,
            width: 40,
            height: 40,
        });
        let frame = encoder
            .encode(picture(&bytes), PLENTY, Scope::Overlapping, 1)
            .expect("a change");
        show(&mut encoder, &mut viewer, &frame);
        viewer.assert_exact(&bytes);
        assert!(frame.bytes.len() < 120, "{} bytes", frame.bytes.len());
    }

    #[test]
    fn a_letter_with_smoothed_edges_is_exact_at_once() {
        let mut bytes = screen(|_, _| [250, 250, 250]);
        let (mut encoder, mut viewer) = (Encoder::new(WIDTH, HEIGHT), Viewer::new());
        let frame = encoder
            .encode(picture(&bytes), PLENTY, Scope::Overlapping, 0)
            .expect("key");
        show(&mut encoder, &mut viewer, &frame);
        // Across the border of two tiles.
        let letter = Area {
            x: 120,
            y: 20,
            width: 18,
            height: 19,
        };
        for y in letter.y..letter.y + letter.height {
            for x in letter.x..letter.x + letter.width {
                let shade = (x * 37 + y * 11) as u8;
                bytes[(y * WIDTH + x) * 4..][..3].fill(shade);
            }
        }
        encoder.damage(letter);
        let frame = encoder
            .encode(picture(&bytes), PLENTY, Scope::Overlapping, 1)
            .expect("a change");
        show(&mut encoder, &mut viewer, &frame);
        assert_eq!(viewer.forms, [Kind::Grey], "one tile, nothing to refine");
        assert!(frame.exact);
        viewer.assert_exact(&bytes);
    }

    #[test]
    fn text_in_many_colours_is_exact_at_once() {
        let bytes = screen(|x, y| {
            let [ink, ..] = text(x, y, 3);
            [
                ink,
                ink,
                if ink < 100 {
                    (y / 20 * 17 + x % 7) as u8
                } else {
                    ink
                },
            ]
        });
        let (mut encoder, mut viewer) = (Encoder::new(WIDTH, HEIGHT), Viewer::new());
        let frame = encoder
            .encode(picture(&bytes), PLENTY, Scope::Overlapping, 0)
            .expect("key");
        assert!(frame.exact);
        show(&mut encoder, &mut viewer, &frame);
        viewer.assert_exact(&bytes);
    }

    #[test]
    fn a_photograph_is_sent_roughly_and_made_exact_later() {
        let bytes = screen(photo);
        let (mut encoder, mut viewer) = (Encoder::new(WIDTH, HEIGHT), Viewer::new());
        let frame = encoder
            .encode(picture(&bytes), PLENTY, Scope::Overlapping, 0)
            .expect("key");
        assert!(!frame.exact);
        show(&mut encoder, &mut viewer, &frame);
        assert!(viewer.forms.contains(&Kind::Jpeg));
        let small = Budget {
            bytes: 20_000,
            quality: 80,
        };
        while let Some(frame) = encoder.refine(picture(&bytes), small, 1) {
            assert!(frame.bytes.len() < 60_000);
            show(&mut encoder, &mut viewer, &frame);
        }
        viewer.assert_exact(&bytes);
        assert!(!encoder.can_rest());
    }

    #[test]
    fn a_photograph_out_of_focus_is_one_too() {
        let bytes = screen(|x, y| [(x / 3) as u8, ((x + y) / 4) as u8, (y / 2) as u8]);
        let (mut encoder, mut viewer) = (Encoder::new(WIDTH, HEIGHT), Viewer::new());
        let frame = encoder
            .encode(picture(&bytes), PLENTY, Scope::Overlapping, 0)
            .expect("key");
        show(&mut encoder, &mut viewer, &frame);
        assert!(viewer.forms.contains(&Kind::Jpeg), "{:?}", viewer.forms);
    }

    #[test]
    fn a_scroll_is_copied() {
        let page = |offset: usize| screen(move |x, y| letters(x, y + offset));
        let (mut encoder, mut viewer) = (Encoder::new(WIDTH, HEIGHT), Viewer::new());
        let frame = encoder
            .encode(picture(&page(0)), PLENTY, Scope::Overlapping, 0)
            .expect("key");
        show(&mut encoder, &mut viewer, &frame);
        for (step, offset) in [17, 60, 40, 41].into_iter().enumerate() {
            let bytes = page(offset);
            encoder.damage(Area {
                x: 0,
                y: 0,
                width: WIDTH,
                height: HEIGHT,
            });
            let frame = encoder
                .encode(picture(&bytes), PLENTY, Scope::Overlapping, 1)
                .expect("a change");
            show(&mut encoder, &mut viewer, &frame);
            assert_eq!(viewer.forms.first(), Some(&Kind::Copy), "step {step}");
            viewer.assert_exact(&bytes);
        }
    }

    #[test]
    fn what_does_not_fit_waits_and_what_changes_rarely_goes_first() {
        let mut bytes = screen(|_, _| [0, 0, 0]);
        let (mut encoder, mut viewer) = (Encoder::new(WIDTH, HEIGHT), Viewer::new());
        let frame = encoder
            .encode(picture(&bytes), PLENTY, Scope::Overlapping, 0)
            .expect("key");
        show(&mut encoder, &mut viewer, &frame);
        let tight = Budget {
            bytes: 2_000,
            quality: 50,
        };
        for frame in 0..20usize {
            for y in 0..128 {
                for x in 0..WIDTH {
                    let colour = photo(x * (frame + 1), y + frame * 7);
                    bytes[(y * WIDTH + x) * 4..][..3].copy_from_slice(&colour);
                }
            }
            encoder.damage(Area {
                x: 0,
                y: 0,
                width: WIDTH,
                height: 128,
            });
            if frame == 19 {
                bytes[(200 * WIDTH + 200) * 4..][..3].copy_from_slice(&[1, 2, 3]);
                encoder.damage(Area {
                    x: 200,
                    y: 200,
                    width: 1,
                    height: 1,
                });
            }
            let frame = encoder
                .encode(picture(&bytes), tight, Scope::Overlapping, 1)
                .expect("a change");
            show(&mut encoder, &mut viewer, &frame);
        }
        assert_eq!(
            viewer.canvas.pixel(200, 200),
            Some([1, 2, 3]),
            "the letter came before the video"
        );
        assert!(encoder.has_changes(Scope::Overlapping, 2));
    }

    #[test]
    fn a_new_viewer_gets_everything() {
        let bytes = screen(|x, y| text(x, y, 1));
        let mut encoder = Encoder::new(WIDTH, HEIGHT);
        encoder
            .encode(picture(&bytes), PLENTY, Scope::Overlapping, 0)
            .expect("key");
        encoder.request_key();
        let mut viewer = Viewer::new();
        let frame = encoder
            .encode(picture(&bytes), PLENTY, Scope::Overlapping, 0)
            .expect("key");
        show(&mut encoder, &mut viewer, &frame);
        viewer.assert_exact(&bytes);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        #[test]
        fn whatever_is_drawn_the_viewer_ends_up_exact(
            steps in prop::collection::vec((0..WIDTH, 0..HEIGHT, 1..200usize, 1..200usize, any::<[u8; 3]>(), 0u8..4), 1..12),
            budget in 500usize..50_000,
        ) {
            let mut bytes = screen(|x, y| text(x, y, 0));
            let (mut encoder, mut viewer) = (Encoder::new(WIDTH, HEIGHT), Viewer::new());
            let budget = Budget { bytes: budget, quality: 60 };
            for (left, top, width, height, colour, how) in steps {
                let area = Area { x: left, y: top, width: width.min(WIDTH - left), height: height.min(HEIGHT - top) };
                paint(&mut bytes, area, colour, how);
                encoder.damage(area);
                if let Some(frame) = encoder.encode(picture(&bytes), budget, Scope::Overlapping, 1) {
                    show(&mut encoder, &mut viewer, &frame);
                }
            }
            while let Some(frame) = encoder.encode(picture(&bytes), budget, Scope::Overlapping, 1) {
                show(&mut encoder, &mut viewer, &frame);
            }
            while let Some(frame) = encoder.refine(picture(&bytes), budget, 1) {
                show(&mut encoder, &mut viewer, &frame);
            }
            viewer.assert_exact(&bytes);
        }

        /// The network delivers in any order, loses, and says late what arrived: in the end every pixel is exact.
        #[test]
        fn whatever_is_late_or_given_up_the_viewer_ends_up_exact(
            steps in prop::collection::vec(
                (0..WIDTH, 0..HEIGHT, 1..200usize, 1..200usize, any::<[u8; 3]>(), 0u8..4, 0u8..6, any::<prop::sample::Index>()), 1..40),
            budget in 500usize..20_000,
        ) {
            let mut bytes = screen(|x, y| text(x, y, 0));
            let (mut encoder, mut viewer) = (Encoder::new(WIDTH, HEIGHT), Viewer::new());
            let budget = Budget { bytes: budget, quality: 60 };
            let mut under_way: Vec<Frame> = Vec::new();
            let mut now_us = 1;
            for (left, top, width, height, colour, how, what, which) in steps {
                now_us += 300_000;
                if !under_way.is_empty() && what < 4 {
                    let frame = under_way[which.index(under_way.len())].clone();
                    let waits = frame.after != frame.sequence && under_way.iter().any(|other| other.sequence == frame.after);
                    if what == 0 || (what == 1 && !waits) {
                        if what == 1 {
                            viewer.draw(&frame);
                        }
                        // Given up, drawn or not; with all that would be drawn after it.
                        let mut lost = vec![frame.sequence];
                        while let Some(sequence) = lost.pop() {
                            encoder.give_up(sequence);
                            under_way.retain(|other| {
                                let after = other.after == sequence && other.sequence != sequence;
                                if after {
                                    lost.push(other.sequence);
                                }
                                !after && other.sequence != sequence
                            });
                        }
                    } else if !waits {
                        under_way.retain(|other| other.sequence != frame.sequence);
                        show(&mut encoder, &mut viewer, &frame);
                    }
                    continue;
                }
                let area = Area { x: left, y: top, width: width.min(WIDTH - left), height: height.min(HEIGHT - top) };
                paint(&mut bytes, area, colour, how);
                encoder.damage(area);
                let scope = match what {
                    4 if under_way.len() < 2 => Scope::Overlapping,
                    _ if how == 0 => Scope::Rare,
                    _ => Scope::Apart,
                };
                // A key frame goes alone.
                if !under_way.is_empty() && (encoder.needs_key() || under_way.iter().any(|frame| frame.sequence == encoder.key())) {
                    continue;
                }
                if let Some(frame) = encoder.encode(picture(&bytes), budget, scope, now_us) {
                    if scope != Scope::Overlapping {
                        prop_assert_eq!(frame.after, frame.sequence);
                    }
                    under_way.push(frame);
                }
            }
            for frame in under_way {
                show(&mut encoder, &mut viewer, &frame);
            }
            while let Some(frame) = encoder.encode(picture(&bytes), budget, Scope::Apart, now_us) {
                show(&mut encoder, &mut viewer, &frame);
            }
            let mut exact = false;
            while let Some(frame) = encoder.refine(picture(&bytes), budget, now_us) {
                exact = frame.exact;
                show(&mut encoder, &mut viewer, &frame);
            }
            viewer.assert_exact(&bytes);
            prop_assert!(exact || encoder.told_exact);
        }
    }
}
