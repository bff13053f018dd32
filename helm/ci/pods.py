"""Plays the chart's pods as processes: `./check pods` runs it, as root.

    pods.py FOLDER          with remora-relay, remora and remora-loadtest of that folder

What `helm template` renders of the StatefulSet is done as a cluster would do it, as far as a computer alone can:

    each pod      a network namespace with an address of its own; a read-only root with the image's programs; ConfigMap, Secrets and
                  volume mounted where they say; the user, groups, capabilities and sysctls of its security context
    kubelet       command, args and environment with the downward API; startup, readiness and liveness probes; preStop, SIGTERM and
                  SIGKILL within the grace period; fsGroup on the volume each time it is mounted
    DNS           of the headless Service: all pods; of the admin Service: those that are ready
    StatefulSet   a pod that ends comes again with its name and volume; upgrades go from the last to the first, each ready and
                  `minReadySeconds` old before the next goes

Then, with the chart's defaults: the relays find each other; `helm test`'s pod runs; two people meet by code and talk, and one pod after the
other is replaced below them. And once more without the people by load balancers, which has other settings. What is right and wrong is said a line each, with what was measured; the last line is `N M`: how many were right, how many not.

All of it is in namespaces of its own, which end with it, in less than a minute.
"""

import base64
import ctypes
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

NAMESPACE, RELEASE = "remora", "remora"
# What nodes notice of a relay that leaves: no more than this between two words that were said every `SAID_EVERY`.
MAX_GAP, SAID_EVERY = 0.5, 0.1
# For whatever should happen, and does not.
PATIENCE = 30.0
DNS = "10.77.0.1"

libc = ctypes.CDLL(None, use_errno=True)
libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]
CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
PR_SET_KEEPCAPS, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 8, 24, 38
CAPABILITIES = {"NET_BIND_SERVICE": 10}
LAST_CAPABILITY = 40


def call(done, what):
    if done != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


# --- a container's process ----------------------------------------------------------------------------


def bind(source, target, is_read_only):
    call(libc.mount(source.encode(), target.encode(), None, MS_BIND | MS_REC, None), f"mount {target}")
    if is_read_only:
        call(libc.mount(None, target.encode(), None, MS_REMOUNT | MS_BIND | MS_RDONLY, None), f"remount {target}")


def enter(path):
    """Becomes what the file says: namespaces, mounts, user, rights, program."""
    spec = json.loads(pathlib.Path(path).read_text())
    with open(f"/run/netns/{spec['network']}", encoding="ascii") as network:
        call(libc.setns(network.fileno(), CLONE_NEWNET), "setns")
    call(libc.unshare(CLONE_NEWNS), "unshare")
    call(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None), "private mounts")
    root = spec["root"]
    bind(root, root, spec["read_only_root"])
    for source, target, is_read_only in spec["mounts"]:
        bind(source, root + target, is_read_only)
    for name, value in spec["sysctls"].items():
        pathlib.Path("/proc/sys", *name.split(".")).write_text(value)
    os.chroot(root)
    os.chdir("/")
    allowed = [CAPABILITIES[name] for name in spec["capabilities"]]
    for number in range(LAST_CAPABILITY + 1):
        if number not in allowed:
            libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0)
    libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setgroups(spec["groups"])
    os.setresgid(*[spec["group"]] * 3)
    os.setresuid(*[spec["user"]] * 3)
    # As a container runtime has it for whoever is not root: the rights that it was given, none that its program inherits.
    mask = sum(1 << number for number in allowed)
    header = struct.pack("Ii", 0x20080522, 0)
    sets = struct.pack("IIIIII", mask, mask, 0, 0, 0, 0)
    call(libc.capset(header, sets), "capset")
    if spec["no_new_privileges"]:
        call(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    os.execve(spec["command"][0], spec["command"], spec["environment"])


# --- what is found ------------------------------------------------------------------------------------

right, wrong = 0, 0


def found(what, is_so, more=""):
    global right, wrong
    if is_so:
        right += 1
    else:
        wrong += 1
    print(f"{'ok   ' if is_so else 'WRONG'} {what}{': ' if more else ''}{more}", flush=True)


def until(what, is_so, more=lambda: "", within=PATIENCE):
    """Waits for it; how long that took, or the end of all with what `more` says then."""
    began = time.monotonic()
    while not is_so():
        if time.monotonic() - began > within:
            raise SystemExit(f"not within {within:.0f} s: {what}: {more()}")
        time.sleep(0.02)
    return time.monotonic() - began


def run(*command):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


# --- the network --------------------------------------------------------------------------------------


class Network:
    """A bridge, and a network namespace for each who is at it. We are at it, too, as the node's kubelet and as DNS."""

    def __init__(self):
        pathlib.Path("/run/netns").mkdir(exist_ok=True)
        run("mount", "-t", "tmpfs", "none", "/run/netns")
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", "lan", "type", "bridge")
        run("ip", "address", "add", f"{DNS}/24", "dev", "lan")
        run("ip", "link", "set", "lan", "up")

    def join(self, name, address):
        run("ip", "netns", "add", name)
        run("ip", "link", "add", f"v-{name}"[:15], "type", "veth", "peer", "name", "eth0", "netns", name)
        run("ip", "link", "set", f"v-{name}"[:15], "master", "lan", "up")
        inside = ["ip", "-n", name]
        run(*inside, "link", "set", "lo", "up")
        run(*inside, "address", "add", f"{address}/24", "dev", "eth0")
        run(*inside, "link", "set", "eth0", "up")
        run(*inside, "route", "add", "default", "via", DNS)


class Names(threading.Thread):
    """Answers A questions about Services; every other name is nobody's."""

    def __init__(self, services):
        super().__init__(daemon=True)
        self.services = services
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((DNS, 53))

    def run(self):
        while True:
            question, source = self.socket.recvfrom(512)
            try:
                self.socket.sendto(self.answer(question), source)
            except (IndexError, struct.error, UnicodeDecodeError):
                pass

    def answer(self, question):
        labels, at = [], 12
        while question[at]:
            labels.append(question[at + 1 : at + 1 + question[at]].decode())
            at += 1 + question[at]
        [kind] = struct.unpack(">H", question[at + 1 : at + 3])
        service = self.services.get(".".join(labels).lower())
        addresses = service() if service and kind == 1 else []
        flags = 0x8580 if service else 0x8583
        head = question[:2] + struct.pack(">HHHHH", flags, 1, len(addresses), 0, 0) + question[12 : at + 5]
        records = [b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 5, 4) + socket.inet_aton(address) for address in addresses]
        return head + b"".join(records)


# --- the pods -----------------------------------------------------------------------------------------


def image(folder, programs):
    """A root with these programs and what they are linked to; the relay's file has the right that deploy/Dockerfile gives it."""
    for inside in ("usr/bin", "usr/lib", "usr/lib64", "etc/remora", "run/secrets/remora", "var/lib/remora", "proc", "dev", "tmp"):
        (folder / inside).mkdir(parents=True, exist_ok=True)
    for name in ("lib", "lib64"):
        (folder / name).symlink_to(f"usr/{name}")
    (folder / "etc/nsswitch.conf").write_text("hosts: files dns\n")
    for name in ("resolv.conf", "hosts"):
        (folder / "etc" / name).write_text("")
    for program in programs:
        shutil.copy(program, folder / "usr/bin")
    relay = folder / "usr/bin/remora-relay"
    if relay.exists():
        run("setcap", "cap_net_bind_service=+p", str(relay))


class Cluster:
    """What all pods have in common: the rendered objects, made into files."""

    def __init__(self, folder, objects):
        self.folder = folder
        self.objects = objects
        for each in objects:
            if each["kind"] == "Secret":
                files = {name: base64.b64decode(value) for name, value in each["data"].items()}
                self.write(each, files, "secret")
            elif each["kind"] == "ConfigMap":
                self.write(each, {name: text.encode() for name, text in each["data"].items()}, "config")

    def of(self, kind):
        return [each for each in self.objects if each["kind"] == kind]

    def write(self, each, files, kind):
        to = self.folder / kind / each["metadata"]["name"]
        to.mkdir(parents=True)
        for name, content in files.items():
            (to / name).write_bytes(content)

    def mounted(self, pod, volume, group):
        """The folder of a volume, with the owner and mode that the kubelet gives what it mounts."""
        if "secret" in volume:
            to = self.folder / "secret" / volume["secret"]["secretName"]
            mode = volume["secret"]["defaultMode"]
        elif "configMap" in volume:
            to, mode = self.folder / "config" / volume["configMap"]["name"], 0o644
        else:
            raise SystemExit(f"no such volume can be played: {volume} of {pod}")
        for file in to.iterdir():
            os.chown(file, 0, group)
            file.chmod(mode)
        return to


# What images have of the system that they run on: theirs is made of its packages.
SYSTEM = [["/usr/lib", "/usr/lib", True], ["/usr/lib64", "/usr/lib64", True], ["/proc", "/proc", False], ["/dev", "/dev", False]]


class Pod:
    """One of the StatefulSet's, from its start to its end, as the kubelet sees it."""

    def __init__(self, cluster, root, name, network, address):
        [stateful] = cluster.of("StatefulSet")
        self.cluster, self.root, self.name, self.network, self.address = cluster, root, name, network, address
        self.stateful, self.spec = stateful["spec"], stateful["spec"]["template"]["spec"]
        [self.container] = self.spec["containers"]
        self.process, self.is_ready, self.ended = None, False, threading.Event()
        self.folder = cluster.folder / "pods" / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.starts = 0

    def claim(self, claim):
        """Its own volume, which stays when the pod goes."""
        to = self.cluster.folder / "volumes" / f"{claim['metadata']['name']}-{self.name}"
        to.mkdir(parents=True, exist_ok=True)
        context = self.spec["securityContext"]
        group, mode = context["fsGroup"], 0o2775
        is_so = (to.stat().st_gid, to.stat().st_mode & 0o7777) == (group, mode)
        if context["fsGroupChangePolicy"] == "Always" or not is_so:
            for file in to.rglob("*"):
                os.chown(file, -1, group)
                file.chmod(file.stat().st_mode | 0o660)
            os.chown(to, 0, group)
            to.chmod(mode)
        return to

    def environment(self):
        fields = {"metadata.name": self.name, "status.podIP": self.address, "status.hostIP": self.address}
        known = {}
        for each in self.container["env"]:
            if "valueFrom" in each:
                known[each["name"]] = fields[each["valueFrom"]["fieldRef"]["fieldPath"]]
            else:
                known[each["name"]] = re.sub(r"\$\((\w+)\)", lambda match: known.get(match[1], match[0]), each["value"])
        return known

    def specify(self, command):
        """What `enter` needs to run it in this pod."""
        context, own = self.spec["securityContext"], self.container["securityContext"]
        volumes = {volume["name"]: volume for volume in self.spec["volumes"]}
        claims = {claim["metadata"]["name"]: claim for claim in self.stateful.get("volumeClaimTemplates", [])}
        mounts = [*SYSTEM]
        for name, text in {"resolv.conf": resolv_conf(), "hosts": f"127.0.0.1 localhost\n{self.address} {self.name}\n"}.items():
            (self.folder / name).write_text(text)
            mounts.append([str(self.folder / name), f"/etc/{name}", False])
        for mount in self.container["volumeMounts"]:
            name = mount["name"]
            if name in claims:
                source = self.claim(claims[name])
            else:
                source = self.cluster.mounted(self.name, volumes[name], context["fsGroup"])
            # The image's root is ours: what has no place in it gets one.
            (self.root / mount["mountPath"].lstrip("/")).mkdir(parents=True, exist_ok=True)
            mounts.append([str(source), mount["mountPath"], mount.get("readOnly", False)])
        return {
            "network": self.network,
            "root": str(self.root),
            "read_only_root": own["readOnlyRootFilesystem"],
            "mounts": mounts,
            "sysctls": {each["name"]: each["value"] for each in context.get("sysctls", [])},
            "user": context["runAsUser"],
            "group": context["runAsGroup"],
            "groups": [context["fsGroup"]],
            "capabilities": own["capabilities"].get("add", []),
            "no_new_privileges": own["allowPrivilegeEscalation"] is False,
            "command": command,
            "environment": self.environment(),
        }

    def execute(self, name, command, **more):
        file = self.folder / f"{name}.json"
        file.write_text(json.dumps(self.specify(command)))
        return subprocess.Popen([sys.executable, __file__, "--enter", str(file)], **more)

    def run(self, name, *command):
        """`kubectl exec`: its end, and what it said."""
        ran = self.execute(name, command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True)
        said, _ = ran.communicate(timeout=PATIENCE)
        return ran.returncode, said

    def start(self):
        self.starts += 1
        self.is_ready, self.ended = False, threading.Event()
        self.log = self.folder / f"log-{self.starts}"
        with self.log.open("wb") as log:
            command = self.container["command"] + self.container["args"]
            self.process = self.execute("serve", command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        threading.Thread(target=self.probe, args=(self.process, self.ended), daemon=True).start()

    def ask(self, path, timeout=2.0):
        port = next(port["containerPort"] for port in self.container["ports"] if port["name"] == "admin")
        connection = http.client.HTTPConnection(self.address, port, timeout=timeout)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except OSError:
            return 0, ""
        finally:
            connection.close()

    def probe(self, process, ended):
        """As the kubelet does: startup until it succeeds, then readiness; a startup or liveness that fails is the end of it."""
        kinds = {kind: self.container[kind] for kind in ("startupProbe", "readinessProbe", "livenessProbe")}
        failures = dict.fromkeys(kinds, 0)
        due = dict.fromkeys(kinds, 0.0)
        has_started = False
        while not ended.is_set() and process.poll() is None:
            for kind, probe in kinds.items():
                if (kind == "startupProbe") == has_started or time.monotonic() < due[kind]:
                    continue
                due[kind] = time.monotonic() + probe["periodSeconds"]
                status, _ = self.ask(probe["httpGet"]["path"], probe.get("timeoutSeconds", 1))
                is_well = 200 <= status < 400
                failures[kind] = 0 if is_well else failures[kind] + 1
                is_failed = failures[kind] >= probe["failureThreshold"]
                if kind == "readinessProbe":
                    self.is_ready = is_well or (self.is_ready and not is_failed)
                elif is_failed:
                    found(f"{kind} of {self.name}", False, self.tail())
                    process.kill()
                elif kind == "startupProbe":
                    has_started = is_well
            ended.wait(0.05)
        self.is_ready = False

    def tail(self):
        return " | ".join(self.log.read_text().splitlines()[-5:])

    def stop(self):
        """`kubectl delete pod`: preStop, SIGTERM, and SIGKILL when the grace period is over."""
        began = time.monotonic()
        grace = self.spec["terminationGracePeriodSeconds"]
        command = self.container["lifecycle"]["preStop"]["exec"]["command"]
        hook = self.execute("prestop", command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True)
        try:
            said, _ = hook.communicate(timeout=grace)
        except subprocess.TimeoutExpired:
            hook.kill()
            said, _ = hook.communicate()
        drained = time.monotonic() - began
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        is_killed = False
        try:
            self.process.wait(timeout=max(0.0, grace - drained))
        except subprocess.TimeoutExpired:
            is_killed = True
            self.process.kill()
            self.process.wait()
        self.ended.set()
        return {"hook": hook.returncode, "said": said.strip(), "drained": drained, "took": time.monotonic() - began, "exit": self.process.returncode, "killed": is_killed}

    def metric(self, name):
        _, text = self.ask("/metrics")
        match = re.search(rf"^{name} (\S+)$", text, re.M)
        return float(match[1]) if match else None


def resolv_conf():
    return f"nameserver {DNS}\nsearch {NAMESPACE}.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n"


# --- two people ---------------------------------------------------------------------------------------


def tool(network, root, mounts, command, environment):
    """What `enter` needs to run a program of the other image, by nobody, in one of the networks."""
    return {"network": network, "root": str(root), "read_only_root": True, "mounts": [*SYSTEM, *mounts], "sysctls": {}, "user": 65532, "group": 65532, "groups": [], "capabilities": [],
            "no_new_privileges": True, "command": command, "environment": environment}


class Person:
    """`remora --json` of somebody outside, driven by lines and read by events."""

    def __init__(self, name, root, folder, command):
        self.name, self.events, self.heard, self.changed = name, [], {}, threading.Condition()
        home = folder / name
        home.mkdir()
        os.chown(home, 65532, 65532)
        environment = {"HOME": "/tmp", "XDG_RUNTIME_DIR": "/tmp", "REMORA_RELAY_ONLY": "true", "PATH": "/usr/bin"}
        spec = tool(name, root, [[str(home), "/tmp", False]], command, environment)
        (home / "spec.json").write_text(json.dumps(spec))
        self.errors = (home / "errors").open("w+")
        self.process = subprocess.Popen([sys.executable, __file__, "--enter", str(home / "spec.json")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True, bufsize=1)
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            now, event = time.monotonic(), json.loads(line)
            with self.changed:
                if event["event"] == "chat":
                    self.heard[event["text"]] = now
                else:
                    self.events.append(event)
                self.changed.notify_all()

    def say(self, line):
        try:
            self.process.stdin.write(line + "\n")
        except BrokenPipeError:
            pass

    def of(self, kind):
        with self.changed:
            return [event for event in self.events if event["event"] == kind]

    def expect(self, kind):
        def is_there():
            if self.process.poll() is not None:
                self.errors.seek(0)
                raise SystemExit(f"{self.name} has ended: {self.errors.read()} {self.events[-3:]}")
            return self.of(kind)

        until(f"{kind} of {self.name}", is_there, lambda: self.events[-3:])
        return self.of(kind)[-1]

    def expect_end(self):
        until(f"the end of {self.name}'s session", lambda: self.of("ended"))
        return self.of("ended")[-1]


class Talk(threading.Thread):
    """Both say something every `SAID_EVERY`, so that one hears for how long the other could not be heard."""

    def __init__(self, one, other):
        super().__init__(daemon=True)
        self.people, self.number, self.is_over = (one, other), 0, threading.Event()

    def run(self):
        while not self.is_over.wait(SAID_EVERY):
            self.number += 1
            for person in self.people:
                person.say(f"{person.name} says {self.number}")

    def longest(self, begin):
        """The longest silence since then that either heard; what was said and not heard does not count as heard."""
        longest = 0.0
        for person in self.people:
            with person.changed:
                times = sorted(at for at in person.heard.values() if at >= begin)
            ends = [begin, *times, time.monotonic()]
            longest = max([longest, *(later - earlier for earlier, later in zip(ends, ends[1:]))])
        return longest


# --- what is played -----------------------------------------------------------------------------------


def replace(pod, talk, people, pods, what):
    """A pod goes and comes again, below a session that must not notice more than a moment."""
    began = time.monotonic()
    before = pod.ask("/address")[1]
    ended = pod.stop()
    found(f"{what}: {pod.name} drains and ends by itself", ended["hook"] == 0 and ended["exit"] == 0 and not ended["killed"],
          f"{ended['drained']:.1f} s of {pod.spec['terminationGracePeriodSeconds']} s; {ended['said']}{'' if ended['exit'] == 0 else pod.tail()}")
    pod.start()
    ready = until(f"{pod.name} is ready again", lambda: pod.is_ready, pod.tail)
    found(f"{what}: {pod.name} is ready again", True, f"{ready:.1f} s")
    found(f"{what}: {pod.name} is who it was", before and pod.ask("/address")[1] == before, before.strip())
    others = len(pods) - 1
    met = until(f"{pod.name} meets the others", lambda: pod.metric("remora_relay_mesh_peers") == others, pod.tail)
    found(f"{what}: {pod.name} is in the mesh again", True, f"{met:.1f} s later")
    time.sleep(pod.stateful["minReadySeconds"])
    gap = talk.longest(began)
    lasts = all(person.process.poll() is None and not person.of("ended") and not person.of("interrupted") for person in people)
    found(f"{what}: the session lasts, and is heard", lasts and gap <= MAX_GAP + SAID_EVERY, f"longest silence {gap * 1000:.0f} ms, said every {SAID_EVERY * 1000:.0f} ms")


class Fleet:
    """The pods of one release, with those values, in networks that are there."""

    def __init__(self, folder, relay_root, *values):
        from tools import render

        self.cluster = Cluster(folder, render(*values, release=RELEASE, namespace=NAMESPACE))
        [self.stateful] = self.cluster.of("StatefulSet")
        name = self.stateful["metadata"]["name"]
        self.pods = [Pod(self.cluster, relay_root, f"{name}-{number}", f"pod-{number}", address(number)) for number in range(self.stateful["spec"]["replicas"])]

    def start(self, what):
        began = time.monotonic()
        for pod in self.pods:
            pod.start()
        for pod in self.pods:
            until(f"{pod.name} is ready", lambda pod=pod: pod.is_ready, pod.tail)
        found(f"{what}: {len(self.pods)} pods are ready", True, f"{time.monotonic() - began:.1f} s")
        others = len(self.pods) - 1
        for pod in self.pods:
            until(f"{pod.name} meets the others", lambda pod=pod: pod.metric("remora_relay_mesh_peers") == others, pod.tail)
        found(f"{what}: each knows all the others", True, f"mesh_peers {others}, {time.monotonic() - began:.1f} s after the start")
        addresses = [pod.ask("/address")[1].strip() for pod in self.pods]
        is_so = all(at.startswith(f"{pod.address}:443/") for at, pod in zip(addresses, self.pods))
        found(f"{what}: each says where it is", is_so, addresses[0])
        for pod in self.pods:
            confined(pod, what)
        return addresses

    def stop(self, what):
        for pod in self.pods:
            ended = pod.stop()
            found(f"{what}: {pod.name} ends with nobody left", ended["exit"] == 0 and ended["hook"] == 0, f"{ended['took']:.1f} s")


def confined(pod, what):
    """Who it is, what it may, and whose its key is."""
    facts = dict(line.split(":\t", 1) for line in pathlib.Path(f"/proc/{pod.process.pid}/status").read_text().splitlines() if ":\t" in line)
    user, rights = facts["Uid"].split()[1], int(facts["CapPrm"], 16)
    wanted = sum(1 << CAPABILITIES[name] for name in pod.container["securityContext"]["capabilities"].get("add", []))
    is_bounded = facts["NoNewPrivs"] == "1" and int(facts["CapBnd"], 16) == rights == wanted
    found(f"{what}: {pod.name} is user 65532 with no right but that to its port", user == "65532" and is_bounded, f"uid {user}, capabilities {rights:#x}")
    [claim] = pod.stateful["volumeClaimTemplates"]
    mode = (pod.claim(claim) / "relay.key").stat().st_mode & 0o777
    found(f"{what}: the key of {pod.name} is its own alone", mode == 0o600, oct(mode))


def address(number):
    return f"10.77.0.{10 + number}"


def play(binaries, folder):
    relay_root, tools_root = folder / "image/relay", folder / "image/tools"
    image(relay_root, [binaries / "remora-relay"])
    image(tools_root, [binaries / "remora", binaries / "remora-loadtest"])
    fleet = Fleet(folder / "nodes", relay_root)
    network = Network()
    for number in range(len(fleet.pods)):
        network.join(f"pod-{number}", address(number))
    for number, name in enumerate(("helper", "sharer", "test")):
        network.join(name, f"10.77.0.{100 + number}")
    # Whose they are now.
    there = {"pods": fleet.pods}
    suffix, name = f"{NAMESPACE}.svc.cluster.local", fleet.stateful["metadata"]["name"]
    Names({
        f"{fleet.stateful['spec']['serviceName']}.{suffix}": lambda: [pod.address for pod in there["pods"] if pod.process and pod.process.poll() is None],
        f"{name}-admin.{suffix}": lambda: [pod.address for pod in there["pods"] if pod.is_ready],
    }).start()

    addresses = fleet.start("hostNetwork")
    helm_test(fleet.cluster, tools_root, folder, "hostNetwork")
    operate(fleet, tools_root, folder)
    session(fleet.pods, addresses, tools_root, folder)
    fleet.stop("hostNetwork")

    # In networks of their own: settings and address for each, and low ports by a sysctl. Their load balancers are not played.
    at = json.dumps([address(number) for number in range(3)])
    balanced = Fleet(folder / "balanced", relay_root, "--set", "expose.mode=loadBalancerPerPod", "--set-json", f"advertise={at}")
    there["pods"] = balanced.pods
    balanced.start("loadBalancerPerPod")
    helm_test(balanced.cluster, tools_root, folder, "loadBalancerPerPod")
    balanced.stop("loadBalancerPerPod")


def session(pods, addresses, tools_root, folder):
    """Two people meet and talk; first the relay that carries them is replaced below them, then all."""
    common = ["--relay", ",".join(addresses), "--json", "--no-page"]
    helper = Person("helper", tools_root, folder, ["/usr/bin/remora", "invite", "--name", "Sam Okafor", *common])
    code = helper.expect("code")["code"]
    sharer = Person("sharer", tools_root, folder, ["/usr/bin/remora", "join", "--code-stdin", "--name", "Maria Lopez", *common])
    sharer.say(code)
    people = (helper, sharer)
    for person in people:
        person.expect("trust")
    helper.say("v")
    sharer.expect("consent_prompt")
    sharer.say("a")
    for person in people:
        person.expect("started")
    path = helper.of("connected")[-1]
    found("two people are in a session", path["path"] == "relayed", f"by {path['relay']}")
    talk = Talk(helper, sharer)
    talk.start()
    until("they hear each other", lambda: helper.heard and sharer.heard)

    def carrier():
        moved = helper.of("path_moved")
        name = (moved or helper.of("connected"))[-1]["relay"]
        return next(pod for pod in pods if pod.name == name)

    replace(carrier(), talk, people, pods, "kubectl delete pod")
    found("the session has moved", bool(helper.of("path_moved")), f"to {carrier().name}")
    for pod in reversed(pods):
        replace(pod, talk, people, pods, "rolling restart")
    talk.is_over.set()
    time.sleep(1)
    for person, other in (people, people[::-1]):
        said = {f"{other.name} says {number}" for number in range(1, talk.number + 1)}
        found(f"{person.name} has heard every word", said <= set(person.heard), f"{len(said & set(person.heard))} of {len(said)}")
    helper.say("/leave")
    for person in people:
        ended = person.expect_end()
        found(f"the session ends when it is left, says {person.name}", ended["end_reason"] == "HELPER_LEFT", ended["end_reason"])


def operate(fleet, tools_root, folder):
    """What NOTES and README tell operators: `kubectl exec`, and `kubectl port-forward`, which comes out on the pod's loopback."""
    [pod, *_] = fleet.pods
    code, said = pod.run("doctor", "/usr/bin/remora-relay", "doctor")
    found("kubectl exec: the doctor finds no fault", code == 0 and "2 relays of the fleet are in touch" in said, said.strip()[-500:] if code else "")
    code, said = pod.run("address", "/usr/bin/remora-relay", "address")
    found("kubectl exec: it says where it is", code == 0 and said == pod.ask("/address")[1], said.strip())
    [secret] = [each for each in fleet.cluster.of("Secret") if "token" in each["data"]]
    port = next(port["containerPort"] for port in pod.container["ports"] if port["name"] == "admin")
    environment = {"HOME": "/tmp", "PATH": "/usr/bin", "REMORA_ADMIN": f"http://127.0.0.1:{port}", "REMORA_ADMIN_TOKEN": base64.b64decode(secret["data"]["token"]).decode()}
    (folder / "operate.json").write_text(json.dumps(tool(pod.network, tools_root, [], ["/usr/bin/remora", "admin", "relays"], environment)))
    ran = subprocess.run([sys.executable, __file__, "--enter", str(folder / "operate.json")], capture_output=True, text=True, timeout=PATIENCE, check=False)
    is_listed = ran.returncode == 0 and re.search(rf"^{pod.name} +ready ", ran.stdout, re.M)
    found("kubectl port-forward: remora admin relays with the Secret's token", bool(is_listed), "" if is_listed else ran.stdout[-300:] + ran.stderr[-300:])


def helm_test(cluster, root, folder, what):
    """The pod of `helm test`: its command in its place."""
    [test] = [each for each in cluster.of("Pod") if "helm.sh/hook" in each["metadata"]["annotations"]]
    [container] = test["spec"]["containers"]
    context = test["spec"]["securityContext"]
    (folder / "resolv.conf").write_text(resolv_conf())
    mounts = [*SYSTEM, [str(folder / "resolv.conf"), "/etc/resolv.conf", True]]
    spec = {"network": "test", "root": str(root), "read_only_root": container["securityContext"]["readOnlyRootFilesystem"], "mounts": mounts, "sysctls": {}, "user": context["runAsUser"],
            "group": context["runAsGroup"], "groups": [context["fsGroup"]], "capabilities": container["securityContext"]["capabilities"].get("add", []), "no_new_privileges": True,
            "command": container["command"] + container["args"], "environment": {}}
    (folder / "test.json").write_text(json.dumps(spec))
    began = time.monotonic()
    ran = subprocess.run([sys.executable, __file__, "--enter", str(folder / "test.json")], capture_output=True, text=True, timeout=PATIENCE, check=False)
    found(f"{what}: helm test holds a session", ran.returncode == 0, f"{time.monotonic() - began:.1f} s{'' if ran.returncode == 0 else ' ' + ran.stdout[-500:] + ran.stderr[-500:]}")


def main():
    if sys.argv[1] == "--enter":
        enter(sys.argv[2])
    if sys.argv[1] == "--inside":
        # Not below /tmp, which may be too small, or mounted without the right to run programs.
        binaries = pathlib.Path(sys.argv[2]).resolve()
        with tempfile.TemporaryDirectory(dir=binaries.parent) as folder:
            pathlib.Path(folder).chmod(0o755)
            try:
                play(binaries, pathlib.Path(folder))
            except SystemExit as stopped:
                found("all of it", False, str(stopped))
        print(right, wrong)
        sys.exit(1 if wrong else 0)
    # All that is started ends with it: the first process of its namespace.
    namespaces = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "timeout", "--kill-after=5", "400"]
    os.execvp(namespaces[0], [*namespaces, sys.executable, __file__, "--inside", sys.argv[1]])


main()
