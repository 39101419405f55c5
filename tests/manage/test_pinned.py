"""Before a run goes on: a foreign trainer's bundle is there and its batch fits the GPUs; the gate opens for what was measured."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from nanolan.checkpoint.manifest import Manifest, hash_bytes
from nanolan.hub.client import Hub
from nanolan.manage.pinned import bundle_checks, gate_checks, gpu_checks
from nanolan.plan import Code, Fork
from nanolan.redact import Secret
from nanolan.run.record import PhaseReport
from nanolan.run.remaining import Remaining, result_of
from nanolan.sim.hub.server import HubServer
from tests.support.box_fixtures import TOKEN, WRITERS
from tests.support.resume_fixtures import PLAN
from tests.support.run_fixtures import put

BUNDLE = b"a bundle"
CODE = Code("c" * 40, hash_bytes("x", BUNDLE).sha256, len(BUNDLE), False)
FOREIGN = structs.replace(PLAN, fork=Fork("custom", "my-nanochat", "c" * 40, CODE, {}, "online"))
PATH = f"{PLAN.folder}/fork.bundle"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "hub", tokens=WRITERS) as hub:  # type: ignore[arg-type]
        hub.put(PLAN.runs_repo, {"README.md": b"hello"})
        yield hub


@pytest.mark.parametrize(
    ("files", "ok", "says"),
    [
        ({PATH: BUNDLE}, True, "of commit cccccccc"),
        ({PATH: b"another"}, False, "is not the run's; launch again"),
        ({}, False, "launch again"),
    ],
    ids=["there", "changed", "gone"],
)
def test_the_bundle_is_looked_for_before_anything_is_rented(
    server: HubServer, files: dict[str, bytes | Path], ok: bool, says: str
) -> None:
    server.put(PLAN.runs_repo, files)
    (check,) = bundle_checks(Hub(server.url, Secret(TOKEN), patience_s=1), FOREIGN)
    assert check.ok is ok and says in check.text


def test_nanolans_own_trainer_has_no_second_bundle(server: HubServer) -> None:
    assert bundle_checks(Hub(server.url, Secret(TOKEN), patience_s=1), PLAN) == ()


def test_another_number_of_gpus_is_refused_for_a_foreign_trainer_only() -> None:
    fewer = structs.replace(FOREIGN, processes=FOREIGN.processes - 1)
    (check,) = gpu_checks(FOREIGN, fewer)
    assert check.ok is False and f"num-gpus={FOREIGN.processes}" in check.text
    assert gpu_checks(FOREIGN, FOREIGN) == () == gpu_checks(PLAN, fewer)


def proven(server: HubServer, phase: str, extra: dict[str, float], scores: dict[str, float]) -> Any:
    """The work that remains after `phase`, whose trainer has measured `extra`, and its evaluation `scores`."""
    plan = structs.replace(PLAN, output_tag="d20", phases=("mid", "sft", "rl"))
    files = {
        "model_000090.pt": b"a model",
        "meta_000090.json": json.dumps({"evaluation": scores}).encode(),
    }
    entries = tuple(hash_bytes(name, data) for name, data in files.items())
    put(
        server,
        plan.hf_repo,
        plan.result_folder(phase),
        Manifest(plan.run_id, phase, 90, entries, extra=extra),
        files,
    )
    hub = Hub(server.url, Secret(TOKEN), patience_s=1)
    left = plan.phases[plan.phases.index(phase) + 1 :]
    before = result_of(hub, hub.tree(plan.hf_repo), plan, phase, None)
    assert before
    return hub, plan, Remaining(left, before)


@pytest.mark.parametrize(
    "phase, gate, ok, says",
    [
        ("sft", "val_loss<3", True, "sft has passed val_loss<3"),
        ("sft", "gsm8k_acc>0.1", True, "sft has passed"),
        (
            "sft",
            "val_loss<2",
            False,
            "val_loss is 2.5, the gate is 'val_loss<2'. To go on all the same: "
            "just resume ab12cd34 'gate=val_loss<2.501'",
        ),
        ("sft", "gsm8k_acc>0.3", False, "'gate=gsm8k_acc>0.199'"),
        ("sft", "val_bpb<0.5", False, "gate=none"),
        ("mid", "gsm8k_acc>0.1", True, "mid has passed"),
        ("mid", "val_bpb<9", False, "can never open: val_bpb is not measured after sft"),
    ],
)
def test_the_gate_is_tested_on_the_last_proven_phase_before_anything_is_rented(
    server: HubServer, phase: str, gate: str, ok: bool, says: str
) -> None:
    extra = {"val_loss": 2.5} if phase == "sft" else {"val_bpb": 0.4}
    hub, plan, remaining = proven(server, phase, extra, {"gsm8k_acc": 0.2})
    (check,) = gate_checks(hub, structs.replace(plan, gate=gate, evaluate="quick"), remaining, {})
    assert (check.name, check.ok) == ("gate", ok) and says in check.text


def test_without_a_gate_or_a_phase_before_it_there_is_nothing_to_test(server: HubServer) -> None:
    hub, plan, remaining = proven(server, "sft", {}, {})
    assert gate_checks(hub, structs.replace(plan, gate=None), remaining, {}) == ()
    assert gate_checks(hub, PLAN, Remaining(("mid", "sft")), {}) == ()
    (check,) = gate_checks(hub, PLAN, Remaining(("sft",)), {})
    assert check.ok is None and "no effect" in check.text


def test_a_phase_whose_measurements_cannot_be_read_does_not_pass_the_gate(
    server: HubServer,
) -> None:
    hub, plan, remaining = proven(server, "sft", {"val_loss": 1.0}, {})
    server.fault("GET /me/", status=503, times=50)
    (check,) = gate_checks(hub, structs.replace(plan, gate="val_loss<2"), remaining, {})
    assert check.ok is False and "unavailable" in check.text


def test_scores_that_are_only_in_the_runs_records_open_the_gate(server: HubServer) -> None:
    hub, plan, remaining = proven(server, "mid", {"val_bpb": 0.4}, {})
    gated = structs.replace(plan, gate="gsm8k_acc>0.05", evaluate="quick")
    told = {"mid": PhaseReport("proven", measured={"gsm8k_acc": 0.2})}
    assert [c.ok for c in gate_checks(hub, gated, remaining, {})] == [False]
    assert [c.ok for c in gate_checks(hub, gated, remaining, told)] == [True]
