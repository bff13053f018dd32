//! Places with a network each, and a router between them that can cut them off from each other: what it drops is gone without a word.
//!
//! ```text
//!  site: a relay ─ 10.99.0.2 ── veth ── 10.99.0.1 ─┐
//!  site: a relay ─ 10.99.1.2 ── veth ── 10.99.1.1 ─┤ router: this process's own namespace, and nftables
//!  site: people ── 10.99.2.2 ── veth ── 10.99.2.1 ─┘
//! ```
//!
//! Linux network namespaces, without root, as in the NAT lab; but its relays are in this process, and these are processes.

use std::{
    fs::{self, File},
    net::Ipv4Addr,
    os::fd::AsRawFd as _,
    process::{self, Command},
    thread,
};

use anyhow::{Context as _, anyhow};
use nix::sched::{CloneFlags, setns, unshare};
use tokio::runtime::{Builder, Runtime};

use crate::natlab::{lab, tool};

/// What the router drops.
const CHAIN: &str = "ip cut on_its_way";
/// Before anything is known of a packet: what has begun is cut, too.
const HOOK: &str = "{ type filter hook prerouting priority raw; }";

/// Makes this process one that may have networks, and a router. Only while it has one thread.
///
/// # Errors
/// When the system does not let it, or what networks are made with is missing.
pub fn enter() -> anyhow::Result<()> {
    lab::enter()?;
    unshare(CloneFlags::CLONE_NEWNET).context("no network namespace")?;
    ip("link set lo up")?;
    fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("cannot make a router")?;
    nft(&format!("add table ip cut\nadd chain {CHAIN} {HOOK}\n"))
}

/// All places.
#[derive(Debug)]
pub struct Sites(Vec<Site>);

/// One of them.
#[derive(Debug)]
pub struct Site {
    namespace: File,
    /// Of whoever is there.
    pub address: Ipv4Addr,
}

impl Sites {
    /// So many, each in reach of all.
    ///
    /// # Errors
    /// What could not be made.
    pub fn new(count: u8) -> anyhow::Result<Self> {
        (0..count)
            .map(Site::new)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// The one of that number.
    pub fn site(&self, number: usize) -> &Site {
        &self.0[number]
    }

    /// Nothing goes between the ones and the others any more.
    ///
    /// # Errors
    /// What nft says.
    pub fn cut(&self, ones: &[usize], others: &[usize]) -> anyhow::Result<()> {
        let of = |numbers: &[usize]| {
            let addresses = numbers
                .iter()
                .map(|&number| self.0[number].address.to_string());
            addresses.collect::<Vec<_>>().join(", ")
        };
        let (ones, others) = (of(ones), of(others));
        let drop = |from: &str, to: &str| {
            format!("add rule {CHAIN} ip saddr {{ {from} }} ip daddr {{ {to} }} drop\n")
        };
        nft(&(drop(&ones, &others) + &drop(&others, &ones)))
    }

    /// One is gone for all others, as a machine whose power is.
    ///
    /// # Errors
    /// What nft says.
    pub fn lose(&self, number: usize) -> anyhow::Result<()> {
        let others: Vec<_> = (0..self.0.len()).filter(|&other| other != number).collect();
        self.cut(&[number], &others)
    }

    /// Everything goes again.
    ///
    /// # Errors
    /// What nft says.
    pub fn heal(&self) -> anyhow::Result<()> {
        nft(&format!("flush chain {CHAIN}\n"))
    }
}

impl Site {
    fn new(number: u8) -> anyhow::Result<Self> {
        let made = thread::spawn(|| -> anyhow::Result<File> {
            unshare(CloneFlags::CLONE_NEWNET).context("no network namespace")?;
            Ok(File::open("/proc/thread-self/ns/net")?)
        });
        let namespace = made.join().map_err(|_| anyhow!("no thread"))??;
        let site = Self {
            namespace,
            address: Ipv4Addr::new(10, 99, number, 2),
        };
        let (pid, fd) = (process::id(), site.namespace.as_raw_fd());
        let (uplink, router) = (format!("site-{number}"), Ipv4Addr::new(10, 99, number, 1));
        ip(&format!(
            "link add {uplink} type veth peer name eth0 netns /proc/{pid}/fd/{fd}"
        ))?;
        ip(&format!("address add {router}/30 dev {uplink}"))?;
        ip(&format!("link set {uplink} up"))?;
        site.within(|| {
            ip("link set lo up")?;
            ip(&format!("address add {}/30 dev eth0", site.address))?;
            ip("link set eth0 up")?;
            ip(&format!("route add default via {router}"))
        })?;
        Ok(site)
    }

    /// Does it there; processes that it starts stay there.
    ///
    /// # Errors
    /// Its own.
    pub fn within<T: Send>(
        &self,
        act: impl FnOnce() -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<T> {
        thread::scope(|scope| {
            let acting = scope.spawn(|| {
                setns(&self.namespace, CloneFlags::CLONE_NEWNET)?;
                act()
            });
            acting.join().map_err(|_| anyhow!("no thread"))?
        })
    }

    /// A runtime whose tasks are there.
    ///
    /// # Errors
    /// What the system says.
    pub fn runtime(&self) -> anyhow::Result<Runtime> {
        let namespace = self.namespace.try_clone()?;
        let runtime = Builder::new_multi_thread()
            .enable_all()
            .on_thread_start(move || {
                setns(&namespace, CloneFlags::CLONE_NEWNET)
                    .expect("a namespace that this process has made, and holds");
            })
            .build();
        Ok(runtime?)
    }
}

fn ip(command: &str) -> anyhow::Result<()> {
    run("ip", &command.split(' ').collect::<Vec<_>>(), "")
}

fn nft(rules: &str) -> anyhow::Result<()> {
    run("nft", &["-f", "-"], rules)
}

fn run(name: &str, args: &[&str], input: &str) -> anyhow::Result<()> {
    let spawn = |mut command: Command| Ok(command.spawn()?);
    tool::run(spawn, name, args, input).map(|_| ())
}
