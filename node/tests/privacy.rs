//! What a relay could tell if it were taken away during a session: nothing of it. Reads all of its memory.

mod support;

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
};

use remora::event::Input;
use remora_proto::{
    id::RelayAddr,
    random::Random,
    session::{Command, Mode},
};
use support::{
    people::{invites, joins, start},
    process::RelayProcess,
};

/// Everything readable of a process.
fn memory(pid: impl std::fmt::Display) -> Vec<Vec<u8>> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("its mappings");
    let memory = File::open(format!("/proc/{pid}/mem")).expect("its memory");
    let readable = maps.lines().filter_map(|line| {
        let (range, rest) = line.split_once(' ')?;
        let (begin, end) = range.split_once('-')?;
        let number = |text| u64::from_str_radix(text, 16).expect("an address");
        // The kernel's own pages say that they are readable, and are not.
        (rest.starts_with('r') && !rest.contains("[v")).then(|| (number(begin), number(end)))
    });
    let regions: Vec<Vec<u8>> = readable
        .map(|(begin, end)| {
            let mut region = vec![0; usize::try_from(end - begin).expect("fits")];
            memory
                .read_exact_at(&mut region, begin)
                .unwrap_or_else(|error| panic!("{begin:x}: {error}"));
            region
        })
        .collect();
    assert!(regions.len() > 10, "a process has more mappings");
    regions
}

fn holds(memory: &[Vec<u8>], needle: &str) -> bool {
    let needle = needle.as_bytes();
    memory
        .iter()
        .any(|region| region.windows(needle.len()).any(|window| window == needle))
}

/// The secret half of a code, in every spelling: `4060-r0gx` has `0-r0gx`, `0R0GX`, …
fn spellings(code: &str) -> Vec<String> {
    let symbols = code.replace('-', "");
    let (locator_end, secret) = (3, &symbols[3..]);
    let halves =
        |separator: &str| format!("{}{separator}{}", &symbols[locator_end..4], &symbols[4..]);
    let lower = [secret.to_owned(), halves("-"), halves(" ")];
    let upper = lower.each_ref().map(|text| text.to_uppercase());
    [lower, upper].concat()
}

/// Not in the test's binary, so that finding it means something.
fn unique(what: &str) -> String {
    let random = u64::from_le_bytes(Random::system().bytes());
    format!("{what}-{random:016x}")
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_memory_nor_log_of_the_relay_holds_the_secret_or_the_chat() {
    let (realm, name) = (unique("realm"), unique("name"));
    let relay = RelayProcess::start(&["--realm", &realm, "--name", &name, "--log", "trace"]);
    let address: RelayAddr = relay.address.parse().expect("an address");
    let before = memory(relay.pid());

    let (mut helper, mut code) = invites(&address, "Sam").await;
    // Five symbols may be in any program by chance: in "cargo", say.
    while spellings(&code)
        .iter()
        .any(|spelling| holds(&before, spelling))
    {
        helper.wishes(Input::NewCode).await;
        code = helper.code().await;
    }
    let mut sharer = joins(&address, "Maria", &code)
        .await
        .expect("the code works");
    assert_eq!(helper.trust().await.1, sharer.trust().await.1);
    start(&mut helper, &mut sharer, Mode::View).await;
    let texts = ["نعم", "明白了", "👩‍💻 plain"].map(unique);
    for text in &texts {
        helper.does(Command::Chat(text.clone())).await;
        assert_eq!(sharer.hears().await, *text);
        sharer.does(Command::Chat(text.clone())).await;
        assert_eq!(helper.hears().await, *text);
    }

    let during = memory(relay.pid());
    let log = vec![fs::read(&relay.log).expect("its log")];
    let own = memory("self");
    for text in [&realm, &name] {
        assert!(holds(&during, text), "what the relay knows is found in it");
    }
    assert!(holds(&log, &realm), "the log is read, too");
    for text in &texts {
        assert!(holds(&own, text), "what is in memory is found");
    }
    for (place, what) in [(&during, "memory"), (&log, "log")] {
        for secret in spellings(&code).iter().chain(&texts) {
            assert!(!holds(place, secret), "{secret:?} is in the relay's {what}");
        }
    }
    // It was alive all the time.
    helper.does(Command::Leave).await;
    sharer.receipt().await;
}
