"""A run's log from the best place there is: the machine, the Hub's parts, or the whole log of the end."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from nanolan.errors import NotFound, Unreachable
from nanolan.hub.client import Hub
from nanolan.redact import Secret
from nanolan.run.ledger import Entry
from nanolan.run.record import Progress, Receipt
from nanolan.sim.hub.server import HubServer
from nanolan.status import logs
from nanolan.status.logs import HubLog, Reader, chosen, end_of_log, fetch, shown, to_lines
from nanolan.status.view import RunView
from nanolan.times import iso, now_utc, parse_time
from tests.support.box_fixtures import REPO, TOKEN, WRITERS, make_plan
from tests.support.ssh_fixtures import Ssh

PLAN = make_plan("", "", run_id="ab12cd34")
RECEIPT = Receipt("ab12cd34", "failed", "oom", log="logs/error-x.log")
PROGRESS = Progress("ab12cd34", "training", {}, iso(now_utc()))
LINES = [
    "2026-01-01T10:00:00Z boot: run ab12cd34",
    "a line without a stamp",
    "2026-01-01T11:00:00Z box: training",
    "step 1",
    "step 2",
]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "hub", tokens=WRITERS) as hub:
        hub.put(REPO, {"README.md": b"#"})
        yield hub


def hub_of(server: HubServer) -> Hub:
    return Hub(server.url, Secret(TOKEN), patience_s=0.1)


def put(server: HubServer, number: int, text: str, attempt: int = 1) -> None:
    server.put(REPO, {f"runs/ab12cd34/log/a{attempt}-part-{number:04d}.log": text.encode()})


# ---- the Hub


def test_the_parts_are_put_together_in_their_order_and_each_is_read_once(server: HubServer) -> None:
    for number in (2, 1, 10_000, 3):
        put(server, number, f"part {number}\n")
    put(server, 1, "another machine's\n", attempt=2)
    log = HubLog(hub_of(server))
    assert log.lines(PLAN) == ["part 1", "part 2", "part 3", "part 10000"]
    before = len(server.log)
    put(server, 10_000, "part 10000\nmore\n")  # a part whose first try had got through after all
    assert log.lines(PLAN)[-2:] == ["part 10000", "more"]
    assert (
        sum("part-" in line["path"] for line in server.log[before:] if line["method"] == "GET") == 1
    )
    assert log.lines(structs.replace(PLAN, attempt=2)) == ["another machine's"]


def test_no_part_yet_is_said_and_no_hub_is_another_thing(server: HubServer) -> None:
    with pytest.raises(NotFound, match="no log on the Hub"):
        HubLog(hub_of(server)).lines(PLAN)
    server.fault(r".", status=503, times=1000)
    with pytest.raises(Unreachable):
        HubLog(hub_of(server)).lines(PLAN)
    problems: list[str] = []
    assert (
        end_of_log(hub_of(server), RunView(Entry(PLAN), "lost"), problems) == ""
        and len(problems) == 1
    )
    server.faults.clear()


def test_the_end_of_a_log_is_the_whole_one_or_the_parts_of_a_machine_that_vanished(
    server: HubServer,
) -> None:
    put(server, 1, "a part\n")
    server.put(REPO, {"logs/error-x.log": b"the whole log\n"})
    problems: list[str] = []
    assert end_of_log(hub_of(server), RunView(Entry(PLAN), "lost"), problems) == "a part"
    assert (
        end_of_log(hub_of(server), RunView(Entry(PLAN), "failed", receipt=RECEIPT), problems)
        == "the whole log"
    )
    assert not problems


# ---- SSH


def test_over_ssh_whole_lines_are_fetched_and_followed(tmp_path: Path) -> None:
    ssh = Ssh(tmp_path)
    ssh.set(log="one\ntwo\nthr")
    argv = [str(ssh.dir / "ssh"), "host"]
    assert fetch(argv) == ["one", "two"]
    found = logs.follow(argv, 1)
    assert next(found) == "two"
    with (ssh.dir / "log").open("a") as f:
        f.write("ee\nfour\n")
    assert [next(found), next(found)] == ["three", "four"]
    ssh.set(gone="")
    assert list(found) == []


@pytest.mark.parametrize("how", ["unreachable", "no program", "hangs"])
def test_a_machine_that_is_not_reached_is_not_found(tmp_path: Path, how: str) -> None:
    ssh = Ssh(tmp_path)
    ssh.set(unreachable="")

    def hang(*args: Any, **more: Any) -> Any:
        raise subprocess.TimeoutExpired("ssh", 60)

    with pytest.raises(NotFound, match="ssh: "):
        fetch(
            ["/nonexistent" if how == "no program" else str(ssh.dir / "ssh")],
            hang if how == "hangs" else subprocess.run,
        )


# ---- lines


@pytest.mark.parametrize(
    "last, since, want",
    [
        (None, None, LINES),
        (2, None, LINES[3:]),
        (0, None, []),
        (99, None, LINES),
        (None, "2026-01-01T10:30:00Z", LINES[2:]),
        (None, "2026-01-01T10:00:00Z", LINES),
        (1, "2026-01-01T10:30:00Z", LINES[4:]),
        (None, "2026-01-01T12:00:00Z", []),
    ],
    ids=str,
)
def test_lines_are_chosen_by_number_and_by_their_own_stamps(
    last: int | None, since: str | None, want: list[str]
) -> None:
    assert chosen(LINES, last, parse_time(since) if since else None) == want


@pytest.mark.parametrize(
    "line, want",
    [
        ("plain", "plain"),
        ("a\tb", "a       b"),
        ("10%\r50%\r100%", "100%"),
        ("windows\r", "windows"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07x", "\x1b]0;title\x07x"),
        ("", ""),
    ],
)
def test_a_line_is_what_a_terminal_would_leave(line: str, want: str) -> None:
    assert shown(line) == want


def test_only_a_newline_ends_a_line() -> None:
    assert (
        to_lines("a\x0bb\u2028c\rd\n\ne\n") == ["a\x0bb\u2028c\rd", "", "e"] and to_lines("") == []
    )


# ---- the reader


class Story:
    """A run as a reader sees it: at each look the next of `views`, and what the Hub and the machine hold."""

    def __init__(self, *views: RunView) -> None:
        self.views, self.said, self.slept = list(views), list[str](), 0
        self.hub_lines: list[list[str]] = []
        self.machine: list[list[str]] = []
        self.live: list[list[str]] = []
        self.asked: list[int] = []

    def look(self) -> RunView:
        return self.views.pop(0) if len(self.views) > 1 else self.views[0]

    def lines(self, plan: Any, whole: str = "") -> list[str]:
        if not self.hub_lines:
            raise NotFound("no log on the Hub (yet)")
        return self.hub_lines.pop(0) if len(self.hub_lines) > 1 else self.hub_lines[0]

    def fetch(self, argv: list[str]) -> list[str]:
        if not self.machine:
            raise NotFound("ssh: Connection timed out")
        return self.machine.pop(0)

    def follow(self, argv: list[str], after: int) -> Iterator[str]:
        self.asked.append(after)
        yield from self.live.pop(0)

    def sleep(self, seconds: float) -> None:
        self.slept += 1
        assert self.slept < 20

    def reader(self, reachable: bool = True) -> Reader:
        return Reader(
            self.look,
            self,
            lambda view: ["ssh"] if reachable else None,
            self.said.append,
            self.sleep,  # type: ignore[arg-type]
            fetch=self.fetch,
            follow=self.follow,
        )


LIVE, BOOTING = RunView(Entry(PLAN), "training", progress=PROGRESS), RunView(Entry(PLAN), "booting")
OVER = RunView(Entry(PLAN), "failed", receipt=RECEIPT)


def test_a_live_run_is_followed_on_its_machine_and_ends_with_the_whole_log() -> None:
    story = Story(LIVE, OVER)
    story.machine, story.live, story.hub_lines = (
        [["1", "2"]],
        [["3", "4"]],
        [["1", "2", "3", "4", "5"]],
    )
    reader = story.reader()
    assert reader.lines() == ["1", "2"] and list(reader.onward(2)) == ["3", "4", "5"]
    assert story.asked == [2] and story.said == [
        "from the machine itself, live",
        "from the whole log, logs/error-x.log on the Hub",
    ]


def test_a_machine_out_of_reach_is_followed_by_its_parts_on_the_hub() -> None:
    story = Story(LIVE, LIVE, LIVE, OVER)
    story.hub_lines = [["1"], ["1"], ["1", "2"], ["1", "2", "3"]]
    reader = story.reader()
    assert reader.lines() == ["1"] and list(reader.onward(1)) == ["2", "3"]
    assert re.search(r"the Hub, reported \d+:\d\d:\d\d ago", story.said[0])
    assert "Connection timed out" in story.said[0]
    assert len(story.said) == 2, "the same place is said once"


def test_before_its_first_word_and_through_a_network_that_fails_it_waits() -> None:
    story = Story(BOOTING, BOOTING, LIVE, OVER)
    reader = story.reader(reachable=False)
    with pytest.raises(NotFound):
        reader.lines()
    found = reader.onward(0)

    def later(seconds: float) -> None:
        story.slept += 1
        if story.slept == 2:
            story.hub_lines = [["1"], ["1", "2"]]

    reader.sleep = later
    assert list(found) == ["1", "2"] and story.slept >= 2


def test_the_next_machine_of_a_run_has_a_log_of_its_own() -> None:
    second = Entry(structs.replace(PLAN, attempt=2))
    story = Story(LIVE, replace(LIVE, entry=second), replace(OVER, entry=second))
    story.hub_lines = [["1", "2"], ["first of the second"], ["first of the second", "end"]]
    reader = story.reader(reachable=False)
    assert reader.lines() == ["1", "2"] and list(reader.onward(2)) == ["first of the second", "end"]


def test_what_could_not_be_seen_is_no_end() -> None:
    unseen = replace(RunView(Entry(PLAN), "lost"), problems=("the Hub did not answer",))
    story = Story(unseen, OVER)
    story.hub_lines = [["1"], ["1", "2"]]
    reader = story.reader(reachable=False)
    assert reader.lines() == ["1"] and list(reader.onward(1)) == ["2"]


def test_a_flood_that_was_cut_shorter_at_the_end_repeats_nothing() -> None:
    story = Story(LIVE, OVER)
    story.machine, story.live, story.hub_lines = (
        [["1", "2", "3"]],
        [["4"]],
        [["1", "[left out]", "4"]],
    )
    reader = story.reader()
    assert list(reader.onward(len(reader.lines()))) == ["4"]
