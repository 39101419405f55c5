"""The quick tests on every Python that is installed here, each in a checkout and a .venv of its own below .venvs/.

just test-pythons                       all of them
just test-pythons 3.13 tests/cli        one of them, some of the tests; other words go to pytest
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nanolan.settings.settings import ROOT

OLDEST = (3, 10)
HOMES = ROOT / ".venvs"
VERSION_WORD = re.compile(r"3\.\d+(?:\.\d+)?")
ASK = (
    "import json, os, sys; print(json.dumps([sys.version_info[:3], os.path.realpath(sys.executable),"
    " sys.prefix == sys.base_prefix and sys.implementation.name == 'cpython']))"
)
# Where Pythons lie that are not on PATH: pyenv, uv, Homebrew, python.org
PLACES = (
    "~/.pyenv/versions/*/bin",
    "~/.local/share/uv/python/*/bin",
    "/opt/homebrew/bin",
    "/usr/local/bin",
    "/usr/bin",
    "/Library/Frameworks/Python.framework/Versions/*/bin",
)


@dataclass(frozen=True)
class Python:
    """An interpreter: its version and its real path."""

    version: tuple[int, int, int]
    path: Path

    @property
    def name(self) -> str:
        """A folder's name: 3.12.1, or 3.11.2-usr for the system's own."""
        return ".".join(map(str, self.version)) + "-usr" * self.path.is_relative_to("/usr/bin")

    def is_meant(self, word: str) -> bool:
        return f"{self.name}.".startswith((f"{word}.", f"{word}-"))


@dataclass(frozen=True)
class Outcome:
    """What came of one interpreter: exit code, pytest's last line, seconds."""

    python: Python
    code: int
    said: str
    seconds: float


def candidates(places: Iterable[str] = PLACES, path: str = os.defpath) -> Iterator[Path]:
    """Every file that is called like a Python 3."""
    folders = [Path(p) for p in path.split(os.pathsep) if p]
    for pattern in places:
        *_, glob = pattern.partition("*")
        base = Path(pattern.partition("*")[0]).expanduser()
        folders += sorted(base.glob(f"*{glob}")) if glob else [base]
    for folder in folders:
        if folder.name != "shims":  # pyenv's: they start whatever version is chosen
            yield from sorted(folder.glob("python3")) + sorted(folder.glob("python3.[0-9]*[0-9]"))


def ask(path: Path) -> Python | None:
    """The interpreter at `path`; None if it does not start, is too old, or belongs to a virtual environment."""
    try:
        done = subprocess.run([path, "-I", "-c", ASK], capture_output=True, text=True, timeout=30)
        version, real, usable = json.loads(done.stdout)
    except (OSError, subprocess.TimeoutExpired, ValueError):
        return None
    python = Python((version[0], version[1], version[2]), Path(real))
    return python if usable and python.version >= OLDEST else None


def newest(pythons: Iterable[Python]) -> list[Python]:
    """Each interpreter once, and of several patch versions in one place the newest alone; oldest first."""
    by_place: dict[tuple[str, int], Python] = {}
    for python in sorted(set(pythons), key=lambda p: (p.version, str(p.path))):
        place = str(python.path.parent).replace(".".join(map(str, python.version)), "")
        by_place[place, python.version[1]] = python
    return sorted(by_place.values(), key=lambda p: (p.version, str(p.path)))


def checkout(python: Python, homes: Path = HOMES, root: Path = ROOT) -> Path:
    """A clone of this checkout with its uncommitted changes, and a .venv of that interpreter."""
    home = homes / python.name
    if not (home / ".git").exists():
        git(root, "clone", "--quiet", "--shared", str(root), str(home))
    git(home, "fetch", "--quiet", "origin", "HEAD")
    git(home, "reset", "--quiet", "--hard", "FETCH_HEAD")
    git(home, "clean", "--quiet", "-d", "--force")
    changed = git(root, "ls-files", "-z", "--modified", "--others", "--exclude-standard")
    for name in filter(None, changed.split("\0")):
        if (root / name).is_file():
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, home / name)
        else:
            (home / name).unlink(missing_ok=True)
    return home


def git(folder: Path, *words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=folder, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def set_up(python: Python, home: Path, log: Path) -> int:
    """Make the .venv of `home` by scripts/setup.sh, as a first call of ./just test would with that interpreter."""
    uv = str(ROOT / ".venv/bin/uv")
    with open(log, "w") as f:
        if not (home / ".venv/.made").exists():
            words = [uv, "venv", "--quiet", "--clear", "--python", str(python.path), ".venv"]
            if code := subprocess.run(words, cwd=home, stdout=f, stderr=f).returncode:
                return code
            (home / ".venv/.made").write_text(f"{home}\n")
        env = os.environ | {"UV": uv}
        words = ["sh", "scripts/setup.sh", "dev"]
        return subprocess.run(words, cwd=home, env=env, stdout=f, stderr=f).returncode


def run_tests(python: Python, words: list[str]) -> Outcome:
    """Set up and test with one interpreter; the output goes to .venvs/NAME.log."""
    began = time.monotonic()
    log = HOMES / f"{python.name}.log"
    HOMES.mkdir(exist_ok=True)
    home = checkout(python)
    if code := set_up(python, home, log):
        said = "set-up failed"
    else:
        command = [
            ".venv/bin/python",
            "-m",
            "pytest",
            "-n",
            "2",
            "--dist",
            "worksteal",
            "-m",
            "not slow and not system",
        ]
        with open(log, "a") as f:
            code = subprocess.run([*command, *words], cwd=home, stdout=f, stderr=f).returncode
        said = last_line(log)
    return Outcome(python, code, said, time.monotonic() - began)


def last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip("= ") if lines else "no output"


def table(outcomes: Iterable[Outcome]) -> list[str]:
    """One line an interpreter."""
    rows = [
        (
            o.python.name,
            "ok" if o.code == 0 else "FAILED",
            f"{o.seconds:.0f} s",
            o.said if o.code == 0 else f"{o.said}; {HOMES.name}/{o.python.name}.log",
        )
        for o in outcomes
    ]
    return [f"{name:<12} {state:<7} {took:>7}  {said}" for name, state, took, said in rows]


def main(words: list[str]) -> int:
    """0: all passed; 1: some did not; 2: a version that is not here."""
    wanted = [w for w in words if VERSION_WORD.fullmatch(w)]
    rest = [w for w in words if w not in wanted]
    here = newest(filter(None, map(ask, candidates(path=os.environ.get("PATH", "")))))
    pythons = [p for p in here if not wanted or any(p.is_meant(w) for w in wanted)]
    print("found:", ", ".join(p.name for p in here) or "none", flush=True)
    if missing := [w for w in wanted if not any(p.is_meant(w) for p in here)]:
        print(f"not installed here: {', '.join(missing)}", file=sys.stderr)
        return 2
    if {p.path for p in pythons} <= {Path(sys.executable).resolve()} and not wanted:
        print("No Python but the one of .venv is installed here: ./just test runs the tests on it.")
        return 0
    outcomes = []
    for python in pythons:
        print(f"{python.name}: {python.path}; log: {HOMES.name}/{python.name}.log", flush=True)
        outcomes.append(run_tests(python, rest))
        print(table(outcomes[-1:])[0], flush=True)
    print("", *table(outcomes), sep="\n")
    return int(any(o.code for o in outcomes))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
