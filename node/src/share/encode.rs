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
//! A frame, little endian:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 1 | version, 1 |
//! | 1 | 1 | flags: bit 0 key frame (lower sequences are not drawn any more), bit 1 every pixel is exact now, bit 2 not to be acknowledged |
//! | 2 | 2 | source |
//! | 4 | 4 | sequence |
//! | 8 | 8 | capture time, µs |
//! | 16 | 2 + 2 | width, height |
//! | 20 | 4 | sequence of the frame that has to be drawn before this one; its own if there is none |
//! | 24 | 2 | number of tiles |
//! | 26 | … | tiles: x, y, width, height (2 each), kind 1, reserved 1, length 4, payload |
//!
//! | kind | payload |
//! |---|---|
//! | 0 solid | blue, green, red |
//! | 1 palette | count n (2–255), n colours, rows of 1-, 2-, 4- or 8-bit indices, first pixel in the highest bits, rows padded |
//! | 2 palette | as 1, the index bytes deflated (RFC 1951) |
//! | 3 | PNG, exact |
//! | 4 | JPEG, to be made exact once the screen rests |
//! | 5 copy | source x, y: from the picture before this frame; copies come first |
//! | 6 grey | a byte a pixel, deflated: text, whose smoothed edges have too many shades for 4-bit indices |

use std::io::Write;

use flate2::{Compression, write::DeflateEncoder};

/// Side of a tile. Small enough that a typed letter costs little, large enough that a full screen has 510 of them.
const TILE: usize = 64;
/// Longest run of tiles that becomes one picture: more would hold up the first pixels of a large change.
const MAX_RUN_TILES: usize = 8;
/// Colours that still fit a palette tile, whose indices are bytes at most; text with its smoothed edges does.
const MAX_PALETTE: usize = 255;
/// Slots of the table that finds a colour's index: sparse, so that a look is mostly one step.
const PALETTE_SLOTS: usize = 1024;
/// Below this many pixels an approximation costs more than what it approximates: a JPEG's tables alone are 600 bytes.
const MIN_PHOTO_PIXELS: usize = 1024;
/// A difference between neighbours that is an edge.
const JUMP: u8 = 32;
/// Distinct colours (of a hash's 1,024) below which a tile is drawn by a program, not seen by a camera.
const MIN_PHOTO_COLOURS: usize = 48;
/// Rows that must be found again elsewhere before a change counts as a scroll.
const MIN_SCROLL_ROWS: usize = 32;
/// Furthest scroll looked for.
const MAX_SCROLL_ROWS: usize = 640;

/// What was not sent for so long (µs) is not part of a film.
const RARE_US: u64 = 1_000_000;

/// Frames that fit a packet, with room for its headers.
const QUIET_BYTES: usize = 1_000;

const HEADER_BYTES: usize = 26;
const TILE_HEADER_BYTES: usize = 14;

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

impl Picture<'_> {
    fn row(&self, y: usize, x: usize, width: usize) -> &[u8] {
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

/// Which form suits an area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// Text and interface: exact.
    Drawn,
    /// Photograph or video: lossy first.
    Photo,
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
    source: u16,
    sequence: u32,
    key_due: bool,
    /// The newest key frame.
    key: u32,
    /// The newest frame told that every pixel is exact.
    told_exact: bool,
}

impl Encoder {
    /// For a picture of this size; the first frame is a key frame.
    pub fn new(source: u16, width: usize, height: usize) -> Self {
        let columns = width.div_ceil(TILE);
        let tiles = vec![Tile::UNKNOWN; columns * height.div_ceil(TILE)];
        Self {
            width,
            height,
            columns,
            sent: vec![0; width * height * 4],
            tiles,
            source,
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
                tile.under_way = None;
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
                *tile = Tile {
                    last_sent: tile.last_sent,
                    sent_us: tile.sent_us,
                    ..Tile::UNKNOWN
                };
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
        if let Some((from, to)) = self.find_scroll(picture, &changed, scope) {
            self.copy(from, to, &mut body);
            changed = self.changed_areas(picture, scope, captured_us);
        }
        for (area, class) in self.runs(picture, changed) {
            if body.count > 0 && body.bytes.len() >= budget.bytes {
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
            if body.bytes.len() >= budget.bytes {
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
        let mut bytes = Vec::with_capacity(HEADER_BYTES + body.bytes.len());
        // One that has to wait for another is not drawn when it has arrived.
        let alone = !key && body.after == self.sequence;
        let quiet = alone && HEADER_BYTES + body.bytes.len() <= QUIET_BYTES;
        let flags = u8::from(key) | u8::from(exact) << 1 | u8::from(quiet) << 2;
        bytes.extend_from_slice(&[1, flags]);
        bytes.extend_from_slice(&self.source.to_le_bytes());
        bytes.extend_from_slice(&self.sequence.to_le_bytes());
        bytes.extend_from_slice(&body.captured_us.to_le_bytes());
        bytes.extend_from_slice(&short(self.width));
        bytes.extend_from_slice(&short(self.height));
        bytes.extend_from_slice(&body.after.to_le_bytes());
        bytes.extend_from_slice(&short(body.count));
        bytes.extend_from_slice(&body.bytes);
        Frame {
            bytes,
            sequence: self.sequence,
            after: body.after,
            exact,
            quiet,
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

    fn sent_row(&self, y: usize, x: usize, width: usize) -> &[u8] {
        &self.sent[(y * self.width + x) * 4..][..width * 4]
    }

    fn difference(&self, picture: Picture<'_>, area: Area) -> Option<Area> {
        let mut found: Option<Area> = None;
        for y in area.y..area.y + area.height {
            let (new, old) = (
                picture.row(y, area.x, area.width),
                self.sent_row(y, area.x, area.width),
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

    // ---- scrolls -------------------------------------------------------------------------

    /// The largest block of rows that stood elsewhere in what the viewer has.
    fn find_scroll(
        &self,
        picture: Picture<'_>,
        changed: &[(usize, Area)],
        scope: Scope,
    ) -> Option<(Area, Area)> {
        let all = changed.iter().map(|(_, area)| *area).reduce(Area::union)?;
        if all.height < 2 * MIN_SCROLL_ROWS || all.width < TILE {
            return None;
        }
        let hashes =
            |row: &dyn Fn(usize) -> u64| (all.y..all.y + all.height).map(row).collect::<Vec<u64>>();
        let new = hashes(&|y| hash(picture.row(y, all.x, all.width)));
        let old = hashes(&|y| hash(self.sent_row(y, all.x, all.width)));
        let (shift, start, rows) = best_shift(&new, &old)?;
        let to = Area {
            x: all.x,
            y: all.y + start,
            width: all.width,
            height: rows,
        };
        let from_y = (all.y + start).checked_add_signed(shift)?;
        let from = Area { y: from_y, ..to };
        let apart = scope != Scope::Overlapping;
        let busy = |tile: &Tile| tile.unknown || (apart && tile.under_way.is_some());
        let free = !self.any_tile(from, busy) && !self.any_tile(to, busy);
        free.then_some((from, to))
    }

    /// Tells the viewer to copy, and does the same to what it is known to have.
    fn copy(&mut self, from: Area, to: Area, body: &mut Body) {
        let rows: Vec<Vec<u8>> = (from.y..from.y + from.height)
            .map(|y| self.sent_row(y, from.x, from.width).to_vec())
            .collect();
        let lossy = self.any_tile(from, |tile| tile.lossy);
        for (offset, row) in rows.iter().enumerate() {
            let at = ((to.y + offset) * self.width + to.x) * 4;
            self.sent[at..at + row.len()].copy_from_slice(row);
        }
        if lossy {
            self.each_tile(to, |tile| tile.lossy = true);
        }
        for area in [from, to] {
            self.each_tile(area, |tile| body.touch(tile));
        }
        self.damage(to);
        body.tile(to, 5, &[short(from.x), short(from.y)].concat());
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
    fn runs(&self, picture: Picture<'_>, changed: Vec<(usize, Area)>) -> Vec<(Area, Class)> {
        let mut runs: Vec<Run> = Vec::new();
        for (index, area) in changed {
            let (class, sent) = (classify(picture, area), self.tiles[index].last_sent);
            match runs.last_mut() {
                Some(run)
                    if run.class == class && run.last + 1 == index && self.same_run(run, index) =>
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
        runs.sort_by_key(|run| (run.oldest, run.area.y));
        runs.into_iter().map(|run| (run.area, run.class)).collect()
    }

    fn same_run(&self, run: &Run, index: usize) -> bool {
        !index.is_multiple_of(self.columns) && run.tiles < MAX_RUN_TILES
    }

    fn put(
        &mut self,
        picture: Picture<'_>,
        area: Area,
        class: Class,
        quality: u8,
        body: &mut Body,
    ) {
        let lossy = match Palette::of(picture, area) {
            Some(palette) if palette.colours.len() == 1 => {
                body.tile(area, 0, &palette.colours[0]);
                false
            }
            Some(palette) => {
                body.palette_tile(picture, area, &palette);
                false
            }
            None if class == Class::Photo => {
                body.tile(area, 4, &jpeg(picture, area, quality));
                true
            }
            None => {
                body.tile(area, 3, &png(picture, area));
                false
            }
        };
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

/// The tiles of a frame in the making.
#[derive(Debug)]
struct Body {
    sequence: u32,
    captured_us: u64,
    after: u32,
    bytes: Vec<u8>,
    count: usize,
}

impl Body {
    fn new(sequence: u32, captured_us: u64) -> Self {
        Self {
            sequence,
            captured_us,
            after: sequence,
            bytes: Vec::new(),
            count: 0,
        }
    }

    /// The frame changes or reads the tile: whatever is under way there comes before it.
    fn touch(&mut self, tile: &mut Tile) {
        if let Some(before) = tile.under_way.replace(self.sequence)
            && before != self.sequence
            && (self.after == self.sequence || is_newer(before, self.after))
        {
            self.after = before;
        }
    }

    fn tile(&mut self, area: Area, kind: u8, payload: &[u8]) {
        self.bytes.reserve(TILE_HEADER_BYTES + payload.len());
        for value in [area.x, area.y, area.width, area.height] {
            self.bytes.extend_from_slice(&short(value));
        }
        self.bytes.extend_from_slice(&[kind, 0]);
        self.bytes.extend_from_slice(
            &u32::try_from(payload.len())
                .expect("a tile is below 4 GiB")
                .to_le_bytes(),
        );
        self.bytes.extend_from_slice(payload);
        self.count += 1;
    }

    fn palette_tile(&mut self, picture: Picture<'_>, area: Area, palette: &Palette) {
        if palette.colours.len() > 16 && palette.is_grey() {
            let shades: Vec<u8> = pixels(picture, area).map(|[shade, ..]| shade).collect();
            return self.tile(area, 6, &deflate(&shades));
        }
        let indices = pack(picture, area, palette);
        let mut payload = vec![u8::try_from(palette.colours.len()).expect("at most 255")];
        payload.extend(palette.colours.iter().flatten());
        let packed = deflate(&indices);
        let (kind, indices) = if packed.len() < indices.len() {
            (2, packed)
        } else {
            (1, indices)
        };
        payload.extend_from_slice(&indices);
        self.tile(area, kind, &payload);
    }
}

/// Whether frame `a` was made after `b`; sequences wrap.
fn is_newer(a: u32, b: u32) -> bool {
    a != b && a.wrapping_sub(b) <= u32::MAX / 2
}

fn short(value: usize) -> [u8; 2] {
    u16::try_from(value)
        .expect("screens are below 65,536 pixels")
        .to_le_bytes()
}

fn pixels<'a>(picture: Picture<'a>, area: Area) -> impl Iterator<Item = [u8; 3]> + 'a {
    (area.y..area.y + area.height).flat_map(move |y| {
        let start = y * picture.stride + area.x * 4;
        picture.bytes[start..start + area.width * 4]
            .chunks_exact(4)
            .map(|pixel| [pixel[0], pixel[1], pixel[2]])
    })
}

/// The colours of an area, if they are few.
struct Palette {
    colours: Vec<[u8; 3]>,
    /// An index + 1 in a colour's slot or one of those after it; 0 is free.
    slots: [u16; PALETTE_SLOTS],
}

impl Palette {
    fn of(picture: Picture<'_>, area: Area) -> Option<Self> {
        let mut palette = Self {
            colours: Vec::with_capacity(16),
            slots: [0; PALETTE_SLOTS],
        };
        let mut last = None;
        for pixel in pixels(picture, area) {
            if Some(pixel) == last {
                continue;
            }
            last = Some(pixel);
            let (slot, known) = palette.find(pixel);
            if known.is_none() {
                if palette.colours.len() == MAX_PALETTE {
                    return None;
                }
                palette.colours.push(pixel);
                palette.slots[slot] = u16::try_from(palette.colours.len()).expect("at most 255");
            }
        }
        Some(palette)
    }

    /// A colour's slot, or the one that it would get, and its index.
    fn find(&self, colour: [u8; 3]) -> (usize, Option<u8>) {
        let [blue, green, red] = colour.map(usize::from);
        let mut slot = (blue * 31 + green * 177 + red * 443) % PALETTE_SLOTS;
        loop {
            match self.slots[slot].checked_sub(1) {
                None => return (slot, None),
                Some(index) if self.colours[usize::from(index)] == colour => {
                    return (slot, u8::try_from(index).ok());
                }
                Some(_) => slot = (slot + 1) % PALETTE_SLOTS,
            }
        }
    }

    fn is_grey(&self) -> bool {
        let grey = |[blue, green, red]: &[u8; 3]| blue == green && green == red;
        self.colours.iter().all(grey)
    }
}

/// What a camera sees differs from one pixel to the next, or changes softly; what a program draws is mostly the same, and
/// where it is not, it jumps.
fn classify(picture: Picture<'_>, area: Area) -> Class {
    let size = area.width * area.height;
    if size < MIN_PHOTO_PIXELS {
        return Class::Drawn;
    }
    // A cheap estimate of distinct colours: a bitmap of hashed colours.
    let mut seen = [0u64; 16];
    let (mut colours, mut changes, mut jumps) = (0, 0, 0);
    let mut last = [0; 3];
    for pixel in pixels(picture, area) {
        if pixel == last {
            continue;
        }
        changes += 1;
        jumps += usize::from(pixel.iter().zip(last).any(|(a, b)| a.abs_diff(b) > JUMP));
        last = pixel;
        let [blue, green, red] = pixel.map(usize::from);
        let hashed = blue * 31 + green * 17 + red * 7;
        let (word, bit) = (hashed / 64 % 16, hashed % 64);
        colours += usize::from(seen[word] >> bit & 1 == 0);
        seen[word] |= 1 << bit;
    }
    let soft = changes * 4 > size && jumps * 8 < changes;
    if colours >= MIN_PHOTO_COLOURS && (soft || changes * 2 > size) {
        Class::Photo
    } else {
        Class::Drawn
    }
}

/// Indices of 1, 2, 4 or 8 bits, the first in the highest bits, each row from a byte's start.
fn pack(picture: Picture<'_>, area: Area, palette: &Palette) -> Vec<u8> {
    let bits = match palette.colours.len() {
        ..=2 => 1,
        3..=4 => 2,
        5..=16 => 4,
        _ => 8,
    };
    let mut out = Vec::with_capacity(area.height * (area.width * bits).div_ceil(8));
    for y in area.y..area.y + area.height {
        let (mut byte, mut used) = (0u8, 0);
        let mut last = (palette.colours[0], 0u8);
        for pixel in picture.row(y, area.x, area.width).chunks_exact(4) {
            let colour = [pixel[0], pixel[1], pixel[2]];
            if colour != last.0 {
                last = (colour, palette.find(colour).1.unwrap_or(0));
            }
            used += bits;
            byte |= last.1 << (8 - used);
            if used == 8 {
                out.push(byte);
                (byte, used) = (0, 0);
            }
        }
        if used > 0 {
            out.push(byte);
        }
    }
    out
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::new(6));
    encoder
        .write_all(bytes)
        .and_then(|()| encoder.finish())
        .expect("writing to memory")
}

fn rgb(picture: Picture<'_>, area: Area) -> Vec<u8> {
    let mut out = Vec::with_capacity(area.width * area.height * 3);
    for [blue, green, red] in pixels(picture, area) {
        out.extend_from_slice(&[red, green, blue]);
    }
    out
}

fn png(picture: Picture<'_>, area: Area) -> Vec<u8> {
    let mut out = Vec::new();
    let side = |value: usize| u32::try_from(value).expect("below 65,536");
    let mut encoder = png::Encoder::new(&mut out, side(area.width), side(area.height));
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fast);
    let mut writer = encoder.write_header().expect("writing to memory");
    writer
        .write_image_data(&rgb(picture, area))
        .expect("as many bytes as pixels");
    writer.finish().expect("writing to memory");
    out
}

fn jpeg(picture: Picture<'_>, area: Area, quality: u8) -> Vec<u8> {
    let mut out = Vec::new();
    let side = |value: usize| u16::try_from(value).expect("below 65,536");
    let encoder = jpeg_encoder::Encoder::new(&mut out, quality);
    encoder
        .encode(
            &rgb(picture, area),
            side(area.width),
            side(area.height),
            jpeg_encoder::ColorType::Rgb,
        )
        .expect("writing to memory");
    out
}

/// FNV-1a over words: fast, and a wrong match only costs a useless copy, since what differs is sent again.
fn hash(row: &[u8]) -> u64 {
    row.chunks_exact(4)
        .fold(0xcbf2_9ce4_8422_2325, |hash, pixel| {
            let word = u64::from(u32::from_le_bytes([pixel[0], pixel[1], pixel[2], 0]));
            (hash ^ word).wrapping_mul(0x0100_0000_01b3)
        })
}

/// The shift (old row = new row + shift) under which the longest run of rows matches: shift, first new row, length.
fn best_shift(new: &[u64], old: &[u64]) -> Option<(isize, usize, usize)> {
    let limit = isize::try_from(MAX_SCROLL_ROWS.min(new.len() - MIN_SCROLL_ROWS)).ok()?;
    let mut best: Option<(isize, usize, usize)> = None;
    for shift in (-limit..=limit).filter(|shift| *shift != 0) {
        let (mut start, mut length, mut distinct) = (0, 0, 0);
        for (at, row) in new.iter().enumerate() {
            let there = at.checked_add_signed(shift).and_then(|at| old.get(at));
            if there == Some(row) {
                if length == 0 {
                    (start, distinct) = (at, 0);
                }
                // An empty background matches under every shift: only rows unlike the one before them count.
                distinct += usize::from(at > 0 && new[at - 1] != *row);
                length += 1;
                let longer = best.is_none_or(|(.., rows)| length > rows);
                if length >= MIN_SCROLL_ROWS && distinct * 4 >= length && longer {
                    best = Some((shift, start, length));
                }
            } else {
                length = 0;
            }
        }
    }
    best
}

#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "colours made from positions"
)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::help::decode::{Canvas, Form};

    const WIDTH: usize = 300;
    const HEIGHT: usize = 260;
    const PLENTY: Budget = Budget {
        bytes: usize::MAX,
        quality: 80,
    };

    /// What a viewer makes of frames.
    struct Viewer {
        canvas: Canvas,
        forms: Vec<Form>,
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

    fn photo(x: usize, y: usize) -> [u8; 3] {
        let mix = (x * 2_654_435 + y * 40_503) as u32;
        [(x * 3 % 256) as u8, (y * 2 % 256) as u8, (mix >> 7) as u8]
    }

    #[test]
    fn the_first_frame_is_the_whole_screen() {
        let bytes = screen(|x, y| text(x, y, 0));
        let (mut encoder, mut viewer) = (Encoder::new(3, WIDTH, HEIGHT), Viewer::new());
        let frame = encoder
            .encode(picture(&bytes), PLENTY, Scope::Overlapping, 7)
            .expect("a key frame");
        assert_eq!(frame.bytes[1], 0b11, "key and exact");
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
        let (mut encoder, mut viewer) = (Encoder::new(0, WIDTH, HEIGHT), Viewer::new());
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
        let (mut encoder, mut viewer) = (Encoder::new(0, WIDTH, HEIGHT), Viewer::new());
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
        assert_eq!(viewer.forms, [Form::Grey], "one tile, nothing to refine");
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
        let (mut encoder, mut viewer) = (Encoder::new(0, WIDTH, HEIGHT), Viewer::new());
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
        let (mut encoder, mut viewer) = (Encoder::new(0, WIDTH, HEIGHT), Viewer::new());
        let frame = encoder
            .encode(picture(&bytes), PLENTY, Scope::Overlapping, 0)
            .expect("key");
        assert!(!frame.exact);
        show(&mut encoder, &mut viewer, &frame);
        assert!(viewer.forms.contains(&Form::Jpeg));
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
        let (mut encoder, mut viewer) = (Encoder::new(0, WIDTH, HEIGHT), Viewer::new());
        let frame = encoder
            .encode(picture(&bytes), PLENTY, Scope::Overlapping, 0)
            .expect("key");
        show(&mut encoder, &mut viewer, &frame);
        assert!(viewer.forms.contains(&Form::Jpeg), "{:?}", viewer.forms);
    }

    #[test]
    fn a_scroll_is_copied() {
        let page = |offset: usize| screen(move |x, y| text(x, y + offset, (y + offset) / 9));
        let (mut encoder, mut viewer) = (Encoder::new(0, WIDTH, HEIGHT), Viewer::new());
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
            assert_eq!(viewer.forms.first(), Some(&Form::Copy), "step {step}");
            viewer.assert_exact(&bytes);
        }
    }

    #[test]
    fn what_does_not_fit_waits_and_what_changes_rarely_goes_first() {
        let mut bytes = screen(|_, _| [0, 0, 0]);
        let (mut encoder, mut viewer) = (Encoder::new(0, WIDTH, HEIGHT), Viewer::new());
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
                    let colour = photo(x + frame * 11, y + frame * 7);
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
        let mut encoder = Encoder::new(0, WIDTH, HEIGHT);
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
            let (mut encoder, mut viewer) = (Encoder::new(0, WIDTH, HEIGHT), Viewer::new());
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
            let (mut encoder, mut viewer) = (Encoder::new(0, WIDTH, HEIGHT), Viewer::new());
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
