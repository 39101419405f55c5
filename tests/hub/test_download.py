"""The box gets exactly the pinned bytes, once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nanolan.errors import BadAnswer, Unreachable
from nanolan.hub.download import fetch_inputs, patience_of
from nanolan.phases import IDENTITY_FILE
from nanolan.plan import Plan
from nanolan.redact import Secret
from nanolan.sim.hub.server import HubServer
from tests.support.box_fixtures import DATA, REPO, SEED, TOKEN, WRITERS, make_plan, pin
from tests.support.conversation_forms import ACCEPTED, lines

ROWS = b"rows " * 50


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    with HubServer(tmp_path / "hub", tokens=WRITERS) as hub:
        hub.put(REPO, SEED)
        hub.put(DATA, {"main/train-00000-of-00001.parquet": ROWS}, typ="dataset", private=False)
        yield hub


def plan_for(server: HubServer, only: str = "") -> Plan:
    """A plan of all inputs and the data set; of the inputs whose path begins with `only`."""
    pins = (pin(server, REPO, only=lambda path: path.startswith(only)),)
    return make_plan(
        server.url,
        "http://127.0.0.1:1/v1",
        inputs=pins,
        datasets=() if only else (pin(server, DATA, "dataset"),),
    )


def fetch(
    plan: Plan, work: Path, give_up: object = lambda: "", patience_s: float = 900.0
) -> list[str]:
    said: list[str] = []
    fetch_inputs(plan, Secret(TOKEN), work, give_up=give_up, say=said.append, patience_s=patience_s)  # type: ignore[arg-type]
    return said


def fetched(server: HubServer) -> set[str]:
    """The files that the client asked for."""
    return {line["path"].rsplit("/", 1)[-1] for line in server.log if "/resolve/" in line["path"]}


def test_everything_pinned_arrives_and_a_restart_downloads_nothing_twice(
    server: HubServer, tmp_path: Path
) -> None:
    plan, work = plan_for(server), tmp_path / "work"
    assert len(fetch(plan, work)) == 2, "one line of progress per repository"
    assert {p: (work / "model" / p).read_bytes() for p in SEED} == SEED
    assert (work / "data" / DATA / "main/train-00000-of-00001.parquet").read_bytes() == ROWS
    assert (work / "data/identity_conversations.jsonl").read_bytes() == SEED[
        "identity_conversations.jsonl"
    ]
    assert len(fetched(server)) == len(SEED) + 1
    server.log.clear()
    assert fetch(plan, work) == [] and server.log == [], "not even a question"
    (work / "model/tokenizer/tokenizer.pkl").write_bytes(b"a tokenizeR")
    assert "1 files of me/lanbot" in fetch(plan, work)[0]
    assert fetched(server) == {"tokenizer.pkl"}
    assert (work / "model/tokenizer/tokenizer.pkl").read_bytes() == b"a tokenizer"


def test_the_pinned_revision_is_downloaded(server: HubServer, tmp_path: Path) -> None:
    plan = plan_for(server, "tokenizer/")
    server.put(REPO, {"tokenizer/tokenizer.pkl": b"a newer one"})
    fetch(plan, tmp_path / "work")
    assert (tmp_path / "work/model/tokenizer/tokenizer.pkl").read_bytes() == b"a tokenizer"


@pytest.mark.parametrize(
    "path", ["tokenizer/tokenizer.pkl", "mid_checkpoints/d20/meta_000010.json"]
)
def test_a_file_served_with_other_bytes_than_pinned_is_refused(
    server: HubServer, tmp_path: Path, path: str
) -> None:
    plan = plan_for(server, path)
    served = server.store.object(server.files(REPO)[path].sha256)
    served.write_bytes(served.read_bytes()[:-1] + b"!")
    with pytest.raises(BadAnswer, match=f"{REPO}/{path} arrived 3 times with other bytes"):
        fetch(plan, tmp_path / "work")


def test_a_damaged_download_is_repeated(server: HubServer, tmp_path: Path) -> None:
    plan = plan_for(server, "tokenizer/")
    served = server.store.object(server.files(REPO)["tokenizer/tokenizer.pkl"].sha256)
    served.write_bytes(b"a tokenizeR")
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        if len(said) == 2:  # the second round: now it is served as it should be
            served.write_bytes(b"a tokenizer")

    fetch_inputs(plan, Secret(TOKEN), tmp_path / "work", give_up=lambda: "", say=say)
    assert (tmp_path / "work/model/tokenizer/tokenizer.pkl").read_bytes() == b"a tokenizer" and len(
        said
    ) == 2


def test_a_failing_hub_is_retried_only_while_time_and_money_last(
    server: HubServer, tmp_path: Path
) -> None:
    plan = plan_for(server, "tokenizer/")
    server.fault(r"GET /", status=503, times=10_000)
    with pytest.raises(Unreachable, match="failed for 0 minutes"):
        fetch(plan, tmp_path / "work", patience_s=0.1)
    with pytest.raises(Unreachable, match="90 % of the limit"):
        fetch(plan, tmp_path / "work", give_up=lambda: "90 % of the limit")


@pytest.mark.parametrize(
    "hourly_cents, minutes", [(100, 15), (2400, 12.5), (3360, 8.9), (20_000, 3), (0, 15)]
)
def test_a_refusing_hub_is_retried_for_15_minutes_or_five_dollars(
    hourly_cents: int, minutes: float
) -> None:
    assert round(patience_of(hourly_cents) / 60, 1) == minutes


def test_conversations_come_to_the_trainer_in_nanochats_form_and_bad_ones_as_they_are(
    server: HubServer, tmp_path: Path
) -> None:
    file, want = ACCEPTED["an array of both"]
    for content, arrives in ((file, lines(*want)), (b"[1]", b"[1]")):
        server.put(REPO, {IDENTITY_FILE: content})
        fetch(plan_for(server, IDENTITY_FILE), tmp_path)
        assert (tmp_path / "model" / IDENTITY_FILE).read_bytes() == content
        assert (tmp_path / "data" / IDENTITY_FILE).read_bytes() == arrives
