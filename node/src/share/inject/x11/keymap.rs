//! The sharer's layout as XKB has it: which key, with which modifiers, in which group, is which keysym.
//!
//! XKB protocol, §12.1: a key has up to four groups (languages); each has a type, which turns modifiers into a level; a
//! group and a level are a keysym.

use std::collections::BTreeMap;

use x11rb::protocol::xkb::GetMapReply;

use super::super::Keysym;

/// Shift, Lock, Control, Mod1 … Mod5 from the lowest bit.
pub(crate) type Modifiers = u8;

/// What a stroke in another group costs, in modifier keys: it is seen in the sharer's language indicator.
const OTHER_GROUP: u32 = 16;

/// Modifier keys that hold rather than lock, and change what letters mean: Shift, Mode_switch, ISO_Level3_Shift,
/// ISO_Level5_Shift.
const LEVEL_KEYS: [u32; 5] = [0xffe1, 0xffe2, 0xff7e, 0xfe03, 0xfe11];

/// The layout.
#[derive(Debug, Default)]
pub(crate) struct Keymap {
    types: Vec<Type>,
    keys: BTreeMap<u8, Vec<Group>>,
    /// Keycodes and the modifiers that they are.
    modifiers: BTreeMap<u8, Modifiers>,
}

/// From modifiers to level.
#[derive(Clone, Debug, Default)]
struct Type {
    /// Those that matter.
    mask: Modifiers,
    /// What is not listed is level 0.
    levels: Vec<(Modifiers, usize)>,
}

#[derive(Clone, Debug, Default)]
struct Group {
    kind: usize,
    symbols: Vec<u32>,
}

/// How to produce a keysym.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stroke {
    pub(super) keycode: u8,
    pub(super) group: u8,
    /// To hold meanwhile.
    pub(super) press: Modifiers,
    /// To let go meanwhile.
    pub(super) release: Modifiers,
}

impl Stroke {
    /// Nothing has to change for it.
    pub(super) fn is_plain(self, group: u8) -> bool {
        self.press == 0 && self.release == 0 && self.group == group
    }

    fn cost(self, group: u8) -> u32 {
        let other = if self.group == group { 0 } else { OTHER_GROUP };
        self.press.count_ones() + self.release.count_ones() + other
    }
}

impl Type {
    fn level(&self, modifiers: Modifiers) -> usize {
        let relevant = modifiers & self.mask;
        self.levels
            .iter()
            .find(|(modifiers, _)| *modifiers == relevant)
            .map_or(0, |(_, level)| *level)
    }
}

impl Keymap {
    pub(super) fn new(reply: GetMapReply) -> Self {
        let low = |mask: x11rb::protocol::xproto::ModMask| u16::from(mask).to_le_bytes()[0];
        let types = reply
            .map
            .types_rtrn
            .unwrap_or_default()
            .into_iter()
            .map(|kind| Type {
                mask: low(kind.mods_mask),
                levels: kind
                    .map
                    .iter()
                    .filter(|entry| entry.active)
                    .map(|entry| (low(entry.mods_mask), usize::from(entry.level)))
                    .collect(),
            });
        let symbols = reply.map.syms_rtrn.unwrap_or_default();
        let keys = (reply.first_key_sym..=u8::MAX)
            .zip(symbols)
            .map(|(keycode, key)| {
                let groups = usize::from(key.group_info & 0x0f).min(key.kt_index.len());
                let width = usize::from(key.width);
                let group = |index: usize| Group {
                    kind: usize::from(key.kt_index[index]),
                    symbols: key
                        .syms
                        .iter()
                        .skip(index * width)
                        .take(width)
                        .copied()
                        .collect(),
                };
                (keycode, (0..groups).map(group).collect())
            });
        let modifiers = reply.map.modmap_rtrn.unwrap_or_default().into_iter();
        Self {
            types: types.collect(),
            keys: keys.collect(),
            modifiers: modifiers.map(|key| (key.keycode, low(key.mods))).collect(),
        }
    }

    /// Keys that mean nothing.
    pub(super) fn unused(&self) -> Vec<u8> {
        let empty = |groups: &Vec<Group>| {
            groups
                .iter()
                .all(|group| group.symbols.iter().all(|symbol| *symbol == 0))
        };
        let free = self
            .keys
            .iter()
            .filter(|(keycode, groups)| empty(groups) && !self.modifiers.contains_key(keycode));
        free.map(|(keycode, _)| *keycode).collect()
    }

    /// Whether the key is this keysym in any group and level.
    pub(super) fn means(&self, keycode: u8, key: Keysym) -> bool {
        let groups = self.keys.get(&keycode);
        groups.is_some_and(|groups| groups.iter().any(|group| group.symbols.contains(&key.0)))
    }

    /// What a program hears when the key is pressed with these modifiers in this group.
    pub(crate) fn heard(&self, keycode: u8, group: u8, modifiers: Modifiers) -> Option<Keysym> {
        let groups = self.keys.get(&keycode)?;
        let there = groups.get(usize::from(group) % groups.len().max(1))?;
        let level = self.types.get(there.kind)?.level(modifiers);
        let symbol = there.symbols.get(level).copied().filter(|it| *it != 0);
        symbol.map(Keysym)
    }

    /// Which modifiers a key is.
    pub(super) fn modifiers_of(&self, keycode: u8) -> Modifiers {
        self.modifiers.get(&keycode).copied().unwrap_or(0)
    }

    /// A key for each of these modifiers.
    pub(super) fn keys_for(&self, modifiers: Modifiers) -> Vec<u8> {
        let single = (0..8)
            .map(|bit| 1 << bit)
            .filter(|bit| modifiers & bit != 0);
        single.filter_map(|bit| self.level_key(bit)).collect()
    }

    /// A key that is this modifier while it is held.
    fn level_key(&self, modifier: Modifiers) -> Option<u8> {
        let is_level_key = |keycode: &u8| {
            LEVEL_KEYS
                .iter()
                .any(|key| self.means(*keycode, Keysym(*key)))
        };
        self.modifiers
            .iter()
            .find(|(keycode, mods)| **mods == modifier && is_level_key(keycode))
            .map(|(key, _)| *key)
    }

    /// The cheapest stroke for a keysym while we hold `ours` and `fixed` cannot be changed.
    pub(super) fn find(
        &self,
        key: Keysym,
        group: u8,
        ours: Modifiers,
        fixed: Modifiers,
    ) -> Option<Stroke> {
        if is_function(key) {
            return self.find_key(key, group);
        }
        let exact = self.find_level(&|symbol| symbol == key.0, group, ours, fixed);
        // The layout may call the same character by an older name: EuroSign is U+20AC.
        exact.or_else(|| {
            let char = char_of(key.0)?;
            self.find_level(&|symbol| char_of(symbol) == Some(char), group, ours, fixed)
        })
    }

    /// Keys that are themselves whatever is held with them: Shift + Tab is sent as Shift and Tab.
    fn find_key(&self, key: Keysym, group: u8) -> Option<Stroke> {
        let first = |groups: &Vec<Group>| {
            groups
                .iter()
                .any(|group| group.symbols.first() == Some(&key.0))
        };
        let found = self
            .keys
            .iter()
            .find(|(_, groups)| first(groups))
            .map(|(keycode, _)| *keycode);
        let found = found.or_else(|| {
            self.keys
                .keys()
                .copied()
                .find(|keycode| self.means(*keycode, key))
        });
        found.map(|keycode| Stroke {
            keycode,
            group,
            press: 0,
            release: 0,
        })
    }

    fn find_level(
        &self,
        wanted: &dyn Fn(u32) -> bool,
        group: u8,
        ours: Modifiers,
        fixed: Modifiers,
    ) -> Option<Stroke> {
        let most = self.keys.values().map(Vec::len).max().unwrap_or(0);
        let groups = (0..4u8).filter(|one| usize::from(*one) < most.max(1) || *one == group);
        let strokes = groups.flat_map(|one| {
            self.keys.iter().filter_map(move |(keycode, key)| {
                // A group the key does not have is wrapped into those it has (XKB protocol, §12.1.2).
                let there = key.get(usize::from(one) % key.len().max(1))?;
                let mut levels = there
                    .symbols
                    .iter()
                    .enumerate()
                    .filter(|(_, symbol)| wanted(**symbol));
                levels.find_map(|(level, _)| {
                    self.reach(*keycode, one, there.kind, level, ours, fixed)
                })
            })
        });
        strokes.min_by_key(|stroke| stroke.cost(group))
    }

    /// The fewest modifiers to change so that the key is at this level.
    fn reach(
        &self,
        keycode: u8,
        group: u8,
        kind: usize,
        level: usize,
        ours: Modifiers,
        fixed: Modifiers,
    ) -> Option<Stroke> {
        let kind = self.types.get(kind)?;
        let possible = (0..=Modifiers::MAX).filter(|set| set & !kind.mask == 0);
        let strokes = possible
            .filter(|set| kind.level(set | fixed) == level)
            .map(|set| {
                let held = ours & kind.mask;
                Stroke {
                    keycode,
                    group,
                    press: set & !held & !fixed,
                    release: held & !set,
                }
            });
        let reachable = strokes.filter(|stroke| {
            usize::try_from(stroke.press.count_ones()) == Ok(self.keys_for(stroke.press).len())
        });
        reachable.min_by_key(|stroke| stroke.cost(group))
    }
}

/// Keys that are no characters: function and cursor keys, modifiers, and what ISO 9995 adds; not the keypad's digits,
/// which Num Lock makes.
fn is_function(key: Keysym) -> bool {
    matches!(key.0, 0xfe01..=0xfe4f | 0xfed0..=0xff7f | 0xffbe..=0xffff | 0x1000_0000..)
}

/// The character that a keysym of the layout stands for.
fn char_of(symbol: u32) -> Option<char> {
    let is_key = is_function(Keysym(symbol)) || (0xff80..=0xffbd).contains(&symbol);
    if is_key {
        None
    } else {
        xkeysym::Keysym::new(symbol).key_char()
    }
}
