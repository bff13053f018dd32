#!/usr/bin/env python3
"""Asks a real Prometheus all that the dashboards and the rules ask, of real relays with real sessions on them.

    unshare --net deploy/grafana/queries.py PROGRAMS DIRECTORY

PROGRAMS is where remora-relay and remora are; DIRECTORY is for what this leaves: logs. As root and in a network of its own, to give three
relays an address each. Every query must return something that is a number; of an alert, which is to return nothing, every series that it
looks at must be there. It says which do not, and ends with 1.
"""

import contextlib
import json
import math
import os
import pathlib
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import yaml

HERE = pathlib.Path(__file__).resolve().parent
RULES = HERE.parent / "prometheus" / "remora.rules.yml"
RELAYS = (1, 2, 3)
WATCHER = "10.83.0.9:9090"
# All that Grafana fills in; the interval is longer than this runs.
FILLED = {"$__rate_interval": "5m", "$__range": "5m", "$namespace": ".*", "$job": ".*", "$relay": ".*"}
# For one thing to happen on a slow machine.
PATIENCE = 30.0


def ip(relay):
    return f"10.83.0.{relay}"


def get(url, **headers):
    with urllib.request.urlopen(urllib.request.Request(url, **headers), timeout=5) as answer:
        return answer.read().decode()


def until(what, look):
    """The first thing that `look` finds."""
    end = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            if found := look():
                return found
        if time.monotonic() > end:
            raise SystemExit(f"in vain: {what}")
        time.sleep(0.1)


class Fleet:
    """Three relays, who watches them, and who uses them; all end with it."""

    def __init__(self, programs, folder):
        self.programs, self.folder, self.processes = programs, folder, []
        self.group = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()
        if self.group:
            self.group.rmdir()

    def start(self, name, *command, **more):
        log = open(self.folder / f"{name}.log", "w", encoding="utf-8")
        process = subprocess.Popen([str(part) for part in command], stderr=log, stdout=more.pop("stdout", log), **more)
        self.processes.append(process)
        return process

    def start_relays(self):
        run = self.folder / "run"
        run.mkdir(mode=0o700)
        relay = self.programs / "remora-relay"
        subprocess.run([relay, "fleet-key", run / "fleet.key"], check=True, stdout=subprocess.DEVNULL)
        subprocess.run([relay, "fleet-key", run / "admin.token"], check=True, stdout=subprocess.DEVNULL)
        certificate = ["-keyout", run / "tls.key", "-out", run / "tls.crt"]
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30", "-subj",
                        "/CN=relay", "-addext", "subjectAltName=DNS:relay", *certificate], check=True, capture_output=True)
        self.group = memory_group()
        for n in RELAYS:
            peers = [part for other in RELAYS if other != n for part in ("--peer", f"{ip(other)}:4001")]
            own = ["--tls-cert", run / "tls.crt", "--tls-key", run / "tls.key"] if n == 3 else []
            process = self.start(
                f"relay-{n}", relay, "serve", "--name", f"relay-{n}", "--listen", f"{ip(n)}:4433", "--admin", f"{ip(n)}:9090", "--mesh",
                f"{ip(n)}:4001", *peers, *own, "--fleet-key", run / "fleet.key", "--key", run / f"relay-{n}.key", "--admin-token-file",
                run / "admin.token", preexec_fn=(lambda: join_group(self.group)) if n == 2 else None,
            )
            until(f"relay {n} is ready", lambda n=n: get(f"http://{ip(n)}:9090/readyz"))
            assert process.poll() is None
        for n in RELAYS:
            until("relays meet", lambda n=n: "remora_relay_mesh_peers 2\n" in get(f"http://{ip(n)}:9090/metrics"))

    def address(self, relay):
        log = (self.folder / f"relay-{relay}.log").read_text(encoding="utf-8")
        return next(line for line in log.splitlines() if line.startswith(f"{ip(relay)}:4433/"))

    def watch(self):
        settings = {
            "global": {"scrape_interval": "250ms", "scrape_timeout": "250ms", "evaluation_interval": "500ms"},
            "rule_files": [str(RULES)],
            "scrape_configs": [{
                "job_name": "remora-relay",
                "static_configs": [{"targets": [f"{ip(n)}:9090"], "labels": {"relay": f"relay-{n}"}} for n in RELAYS],
            }],
        }
        path = self.folder / "prometheus.yml"
        path.write_text(yaml.safe_dump(settings), encoding="utf-8")
        self.start("prometheus", "prometheus", f"--config.file={path}", f"--storage.tsdb.path={self.folder / 'series'}",
                   f"--web.listen-address={WATCHER}", "--log.level=warn")
        # Not before all have been asked once can anything that they count be seen to grow.
        until("Prometheus knows all relays", lambda: answer("count (up == 1)") == [float(len(RELAYS))])

    def person(self, name, verb, relay, *more):
        home = self.folder / "run" / name
        home.mkdir()
        environment = {"HOME": str(home), "PATH": os.environ["PATH"]}
        return Person(self.start(
            name, self.programs / "remora", verb, "--json", "--relay", relay, "--name", name, *more, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, env=environment,
        ))

    def session(self, name, at, other, *more):
        """The helper at one relay, the sharer at another; both, once the session has started."""
        helper = self.person(f"{name}-helper", "invite", at, *more)
        sharer = self.person(f"{name}-sharer", "join", other, *more)
        sharer.say(helper.told("code")["code"])
        sharer.told("trust")
        helper.told("trust")
        helper.say("v")
        sharer.told("consent_prompt")
        sharer.say("a")
        for person in (sharer, helper):
            person.told("started")
        return helper, sharer


class Person:
    """A `remora --json`: what it says, and what is said to it."""

    def __init__(self, process):
        self.process, self.events = process, queue.Queue()
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        for line in self.process.stdout:
            self.events.put(json.loads(line))
        self.events.put(None)

    def say(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def told(self, event):
        said, heard = {}, []
        with contextlib.suppress(queue.Empty):
            while said is not None and said.get("event") != event:
                said = self.events.get(timeout=PATIENCE)
                heard.append(said)
            if said is not None:
                return said
        raise SystemExit(f"in vain: `{' '.join(self.process.args[1:])}` says `{event}`: {heard}")


def memory_group():
    """A control group that limits memory, of either version."""
    root = pathlib.Path("/sys/fs/cgroup")
    for parent, limit in ((root / "memory", "memory.limit_in_bytes"), (root, "memory.max")):
        group = parent / f"remora-{os.getpid()}"
        with contextlib.suppress(OSError):
            group.mkdir()
            if (group / limit).exists():
                (group / limit).write_text(str(512 << 20))
                return group
            group.rmdir()
    raise SystemExit("no control group for memory can be made here")


def join_group(group):
    (group / "cgroup.procs").write_text(str(os.getpid()))


def load(fleet):
    """All that queries are about: sessions of every kind, a wrong code, a relay that leaves, a node that is killed."""
    one, two, three = (fleet.address(n) for n in RELAYS)
    direct = fleet.session("direct", two, three)
    relayed = fleet.session("relayed", f"{one},{two}", f"{one},{three}", "--relay-only")
    fleet.session("tcp", two, two, "--tcp-only")
    guessed = fleet.person("guessed", "invite", two)
    code = guessed.told("code")["code"]
    fleet.person("guesser", "join", two).say(other_secret(code))
    direct[0].say("/chat hello")
    token = (fleet.folder / "run" / "admin.token").read_text(encoding="utf-8").strip()
    get(f"http://{ip(1)}:9090/drain", method="POST", headers={"Authorization": f"Bearer {token}"})
    del relayed
    time.sleep(3)
    direct[1].process.send_signal(signal.SIGKILL)


def other_secret(code):
    """The same code but for its last letter, of which the first half of the code knows nothing."""
    return code[:-1] + ("2" if code[-1] != "2" else "3")


def asked():
    """All queries, and where they stand."""
    for path in sorted((HERE / "dashboards").glob("*.json")):
        page = json.loads(path.read_text(encoding="utf-8"))
        for variable in page["templating"]["list"]:
            if variable["type"] == "query" and variable["name"] != "namespace":
                metric, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"]).groups()
                yield f"{path.name}, ${variable['name']}", f'count by ({label}) ({metric}) unless count ({metric})'
        for panel in page["panels"]:
            for target in panel.get("targets", ()):
                yield f"{path.name}, {panel['title']} {target['refId']}", target["expr"]
    for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]:
        for rule in group["rules"]:
            if "record" in rule:
                yield f"{RULES.name}, {rule['record']}", rule["expr"]
            else:
                for series in looked_at(rule["expr"]):
                    yield f"{RULES.name}, {rule['alert']}", series


def looked_at(query):
    """The series that a query names."""
    found = re.findall(r"(?<![\w:])(?:remora|process|up)[\w:]*(?:\{[^}]*\})?", query)
    assert found, query
    return dict.fromkeys(found)


def answer(query):
    """The numbers that Prometheus answers with."""
    for name, value in FILLED.items():
        query = query.replace(name, value)
    url = f"http://{WATCHER}/api/v1/query?" + urllib.parse.urlencode({"query": query})
    try:
        result = json.loads(get(url))["data"]["result"]
    except urllib.error.HTTPError as error:
        return error.read().decode()
    return [value for series in result if math.isfinite(value := float(series["value"][1]))]


def main():
    programs, folder = (pathlib.Path(path).resolve() for path in sys.argv[1:3])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    # What loopback has for addresses, nodes do not offer to each other.
    subprocess.run(["ip", "link", "add", "remora", "type", "veth", "peer", "name", "end"], check=True)
    for link in ("remora", "end"):
        subprocess.run(["ip", "link", "set", link, "up"], check=True)
    for n in (*RELAYS, 9):
        subprocess.run(["ip", "address", "add", f"{ip(n)}/24", "dev", "remora"], check=True)
    work = pathlib.Path(tempfile.mkdtemp(prefix="queries.", dir=folder))
    with Fleet(programs, work) as fleet:
        fleet.start_relays()
        fleet.watch()
        load(fleet)
        queries, end = list(asked()), time.monotonic() + PATIENCE
        empty = queries
        while empty and time.monotonic() < end:
            time.sleep(1)
            empty = [(where, query) for where, query in empty if not isinstance(numbers := answer(query), list) or not numbers]
        for where, query in empty:
            print(f"no data: {where}: {' '.join(query.split())}: {answer(query)}")
        print(f"{len(queries) - len(empty)} of {len(queries)} queries of dashboards and rules return data")
        if empty:
            sys.exit(1)
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
