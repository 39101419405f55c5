"""What remains of a run: only work proven on the Hub counts as done or saved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nanolan.errors import Unreachable
from nanolan.hub.client import Hub
from nanolan.redact import Secret
from nanolan.run.record import PhaseReport
from nanolan.run.remaining import Remaining, remaining_of
from nanolan.sim.hub.server import HubServer
from tests.support.box_fixtures import REPO, TOKEN, WRITERS, make_plan
from tests.support.run_fixtures import put, result, state

MID, SFT = "mid_checkpoints/d20", "chatsft_checkpoints/d20"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "hub", tokens=WRITERS) as server:
        server.put(REPO, {"README.md": b"#"})
        yield server


def plan_of(hub: HubServer, **fields: Any) -> Any:
    return make_plan(hub.url, "http://127.0.0.1:1/v1", **({"phases": ("mid", "sft")} | fields))


def look(hub: HubServer, plan: Any, told: dict[str, PhaseReport] | None = None) -> Remaining:
    return remaining_of(Hub(hub.url, Secret(TOKEN), patience_s=0.2), plan, told or {})


def test_without_checkpoints_all_phases_remain(hub: HubServer) -> None:
    assert look(hub, plan_of(hub)) == Remaining(("mid", "sft"))


def test_a_proven_phase_is_done_and_the_next_one_starts_from_it(hub: HubServer) -> None:
    plan = plan_of(hub)
    revision = result(hub, plan, "mid", step=90)
    rest = look(hub, plan)
    assert rest.phases == ("sft",) and rest.saved is None and rest.before
    assert (rest.before.step, rest.before.folder, rest.before.files.revision) == (
        90,
        MID,
        revision,
    ) and rest.before.files.proven
    assert [f.path for f in rest.before.files.files] == [
        f"{MID}/{n}" for n in ("manifest.json", "meta_000090.json", "model_000090.pt")
    ]


def test_when_all_is_proven_nothing_remains(hub: HubServer) -> None:
    plan = plan_of(hub)
    result(hub, plan, "mid"), result(hub, plan, "sft")
    rest = look(hub, plan)
    assert rest.phases == () and rest.before and rest.before.phase == "sft"


def test_a_later_phase_does_not_count_when_an_earlier_one_is_not_proven(hub: HubServer) -> None:
    plan = plan_of(hub)
    result(hub, plan, "sft")
    assert look(hub, plan) == Remaining(("mid", "sft"))


def test_a_state_of_the_first_unproven_phase_is_pinned_with_every_shard_and_its_manifest(
    hub: HubServer,
) -> None:
    plan = plan_of(hub)
    result(hub, plan, "mid")
    state(hub, plan, "mid", step=10)  # of a phase that is done
    revision = state(hub, plan, "sft", step=40, processes=8)
    saved = look(hub, plan).saved
    assert saved and (saved.phase, saved.step, saved.processes, saved.files.revision) == (
        "sft",
        40,
        8,
        revision,
    )
    names = {f.path.removeprefix(f"runs/{plan.run_id}/saved/sft/") for f in saved.files.files}
    assert names == {
        "manifest.json",
        "meta_000040.json",
        "model_000040.pt",
        *(f"optim_000040_rank{n}.pt" for n in range(8)),
    }


def test_states_are_read_from_runs_repo(hub: HubServer) -> None:
    plan = plan_of(hub, runs_repo="me/runs")
    state(hub, plan, "mid")
    saved = look(hub, plan).saved
    assert saved and saved.files.repo == "me/runs"


def _overwrite(path: str) -> Callable[[HubServer, Any], object]:
    return lambda hub, plan: hub.put(REPO, {path.format(id=plan.run_id): b"other bytes"})


@pytest.mark.parametrize(
    "spoil",
    [
        lambda hub, plan: state(hub, plan, "mid", run_id="00000000"),
        lambda hub, plan: state(hub, plan, "mid", phase="sft"),
        lambda hub, plan: state(hub, plan, "mid", final=True),
        _overwrite("runs/{id}/saved/mid/model_000040.pt"),
        _overwrite("runs/{id}/saved/mid/optim_000040_rank1.pt"),
        _overwrite("runs/{id}/saved/mid/manifest.json"),
        lambda hub, plan: hub.put(
            REPO, {f"runs/{plan.run_id}/saved/mid/manifest.json": b"[" * 100_000}
        ),
    ],
    ids=[
        "another run's",
        "another phase's",
        "a result",
        "model changed",
        "shard changed",
        "manifest changed",
        "nested",
    ],
)
def test_an_unproven_state_is_ignored(
    hub: HubServer, spoil: Callable[[HubServer, Any], object]
) -> None:
    plan = plan_of(hub)
    state(hub, plan, "mid")
    spoil(hub, plan)
    assert look(hub, plan) == Remaining(("mid", "sft"))


@pytest.mark.parametrize(
    "changes", [{"run_id": "00000000"}, {"phase": "sft"}, {"final": False}], ids=str
)
def test_a_result_of_another_run_or_phase_is_ignored(
    hub: HubServer, changes: dict[str, Any]
) -> None:
    plan = plan_of(hub)
    result(hub, plan, "mid", **changes)
    assert look(hub, plan).phases == ("mid", "sft")


def test_a_manifest_without_a_model_is_ignored(hub: HubServer) -> None:
    from nanolan.checkpoint.manifest import Manifest, hash_bytes

    plan = plan_of(hub)
    put(
        hub,
        REPO,
        MID,
        Manifest(plan.run_id, "mid", 3, (hash_bytes("notes.txt", b"x"),)),
        {"notes.txt": b"x"},
    )
    assert look(hub, plan).phases == ("mid", "sft")


def test_a_replaced_result_is_found_at_its_reported_revision(
    hub: HubServer,
) -> None:
    plan, other = plan_of(hub), plan_of(hub)
    revision = result(hub, plan, "mid", step=90)
    result(hub, other, "mid", step=7)
    told = {"mid": PhaseReport("replaced", MID, revision, 90)}
    assert look(hub, plan).phases == ("mid", "sft")
    rest = look(hub, plan, told)
    assert (
        rest.phases == ("sft",)
        and rest.before
        and (rest.before.step, rest.before.files.revision) == (90, revision)
    )
    for wrong in ("0" * 40, "../../x", "main"):  # told is somebody's word: it proves nothing
        assert look(hub, plan, {"mid": PhaseReport("proven", MID, wrong)}).phases == ("mid", "sft")


@pytest.mark.parametrize(
    "path",
    [
        rf"GET /api/models/{REPO}/revision|GET /api/models/{REPO}$",
        r"mid_checkpoints/d20/manifest.json",
        r"saved/sft/manifest.json",
    ],
)
def test_a_failed_read_is_an_error_and_not_an_empty_answer(hub: HubServer, path: str) -> None:
    plan = plan_of(hub)
    result(hub, plan, "mid"), state(hub, plan, "sft")
    hub.fault(path, status=503, times=50)
    with pytest.raises(Unreachable):
        look(hub, plan)
