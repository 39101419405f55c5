"""What is proven is what the Hub sends, and what it still has when the instance is deleted."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanolan.box.context import RunStopped
from nanolan.box.upload.recheck import prove_again
from nanolan.checkpoint.manifest import MANIFEST, Manifest, hash_bytes
from nanolan.errors import Unreachable
from nanolan.hub.transfer import Job
from nanolan.sim.hub.server import HubServer
from tests.support.box_fixtures import REPO
from tests.support.saver_fixtures import hub, machine, send, trained  # noqa: F401  # hub: a fixture

SFT = "chatsft_checkpoints/d20"
MODEL = f"{SFT}/model_000005.pt"


def content(hub: HubServer) -> Path:
    """The file in which the Hub keeps the model's bytes."""
    return hub.store.object(hub.files(REPO)[MODEL].sha256)


def halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"?")


# ---- what the Hub sends


@pytest.mark.parametrize("spoil", [Path.unlink, halved], ids=["gone", "other bytes"])
def test_an_upload_whose_content_the_hub_does_not_send_is_not_proven_and_sent_again(
    tmp_path: Path, hub: HubServer, spoil: Callable[[Path], object]
) -> None:
    first = machine(tmp_path, hub)
    usual, tries = first.deps.transfer, [0]

    def transfer(job: Job, token: Any, **how: Any) -> None:
        usual(job, token, **how)
        tries[0] += 1
        if tries[0] == 1:
            spoil(content(hub))

    box = machine(tmp_path, hub, deps={"transfer": transfer})
    trained(box, "sft")
    send(box)
    assert tries == [2] and hub.read(REPO, MODEL) == b"sft" * 100
    assert [p.folder for p in box.proofs] == [SFT] and box.unsaved == []


def test_a_hub_that_cannot_send_content_for_a_while_keeps_no_proof_from_its_phase(
    tmp_path: Path, hub: HubServer
) -> None:
    box = machine(tmp_path, hub)
    trained(box, "sft")
    hub.fault(f"GET /{REPO}/resolve/.*{MODEL}", "status", status=503, times=10**6)
    send(box)
    assert [p.folder for p in box.proofs] == [SFT] and len(box.sent) == 1


# ---- what the Hub still has


def moved_back(hub: HubServer, commits: int) -> None:
    """The branch as it was before so many commits: a reset and a forced push."""
    with hub.store.lock:
        repo = hub.store.load("model", REPO)
        assert repo
        for _ in range(commits):
            repo.refs["main"] = repo.at("main").parent
        hub.store.save(repo)


LOST: dict[str, Callable[[HubServer], object]] = {
    "the branch was moved back": lambda hub: moved_back(hub, 1),
    "the folder was deleted": lambda hub: hub.put(REPO, {}, delete=SFT),
    "a file was replaced": lambda hub: hub.put(REPO, {MODEL: b"another run's"}),
}


@pytest.mark.parametrize("how", LOST)
def test_a_result_that_left_the_hub_since_its_proof_is_uploaded_again(
    tmp_path: Path, hub: HubServer, how: str
) -> None:
    box = machine(tmp_path, hub)
    trained(box, "sft")
    send(box)
    LOST[how](hub)
    prove_again(box)
    assert hub.read(REPO, MODEL) == b"sft" * 100 and len(box.sent) == 2
    assert [p.manifest.step for p in box.proofs] == [5] and box.unsaved == []
    prove_again(box)
    assert len(box.sent) == 2


def test_what_left_the_hub_and_cannot_be_saved_again_is_named_as_lost(
    tmp_path: Path, hub: HubServer
) -> None:
    box = machine(tmp_path, hub)
    trained(box, "sft")
    send(box)
    moved_back(hub, 1)
    box.meter.give_up = lambda: "the money is gone"  # type: ignore[method-assign]
    with pytest.raises(Unreachable):
        prove_again(box)
    assert box.unsaved == ["sft step 5"] and box.proofs == []


def test_what_left_the_hub_and_this_disk_is_no_success(tmp_path: Path, hub: HubServer) -> None:
    box = machine(tmp_path, hub)
    trained(box, "sft")
    send(box)
    moved_back(hub, 1)
    shutil.rmtree(box.out_dir("sft"))
    with pytest.raises(RunStopped, match="left the Hub, and is not whole here"):
        prove_again(box)
    assert box.unsaved == ["sft step 5 (it left the Hub)"]


def test_a_hub_that_does_not_answer_takes_no_proof_back(tmp_path: Path, hub: HubServer) -> None:
    box = machine(tmp_path, hub)
    trained(box, "sft")
    send(box)
    hub.fault("GET .*", "status", status=503, times=10**6)
    prove_again(box)
    assert len(box.proofs) == 1 and len(box.sent) == 1 and box.deps.clock() < 600


def test_what_another_run_has_put_there_since_stays(tmp_path: Path, hub: HubServer) -> None:
    box = machine(tmp_path, hub)
    trained(box, "sft")
    send(box)
    data = b"a newer model of another run"
    entries = (hash_bytes("model_000900.pt", data),)
    theirs = Manifest("ffffffff", "sft", 900, entries, final=True).to_json().encode()
    hub.put(REPO, {f"{SFT}/model_000900.pt": data, f"{SFT}/{MANIFEST}": theirs})
    prove_again(box)
    assert hub.read(REPO, f"{SFT}/{MANIFEST}") == theirs and len(box.sent) == 1
    assert len(box.proofs) == 1, "ours is at its revision"


def test_scores_go_along_when_a_result_is_uploaded_again(tmp_path: Path, hub: HubServer) -> None:
    box = machine(tmp_path, hub)
    trained(box, "sft")
    send(box)
    place = box.evaluation("sft")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text('{"gsm8k_acc": 0.2}')
    hub.put(REPO, {}, delete=SFT)
    prove_again(box)
    assert box.heartbeat.phases["sft"].measured["gsm8k_acc"] == 0.2
    assert b"gsm8k_acc" in hub.read(REPO, f"{SFT}/meta_000005.json")
