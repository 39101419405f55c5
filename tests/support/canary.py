"""The canary: every secret of the tests carries MARKER, and after each test it is looked for wherever a secret may get out.

Looked through: what the test printed and what its child processes printed to it, every file in its tmp folder (those of modules
and sessions at their end), every request to the local services, the arguments of every process that the tests started, and the
environment of machines' processes. Found as it is or in base64, once or twice over; in addresses and JSON it reads as it is.
Not seen: processes that live less than SAMPLE_S (but for those that the test process starts), files that are gone before the
test's end, the middle of files over BIG bytes (weights), installed packages.
"""

from __future__ import annotations

import base64
import contextlib
import fnmatch
import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from nanolan.sim.marker import LISTENERS, MARKER

SAMPLE_S = 0.2
BIG, END = 8 << 20, 1 << 20
PACKAGES = {".venv", "site-packages"}

# Where a secret may be: kind, place (a pattern), the widest mode of a file, why
ALLOWED: list[tuple[str, str, int, str]] = [
    ("file", "*/init-script", 0o700, "the local Shadeform's copy of the create body's script"),
    ("file", "*/secrets.json", 0o600, "the machine's own file, for root alone"),
    ("file", "*/start.sh", 0o700, "the script as systemd starts it again"),
    ("file", "*/.env", 0o777, "the user's own file"),
    ("request", "* header authorization", 0, "what the header is for"),
    ("request", "* header x-api-key", 0, "what the header is for"),
    ("file", "*/trainer/.netrc", 0o600, "wandb's key for the trainer, while it runs"),
]


def encoded(text: bytes) -> set[bytes]:
    """`text` as it shows in the base64 of a longer text, at each of the three alignments."""
    found = set()
    for shift, cut in enumerate((0, 2, 3)):
        found.add(base64.b64encode(b"\0" * shift + text)[cut : (shift + len(text)) * 8 // 6])
    return found


ONCE = {MARKER.encode(), *encoded(MARKER.encode())}
FORMS = sorted(ONCE | set(itertools.chain(*(encoded(form) for form in ONCE))))
LONGEST = max(map(len, FORMS))


def shows(data: bytes | str) -> bool:
    """Whether a secret can be read out of `data`."""
    raw = data.encode(errors="surrogateescape") if isinstance(data, str) else data
    return any(form in raw for form in FORMS)


class Canary:
    """What was found since the last test, and where."""

    def __init__(self) -> None:
        self.found: list[tuple[str, str, str]] = []  # kind, place, more
        self._tails: dict[int, bytes] = {}  # of bodies that come in pieces, by thread
        self._seen: dict[int, int] = {}  # process -> how often it was looked at
        self._ours = {os.getpid()}
        self._swept: set[Path] = set()

    def note(self, kind: str, place: str, mode: int = 0) -> None:
        if not any(
            kind == k and fnmatch.fnmatchcase(place, p) and mode & ~most == 0
            for k, p, most, _ in ALLOWED
        ):
            self.found.append((kind, place, f" (mode {mode:o})" if mode else ""))

    def text(self, kind: str, place: str, data: bytes | str | None) -> None:
        if data and shows(data):
            self.note(kind, place)

    # ---- requests

    def hear(self, verb: str, target: str, headers: dict[str, str], body: bytes) -> None:
        """A request to a local service, or a piece of its body."""
        place = f"{verb} {target.partition('?')[0]}"
        self.text("request", f"{place} address", target)
        for name, value in headers.items():
            self.text("request", f"{place} header {name.lower()}", value)
        if target.endswith("/instances/create"):
            body = without_script(body)
        me = threading.get_ident()
        tail = b"" if headers else self._tails.get(me, b"")
        self.text("request", f"{place} body", tail + body)
        self._tails[me] = body[-LONGEST:]

    # ---- files

    def sweep(self, folder: Path) -> None:
        """Every file below a folder, once."""
        if folder in self._swept:
            return
        self._swept.add(folder)
        for root, folders, names in os.walk(folder):
            folders[:] = [
                f for f in folders if f not in PACKAGES and Path(root, f) not in self._swept
            ]
            for name in names:
                self.file(Path(root, name))

    def file(self, path: Path) -> None:
        try:
            found = path.lstat()
            if (found.st_mode & 0o170000) == 0o100000 and (
                shows(path.name) or any(map(shows, ends(path, found.st_size)))
            ):
                self.note("file", str(path), found.st_mode & 0o777)
        except OSError:
            pass  # gone meanwhile

    # ---- processes

    def started(self, event: str, args: tuple[Any, ...]) -> None:
        """An audit hook: a process that the test process starts."""
        if event == "subprocess.Popen":
            _, argv, _, env = args
            self.process(
                [
                    os.fsdecode(word)
                    for word in ([argv] if isinstance(argv, (str, bytes)) else argv)
                ],
                env or {},
            )

    def process(self, argv: list[str], env: Mapping[Any, Any]) -> None:
        """Arguments are for everybody to see; the environment of a machine's process is the provider's, too."""
        command = brief(argv)
        for word in argv:
            self.text("argv", command, word)
        names = {os.fsdecode(k): os.fsdecode(v) for k, v in env.items()}
        if "NANOLAN_BOX" in names or "NANOLAN_TRAINER" in names:
            for name, value in names.items():
                self.text("environ", f"{command} {name}", value)

    def look_around(self) -> None:
        """The processes that came since, twice each: the second look sees what they became."""
        alive = {int(name) for name in os.listdir("/proc") if name.isdigit()}  # noqa: PTH208  # five times a second: twice as fast
        for pid in [pid for pid in self._seen if pid not in alive]:
            del self._seen[pid]
        self._ours &= alive
        for pid in sorted(alive):
            if self._seen.get(pid, 0) < 2:
                self._seen[pid] = self._seen.get(pid, 0) + 1
                self._look_at(pid)

    def _look_at(self, pid: int) -> None:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
            if pid == os.getpid() or int(stat.rpartition(")")[2].split()[1]) not in self._ours:
                return
            self._ours.add(pid)
            argv = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
            env = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
            self.process(argv, dict(e.split("=", 1) for e in env if "=" in e))
        except (OSError, ValueError, IndexError):
            pass  # gone meanwhile

    def watch(self, over: threading.Event) -> None:
        while not over.wait(SAMPLE_S):
            with contextlib.suppress(OSError):  # a test may have used up all file descriptors
                self.look_around()


def brief(argv: Any) -> str:
    """A command's first words, without what no failure should show."""
    words = [argv] if isinstance(argv, (str, bytes)) else argv
    return " ".join(
        "..." if shows(word) else word.partition("\n")[0][:80]
        for word in map(os.fsdecode, words[:3])
    )


def without_script(body: bytes) -> bytes:
    """A create request without the one field that may hold secrets."""
    try:
        request = json.loads(body)
        request["launch_configuration"]["script_configuration"].pop("base64_script")
        return json.dumps(request).encode()
    except (ValueError, KeyError, TypeError, AttributeError):
        return body


def ends(path: Path, size: int) -> Iterator[bytes]:
    """A file, or the beginning and the end of a big one."""
    with open(path, "rb") as f:
        if size <= BIG:
            yield f.read()
            return
        yield f.read(END)
        f.seek(size - END)
        yield f.read(END)


# ------------------------------------------------------------------ pytest
CANARY = Canary()
_communicate, _readouterr = subprocess.Popen.communicate, pytest.CaptureFixture.readouterr


def communicate(self: Any, *args: Any, **how: Any) -> Any:
    told = _communicate(self, *args, **how)
    for name, text in zip(("stdout", "stderr"), told, strict=True):
        CANARY.text("output", f"{name} of {brief(self.args)}", text)
    return told


def readouterr(self: Any) -> Any:
    told = _readouterr(self)
    CANARY.text("output", "stdout", told.out)
    CANARY.text("output", "stderr", told.err)
    return told


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "shows(kind, place, why): a secret may be there in this test, for that reason"
    )
    if CANARY.hear not in LISTENERS:
        LISTENERS.append(CANARY.hear)
        subprocess.Popen.communicate, pytest.CaptureFixture.readouterr = communicate, readouterr  # type: ignore[method-assign]
        sys.addaudithook(CANARY.started)


@pytest.fixture(autouse=True, scope="session")
def canary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Canary]:
    """Watches processes all the while, and looks through what modules and sessions leave, at the very end."""
    over = threading.Event()
    if Path("/proc/self").is_dir():
        watcher = threading.Thread(target=CANARY.watch, args=(over,), daemon=True)
        watcher.start()
    yield CANARY
    over.set()
    for folder in (
        tmp_path_factory.getbasetemp(),
        *(Path(os.environ[n]) for n in ("HF_HOME", "NANOLAN_HOME") if n in os.environ),
    ):
        CANARY.sweep(folder)  # all of this is the teardown of the last test, which fails for it


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """The test that a leak is found after fails for it, whatever else became of it."""
    report = yield
    if call.when == "teardown":
        for name, text in report.sections:
            CANARY.text("output", name, text)
        folder = getattr(item, "funcargs", None) and item.funcargs.get("tmp_path")
        if folder:
            CANARY.sweep(folder)
        found, CANARY.found = CANARY.found, []
        if left := told(found, [mark.args for mark in item.iter_markers("shows")]):
            report.outcome, report.longrepr = (
                "failed",
                f"a secret got out in {item.nodeid}: {left}\n{report.longrepr or ''}",
            )
    return report


def told(found: Iterable[tuple[str, str, str]], but: Iterable[tuple[str, str, str]]) -> str:
    """What was found and is not expected, in words."""
    but = list(but)
    rest = {
        (kind, place, more)
        for kind, place, more in found
        if not any(
            fnmatch.fnmatchcase(kind, k) and fnmatch.fnmatchcase(place, p) for k, p, _ in but
        )
    }
    return "; ".join(f"{kind} {place}{more}" for kind, place, more in sorted(rest))
