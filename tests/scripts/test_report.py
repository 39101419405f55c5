"""`just report`: a page about any run, also one that still goes, with what could not be seen named in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nanolan.run.record import to_json
from nanolan.settings.settings import ROOT
from tests.scripts.test_wait import env
from tests.support.box_fixtures import REPO
from tests.support.core_fixtures import script
from tests.support.report_fixtures import ENVIRONMENT, answers, lines, rows
from tests.support.run_fixtures import state
from tests.support.status_fixtures import RUN, TRAINING, Desk, new_desk, receipt


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with new_desk(tmp_path) as made:
        yield made


def leave(desk: Desk) -> None:
    """What a machine has left in the run folder."""
    folder = desk.entry.plan.folder
    desk.hub.put(
        REPO,
        {
            f"{folder}/metrics.jsonl": lines(rows(30, "sft")),
            f"{folder}/samples.json": msgspec.json.encode(answers()),
            f"{folder}/environment.json": to_json(ENVIRONMENT),
        },
    )


def report(desk: Desk, *words: str, out: Path) -> Any:
    return script("report", *words, f"to={out}", env=env(desk))


def test_an_ended_run_has_all_that_it_left(desk: Desk, tmp_path: Path) -> None:
    leave(desk)
    desk.tell(receipt=receipt())
    desk.cloud.account.delete(desk.entry.instance_id or "")
    done = report(desk, RUN, out=tmp_path / "a/run.html")
    assert done.returncode == 0 and done.stdout == f"{tmp_path}/a/run.html\n" and done.stderr == ""
    html = (tmp_path / "a/run.html").read_text()
    for part in ("Succeeded: $1.23 in 0:01:00", "<svg", "I am Lanbot.", "8x NVIDIA B200"):
        assert part in html, part


def test_a_run_that_still_goes_is_told_so_far(desk: Desk, tmp_path: Path) -> None:
    leave(desk)
    desk.tell(progress=msgspec.structs.replace(TRAINING, step=30, steps=90))
    done = report(desk, out=tmp_path / "run.html")
    html = (tmp_path / "run.html").read_text()
    assert done.returncode == 0 and "Training: " in html and "so far" in html and "<svg" in html
    assert "Where time and money went" not in html, "known when the run ends"


def test_what_could_not_be_seen_is_named_in_the_page_and_is_exit_code_1(
    desk: Desk, tmp_path: Path
) -> None:
    leave(desk)
    desk.tell(receipt=receipt())
    desk.hub.fault(match="metrics.jsonl", action="status", status=403, times=10**6)
    done = report(desk, out=tmp_path / "run.html")
    assert done.returncode == 1 and "unavailable: the Hub refused" in done.stderr
    html = (tmp_path / "run.html").read_text()
    assert "Unavailable: the Hub refused" in html and "I am Lanbot." in html and "<svg" not in html


def test_a_failed_run_says_what_is_kept_and_how_to_go_on(desk: Desk, tmp_path: Path) -> None:
    desk.tell(
        receipt=msgspec.structs.replace(
            receipt("failed", "hang"), message="it hung. Go on: just resume " + RUN
        )
    )
    desk.cloud.account.delete(desk.entry.instance_id or "")
    state(desk.hub, desk.entry.plan, "sft", 40)
    report(desk, out=tmp_path / "run.html")
    html = (tmp_path / "run.html").read_text()
    assert (
        "Failed (hang): $1.23" in html
        and "it hung." in html
        and f"<pre>just resume {RUN}</pre>" in html
    )
    assert "Saved: sft step 40." in html


def test_a_run_that_nobody_knows_and_a_file_that_cannot_be_written_are_said_in_one_line(
    desk: Desk, tmp_path: Path
) -> None:
    done = report(desk, "ffff", out=tmp_path / "x.html")
    assert (
        done.returncode == 2
        and "no run called 'ffff'" in done.stderr
        and done.stderr.count("\n") == 1
    )
    desk.tell(receipt=receipt())
    (tmp_path / "file").touch()
    done = report(desk, out=tmp_path / "file/x.html")
    assert done.returncode == 2 and "cannot be written" in done.stderr


def test_reports_are_not_put_into_the_code_of_a_run() -> None:
    assert "reports/" in (ROOT / ".gitignore").read_text().splitlines()


def test_a_lost_run_says_what_is_known(desk: Desk, tmp_path: Path) -> None:
    desk.tell(progress=TRAINING)
    desk.cloud.account.delete(desk.entry.instance_id or "")
    done = report(desk, out=tmp_path / "run.html")
    html = (tmp_path / "run.html").read_text()
    assert (
        done.returncode == 0
        and "Lost: " in html
        and "Where time and money went" not in html
        and "so far" not in html
    )


def test_a_launch_that_rented_nothing_cost_nothing(desk: Desk, tmp_path: Path) -> None:
    desk.cloud.account.delete(desk.entry.instance_id or "")
    desk.ledger.put(
        msgspec.structs.replace(
            desk.entry, instance_id=None, gone=True, note="create refused: sold out"
        )
    )
    report(desk, out=tmp_path / "run.html")
    html = (tmp_path / "run.html").read_text()
    assert "Failed: $0.00" in html and "create refused: sold out" in html
