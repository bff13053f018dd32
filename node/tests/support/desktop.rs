//! A desktop's session bus, with an independent program that takes notifications (`python3-dbusmock`).
#![allow(dead_code, reason = "each test file uses a part of it")]

use nix::sys::signal::Signal;

use super::support::{
    PATIENCE,
    process::{Home, Script},
};

const NOTIFICATIONS: &str = "org.freedesktop.Notifications";

/// A session bus with somebody who takes notifications, and says what comes.
pub(crate) struct Desktop {
    _daemon: Script,
    server: Script,
    pub(crate) address: String,
}

impl Desktop {
    pub(crate) fn new(home: &Home) -> Self {
        let mut command = home.command("dbus-daemon");
        command.args(["--session", "--nofork", "--print-address"]);
        let mut daemon = Script::start(command);
        let address = daemon.line(PATIENCE);
        // Debian's own, which has its packages.
        let mut command = home.command("/usr/bin/python3");
        command
            .args(["-u", "-m", "dbusmock", "--template", "notification_daemon"])
            .env("DBUS_SESSION_BUS_ADDRESS", &address);
        let server = Script::start(command);
        let desktop = Self {
            _daemon: daemon,
            server,
            address,
        };
        // It is there when its name is.
        let owner = "org.freedesktop.DBus.GetNameOwner";
        while !desktop.ask(home, "org.freedesktop.DBus", "/", owner, &[NOTIFICATIONS]) {}
        desktop
    }

    /// Asks somebody on the bus; whether they answer.
    pub(crate) fn ask(
        &self,
        home: &Home,
        to: &str,
        path: &str,
        method: &str,
        args: &[&str],
    ) -> bool {
        let mut command = home.command("gdbus");
        command
            .args(["call", "--session", "--dest", to, "--object-path", path])
            .args(["--method", method])
            .args(args)
            .env("DBUS_SESSION_BUS_ADDRESS", &self.address);
        command.output().expect("it runs").status.success()
    }

    /// What the server says next that has this word in it.
    pub(crate) fn hears(&mut self, word: &str) -> String {
        loop {
            let line = self.server.line(PATIENCE);
            if line.contains(word) {
                return line;
            }
        }
    }

    /// Nobody has asked it to show anything, and nobody will: what it was told is all read.
    pub(crate) fn is_silent(&mut self) -> bool {
        self.server.signal(Signal::SIGTERM);
        let ended = self.server.end(PATIENCE);
        ended.stdout.iter().all(|line| !line.contains("Notify"))
    }

    /// The person presses a button of the notification of that number.
    pub(crate) fn press(&self, home: &Home, number: u32, key: &str) {
        let args = format!("[<uint32 {number}>, <'{key}'>]");
        let emitted = self.ask(
            home,
            NOTIFICATIONS,
            "/org/freedesktop/Notifications",
            "org.freedesktop.DBus.Mock.EmitSignal",
            &[NOTIFICATIONS, "ActionInvoked", "us", &args],
        );
        assert!(emitted, "pressed");
    }
}
