"""Checks the chart, one thing a line: `./check chart` runs it.

    check.py RELAY          with the relay's program, whose settings the chart's limits are

Each set of values in values/ must lint, render, be what Kubernetes knows (strictly: no field that it would drop), and keep to the
policies below; each of bad.yaml must be refused by a message that names the key; alerts, dashboards and the README's table must be
what deploy/ and values.yaml say. The last line is `N M`: how many were right, and how many not.
"""

import base64
import json
import pathlib
import re
import subprocess
import sys
import tempfile

import kubernetes_validate
import yaml

from tools import CHART, ROOT, TOOLS, helm, render

KUBERNETES = "1.35"
HERE = pathlib.Path(__file__).resolve().parent
# Objects of operators: their own schemas, by node.
FOREIGN = ("monitoring.coreos.com/", "cert-manager.io/")

right, wrong = 0, []


def found(what, problems):
    """Counts one thing; it is right when there is no problem."""
    global right
    problems = [str(problem) for problem in problems]
    if problems:
        wrong.append(what)
        print(f"WRONG {what}: {'; '.join(problems)}")
    else:
        right += 1


def value_sets():
    return sorted((HERE / "values").glob("*.yaml"))


def lint(values):
    status, out, err = helm("lint", "--strict", str(CHART), "--values", str(values))
    found(f"lint {values.stem}", [out + err] if status else [])


def strictly(values, objects):
    problems = []
    for each in objects:
        if each["apiVersion"].startswith(FOREIGN):
            continue
        try:
            kubernetes_validate.validate(each, KUBERNETES, strict=True)
        except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as problem:
            problems.append(f"{each['kind']} {each['metadata']['name']}: {problem.message[:300]}")
    found(f"Kubernetes knows {values.stem}", problems)


def foreign(sets):
    """Those of operators, all in one go."""
    objects = [each for _, objects in sets for each in objects if each["apiVersion"].startswith(FOREIGN)]
    script = HERE / "foreign.mjs"
    ran = subprocess.run(["node", str(script), str(TOOLS)], input=json.dumps(objects), capture_output=True, text=True, timeout=60, check=False)
    for kind in ("PodMonitor", "PrometheusRule", "Certificate"):
        lines = [line for line in ran.stdout.splitlines() if line.startswith(kind)]
        bad = [line for line in lines if not line.endswith(" ok")]
        found(f"{kind}s are what their operator knows", bad or ([] if lines else [f"none was checked {ran.stderr}"]))


def pod_specs(objects):
    for each in objects:
        if each["kind"] in ("StatefulSet", "Job"):
            yield each["kind"], each["spec"]["template"]["spec"]
        elif each["kind"] == "Pod":
            yield each["kind"], each["spec"]


def is_unprivileged(values, objects):
    """What the Pod Security Standard `restricted` asks for, and a limit of memory."""
    problems = []

    def need(is_so, what):
        if not is_so:
            problems.append(what)

    for kind, spec in pod_specs(objects):
        pod = spec["securityContext"]
        need(pod["runAsNonRoot"] is True and pod["runAsUser"] > 0, f"{kind} may be root")
        need(pod["seccompProfile"]["type"] == "RuntimeDefault", f"{kind} has no seccomp profile")
        need(spec["automountServiceAccountToken"] is False, f"{kind} has a token of the cluster's")
        need(not spec.get("hostPID") and not spec.get("hostIPC"), f"{kind} sees the host's processes")
        need(all("hostPath" not in volume for volume in spec.get("volumes", [])), f"{kind} has the host's files")
        for container in spec["containers"]:
            own = container["securityContext"]
            need(own["readOnlyRootFilesystem"] is True, f"{kind} writes anywhere")
            need(own["allowPrivilegeEscalation"] is False and own["privileged"] is False, f"{kind} may gain rights")
            need(own["capabilities"]["drop"] == ["ALL"], f"{kind} keeps rights")
            need(set(own["capabilities"].get("add", [])) <= {"NET_BIND_SERVICE"}, f"{kind} has more rights than that to ports")
            need("memory" in container["resources"]["limits"], f"{kind} has no limit of memory")
            need("cpu" not in container["resources"]["limits"], f"{kind} has a limit of CPU")
    found(f"{values.stem} has no rights that it does not need", problems)


def fits_together(values, objects):
    """What one object says of another."""
    problems = []

    def need(is_so, what):
        if not is_so:
            problems.append(what)

    by_kind = {}
    for each in objects:
        by_kind.setdefault(each["kind"], []).append(each)
    names = [(each["kind"], each["metadata"]["name"]) for each in objects]
    need(len(set(names)) == len(names), "two objects of one name")
    [stateful] = by_kind["StatefulSet"]
    spec, template = stateful["spec"], stateful["spec"]["template"]
    pod, [relay] = template["spec"], template["spec"]["containers"]
    labels = template["metadata"]["labels"]

    services = by_kind["Service"]
    [mesh] = [each for each in services if each["metadata"]["name"] == spec["serviceName"]]
    need(mesh["spec"]["clusterIP"] == "None" and mesh["spec"]["publishNotReadyAddresses"], "the mesh's Service is not headless")
    ports = {port["name"]: port for port in relay["ports"]}
    for service in services:
        wanted = dict(service["spec"]["selector"])
        by_pod = wanted.pop("statefulset.kubernetes.io/pod-name", None)
        need(by_pod is None or re.fullmatch(rf"{stateful['metadata']['name']}-\d+", by_pod), f"no such pod: {by_pod}")
        need(wanted.items() <= labels.items(), f"{service['metadata']['name']} selects no relay")
        for port in service["spec"]["ports"]:
            target = ports.get(port["targetPort"])
            is_same = target and target["protocol"] == port.get("protocol", "TCP")
            # The relay says which port it listens at, and is believed: outside, it has to be the same.
            need(is_same and target["containerPort"] == port["port"], f"{service['metadata']['name']}: {port}")
        if service["spec"].get("type") in ("LoadBalancer", "NodePort"):
            is_own = by_pod or service["spec"]["type"] == "NodePort"
            need(bool(service["spec"].get("publishNotReadyAddresses")) == bool(is_own), "a relay that drains is cut off, or is still found first")
    probes = [relay[name]["httpGet"]["port"] for name in ("startupProbe", "livenessProbe", "readinessProbe")]
    need(probes == ["admin"] * 3, "probes go elsewhere")
    need(all(each["spec"]["selector"]["matchLabels"].items() <= labels.items() for each in by_kind.get("PodDisruptionBudget", [])), "the budget is of other pods")
    for scaler in by_kind.get("HorizontalPodAutoscaler", []):
        need(scaler["spec"]["scaleTargetRef"]["name"] == stateful["metadata"]["name"] and "replicas" not in spec, "two say how many relays there are")
        [down] = scaler["spec"]["behavior"]["scaleDown"]["policies"]
        need((down["type"], down["value"]) == ("Pods", 1), "more than one relay less at once")

    volumes = {volume["name"] for volume in pod["volumes"]} | {claim["metadata"]["name"] for claim in spec.get("volumeClaimTemplates", [])}
    mounts = {mount["name"]: mount["mountPath"] for mount in relay["volumeMounts"]}
    need(set(mounts) == volumes, f"mounts {sorted(mounts)}, volumes {sorted(volumes)}")
    [settings] = [each for each in by_kind["ConfigMap"] if each["metadata"]["name"] == stateful["metadata"]["name"]]
    files = set(re.findall(r'"(/(?:run|etc|var)/[^"]*)"', "\n".join(settings["data"].values())))
    files |= {each["value"] for each in relay["env"] if str(each.get("value", "")).startswith("/")}
    need(all(any(file.startswith(path + "/") for path in mounts.values()) for file in files), f"a file that is not mounted: {files}")
    grace = pod["terminationGracePeriodSeconds"]
    drains = {int(each) for text in settings["data"].values() for each in re.findall(r"^drain_timeout = (\d+)$", text, re.M)}
    need(len(drains) == 1 and grace >= drains.pop() + 10, "the drain is cut off")
    need(relay["lifecycle"]["preStop"]["exec"]["command"] == ["/usr/bin/remora-relay", "drain"], "no drain")
    need(("HorizontalPodAutoscaler" in by_kind) == ("replicas" not in spec), "how many relays?")
    need(("NetworkPolicy" in by_kind) <= (not pod.get("hostNetwork")), "a NetworkPolicy that nobody keeps")
    found(f"{values.stem} fits together", problems)


def the_relay_takes_it(values, objects, relay):
    """The program reads the settings, with the environment that the kubelet would give it."""
    [stateful] = [each for each in objects if each["kind"] == "StatefulSet"]
    [settings] = [each for each in objects if each["kind"] == "ConfigMap" and each["metadata"]["name"] == stateful["metadata"]["name"]]
    [container] = stateful["spec"]["template"]["spec"]["containers"]
    problems = []
    with tempfile.TemporaryDirectory() as folder:
        for name, text in settings["data"].items():
            pathlib.Path(folder, name).write_text(text)
        is_ipv6 = "[$(POD_IP)]" in json.dumps(container["env"])
        pod, node = ("2001:db8::1", "2001:db8::2") if is_ipv6 else ("192.0.2.1", "198.51.100.1")
        known = {"POD_NAME": f"{stateful['metadata']['name']}-0", "POD_IP": pod, "NODE_IP": node}
        environment = {}
        for each in container["env"]:
            text = each.get("value")
            if text is not None:
                text = re.sub(r"\$\((\w+)\)", lambda match: known[match[1]], text).replace("/etc/remora", folder)
                environment[each["name"]] = text
        ran = subprocess.run([relay, "config", "show", "--json"], env=environment, capture_output=True, text=True, timeout=30, check=False)
        if ran.returncode:
            problems.append(ran.stderr)
    found(f"the relay takes the settings of {values.stem}", problems)


def bad_values(entry, number):
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(entry["values"], file)
        file.flush()
        status, _, err = helm("template", "remora", str(CHART), "--values", file.name)
    key = entry["key"]
    # As the schema or the chart's own words write it: `at '/log/level'`, `additional properties 'x' not allowed` at its parent.
    parent, _, last = key.rpartition(".")
    at = "/" + key.replace(".", "/")
    parent = re.escape("/" + parent.replace(".", "/") if parent else "")
    names = f"at '{re.escape(at)}[/']|at '{parent}': additional properties '{re.escape(last)}' not allowed|\\b{re.escape(key)}\\b"
    problems = []
    if status == 0:
        problems.append("was taken")
    elif not re.search(names, err):
        problems.append(f"the message does not name it: {err}")
    found(f"bad {number} {key}", problems)


def snake(name):
    return re.sub(r"([A-Z])", lambda match: "_" + match[1].lower(), name)


def limits(relay):
    """They are the relay's, with its defaults and bounds; none is invented, none left out."""
    schema = json.loads(subprocess.run([relay, "config", "schema"], capture_output=True, text=True, timeout=30, check=True).stdout)["properties"]
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    own = json.loads((CHART / "values.schema.json").read_text())["properties"]["limits"]["properties"]
    for key, value in values["limits"].items():
        theirs = schema.get(snake(key))
        if theirs is None:
            found(f"limits.{key}", ["the relay knows no such setting"])
            continue
        ours = own[key]
        same = [(name, ours.get(name), theirs.get(name)) for name in ("minimum", "maximum") if ours.get(name) != theirs.get(name)]
        if value != theirs.get("default"):
            same.append(("default", value, theirs.get("default")))
        found(f"limits.{key}", same)
    numbers = {key for key, setting in schema.items() if setting["type"] == "integer"} - {"drain_timeout"}
    found("every limit of the relay can be set", sorted(numbers - {snake(key) for key in values["limits"]}))
    same = [(values["drain"]["timeoutSeconds"], "drain_timeout"), (values["realm"], "realm"), (values["log"]["level"].upper(), "log")]
    found("defaults are the relay's", [key for value, key in same if schema[key]["default"] != value])


def closed(schema, path=""):
    """Objects that take any key: only maps of texts, and what Kubernetes' own schema judges."""
    if isinstance(schema, dict):
        if schema.get("type") == "object" and "additionalProperties" not in schema:
            yield path
        for key, value in schema.items():
            yield from closed(value, f"{path}/{key}")
    elif isinstance(schema, list):
        for number, value in enumerate(schema):
            yield from closed(value, f"{path}/{number}")


def the_schema_is_closed():
    schema = json.loads((CHART / "values.schema.json").read_text())
    allowed = {f"/properties/affinity/properties/{each}" for each in ("nodeAffinity", "podAffinity", "podAntiAffinity")} | {"/properties/global"}
    found("the schema takes no unknown key", set(closed(schema)) - allowed)
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    found("every value has its rule, every rule its value", set(schema["properties"]) - {"global"} ^ set(values))


def every_value_counts():
    """What is in values.yaml is read by some template."""
    text = "".join(path.read_text() for path in (CHART / "templates").rglob("*") if path.is_file())
    problems = []

    def walk(value, path):
        if isinstance(value, dict) and value and path.split(".")[0] not in ("podSecurityContext", "securityContext", "resources", "limits"):
            for key, inner in value.items() if path != "metrics.dashboard.labels" else ():
                walk(inner, f"{path}.{key}" if path else key)
            return
        last = path.split(".")[-1]
        if not re.search(rf"\.{last}\b", text) and path.split(".")[0] not in ("limits",):
            problems.append(path)

    walk(yaml.safe_load((CHART / "values.yaml").read_text()), "")
    found("every value is read", problems)


def secrets():
    objects = render()
    made = {each["metadata"]["name"]: each for each in objects if each["kind"] == "Secret"}
    key = base64.b64decode(made["remora-fleet"]["data"]["fleet.key"]).decode()
    found("a fleet key is what the relay takes", [] if re.fullmatch(r"[a-z2-7]{52}", key) else [key])
    token = base64.b64decode(made["remora-admin"]["data"]["token"]).decode()
    found("a token is long enough", [] if re.fullmatch(r"[A-Za-z0-9]{43}", token) else [token])
    kept = [each["metadata"]["annotations"].get("helm.sh/resource-policy") for each in made.values()]
    found("secrets outlive the release", [] if kept == ["keep"] * 2 else kept)
    again = {each["metadata"]["name"]: each for each in render() if each["kind"] == "Secret"}
    found("secrets are not the same twice", [name for name in made if again[name]["data"] == made[name]["data"]])


def detected():
    """Without the operator's API there is nothing for it."""
    status, out, err = helm("template", "remora", str(CHART))
    kinds = {each["kind"] for each in yaml.safe_load_all(out) if each}
    found("without an operator nothing is for it", [err] if status else kinds & {"PodMonitor", "PrometheusRule"})
    rendered = {each["kind"] for each in render()}
    found("with an operator it is", {"PodMonitor", "PrometheusRule"} - rendered)
    rules = next(each for each in render() if each["kind"] == "PrometheusRule")
    source = yaml.safe_load((ROOT / "deploy/prometheus/remora.rules.yml").read_text())
    found("the alerts are deploy/prometheus'", [] if rules["spec"] == source else ["they differ"])


def copies():
    ran = subprocess.run([str(CHART / "sync"), "--check"], capture_output=True, text=True, timeout=60, check=False)
    found("copies and the README's table are as helm/sync makes them", [ran.stdout + ran.stderr] if ran.returncode else [])


def package():
    with tempfile.TemporaryDirectory() as folder:
        status, _, err = helm("package", str(CHART), "--destination", folder)
        problems = [err] if status else []
        if not problems:
            [archive] = pathlib.Path(folder).glob("*.tgz")
            status, out, err = helm("template", "remora", str(archive))
            problems += [err] if status else []
            names = subprocess.run(["tar", "tzf", str(archive)], capture_output=True, text=True, check=True).stdout.split()
            problems += [name for name in names if name.startswith("remora/ci/")]
        found("the package is whole", problems)


def main():
    relay = str(pathlib.Path(sys.argv[1]).resolve())
    sets = []
    for values in value_sets():
        lint(values)
        objects = render("--values", str(values))
        sets.append((values, objects))
        strictly(values, objects)
        is_unprivileged(values, objects)
        fits_together(values, objects)
        the_relay_takes_it(values, objects, relay)
    foreign(sets)
    for number, entry in enumerate(yaml.safe_load((HERE / "bad.yaml").read_text()), 1):
        bad_values(entry, number)
    limits(relay)
    the_schema_is_closed()
    every_value_counts()
    secrets()
    detected()
    copies()
    package()
    print(right, len(wrong))
    sys.exit(1 if wrong else 0)


main()
