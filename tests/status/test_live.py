"""`just watch` on the screen: redrawn in place, counting on, and honest about figures that are old."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from msgspec import structs
from rich.console import Console

from nanolan.plan import Predicted
from nanolan.run.record import Progress
from nanolan.shadeform.models import Instance, instance_of
from nanolan.status.live import JsonLines, Plain, Redrawn, Seen, display, one_line
from nanolan.status.view import Overview, RunView
from nanolan.times import iso, now_utc
from tests.status.test_status import LIVE
from tests.support.box_fixtures import until
from tests.support.check_status_fixtures import Terminal, terminal  # noqa: F401  # a fixture
from tests.support.status_fixtures import RUN, Desk, receipt

PROBLEM = (
    "the Hub did not answer (ConnectError) for me/x, tried for 45 s. Is the network up? Try again"
)


def machine(age_s: float = 3600) -> Instance:
    """A machine at $1 an hour."""
    born = iso(now_utc() - timedelta(seconds=age_s))
    return instance_of(dict(id="i-1", name="n", status="active", hourly_price=100, created_at=born))


def live(**fields: object) -> RunView:
    told = Progress(
        RUN,
        "training",
        {},
        iso(now_utc()),
        step=41,
        steps=90,
        loss=1.5,
        phase="sft",
        tok_per_s=1234.5,
        left_s=1800.0,
    )
    return replace(
        RunView(LIVE, "training", instance=machine(), progress=told, spent_cents=100), **fields
    )  # type: ignore[arg-type]


def overview(*runs: RunView, **fields: object) -> Overview:
    return replace(Overview(runs, (), (), ()), **fields)  # type: ignore[arg-type]


OVER = overview(RunView(LIVE, "succeeded", receipt=receipt()))


# ---- what is shown


def test_the_bill_counts_on_between_the_looks() -> None:
    seen = Seen()
    seen.note(overview(live(instance=machine(7200), spent_cents=100)))
    assert "$2.00 of" in "\n".join(seen.lines()), "the API's figure of the last look was $1.00"


@pytest.mark.parametrize(
    "failed",
    [overview(live(state="pending", problems=(PROBLEM,))), overview(live(), problems=(PROBLEM,))],
)
def test_a_look_that_fails_leaves_the_last_good_figures_and_says_how_old_they_are(
    failed: Overview,
) -> None:
    clock = iter([now_utc() + timedelta(seconds=s) for s in (0, 0, 150, 150)])
    seen = Seen(lambda: next(clock))
    seen.note(overview(live()))
    seen.note(failed)
    shown = "\n".join(seen.lines())
    assert (
        "TRAINING" in shown
        and "THESE FIGURES ARE 0:02:30 OLD" in shown
        and "the Hub did not answer" in shown
    )
    seen.note(overview(live()))
    assert "THESE FIGURES" not in "\n".join(seen.lines())


def test_a_first_look_that_fails_shows_what_could_not_be_seen() -> None:
    seen = Seen()
    assert seen.lines() == ["looking ..."]
    seen.note(overview(live(problems=(PROBLEM,))))
    assert "unavailable: " in "\n".join(seen.lines())


@pytest.mark.parametrize("width, height", [(80, 24), (200, 50), (40, 8)])
def test_on_a_terminal_the_block_is_redrawn_in_place_and_never_higher_than_it(
    width: int, height: int
) -> None:
    file = io.StringIO()
    with Redrawn(
        Console(file=file, force_terminal=True, width=width, height=height, highlight=False)
    ) as screen:
        for _ in range(3):
            screen.show(overview(*[live()] * 4))
        lines = screen.text().plain.splitlines()
    assert len(lines) < height and ("more lines: just status" in lines[-1]) == (height < 50)
    assert "\x1b[1A" in file.getvalue(), "the cursor goes up again"


def test_nothing_that_was_told_can_drive_the_terminal() -> None:
    file = io.StringIO()
    with Redrawn(Console(file=file, force_terminal=True, width=80, height=24)) as screen:
        screen.show(overview(live(reason="\x1b]0;owned\x07 [bold]x[/bold] \x1b[2J")))
    assert (
        "\x1b]0;" not in file.getvalue()
        and "\x1b[2J" not in file.getvalue()
        and "[bold]x[/bold]" in file.getvalue()
    )


def test_without_a_terminal_there_is_the_block_a_line_per_change_and_the_block_again() -> None:
    said: list[str] = []
    with Plain(said.append) as screen:
        for step in (41, 41, 42):
            v = live()
            assert v.progress
            screen.show(overview(replace(v, progress=structs.replace(v.progress, step=step))))
        screen.show(overview(live(), problems=(PROBLEM,)))
        screen.show(OVER)
    assert (
        len(said) == 4
        and "money" in said[0]
        and "sft 42/90" in said[1]
        and PROBLEM in said[2]
        and "SUCCEEDED" in said[3]
    )
    assert "\n" not in said[1]


def test_json_is_one_object_per_look() -> None:
    said: list[str] = []
    with JsonLines(said.append) as screen:
        screen.show(overview(live()))
        screen.show(OVER)
    assert [json.loads(line)["runs"][0]["state"] for line in said] == ["training", "succeeded"]


def test_the_line_of_a_run_has_its_state_step_money_and_end_and_the_warning() -> None:
    dear = structs.replace(
        LIVE, plan=structs.replace(LIVE.plan, limit_cents=120, predicted=Predicted(1, 2, 3))
    )
    line = one_line(live(entry=dear))
    for part in (
        RUN,
        "training",
        "sft 41/90",
        "$1.00 of $1.20",
        "will cost about $1.50",
        "WARNING: it will cost about",
        f"just limit {RUN}",
    ):
        assert part in line, part


def test_the_right_display_for_where_it_is_shown() -> None:
    kinds = {
        (j, t): type(display(j, t, print)).__name__ for j in (True, False) for t in (True, False)
    }
    assert kinds == {
        (True, True): "JsonLines",
        (True, False): "JsonLines",
        (False, True): "Redrawn",
        (False, False): "Plain",
    }


# ---- in a real terminal


@pytest.fixture
def tmux(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Call tmux with a server of the test's own."""
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed")
    name = f"nanolan-{uuid.uuid4().hex[:8]}"

    def call(*words: str) -> str:
        return subprocess.run(
            ["tmux", "-L", name, *words], check=True, capture_output=True, text=True
        ).stdout

    yield call
    subprocess.run(["tmux", "-L", name, "kill-server"], capture_output=True, check=False)
    until(
        lambda: (
            subprocess.run(["tmux", "-L", name, "ls"], capture_output=True, check=False).returncode
            != 0
        )
    )


@pytest.mark.system
@pytest.mark.shows("argv", "tmux *", "its way to be given an environment")
@pytest.mark.parametrize("width, height", [(80, 24), (200, 50)])
def test_watch_in_a_real_terminal_is_one_block_from_the_first_look_to_the_verdict(
    terminal: Terminal,
    tmp_path: Path,
    tmux: Callable[..., str],
    width: int,
    height: int,
) -> None:
    desk = Desk(tmp_path, terminal.hub, terminal.cloud)
    desk.tell(
        progress=Progress(
            RUN,
            "training",
            {},
            iso(now_utc()),
            step=41,
            steps=90,
            loss=1.5,
            phase="sft",
            tok_per_s=1234.5,
        )
    )
    command = [sys.executable, str(terminal.checkout / "scripts/check_status.py"), "--watch", "1"]
    env = [word for name, value in terminal.env.items() for word in ("-e", f"{name}={value}")]
    done = tmp_path / "exit-code"
    tmux(
        "new-session",
        "-d",
        "-x",
        str(width),
        "-y",
        str(height),
        *env,
        "sh",
        "-c",
        f'cd {terminal.checkout}; "$@"; echo $? > {done}; sleep 100',
        "watch",
        *command,
    )

    def pane() -> str:
        return tmux("capture-pane", "-p")

    until(lambda: "sft 41/90 (46%), 1,234 tok/s" in pane(), 30, pane)
    first = pane()
    time.sleep(2.5)
    shown = pane()
    assert shown.count(f"run {RUN}") == 1 and shown.count("money") == 1, shown
    assert all(len(line) <= width for line in shown.splitlines()) and shown != first, (
        "the ages count on"
    )
    terminal.hub.fault(".*", status=503, times=10**6)
    until(lambda: "THESE FIGURES ARE" in pane() and "TRAINING" in pane(), 90, pane)
    terminal.hub.faults.clear()
    desk.tell(receipt=receipt("stopped", "spend_limit"))
    terminal.cloud.instance(desk.entry.instance_id or "").delete(0.0, "asked")
    until(done.exists, 60, pane)
    shown = pane()
    assert (
        done.read_text() == "6\n"
        and "STOPPED" in shown
        and shown.count(f"run {RUN}") <= 2
        and "TRAINING" not in shown
    ), shown
