//! What the node's tests share: homes, relays, processes, terminals, people.
#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "each test file uses a part of it"
)]

pub mod front;
pub mod people;
pub mod process;
pub mod terminal;

use std::time::Duration;

/// Nothing in a test takes this long unless it never happens; many tests at once make a machine slow.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// A leave is known to the other side within this time (issue 2).
pub const LEAVE_LIMIT: Duration = Duration::from_secs(2);
/// A `kill -9` is known to the other side within this time: `T_lost`, and some to notice (issue 2; SESSION.md §1.2).
pub const KILL_LIMIT: Duration = Duration::from_secs(12);

/// Chat that is hard to get right: right-to-left, wide, joined, combining, mixed; `n` makes it unique.
pub fn chat_line(n: usize) -> String {
    const TEXTS: [&str; 8] = [
        "plain text, nothing special",
        "نعم، كانت تعمل أمس",
        "明白了，我来看看打印队列。",
        "👩‍💻 joined by ZWJ, 👨‍👩‍👧‍👦 too",
        "שלום (mixed) עולם 42",
        "e\u{301}a\u{308} combining, ﬁ ligature",
        "한국어 ひらがな ｆｕｌｌ",
        "🏳️‍🌈 flag 🇺🇳 and 👍🏽 skin",
    ];
    format!("{n} {}", TEXTS[n % TEXTS.len()])
}
