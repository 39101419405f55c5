"""The log of a run as lines: over SSH from its machine, in parts on the Hub while it runs, whole after its end."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime

from nanolan.errors import NanolanError, NotFound, Unreachable
from nanolan.hub.client import Hub, Tree
from nanolan.plan import Plan
from nanolan.run.record import part_path
from nanolan.shadeform.ssh import run_bounded
from nanolan.status.view import RunView
from nanolan.times import now_utc, parse_time

REMOTE = "/var/log/lanbot-training.log"
POLL_S = 10.0
MOST_LINE = 1 << 20  # bytes; bounds a line without an end
FETCH_S = 60.0  # for a whole log over SSH
STAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z) ")
CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")  # terminal control sequences such as colours


@dataclass
class HubLog:
    """The logs on the Hub; parts that were read are kept."""

    hub: Hub
    _read: dict[tuple[str, str], str] = field(default_factory=dict)

    def lines(self, plan: Plan, whole: str = "") -> list[str]:
        """Every line so far: of the `whole` log if the run left one, else of the parts. NotFound when there is none."""
        if whole:
            return to_lines(self.hub.read(plan.runs_repo, whole).decode(errors="replace"))
        tree = self.hub.tree(plan.runs_repo)
        parts = sorted(
            (_number(p), p, f.git_sha1)
            for p, f in tree.files.items()
            if p.startswith(part_path(plan))
        )
        if not parts:
            raise NotFound(f"run {plan.run_id} has no log on the Hub (yet)")
        return [line for _, path, blob in parts for line in to_lines(self._part(tree, path, blob))]

    def _part(self, tree: Tree, path: str, blob: str) -> str:
        if (path, blob) not in self._read:
            self._read[path, blob] = self.hub.read(tree.repo, path, revision=tree.revision).decode(
                errors="replace"
            )
        return self._read[path, blob]


def _number(path: str) -> int:
    digits = re.search(r"(\d+)\.log$", path)
    return int(digits[1]) if digits else 0


def end_of_log(hub: Hub, view: RunView, problems: list[str]) -> str:
    """The log of a run that has ended, or what there is of it; "" and a problem when it could not be read."""
    try:
        return "\n".join(
            HubLog(hub).lines(view.entry.plan, view.receipt.log if view.receipt else "")
        )
    except NotFound:
        return ""
    except NanolanError as e:
        problems.append(str(e))
        return ""


# ------------------------------------------------------------------ over SSH
def fetch(
    argv: list[str], run: Callable[..., subprocess.CompletedProcess[bytes]] = run_bounded
) -> list[str]:
    """Every line so far, from the machine; NotFound when it cannot be reached. `argv` is ssh without a command."""
    try:
        done = run(
            [*argv, f"cat {REMOTE}"], stdin=subprocess.DEVNULL, capture_output=True, timeout=FETCH_S
        )
    except (OSError, subprocess.TimeoutExpired) as e:
        raise NotFound(f"ssh: {type(e).__name__}") from None
    if done.returncode:
        raise NotFound(
            f"ssh: {' '.join(done.stderr.decode(errors='replace').split())[-200:] or f'exit code {done.returncode}'}"
        )
    return to_lines(done.stdout[: done.stdout.rfind(b"\n") + 1].decode(errors="replace"))


def follow(argv: list[str], after: int) -> Iterator[str]:
    """Lines as they are written, after the first `after` ones, until the connection ends."""
    with subprocess.Popen(
        [*argv, f"tail -n +{after + 1} -F {REMOTE}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as child:
        try:
            assert child.stdout  # noqa: S101  # it is a pipe
            for raw in iter(lambda: child.stdout.readline(MOST_LINE) if child.stdout else b"", b""):
                if raw.endswith(b"\n"):
                    yield raw.decode(errors="replace").removesuffix("\n")
        finally:
            child.kill()


# ------------------------------------------------------------------ lines
def to_lines(text: str) -> list[str]:
    """The lines of a text; only \\n ends one, or the counts of SSH and Hub would not agree."""
    return text.removesuffix("\n").split("\n") if text else []


def chosen(lines: list[str], last: int | None, since: datetime | None) -> list[str]:
    """The last so many lines, and those from a moment on."""
    lines = from_moment(lines, since) if since else lines
    return lines if last is None else lines[len(lines) - min(last, len(lines)) :]


def from_moment(lines: Iterable[str], since: datetime) -> list[str]:
    """Lines from `since` on by their own stamps; one without belongs to the stamp before it."""
    found, on = list[str](), False
    for line in lines:
        if m := STAMP.match(line):
            on = parse_time(m[1]) >= since
        if on:
            found.append(line)
    return found


def shown(line: str) -> str:
    """The line as a terminal would show it: text after the last carriage return, no colours, tabs as spaces."""
    return CONTROL.sub("", line.rstrip("\r").rsplit("\r", 1)[-1]).expandtabs(8)


# ------------------------------------------------------------------ one reader for all of it
@dataclass
class Reader:
    """Reads a run's log from the best source available and reports which one."""

    look: Callable[[], RunView]
    hub: HubLog
    ssh: Callable[
        [RunView], list[str] | None
    ]  # ssh without a command, if the machine may be reached
    say: Callable[[str], None]  # on stderr
    sleep: Callable[[float], object]
    fetch: Callable[[list[str]], list[str]] = fetch
    follow: Callable[[list[str], int], Iterator[str]] = follow
    view: RunView | None = None
    live: list[str] | None = None  # how the machine was reached last
    _said: str = ""

    def lines(self) -> list[str]:
        """Every line so far; NotFound when there is none anywhere."""
        self.view = view = self.look()
        self.live, why = None, ""
        if view.receipt and view.receipt.log:
            self._from(f"the whole log, {view.receipt.log} on the Hub")
            return self.hub.lines(view.entry.plan, view.receipt.log)
        if argv := self.ssh(view):
            try:
                lines = self.fetch(argv)
                self.live = argv
                self._from("the machine itself, live")
                return lines
            except NotFound as e:
                why = f"; the machine was not reached ({e})"
        reported = (
            f"reported {age(view.progress.updated)} ago" if view.progress else "of unknown age"
        )
        lines = self.hub.lines(view.entry.plan)
        self._from(f"the Hub, {reported}, a part every five minutes{why}")
        return lines

    def onward(self, shown: int) -> Iterator[str]:
        """The lines after the first `shown` ones, as they come, until the run has ended."""
        while self.view is None or not self.view.ended:
            attempt = self.view.entry.plan.attempt if self.view else 0
            for line in self.follow(self.live, shown) if self.live else ():
                shown += 1
                yield line
            self.sleep(POLL_S)
            try:
                lines = self.lines()
            except (NotFound, Unreachable):  # nothing yet, or no network: the next look follows
                lines = []
            if self.view and self.view.entry.plan.attempt != attempt and attempt:
                shown = 0  # another machine, another log
            yield from lines[shown:]
            shown = max(shown, len(lines))

    def _from(self, where: str) -> None:
        kind = re.sub(r"reported .* ago|\(.*\)", "", where)
        if kind != self._said:
            self.say(f"from {where}")
        self._said = kind


def age(moment: str) -> str:
    """How long ago, in whole minutes and seconds."""
    seconds = max(0, int((now_utc() - parse_time(moment)).total_seconds()))
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
