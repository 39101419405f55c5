"""metrics.jsonl: one curve for all attempts of a run, and the newest step of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nanolan.box.sandbox import trainer_folder
from nanolan.box.watch.metrics import EARLIER, METRICS, Row, earlier_known, last_row, metrics_of
from nanolan.hub.client import SMALL_FILE, Hub
from nanolan.plan import Plan
from nanolan.redact import Secret
from nanolan.sim.hub.server import HubServer
from tests.support.box_fixtures import REPO, TOKEN, WRITERS, make_plan

STEP = '{"step": 3, "steps": 4, "loss": 1.5, "phase": "sft", "tok_per_s": 99.5, "left_s": 8.25}'
FOLDER = "runs/ab12cd34"

pytestmark = pytest.mark.shows("file", "*/metrics.jsonl", "what a trainer writes is the input here")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "hub", tokens=WRITERS) as hub:
        hub.put(REPO, {f"{FOLDER}/{METRICS}": b"one\ntwo"})
        yield hub


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    trainer_folder(folder).mkdir(parents=True)
    (trainer_folder(folder) / METRICS).write_bytes(b"three\n")
    return folder


def known(server: HubServer, work: Path, attempt: int = 2) -> bool:
    return earlier_known(plan(server, attempt), Hub(server.url, Secret(TOKEN), patience_s=0), work)


def plan(server: HubServer, attempt: int) -> Plan:
    where = "http://127.0.0.1:1/v1"
    return make_plan(server.url, where, run_id="ab12cd34", attempt=attempt)


def test_a_resumed_run_has_the_rows_of_all_its_attempts(server: HubServer, work: Path) -> None:
    assert known(server, work)
    assert metrics_of(work) == b"one\ntwo\nthree\n"


def test_the_first_attempt_asks_for_no_earlier_rows(server: HubServer, work: Path) -> None:
    assert known(server, work, attempt=1) and not server.log
    assert metrics_of(work) == b"three\n"


def test_a_restarted_box_program_does_not_join_its_own_rows_twice(
    server: HubServer, work: Path
) -> None:
    assert known(server, work)
    server.put(REPO, {f"{FOLDER}/{METRICS}": metrics_of(work) or b""})
    assert known(server, work)
    assert metrics_of(work) == b"one\ntwo\nthree\n"


@pytest.mark.parametrize("kind", ["status", "reset"])
def test_earlier_rows_are_unknown_until_the_hub_has_said(
    server: HubServer, work: Path, kind: str
) -> None:
    server.fault(f"GET .*{METRICS}", kind)
    assert not known(server, work) and not (work / EARLIER).exists()
    server.faults.clear()
    assert known(server, work) and metrics_of(work) == b"one\ntwo\nthree\n"


@pytest.mark.parametrize("there", [None, b"", b"x" * (SMALL_FILE + 1)], ids=["no", "empty", "huge"])
def test_earlier_rows_that_are_not_there_or_too_large_keep_none_of_the_new_away(
    server: HubServer, work: Path, there: bytes | None
) -> None:
    if there is None:
        Hub(server.url, Secret(TOKEN)).commit(REPO, {}, "gone", delete=[f"{FOLDER}/{METRICS}"])
    else:
        server.put(REPO, {f"{FOLDER}/{METRICS}": there})
    assert known(server, work) and metrics_of(work) == b"three\n"


def test_an_instance_that_has_measured_nothing_replaces_nothing(
    server: HubServer, work: Path
) -> None:
    (trainer_folder(work) / METRICS).unlink()
    assert known(server, work) and metrics_of(work) is None


@pytest.mark.parametrize(
    "text, want",
    [
        ("", Row()),
        ("nonsense", Row()),
        ("[1]\n", Row()),
        ('{"val_loss": 1.0}\n', Row()),
        ('{"step": "x", "loss": 1}', Row()),
        ('{"step": 3, "steps": 4, "loss": 1.5, "norm": 2}\n', Row(3, 4, 1.5)),
        (f"{STEP}\n", Row(3, 4, 1.5, "sft", 99.5, 8.25)),
        (f'{STEP}\n{{"step": 4, "st', Row(3, 4, 1.5, "sft", 99.5, 8.25)),
        (f'{STEP}\n{{"step": 4, "val_bpb": 0.5}}\n', Row(3, 4, 1.5, "sft", 99.5, 8.25)),
        ("x" * 50_000 + f"\n{STEP}\n", Row(3, 4, 1.5, "sft", 99.5, 8.25)),
    ],
    ids=range(10),
)
def test_the_newest_step_is_read_from_the_metrics_if_its_row_is_whole(
    tmp_path: Path, text: str, want: Row
) -> None:
    (tmp_path / "m.jsonl").write_text(text)
    assert last_row(tmp_path / "m.jsonl") == want
    assert last_row(tmp_path / "nothing") == Row()
