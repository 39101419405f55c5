"""The gate before the first phase of an attempt, on the real box program."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanolan.checkpoint.manifest import Manifest, hash_bytes
from nanolan.sim.hub.server import HubServer
from tests.support.box_fixtures import DATA, REPO, ROWS, SEED, WRITERS, pin
from tests.support.box_main_fixtures import (
    MID,
    SFT,
    NewBox,
    module,  # noqa: F401  # an autouse fixture
    new_box,  # noqa: F401  # a fixture
    verdict,
)
from tests.support.run_fixtures import put

RUN, OTHER = "ab12cd34", "ffffff00"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "hub", tokens=WRITERS) as server:  # type: ignore[arg-type]
        server.put(REPO, SEED)
        server.put(DATA, ROWS, typ="dataset", private=False)
        yield server


def mid_of(hub: HubServer, run_id: str) -> None:
    """The proven result of mid, with what its trainer and its evaluation have measured."""
    files = {
        "model_000010.pt": SEED[f"{MID}/model_000010.pt"],
        "meta_000010.json": json.dumps({"evaluation": {"gsm8k_acc": 0.2}}).encode(),
    }
    entries = tuple(hash_bytes(name, data) for name, data in files.items())
    put(hub, REPO, MID, Manifest(run_id, "mid", 10, entries, extra={"val_bpb": 0.4}), files)


@pytest.mark.parametrize(
    "of_run, gate, told",
    [
        (RUN, "val_bpb<0.3", "val_bpb is 0.4"),
        (RUN, "gsm8k_acc>0.3", "'gate=gsm8k_acc>0.199'"),
        (RUN, "val_loss<9", "just resume ab12cd34 gate=none"),
        (RUN, "val_bpb<0.5", ""),
        (OTHER, "val_bpb<0.3", ""),  # not a phase of this run
    ],
)
def test_the_first_phase_of_an_attempt_is_not_trained_behind_a_shut_gate(
    new_box: NewBox, hub: HubServer, of_run: str, gate: str, told: str
) -> None:
    mid_of(hub, of_run)
    inputs = (pin(hub, REPO, only=lambda p: p.startswith((MID, "tokenizer/"))),)
    box = new_box(hub=hub, run_id=RUN, attempt=2, gate=gate, inputs=inputs)
    box.unpack(downloaded=False)
    box.run()
    if told:
        assert verdict(box) == ("stopped", "gate", 6) and told in box.receipt()["message"]
        assert "sft step" not in box.log() and box.deleted
    else:
        assert verdict(box) == ("succeeded", "", 0) and box.holds(SFT, 5)
