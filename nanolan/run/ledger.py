"""The ledger: one small file per run, written before anything is rented. Lives in NANOLAN_HOME (~/.nanolan)."""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import msgspec

from nanolan.errors import BadAnswer, LedgerProblem, PreflightFailed, UsageProblem, quoted
from nanolan.files import entries_of
from nanolan.plan import UNREADABLE, Plan, Strict
from nanolan.redact import hide
from nanolan.run.locks import Busy, hold, is_held
from nanolan.run.record import Receipt

REFUSED = "create refused"  # start of the note of a launch that rented nothing
STOPPED_BY_USER = "stopped by just stop"  # a note
PREEMPTED = "preempted"  # start of the note of a spot instance that its provider took away
# The note of a run while it waits for an offer: it holds as soon as the process is gone
WAITED = "waiting ended without renting"
PROBE_S = 5.0  # how long to wait for a lock that is only probed
CREATE_WAIT_S = 300.0  # how long to wait for another launch's create


class Attempt(Strict, frozen=True, omit_defaults=True):
    """An earlier attempt of this run: its outcome and its cost (None: unknown)."""

    number: int
    instance_id: str | None
    spent_cents: int | None
    note: str
    spot_cents: int = 0  # per hour of a spot instance; 0: on demand


class Waiting(Strict, frozen=True):
    """A wait for an offer: until when, the newest look at the market, and what it showed. Nothing is rented meanwhile."""

    until: str
    looked: str
    seen: str


class Seen(Strict, frozen=True):
    """What an instance had cost, and its price per hour, when it was seen last."""

    cents: int
    hourly_cents: int
    at: str


class Entry(Strict, frozen=True):
    """A run in the ledger: the plan of its newest attempt, and the instance once there is one."""

    plan: Plan
    instance_id: str | None = None
    gone: bool = False  # confirmed deleted
    note: str = ""
    spent_cents: int | None = None  # when this laptop deleted the instance
    earlier: tuple[Attempt, ...] = ()
    receipt: Receipt | None = None  # of the newest attempt, once it was read
    rebuilt: bool = False  # the plan was read from the Hub, not made here
    waiting: Waiting | None = None  # it waits for an offer, or did; the plan's offer is an example
    seen: Seen | None = None  # the instance, when the provider showed it last


class Ledger:
    """Entries by run id, each an atomic 0600 file."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.runs = home / "runs"

    def check_writable(self) -> None:
        """LedgerProblem if the ledger's folder cannot be written; makes nothing."""
        place = next(p for p in (self.home, *self.home.absolute().parents) if os.path.lexists(p))
        with self._writing(self.home):
            if not place.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, f"{place} is no folder")
            if not os.access(place, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, f"no permission for {place}")

    @property
    def owner(self) -> str:
        """8 hex digits that mark this user's instances on a shared account; created at first use.

        A file that is gone or empty (a full disk, a home that was restored) is written again: its runs name the owner."""
        path = self.home / "owner"
        owner = path.read_text(errors="replace").strip() if path.is_file() else ""
        if re.fullmatch(r"[0-9a-f]{8}", owner):
            return owner
        known = Counter(e.plan.owner for e in self.readable()[0]).most_common(1)
        if owner and not known:
            raise BadAnswer(f"{path} should hold 8 hex digits; remove it to get a new owner id")
        made = known[0][0] if known else secrets.token_hex(4)
        self._write(path, made.encode())
        return made

    def put(self, entry: Entry) -> None:
        """Write a run's file. An unreadable old one is kept as .unreadable: a newer nanolan may have written it."""
        text = msgspec.json.format(msgspec.json.encode(entry)).decode()
        path = self.runs / f"{entry.plan.run_id}.json"
        if path.is_file() and not self._reads(path):
            with self._writing(path):
                path.replace(path.with_suffix(".unreadable"))
        self._write(path, hide(text).encode())

    def newest(self, entry: Entry) -> Entry:
        """The run's entry as it is here now, which another command may have written; `entry` if there is none that can be read."""
        run_id = entry.plan.run_id
        return next((e for e in self.readable()[0] if e.plan.run_id == run_id), entry)

    def note(self, entry: Entry, say: Callable[[str], object]) -> None:
        """`put`, best effort: a failed write is reported and does not stop the caller (for example a delete)."""
        try:
            self.put(entry)
        except LedgerProblem as e:
            say(f"NOT RECORDED: {e}")

    def has(self, run_id: str) -> bool:
        """Whether this run is in the ledger: commands change only such runs."""
        return (self.runs / f"{run_id}.json").is_file()

    # -------------------------------------------------------------- between processes
    @contextmanager
    def launching(self, run_id: str) -> Iterator[None]:
        """Hold a lock while a launch may rent another instance for this run; it ends with the process."""
        with self._held(
            self.runs / f"{run_id}.launching", PROBE_S, f"another command is launching run {run_id}"
        ):
            yield

    def is_launching(self, run_id: str) -> bool:
        """Whether a launch on this laptop still works on the run; a lock that cannot be probed counts as held."""
        return self._is_held(self.runs / f"{run_id}.launching")

    @contextmanager
    def creating(self, run_id: str) -> Iterator[None]:
        """Hold a lock during the last check and the create: one launch at a time, so that the next sees what this one wrote."""
        with (
            self._held(
                self.home / "create.lock",
                CREATE_WAIT_S,
                "another launch has been creating its instance for minutes",
            ),
            self._held(
                self.runs / f"{run_id}.creating",
                PROBE_S,
                f"another command is creating an instance for run {run_id}",
            ),
        ):
            yield

    def is_creating(self, run_id: str) -> bool:
        """Whether a create of this run is in progress: its result is not in the ledger yet."""
        return self._is_held(self.runs / f"{run_id}.creating")

    def ask_to_stop(self, run_id: str) -> None:
        """Write a mark that a launch of this run checks before every create. An empty file, so that a full disk accepts it."""
        path = self.runs / f"{run_id}.stop"
        with self._writing(path):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.touch(mode=0o600)

    def stop_asked(self, run_id: str) -> bool:
        return (self.runs / f"{run_id}.stop").exists()

    def stop_mark(self, run_id: str) -> int | None:
        """When the mark was written last, in ns; None if there is none."""
        try:
            return (self.runs / f"{run_id}.stop").stat().st_mtime_ns
        except OSError:
            return None

    def allow(self, run_id: str, mark: int | None) -> None:
        """Remove the stop mark that the user knew of when the resume was asked for; one that came later counts."""
        path = self.runs / f"{run_id}.stop"
        if mark is None or self.stop_mark(run_id) != mark:
            return
        with self._writing(path):
            path.unlink(missing_ok=True)

    @contextmanager
    def _held(self, path: Path, wait_s: float, busy: str) -> Iterator[None]:
        with ExitStack() as stack:
            try:
                with self._writing(path):
                    stack.enter_context(hold(path, wait_s))
            except Busy:
                raise PreflightFailed(f"{busy}; nothing was rented") from None
            yield

    @staticmethod
    def _is_held(path: Path) -> bool:
        try:
            return path.exists() and is_held(path)
        except OSError:
            return True

    # -------------------------------------------------------------- reading
    def entries(self) -> list[Entry]:
        """Every run whose file is readable, newest first; an unreadable file does not hide other runs."""
        return self.readable()[0]

    def readable(self) -> tuple[list[Entry], list[Path]]:
        """The runs whose files are readable, newest first, and the unreadable files."""
        found: list[Entry] = []
        broken: list[Path] = []
        for path in self._files():
            entry = self._reads(path)
            if entry:
                found.append(entry)
            else:
                broken.append(path)
        return sorted(found, key=lambda e: e.plan.created_at, reverse=True), broken

    def _files(self) -> list[Path]:
        try:
            return entries_of(self.runs, "*.json")
        except OSError as e:
            raise UsageProblem(
                f"the ledger cannot be read ({e.strerror}: {self.runs}), so its runs are unknown. "
                f"See the account: https://platform.shadeform.ai/instances"
            ) from None

    def gap(self) -> str:
        """A message about unreadable files of the ledger, or ""."""
        broken = self.readable()[1]
        return (
            f"{unreadable_text(broken[0])}{f' ({len(broken)} such files)' if len(broken) > 1 else ''}"
            if broken
            else ""
        )

    def find(self, text: str | None) -> Entry:
        """The run meant by an id, an instance id, a run name (of a run that is not over, else the newest) or a unique
        prefix of an id; without text the newest run."""
        entries, broken = self.readable()
        if not text:
            self._newest_can_be_read(entries, broken)
            if not entries:
                raise UsageProblem("no run in the ledger yet. Start one: just launch phase=sft")
            return entries[0]
        found = matching(entries, text)
        if len(found) == 1:
            return found[0]
        if not found and (unreadable := [p for p in broken if p.stem.startswith(text)]):
            raise BadAnswer(unreadable_text(unreadable[0]))
        if found:
            raise UsageProblem(
                f"{quoted(text)} fits several runs: {', '.join(e.plan.run_id for e in found)}; give the id"
            )
        raise UsageProblem(f"no run called {quoted(text, 60)} in the ledger. See: just status")

    def _newest_can_be_read(self, entries: list[Entry], broken: list[Path]) -> None:
        """BadAnswer if the newest run, the default, may be one with an unreadable file."""
        newest = max(
            (self.runs / f"{e.plan.run_id}.json" for e in entries[:1]), key=written_at, default=None
        )
        if late := [p for p in broken if newest is None or written_at(p) >= written_at(newest)]:
            raise BadAnswer(f"{unreadable_text(late[0])}. If you mean another run, give its id")

    @staticmethod
    def _reads(path: Path) -> Entry | None:
        """The entry in a file, None if it is unreadable; does not open a pipe, which could block for ever."""
        try:
            return msgspec.json.decode(path.read_bytes(), type=Entry) if path.is_file() else None
        except (*UNREADABLE, OSError):
            return None

    def _write(self, path: Path, data: bytes) -> None:
        temp = path.with_suffix(f".{os.getpid()}.tmp")
        with self._writing(path):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            try:
                fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
                with os.fdopen(fd, "wb") as f:
                    f.write(data)
                    f.flush()
                    os.fsync(f.fileno())
                temp.replace(path)
            except OSError:
                with suppress(OSError):
                    temp.unlink()
                raise

    @staticmethod
    @contextmanager
    def _writing(path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            raise LedgerProblem(
                f"{path} cannot be written ({e.strerror or type(e).__name__}). Make room there, or use another "
                "folder: NANOLAN_HOME"
            ) from None


def was_preempted(note: str) -> bool:
    """Whether the note of an attempt, or the reason of its receipt, is that its spot instance was taken away."""
    return re.match(rf"(\w+: )?{PREEMPTED}\b", note) is not None


def written_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def unreadable_text(path: Path) -> str:
    """What an unreadable file means, and what to do."""
    run_id = path.stem
    return (
        f"{path} cannot be read, so run {run_id} is not shown; its instance, if it has one, is listed by just orphans. A newer "
        f"nanolan may have written it: git pull; else: just status {run_id} rebuilds it from the Hub"
    )


def matching(entries: list[Entry], text: str) -> list[Entry]:
    """The runs that `text` can mean: an id, else a name (of runs that are not over, else the newest), else a prefix."""
    exact = [e for e in entries if text in (e.plan.run_id, e.instance_id)]
    named = [e for e in entries if e.plan.run_name == text]
    return (
        exact
        or [e for e in named if not e.gone]
        or named[:1]
        or [e for e in entries if e.plan.run_id.startswith(text)]
    )
