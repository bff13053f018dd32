#!/usr/bin/env python3
"""Writes docs/rules.md to standard output: every rule of docs/rules-source.md with the tests that carry its id in their names.

A test is a function below `#[test]` or `#[tokio::test]` in any crate, or a `test('…')` of the page's in node/tests/browser; whether it
passes is for the tests to say, which ./check runs.
One that is ignored is none. Exits with 1 when a test claims a rule that there is not.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TEST = re.compile(r"#\[(?:tokio::)?test(?:\([^\n]*\))?\]\n((?:\s*#\[[^\n]*\]\n)*)\s*(?:async )?fn (\w+)\(")
PAGE_TEST = re.compile(r"^test\('([^']+)'", re.MULTILINE)
CLAIM = re.compile(r"(t_p\d|t_\d\d[eu]?|[aecndu]_\d+)_")
ROW = re.compile(r"\| ([A-Z]-\w+) \| (.*) \| (real|fake) \|$")


def claimed(name, found):
    claim = CLAIM.match(name)
    if claim:
        kind, number = claim.group(1).split("_")
        found.setdefault(f"{kind.upper()}-{number.replace('p', 'P')}", []).append(name)


def tests():
    """Names of tests, by the id that they carry."""
    found = {}
    for path in sorted((ROOT / "node/tests/browser").glob("*.mjs")):
        for name in PAGE_TEST.findall(path.read_text()):
            claimed(name.replace(" ", "_"), found)
    for crate in ("proto", "relay", "node", "loadtest"):
        for path in sorted((ROOT / crate).rglob("*.rs")):
            if "target" in path.parts:
                continue
            for attributes, name in TEST.findall(path.read_text()):
                if "#[ignore" not in attributes:
                    claimed(name, found)
    return found


def main():
    source = (ROOT / "docs/rules-source.md").read_text().splitlines()
    rules = [row.groups() for row in map(ROW.match, source) if row]
    found = tests()
    unknown = set(found) - {rule[0] for rule in rules}
    lines, counts = [], {"ok": 0, "fake": 0, "missing": 0}
    for ident, text, how in rules:
        names = sorted(found.get(ident, []))
        state = "missing" if not names else "fake" if how == "fake" else "ok"
        counts[state] += 1
        lines.append(f"| {ident} | {text} | {' '.join(f'`{name}`' for name in names) or '–'} | {state} |")
    print("# Which test shows which rule\n")
    print("Written by `docs/rules.py` from `docs/rules-source.md` and the names of the tests; `./check rules` compares. `missing` is not built, or has")
    print("no test whose name says so.\n")
    print(", ".join(f"{count} {state}" for state, count in counts.items()) + f", of {len(rules)}.\n")
    print("| id | rule | test | ok/fake/missing |")
    print("|---|---|---|---|")
    print("\n".join(lines))
    for ident in sorted(unknown):
        print(f"{ident} is no rule: {' '.join(found[ident])}", file=sys.stderr)
    return 1 if unknown else 0


if __name__ == "__main__":
    sys.exit(main())
