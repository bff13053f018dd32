#!/usr/bin/env python3
"""Says what in the Markdown of this repository leads nowhere.

    docs/links.py [FOLDER]      FOLDER: of the programs; by default target/release

* A relative link names a file that is there, and a heading of it that is there (by GitHub's rule for anchors).
* A path in `code` that begins with a folder of this repository is there.
* A command line of one of our programs is one that the program takes: in a block of code, or in `code` that begins with its
  name. Each is given to the program with `--help` after it, which says no to what it does not know before it helps; so nothing
  is done, and what is missing is not noticed.
* A metric of a relay is one of docs/metrics.md.

Prints a line for each that leads nowhere, then how many were looked at; exits with 1 when there were such lines. With --list,
prints the command lines that it tries.
"""

import os
import re
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ("remora", "remora-relay", "remora-loadtest", "remora-broker")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
METRIC = re.compile(r"\bremora_relay_[a-z_]+[a-z]")
HEADING = re.compile(r"^#{1,6} (.*?)\s*#*$")
PROGRAM = re.compile(r"^(?:[A-Z_]+=\S+ |sudo )*(?:%s)(?: |$)" % "|".join(PROGRAMS))
# What words in capitals stand for, where the program looks at it.
KEY, PIN = "a" * 52, "a" * 26
STANDS_FOR = [
    (r"\bHOST:PORT(?!\])", "relay.example.org:4433"),
    (r"\bADDR:PORT\b", "127.0.0.1:4433"),
    (r"\bHOST:(\d+)", r"relay.example.org:\1"),
    (r"\bNAME:(\d+)", r"relay.example.org:\1"),
    (r"(?<=[/#])KEY\d?\b", KEY),
    (r"/TLS\b", f"/{PIN}"),
    (r"(?<=https://)DESK\b", "desk.example.org"),
    (r"\b(?:SECONDS|MINUTES|NUMBER|N)\b", "5"),
    # Of several the first; what stands behind may belong to the last alone.
    (r"(?<=\w)\|(?=\w).*$", ""),
]
# Not what a program says of a word in capitals that stands for what nobody can make up, nor of a flag whose value the text says.
NO_MATTER = re.compile(r"invalid value '[A-Z]+' for|a value is required for")
# A relay's address that is only named, as in `remora setup A B C`.
ADDRESS = re.compile(r"\b[ABC]\b(?:,[ABC]\b)*|\bADDRESS\b|\bRELAY\b")


def anchors(text):
    """The anchors of a page's headings."""
    found, fenced = set(), False
    for line in text.splitlines():
        fenced ^= line.startswith("```")
        heading = HEADING.match(line)
        if fenced or not heading:
            continue
        words = LINK.sub(lambda link: link.group(0).split("](")[0].lstrip("!["), heading.group(1))
        slug = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
        number, unique = 0, slug
        while unique in found:
            number += 1
            unique = f"{slug}-{number}"
        found.add(unique)
    return found


def lines_of_code(text):
    """(number, line) of all blocks of code, fenced or indented; a line that ends with a backslash goes on."""
    fenced, begun, after_blank = False, None, True
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
            continue
        is_code = fenced or (line.startswith("    ") and (after_blank or begun is not None))
        # A block goes on over indented lines; text that follows a list is not one.
        if line.strip():
            after_blank = after_blank and line.startswith("    ") and is_code
        else:
            after_blank = True
        if not is_code:
            begun = None
            continue
        line = line.strip().removeprefix("$ ")
        if begun:
            number, line = begun[0], f"{begun[1]} {line}"
            begun = None
        if line.endswith("\\"):
            begun = (number, line[:-1].rstrip())
            continue
        yield number, line


def commands(text):
    """(number, words) of each call of a program of ours."""
    found = list(lines_of_code(text))
    inside = {number for number, _ in found}
    for number, line in enumerate(text.splitlines(), 1):
        if number not in inside:
            found += [(number, code) for code in CODE.findall(line) if PROGRAM.match(code)]
    for number, line in found:
        if "…" in line:
            continue
        # What it is for stands behind.
        line = re.sub(r"\s{3,}.*$|(^|\s)# .*$", "", line)
        for part in re.split(r"\s(?:&&|\|\|?|;)\s|\s&$", line):
            part = re.sub(r"^(?:.*\$\()", "", part.strip())
            if PROGRAM.match(part):
                yield number, part


def call(part):
    """What is given to the program."""
    part = re.sub(r"\s\[(?!:)(.*?)\]", r" \1", re.sub(r"\s\[\S*?\.\.\.\]", "", part))
    for pattern, word in STANDS_FOR:
        part = re.sub(pattern, word, part)
    address = f"relay.example.org:4433/{KEY}"
    part = ADDRESS.sub(lambda named: ",".join([address] * (named.group(0).count(",") + 1)), part)
    words = shlex.split(re.sub(r"\s*\d?[<>]+&?\s*\S+", "", part))
    while "=" in words[0] or words[0] == "sudo":
        words.pop(0)
    return words


def refusal(programs, words):
    """Why the program does not take them, or None."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("REMORA_")}
    if words[-1] not in ("--help", "--version"):
        words = [*words, "--help"]
    done = subprocess.run(
        [programs / words[0], *words[1:]], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=20, env=environment
    )
    why = (done.stderr.strip().splitlines() or ["?"])[0]
    return None if done.returncode == 0 or NO_MATTER.search(why) else why


def main():
    arguments = [word for word in sys.argv[1:] if word != "--list"]
    programs = Path(arguments[0] if arguments else ROOT / "target/release").resolve()
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    pages = {ROOT / name: (ROOT / name).read_text() for name in listed.stdout.split() if (ROOT / name).exists()}
    folders = "|".join(sorted(path.name for path in ROOT.iterdir() if path.is_dir() and path.name not in ("target", ".git")))
    is_path = re.compile(rf"(?:{folders})/[\w./@-]+$")
    metrics = set(METRIC.findall(pages.get(ROOT / "docs/metrics.md", "")))
    # What helm/README.md has an adapter make of one.
    metrics.add("remora_relay_bytes_forwarded_per_second")
    wrong, looked, tried = [], 0, []
    for page, text in sorted(pages.items()):
        where = page.relative_to(ROOT)
        coded = {number for number, _ in lines_of_code(text)}
        for number, line in enumerate(text.splitlines(), 1):
            for name in METRIC.findall(line):
                looked += 1
                # Of a family as a whole, or one of a histogram's.
                if not any(known.startswith(name) for known in metrics) and re.sub("_(bucket|sum|count)$", "", name) not in metrics:
                    wrong.append(f"{where}:{number}: {name}: no such metric in docs/metrics.md")
            if number in coded:
                continue
            for target in LINK.findall(line):
                if re.match(r"[a-z]+:", target):
                    continue
                looked += 1
                name, _, anchor = target.partition("#")
                path = (page.parent / name).resolve() if name else page
                if not path.exists():
                    wrong.append(f"{where}:{number}: {target}: no such file")
                elif anchor and anchor not in anchors(pages.get(path) or path.read_text()):
                    wrong.append(f"{where}:{number}: {target}: no such heading")
            for code in CODE.findall(line):
                if is_path.match(code):
                    looked += 1
                    if not (ROOT / code).exists() and not (page.parent / code).exists():
                        wrong.append(f"{where}:{number}: {code}: no such file")
        tried += [(f"{where}:{number}", part) for number, part in commands(text)]
    if "--list" in sys.argv:
        print("\n".join(f"{where}: {part}" for where, part in tried))
        return 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for (where, part), why in zip(tried, pool.map(lambda each: refusal(programs, call(each[1])), tried)):
            if why:
                wrong.append(f"{where}: `{part}`: {why}")
    print("\n".join(wrong), end="\n" if wrong else "")
    print(f"{looked} links, paths and metrics, {len(tried)} command lines: {len(wrong)} lead nowhere")
    return min(len(wrong), 1)


if __name__ == "__main__":
    sys.exit(main())
