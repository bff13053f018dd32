#!/usr/bin/env python3
"""Says which alerts lack their entry in runbook.md, their test, or a way to be provoked; and what is there of none.

    runbook.py REMORA-LOADTEST
"""

import pathlib
import re
import subprocess
import sys

import yaml

HERE = pathlib.Path(__file__).resolve().parent


def read(path):
    return yaml.safe_load((HERE / "prometheus" / path).read_text(encoding="utf-8"))


def main():
    rules = [rule for group in read("remora.rules.yml")["groups"] for rule in group["rules"] if "alert" in rule]
    names = [rule["alert"] for rule in rules]
    runbook = (HERE / "runbook.md").read_text(encoding="utf-8")
    entries = {part.split("\n", 1)[0]: part for part in runbook.split("\n## ")[1:]}
    tests = [case for path in ("remora.rules.test.yml", "remora.long.test.yml") for test in read(path)["tests"] for case in test["alert_rule_test"]]
    firing = [case["alertname"] for case in tests if case["exp_alerts"]]
    wrong = [f"{name} is there more than once" for name in {name for name in names if names.count(name) > 1}]

    def compare(what, found):
        wrong.extend(f"{name}: no {what}" for name in names if name not in found)
        wrong.extend(f"{name}: no such alert, but its {what}" for name in found if name not in names)

    compare("entry in runbook.md", entries)
    compare("test in which it fires", firing)
    # What sets it off stands beside what does not: of each case there is more than what fires.
    for test in (test for path in ("remora.rules.test.yml", "remora.long.test.yml") for test in read(path)["tests"]):
        spaces = {re.search(r'namespace="(\w+)"', series["series"]).group(1) for series in test["input_series"]}
        if len(spaces) < 2:
            wrong.append(f"{test['name']}: nothing that does not set it off")
    for name, entry in entries.items():
        for part in ("**Says**", "**People notice**", "**Look**", "**Do**", f"**Provoke**: `remora-loadtest provoke {name}`"):
            if part not in entry:
                wrong.append(f"runbook.md, {name}: no {part}")
    for rule in rules:
        if not rule["annotations"]["runbook_url"].endswith(f"/deploy/runbook.md#{rule['alert'].lower()}"):
            wrong.append(f"{rule['alert']}: its runbook_url leads elsewhere")
        if rule["labels"]["severity"] not in ("critical", "warning"):
            wrong.append(f"{rule['alert']}: no known severity")
    for link in re.findall(r"\]\(#([^)]+)\)", runbook):
        if link not in {name.lower() for name in entries}:
            wrong.append(f"runbook.md: #{link} leads nowhere")
    listed = subprocess.run([sys.argv[1], "provoke", "--list"], check=True, capture_output=True, text=True).stdout
    compare("scenario of `remora-loadtest provoke`", [line.split()[0] for line in listed.splitlines()])
    print(f"{len(names)} alerts, each with its entry, a test and a way to be provoked" if not wrong else "\n".join(wrong))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
