//! What has only moved: a window that is dragged, a page that is scrolled, a camera that turns. Copying costs the path a
//! dozen bytes, where the pixels would cost it thousands.
//!
//! A few conspicuous pieces of rows are looked for in the old picture, with a rolling hash (Karp and Rabin 1987); each one
//! found votes for how far it has moved. For the shift that wins, the largest rectangles are taken in which old and new
//! pixels agree. A wrong match is harmless, for what differs after copying is sent.

use std::{cmp::Reverse, collections::HashMap};

use super::{Area, Picture};

/// Pixels of a piece of a row.
const PIECE: usize = 32;
/// Neighbours that differ in a conspicuous piece.
const MIN_EDGES: usize = 6;
/// Rows looked at for a conspicuous piece.
const ROWS_TRIED: usize = 6;
/// Pieces looked for; as many as a whole screen has tiles.
const MAX_PIECES: usize = 512;
/// Places remembered of pieces that are alike.
const MAX_ALIKE: usize = 8;
/// Pieces that must have moved alike.
const MIN_VOTES: u32 = 3;
/// A shift with so many has won.
const ENOUGH_VOTES: u32 = 64;
/// Shifts that are looked at closely.
const MAX_WAYS: usize = 6;
/// Areas as high as this are searched less closely.
const MANY_ROWS: usize = 256;
/// Fewer changed pixels are sent sooner than searched for.
const MIN_CHANGED_PIXELS: usize = 4096;
/// Fewer pixels are not worth a copy.
const MIN_COPIED_PIXELS: usize = 2048;
/// Rectangles of one shift: what stands still before a moving picture cuts it into pieces.
const MAX_COPIES: usize = 6;
/// Pixels of a row that are compared at once.
const CELL: usize = 16;

/// A rectangle that stood elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Move {
    pub(super) from: Area,
    pub(super) to: Area,
}

/// A way, in pixels; down and right are positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Shift {
    x: isize,
    y: isize,
}

impl Shift {
    /// The place that has moved to `x`, `y`.
    fn back(self, x: usize, y: usize) -> Option<(usize, usize)> {
        Some((
            x.checked_add_signed(-self.x)?,
            y.checked_add_signed(-self.y)?,
        ))
    }

    fn source(self, to: Area) -> Option<Area> {
        let (x, y) = self.back(to.x, to.y)?;
        Some(Area { x, y, ..to })
    }
}

/// What of the changed areas stood elsewhere in the old picture, which is of the same size. The targets do not overlap.
pub(super) fn find(new: Picture<'_>, old: Picture<'_>, changed: &[Area]) -> Vec<Move> {
    let pixels: usize = changed.iter().map(|area| area.width * area.height).sum();
    let Some(all) = changed.iter().copied().reduce(Area::union) else {
        return Vec::new();
    };
    if pixels < MIN_CHANGED_PIXELS || all.width < PIECE {
        return Vec::new();
    }
    let pieces = Pieces::choose(new, changed);
    let mut best: Option<Agreement> = None;
    for shift in pieces.find_in(old, all) {
        let agreement = Agreement::of(new, old, all, shift);
        if best
            .as_ref()
            .is_none_or(|best| agreement.agreed > best.agreed)
        {
            best = Some(agreement);
        }
        // What is alike in many places may have won by chance.
        if best.as_ref().is_some_and(Agreement::is_convincing) {
            break;
        }
    }
    best.map_or_else(Vec::new, |best| best.rectangles(new, old))
}

fn pixel(bytes: &[u8], at: usize) -> u32 {
    let pixel = &bytes[at * 4..at * 4 + 4];
    u32::from_le_bytes([pixel[0], pixel[1], pixel[2], 0])
}

fn agree(new: &[u8], old: &[u8]) -> bool {
    // The fourth bytes may differ.
    new == old || (0..new.len() / 4).all(|at| pixel(new, at) == pixel(old, at))
}

const BASE: u64 = 0x9e37_79b9_7f4a_7c15;

fn hash(pixels: impl Iterator<Item = u32>) -> u64 {
    pixels.fold(0, |hash: u64, pixel| roll(hash, pixel))
}

fn roll(hash: u64, pixel: u32) -> u64 {
    hash.wrapping_mul(BASE).wrapping_add(u64::from(pixel) + 1)
}

/// Conspicuous pieces of the new picture's rows.
struct Pieces {
    /// Where they stand, by their hash; letters are alike, so that a piece may be in more than one place.
    places: HashMap<u64, Vec<(usize, usize)>>,
    /// A bit for the highest 16 of each hash.
    filter: Vec<u64>,
}

impl Pieces {
    fn choose(new: Picture<'_>, changed: &[Area]) -> Self {
        let mut pieces = Self {
            places: HashMap::new(),
            filter: vec![0; 1024],
        };
        for area in changed.iter().step_by(changed.len().div_ceil(MAX_PIECES)) {
            let x = area.x.min(new.width - PIECE);
            for third in 1..3 {
                let first = area.y + area.height * third / 3;
                let rows = first..(first + ROWS_TRIED).min(area.y + area.height);
                let found = rows
                    .map(|y| (y, new.row(y, x, PIECE)))
                    .find(|(_, row)| is_conspicuous(row));
                if let Some((y, row)) = found {
                    pieces.add(row, (x, y));
                }
            }
        }
        pieces
    }

    fn add(&mut self, row: &[u8], place: (usize, usize)) {
        let hash = hash((0..PIECE).map(|at| pixel(row, at)));
        self.filter[bucket(hash)] |= bit(hash);
        let places = self.places.entry(hash).or_default();
        if places.len() < MAX_ALIKE {
            places.push(place);
        }
    }

    /// The ways that most of them came, likely ones first.
    fn find_in(&self, old: Picture<'_>, all: Area) -> Vec<Shift> {
        let mut votes: HashMap<Shift, u32> = HashMap::new();
        let mut most = 0;
        // What leaves the piece at the other end.
        let leaving = (0..PIECE).fold(1u64, |power, _| power.wrapping_mul(BASE));
        // Of a large area, some of the pieces are enough.
        let step = if all.height > MANY_ROWS { 3 } else { 1 };
        for y in (all.y..all.y + all.height).step_by(step) {
            let row = old.row(y, all.x, all.width).chunks_exact(4);
            let row: Vec<u32> = row.map(|bytes| pixel(bytes, 0)).collect();
            let mut hash = hash(row[..PIECE].iter().copied());
            // Behind the last piece nothing comes in.
            let entering = row[PIECE..].iter().copied().chain([0]);
            for (at, (left, entered)) in row.iter().zip(entering).enumerate() {
                if self.filter[bucket(hash)] & bit(hash) != 0
                    && let Some(places) = self.places.get(&hash)
                {
                    let from = (all.x + at, y);
                    for (to_x, to_y) in places.iter().filter(|to| **to != from) {
                        let shift = Shift {
                            x: to_x.cast_signed() - from.0.cast_signed(),
                            y: to_y.cast_signed() - from.1.cast_signed(),
                        };
                        let known = votes.entry(shift).or_default();
                        *known += 1;
                        most = most.max(*known);
                    }
                }
                hash =
                    roll(hash, entered).wrapping_sub((u64::from(*left) + 1).wrapping_mul(leaving));
            }
            // Unless what is alike in many places votes for all ways between them.
            if most >= ENOUGH_VOTES
                && votes.values().filter(|votes| **votes * 2 > most).count() == 1
            {
                break;
            }
        }
        let mut ways: Vec<_> = votes
            .into_iter()
            .filter(|(_, votes)| *votes >= MIN_VOTES)
            .collect();
        ways.sort_unstable_by_key(|(shift, votes)| (Reverse(*votes), *shift));
        ways.truncate(MAX_WAYS);
        ways.into_iter().map(|(shift, _)| shift).collect()
    }
}

fn bucket(hash: u64) -> usize {
    usize::from((hash >> 54).to_le_bytes()[0]) | usize::from((hash >> 62).to_le_bytes()[0]) << 8
}

fn bit(hash: u64) -> u64 {
    1 << (hash >> 48 & 63)
}

fn is_conspicuous(row: &[u8]) -> bool {
    let edges = (1..PIECE).filter(|at| pixel(row, *at) != pixel(row, at - 1));
    edges.take(MIN_EDGES).count() == MIN_EDGES
}

/// Where the new picture is the old one, moved.
struct Agreement {
    shift: Shift,
    /// Where it may be: changed, and inside the picture before it moved.
    area: Area,
    columns: usize,
    /// Row by row, a cell each.
    cells: Vec<bool>,
    /// How many of them agree.
    agreed: usize,
}

impl Agreement {
    fn of(new: Picture<'_>, old: Picture<'_>, all: Area, shift: Shift) -> Self {
        let within = |start: usize, length: usize, shift: isize, whole: usize| {
            let first = start.max(usize::try_from(shift).unwrap_or(0));
            let end = (start + length).min(whole.saturating_add_signed(shift));
            (first, end.saturating_sub(first))
        };
        let (x, width) = within(all.x, all.width, shift.x, new.width);
        let (y, height) = within(all.y, all.height, shift.y, new.height);
        let columns = width / CELL;
        let mut cells = Vec::with_capacity(columns * height);
        for row in y..y + height {
            for column in 0..columns {
                let x = x + column * CELL;
                let agreed = shift.back(x, row).is_some_and(|(from_x, from_y)| {
                    agree(new.row(row, x, CELL), old.row(from_y, from_x, CELL))
                });
                cells.push(agreed);
            }
        }
        let area = Area {
            x,
            y,
            width,
            height,
        };
        Self {
            shift,
            area,
            columns,
            agreed: cells.iter().filter(|agreed| **agreed).count(),
            cells,
        }
    }

    /// Whether no other shift can be much better.
    fn is_convincing(&self) -> bool {
        self.agreed * 2 > self.cells.len()
    }

    fn rectangles(mut self, new: Picture<'_>, old: Picture<'_>) -> Vec<Move> {
        let mut moves = Vec::new();
        while moves.len() < MAX_COPIES
            && let Some((columns, rows)) = self.largest()
        {
            for row in rows.clone() {
                self.cells[row * self.columns..][columns.clone()].fill(false);
            }
            let to = Area {
                x: self.area.x + columns.start * CELL,
                y: self.area.y + rows.start,
                width: columns.len() * CELL,
                height: rows.len(),
            };
            if to.width * to.height < MIN_COPIED_PIXELS {
                break;
            }
            let to = self.widened(new, old, to, &moves);
            if let Some(from) = self.shift.source(to)
                && changes(new, old, to) >= MIN_COPIED_PIXELS
            {
                moves.push(Move { from, to });
            }
        }
        moves
    }

    /// The largest rectangle of cells that agree: columns and rows. For each row, the highest bars that end there
    /// (the largest rectangle in a histogram).
    fn largest(&self) -> Option<(std::ops::Range<usize>, std::ops::Range<usize>)> {
        let mut heights = vec![0; self.columns];
        let mut best = (0, 0..0, 0..0);
        // Bars that are still growing to the right: where each began, and how high it is.
        let mut open: Vec<(usize, usize)> = Vec::with_capacity(self.columns);
        for (row, cells) in self.cells.chunks_exact(self.columns.max(1)).enumerate() {
            for (height, agreed) in heights.iter_mut().zip(cells) {
                *height = if *agreed { *height + 1 } else { 0 };
            }
            for (column, height) in heights.iter().copied().chain([0]).enumerate() {
                let mut start = column;
                while let Some(&(began, high)) = open.last()
                    && high >= height
                {
                    open.pop();
                    start = began;
                    let area = (column - began) * high;
                    if area > best.0 {
                        best = (area, began..column, row + 1 - high..row + 1);
                    }
                }
                if height > 0 {
                    open.push((start, height));
                }
            }
        }
        (best.0 > 0).then_some((best.1, best.2))
    }

    /// By the columns of pixels at either side that agree, too, and are in no other rectangle.
    fn widened(&self, new: Picture<'_>, old: Picture<'_>, to: Area, others: &[Move]) -> Area {
        let agrees = |x: usize| {
            let inside = x >= self.area.x && x < self.area.x + self.area.width;
            let taken = others.iter().any(|other| other.to.contains_column(x, to));
            inside
                && !taken
                && (to.y..to.y + to.height).all(|y| {
                    let back = self.shift.back(x, y);
                    back.is_some_and(|(from_x, from_y)| {
                        agree(new.row(y, x, 1), old.row(from_y, from_x, 1))
                    })
                })
        };
        let left = (0..to.x).rev().take(CELL - 1).take_while(|x| agrees(*x));
        let right = (to.x + to.width..)
            .take(CELL - 1)
            .take_while(|x| agrees(*x));
        let (left, right) = (left.count(), right.count());
        Area {
            x: to.x - left,
            width: to.width + left + right,
            ..to
        }
    }
}

impl Area {
    /// Whether the column of pixels at `x`, as high as `rows`, has a pixel in it.
    fn contains_column(self, x: usize, rows: Self) -> bool {
        let beside = x < self.x || x >= self.x + self.width;
        let above = rows.y + rows.height <= self.y || self.y + self.height <= rows.y;
        !beside && !above
    }
}

/// Pixels in cells that are not what they were: what a copy saves.
fn changes(new: Picture<'_>, old: Picture<'_>, area: Area) -> usize {
    (area.y..area.y + area.height)
        .map(|y| {
            let new = new.row(y, area.x, area.width).chunks(CELL * 4);
            let old = old.row(y, area.x, area.width).chunks(CELL * 4);
            let differing = new.zip(old).filter(|(new, old)| !agree(new, old));
            differing.map(|(new, _)| new.len() / 4).sum::<usize>()
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WIDTH: usize = 320;
    const HEIGHT: usize = 240;

    fn picture(bytes: &[u8]) -> Picture<'_> {
        Picture {
            bytes,
            stride: WIDTH * 4,
            width: WIDTH,
            height: HEIGHT,
        }
    }

    fn screen(colour: impl Fn(usize, usize) -> u32) -> Vec<u8> {
        (0..WIDTH * HEIGHT)
            .flat_map(|at| colour(at % WIDTH, at / WIDTH).to_le_bytes())
            .collect()
    }

    /// Nowhere the same.
    fn noise(x: usize, y: usize) -> u32 {
        let mixed = (x * 7919 + y * 104_729 + 13).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        u32::from(mixed.to_le_bytes()[6]) << 16 | u32::from(mixed.to_le_bytes()[5])
    }

    fn tiles(area: Area) -> Vec<Area> {
        let mut tiles = Vec::new();
        for y in (area.y..area.y + area.height).step_by(64) {
            for x in (area.x..area.x + area.width).step_by(64) {
                tiles.push(Area {
                    x,
                    y,
                    width: 64.min(area.x + area.width - x),
                    height: 64.min(area.y + area.height - y),
                });
            }
        }
        tiles
    }

    const WHOLE: Area = Area {
        x: 0,
        y: 0,
        width: WIDTH,
        height: HEIGHT,
    };

    /// A window at a place, before a plain desktop.
    fn window(left: usize, top: usize) -> Vec<u8> {
        screen(move |x, y| {
            let inside = (left..left + 120).contains(&x) && (top..top + 90).contains(&y);
            if inside {
                noise(x - left, y - top)
            } else {
                0x20_30_40
            }
        })
    }

    #[test]
    fn a_dragged_window_is_one_copy() {
        for (x, y) in [(60, 50), (33, 41), (60, 41), (34, 99), (199, 150)] {
            let (old, new) = (window(40, 50), window(x, y));
            let moves = find(picture(&new), picture(&old), &tiles(WHOLE));
            let [Move { from, to }] = moves[..] else {
                panic!("{moves:?}")
            };
            let window = Area {
                x,
                y,
                width: 120,
                height: 90,
            };
            // The desktop around it may have moved along.
            assert_eq!(to.union(window), to, "{x}, {y}");
            assert_eq!((to.x + 40, to.y + 50), (from.x + x, from.y + y));
        }
    }

    #[test]
    fn what_stands_still_before_a_turning_camera_is_left_out() {
        let mark = |x: usize, y: usize| (100..116).contains(&x) && (90..106).contains(&y);
        let scene = |turned: usize| {
            screen(move |x, y| {
                if mark(x, y) {
                    1
                } else {
                    noise(x + turned, y + 3 * turned)
                }
            })
        };
        let (old, new) = (scene(0), scene(5));
        let moves = find(picture(&new), picture(&old), &tiles(WHOLE));
        let copied: usize = moves.iter().map(|m| m.to.width * m.to.height).sum();
        assert!(copied > WIDTH * HEIGHT * 8 / 10, "{moves:?}");
    }

    #[test]
    fn what_has_not_moved_is_not_copied() {
        let old = screen(noise);
        let other = screen(|x, y| noise(y + 1000, x + 777));
        let plain = screen(|_, _| 7);
        for new in [&other, &plain] {
            assert_eq!(find(picture(new), picture(&old), &tiles(WHOLE)), []);
        }
        assert_eq!(find(picture(&old), picture(&old), &[]), []);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        /// Whatever is found: it is inside, it agrees, and no pixel is written twice.
        #[test]
        fn what_is_copied_is_as_it_should_be(
            (left, top) in (0..WIDTH - 120, 0..HEIGHT - 90),
            (x, y) in (0..WIDTH - 120, 0..HEIGHT - 90),
            changed in (0..WIDTH - 40, 0..HEIGHT - 40, 1..WIDTH, 1..HEIGHT),
        ) {
            let (old, new) = (window(left, top), window(x, y));
            let (cx, cy, width, height) = changed;
            let area = Area { x: cx, y: cy, width: width.min(WIDTH - cx), height: height.min(HEIGHT - cy) };
            let mut written = vec![false; WIDTH * HEIGHT];
            for Move { from, to } in find(picture(&new), picture(&old), &tiles(area)) {
                prop_assert_eq!((from.width, from.height), (to.width, to.height));
                prop_assert!(from.x + from.width <= WIDTH && from.y + from.height <= HEIGHT);
                for row in 0..to.height {
                    let now = picture(&new);
                    let before = picture(&old);
                    prop_assert_eq!(now.row(to.y + row, to.x, to.width), before.row(from.y + row, from.x, from.width));
                    for column in 0..to.width {
                        let at = (to.y + row) * WIDTH + to.x + column;
                        prop_assert!(!std::mem::replace(&mut written[at], true));
                    }
                }
            }
        }
    }
}
