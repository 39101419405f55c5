"""The heartbeat: told soon, masked, and never in anybody's way."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanolan.box.watch.heartbeat import Heartbeat
from nanolan.box.watch.spend import SpendMeter
from nanolan.box.watch.timeline import Timeline
from nanolan.notify import Notifier
from nanolan.plan import Predicted
from nanolan.redact import NOTE, Secret
from nanolan.run.record import PREPARING, TRAINING, UPLOADING, PhaseReport
from nanolan.sim.hub.server import HubServer
from tests.support.box_fixtures import KEY, REPO, TOKEN, WRITERS, make_plan, until
from tests.support.spend_fixtures import NOBODY, machine

PART = "runs/ab12cd34/log/a1-part-{:04d}.log"
STEP = '{"step": 3, "steps": 4, "loss": 1.5, "phase": "sft", "tok_per_s": 99.5, "left_s": 8.25}'
COMMIT = "POST /api/models/me/lanbot-checkpoints/commit"


pytestmark = [
    pytest.mark.shows("file", place, "what a trainer writes is the input here")
    for place in ("*/lanbot-training.log", "*/metrics.jsonl")
]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "hub", tokens=WRITERS) as hub:
        hub.put(REPO, {"README.md": b"#"})
        yield hub


@pytest.fixture
def heartbeat(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Heartbeat]:
    monkeypatch.setenv("BOX_ROOT", str(tmp_path))
    (tmp_path / "var/log").mkdir(parents=True)
    (tmp_path / "work/trainer").mkdir(parents=True)
    plan = make_plan(server.url, "http://127.0.0.1:1/v1", run_id="ab12cd34", phases=("mid", "sft"))
    made = Heartbeat(
        plan,
        {"HF_TOKEN": Secret(TOKEN), "SHADEFORM_API_KEY": Secret(KEY)},
        tmp_path / "work",
        SpendMeter(plan, machine(3600), NOBODY),
        Timeline(tmp_path / "timeline.json"),
        Notifier(None, ""),
    )
    yield made
    server.faults.clear()
    made.close()


def log_file(tmp_path: Path) -> Path:
    return tmp_path / "var/log/lanbot-training.log"


def told(server: HubServer) -> dict[str, object]:
    """progress.json on the Hub."""
    path = "runs/ab12cd34/progress.json"
    return json.loads(server.read(REPO, path)) if path in server.files(REPO) else {}


def test_a_change_is_told_with_step_and_money_and_all_secrets_masked(
    server: HubServer, heartbeat: Heartbeat, tmp_path: Path
) -> None:
    log_file(tmp_path).write_text(f"a line with {TOKEN} and {KEY}\n")
    (tmp_path / "work/trainer/metrics.jsonl").write_text(
        f'{{"step": 1, "steps": 9, "loss": 3.5}}\n{{"step": 2, "steps": 9, "loss": 3.25, "phase": "{TOKEN}"}}\n'
    )
    heartbeat.set_phase("mid", PhaseReport("training", step=2))
    heartbeat.set_state(TRAINING, f"trouble with {TOKEN}")
    until(lambda: told(server).get("state") == TRAINING)
    progress = told(server)
    assert (
        progress["step"] == 2
        and progress["steps"] == 9
        and progress["loss"] == 3.25
        and progress["spent_cents"] in (100, 101)
    )
    assert (
        progress["message"] == "trouble with ***"
        and progress["phases"]["mid"]["state"] == "training"
    )  # type: ignore[index]
    assert progress["phases"]["sft"]["state"] == "none"  # type: ignore[index]
    assert server.read(REPO, PART.format(1)) == b"a line with *** and ***\n"
    assert (
        server.read(REPO, "runs/ab12cd34/metrics.jsonl").endswith(b'"phase": "***"}\n')
        and progress["phase"] == "***"
    )
    assert heartbeat.has_masked()


def test_a_hub_in_trouble_delays_nothing_and_the_newest_state_wins(
    server: HubServer, heartbeat: Heartbeat
) -> None:
    server.fault(COMMIT, "stall", seconds=0.7)
    server.fault(COMMIT, status=503)
    server.fault(COMMIT, status=403)  # a definite no: this beat is lost
    server.fault(COMMIT, status=200, body={})  # a page of some proxy
    started = time.monotonic()
    for state in (PREPARING, TRAINING, UPLOADING):
        heartbeat.set_state(state)
    assert time.monotonic() - started < 0.2

    def told_at_last() -> bool:
        heartbeat.set_state(UPLOADING)
        return told(server).get("state") == UPLOADING and not any(
            fault.times for fault in server.faults
        )

    until(told_at_last)


def test_after_its_end_it_says_no_more(server: HubServer, heartbeat: Heartbeat) -> None:
    heartbeat.set_state(TRAINING)
    until(lambda: told(server))
    heartbeat.close()
    commits = len(server.log)
    heartbeat.set_state(UPLOADING)
    time.sleep(0.3)
    assert len(server.log) == commits and told(server)["state"] == TRAINING


def test_the_log_is_told_in_parts_of_what_is_new_also_by_a_restarted_program(
    server: HubServer, heartbeat: Heartbeat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def parts() -> list[bytes]:
        return [
            server.read(REPO, p)
            for p in sorted(server.files(REPO))
            if p.startswith("runs/ab12cd34/log/")
        ]

    def say(text: str) -> None:
        with log_file(tmp_path).open("a") as f:
            f.write(text)

    say("boot: run ab12cd34\nhalf a li")
    heartbeat.set_state(TRAINING)
    until(lambda: parts() == [b"boot: run ab12cd34\n"])
    server.fault(COMMIT, status=403)  # this beat is lost; what it told is told by the next one
    say(f"ne\n{TOKEN}\n")
    heartbeat.set_state(TRAINING)
    until(lambda: not any(fault.times for fault in server.faults))
    say("more\n")
    heartbeat.set_state(UPLOADING)
    until(lambda: parts() == [b"boot: run ab12cd34\n", b"half a line\n***\nmore\n"])
    heartbeat.close()
    again = Heartbeat(
        make_plan(server.url, "http://127.0.0.1:1/v1", run_id="ab12cd34"),
        {"HF_TOKEN": Secret(TOKEN)},
        tmp_path / "work",
        SpendMeter(make_plan(server.url, ""), machine(3600), NOBODY),
        Timeline(tmp_path / "t.json"),
        Notifier(None, ""),
    )
    say("after a restart\n")
    again.set_state(TRAINING)
    until(lambda: parts()[2:] == [b"after a restart\n"])
    again.close()


def test_a_log_that_cannot_be_read_is_no_obstacle(heartbeat: Heartbeat) -> None:
    assert b"cannot be read" in heartbeat.log()


def test_a_beat_tells_how_long_the_run_will_take_by_the_trainers_word_and_the_plans_forecast(
    server: HubServer, tmp_path: Path
) -> None:
    work, line = tmp_path / "w", Timeline(tmp_path / "t.json")
    (work / "trainer").mkdir(parents=True)
    (work / "trainer/metrics.jsonl").write_text(f"{STEP}\n")
    (work / "trainer/heartbeat.json").write_text(
        '{"phase": "sft", "step": 3, "steps": 4, "stage": "train"}'
    )
    line.enter("sft.train")
    foretold = Predicted(1, 2, 3, {}, {"sft.evaluate": 30, "upload": 10})
    plan = make_plan(server.url, "http://127.0.0.1:1/v1", run_id="ab12cd34", predicted=foretold)
    made = Heartbeat(
        plan,
        {"HF_TOKEN": Secret(TOKEN)},
        work,
        SpendMeter(plan, machine(3600), NOBODY),
        line,
        Notifier(None, ""),
    )
    made.set_state(TRAINING)
    until(lambda: told(server))
    made.close()
    seen = told(server)
    assert (seen["phase"], seen["tok_per_s"], seen["phase_left_s"], seen["left_s"]) == (
        "sft",
        99.5,
        8.25,
        48.25,
    )
    assert seen["limit_cents"] == plan.limit_cents and 0 < seen["soft_cents"] < plan.limit_cents  # type: ignore[operator]


def test_the_moment_the_forecast_crosses_the_limit_a_warning_is_logged_and_sent_once(
    server: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work, line, sent = tmp_path / "w", Timeline(tmp_path / "t.json"), list[str]()
    (work / "trainer").mkdir(parents=True)
    line.enter("sft.train")
    plan = make_plan(
        server.url,
        "http://127.0.0.1:1/v1",
        run_id="ab12cd34",
        predicted=Predicted(
            1, 2, 3, {}, {"sft.train": 10_000, "sft.evaluate": 30_000, "upload": 10}
        ),
    )

    def send(url: str, title: str, text: str, kind: str) -> str:
        sent.append(f"{kind}: {title}: {text}")
        return ""

    notify = Notifier(Secret("ntfy://nowhere"), "n", send=send)
    meter = SpendMeter(plan, machine(3600), NOBODY)
    made = Heartbeat(plan, {"HF_TOKEN": Secret(TOKEN)}, work, meter, line, notify)
    for word in ("one", "two"):
        made.set_state(TRAINING, word)
        until(lambda w=word: told(server).get("message") == w)  # type: ignore[misc]
    made.close()
    notify.close()
    assert len(sent) == 1 and sent[0].startswith(
        "warning: n: its limit of $10.00 is too low: it will cost about $12.1"
    )
    assert (
        "just limit ab12cd34 " in sent[0]
        and capsys.readouterr().out.count("box: warning: it will cost about") == 1
    )


@pytest.mark.parametrize(
    "log, masked",
    [("fine ***\n", False), (f"a {TOKEN}\n", True), (f"a ***\n{NOTE}\n", True), ("", False)],
    ids=["stars alone", "a secret", "the stream's note", "nothing"],
)
def test_it_knows_whether_the_log_held_a_secret(
    heartbeat: Heartbeat, tmp_path: Path, log: str, masked: bool
) -> None:
    log_file(tmp_path).write_text(log)
    assert heartbeat.has_masked() is masked


def test_an_upload_that_fails_stands_in_the_report_at_once_and_is_notified_when_it_lasts(
    server: HubServer, tmp_path: Path
) -> None:
    now, sent = [0.0], list[str]()

    def send(url: str, title: str, text: str, kind: str) -> str:
        sent.append(f"{kind}: {title}: {text}")
        return ""

    plan, notify = (
        make_plan(server.url, "http://127.0.0.1:1/v1", run_id="ab12cd34"),
        Notifier(Secret("ntfy://nowhere"), "n", send=send),
    )
    made = Heartbeat(
        plan,
        {"HF_TOKEN": Secret(TOKEN)},
        tmp_path / "w",
        SpendMeter(plan, machine(3600), NOBODY),
        Timeline(tmp_path / "t.json"),
        notify,
        clock=lambda: now[0],
    )
    made.note_trouble("sft", "HTTP 403: storage limit reached")
    until(
        lambda: (
            "sft: HTTP 403: storage limit reached; it is tried again"
            in str(told(server).get("trouble"))
        )
    )
    since = told(server)["trouble_since"]
    assert not sent and made.trouble_of("sft") == f"HTTP 403: storage limit reached; since {since}"
    now[0] = 21.0
    for _ in range(2):
        made.note_trouble("sft", "HTTP 403: storage limit reached")
    made.note_trouble("sft", "")
    until(lambda: told(server)["trouble"] == "")
    made.close()
    notify.close()
    assert (
        len(sent) == 1
        and "sft cannot be uploaded" in sent[0]
        and "storage limit reached" in sent[0]
    )
