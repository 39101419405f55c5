"""`just resume` as a user types it: a run that ended short goes on, on a new machine, for the money that is left."""

from __future__ import annotations

import base64
import json
import re
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from msgspec import structs

from nanolan.plan import Plan, read_plan
from nanolan.run.record import Progress, Receipt
from nanolan.settings.settings import ROOT
from nanolan.sim.world import REPO, World
from nanolan.times import iso, now_utc
from tests.support.core_fixtures import CREATE, LIST, creates, script
from tests.support.resume_script_fixtures import (
    ended,
    gone,
    launched,
    leave,
    ledger,
    resume,
)
from tests.support.run_fixtures import result, state
from tests.support.world_fixtures import one_world, world  # noqa: F401  # fixtures


def hub_plan(world: World, plan: Plan) -> Plan:
    return read_plan(world.hub.read(plan.runs_repo, f"{plan.folder}/plan.json"))


def test_a_run_goes_on_with_the_first_phase_that_is_not_proven_from_its_saved_state(
    world: World,
) -> None:
    old = ended(
        world, phase="mid+sft", output_tag="d20-x", run_name="mine", gpu="H100", spend_limit="90"
    )
    result(world.hub, old, "mid"), state(world.hub, old, "sft", step=40, processes=2)
    done = resume(world, "--yes", "--json")
    assert done.returncode == 0, done.stderr
    told, plan = json.loads(done.stdout), hub_plan(world, old)
    machine = world.cloud.instances[-1]
    assert (plan.run_id, plan.attempt, plan.phases, plan.limit_cents) == (
        old.run_id,
        2,
        ("sft",),
        9000 - 1234,
    )
    assert plan.resume and plan.resume.size and not plan.model_only
    assert any("optim_000040_rank1.pt" in f.path for f in plan.resume.files)
    assert (
        plan.inputs[0].files[0].path.startswith("mid_checkpoints/d20-x/") and plan.inputs[0].proven
    )
    assert (plan.inputs[1:], plan.datasets, plan.code, plan.recipe) == (
        old.inputs[1:],
        old.datasets,
        old.code,
        old.recipe,
    )
    assert (plan.run_name, plan.output_tag, plan.model_tag, plan.offer.gpu) == (
        "mine",
        "d20-x",
        "d20-x",
        "H100",
    )
    assert (
        told["instance_id"] == machine.id
        and machine.name == plan.instance_name
        and machine.name.endswith(old.run_id)
    )
    assert machine.spec["auto_delete"]["spend_threshold"] == "77.66"
    assert (
        "sft from step 40" in done.stderr
        and "$77.66 left of $90.00 for the whole run ($12.34 spent)" in done.stderr
    )
    entry = ledger(world).find(old.run_id)
    assert (entry.plan, entry.instance_id) == (plan, machine.id)
    (first,) = entry.earlier
    assert (
        (first.number, first.spent_cents) == (1, 1234)
        and first.note == "failed: hang"
        and first.instance_id == world.cloud.instances[0].id
    )


@pytest.mark.slow  # a whole command; tests/manage/ has the decision
def test_the_run_folder_tells_of_the_new_attempt_alone(world: World) -> None:
    old = ended(world)
    leave(world, old, stop={"attempt": 1, "at": "2026-11-24T00:00:00Z"})
    bundle = world.hub.read(REPO, f"{old.folder}/code.bundle")
    assert resume(world, "--yes").returncode == 0
    files = {
        p.removeprefix(f"{old.folder}/") for p in world.hub.files(REPO) if p.startswith(old.folder)
    }
    assert (
        files == {"plan.json", "code.bundle", "earlier.json", "launch.json"}
        and world.hub.read(REPO, f"{old.folder}/code.bundle") == bundle
    )
    assert json.loads(world.hub.read(REPO, f"{old.folder}/earlier.json"))[0]["spent_cents"] == 1234
    box = base64.b64decode(world.cloud.instances[-1].script or "").decode()
    assert f"CODE_SHA256={old.code.sha256}" in box


@pytest.mark.slow
def test_a_third_attempt_counts_what_both_before_have_cost(world: World) -> None:
    old = ended(world)
    assert resume(world, "--yes").returncode == 0
    leave(world, old, receipt=Receipt(old.run_id, "failed", "hang", spent_cents=1000, attempt=2))
    gone(world)
    done = resume(world, "--yes")
    assert (
        done.returncode == 0
        and "$127.66 left of $150.00 for the whole run ($22.34 spent)" in done.stderr
    )
    entry = ledger(world).find(old.run_id)
    assert (entry.plan.attempt, entry.plan.limit_cents, [a.spent_cents for a in entry.earlier]) == (
        3,
        12_766,
        [1234, 1000],
    )


@pytest.mark.slow
def test_an_earlier_attempts_words_are_not_the_new_ones(world: World) -> None:
    old = ended(world)
    assert resume(world, "--yes").returncode == 0
    leave(
        world,
        old,
        receipt=Receipt(old.run_id, "failed", "hang", attempt=1),
        progress=Progress(old.run_id, "training", {}, iso(now_utc())),
    )
    shown = json.loads(script("check_status", "--json", env=world.env()).stdout)["runs"][0]
    assert (shown["state"], shown["attempt"], shown["ended"]) == ("booting", 2, False)
    leave(world, old, progress=Progress(old.run_id, "preparing", {}, iso(now_utc()), attempt=2))
    assert (
        json.loads(script("check_status", "--json", env=world.env()).stdout)["runs"][0]["state"]
        == "preparing"
    )


@pytest.mark.slow  # a whole command; tests/manage/ has the decision
def test_a_machine_that_vanished_is_counted_by_its_last_report(world: World) -> None:
    old = ended(world, receipt=False)
    now = now_utc()
    before = structs.replace(old, created_at=iso(now - timedelta(hours=1)))
    ledger(world).put(structs.replace(ledger(world).find(old.run_id), plan=before))
    leave(
        world,
        old,
        progress=Progress(
            old.run_id, "training", {}, iso(now - timedelta(minutes=50)), spent_cents=1200
        ),
    )
    done = resume(world, "--dry-run")
    assert done.returncode == 0 and "($12.00 spent)" in done.stderr


def test_the_limit_that_is_typed_is_that_of_the_whole_run(world: World) -> None:
    old = ended(world)
    done = resume(world, "--yes", old.run_id[:6], "spend-limit=50")
    assert (
        done.returncode == 0
        and "$37.66 left of $50.00" in done.stderr
        and ledger(world).find(old.run_id).plan.limit_cents == 3766
    )


@pytest.mark.parametrize(
    "limit, said",
    [
        ("12", "has spent $12.34 (attempt 1: $12.34), its limit is $12.00: nothing is left"),
        ("20", "$7.66 left of $20.00 for the whole run ($12.34 spent); the rest: likely"),
    ],
)
def test_too_little_money_is_refused_with_the_numbers_and_changes_nothing(
    world: World, limit: str, said: str
) -> None:
    old = ended(world)
    before, entry = world.hub.files(REPO), ledger(world).find(old.run_id)
    done = resume(world, "--yes", f"spend-limit={limit}")
    assert done.returncode == 4 and said in done.stderr and "nothing was rented" in done.stderr
    assert (
        creates(world.cloud) == 1
        and world.hub.files(REPO) == before
        and ledger(world).find(old.run_id).plan == entry.plan
    )
    tried = re.search(r"spend-limit=(\d+)", done.stderr)
    assert tried and resume(world, "--yes", tried[0]).returncode == 0, "the way out is one"


@pytest.mark.slow  # a whole command; tests/manage/ has the decision
def test_another_number_of_processes_deals_the_optimizer_anew_and_says_so(world: World) -> None:
    old = ended(world)
    state(world.hub, old, "sft", processes=8)
    done = resume(world, "--yes")
    assert done.returncode == 0 and "dealt anew" in done.stderr and hub_plan(world, old).model_only


@pytest.mark.slow  # a whole command; tests/manage/ has the decision
def test_without_a_saved_state_the_phase_starts_again(world: World) -> None:
    old = ended(world)
    done = resume(world, "--yes")
    plan = hub_plan(world, old)
    assert done.returncode == 0 and "sft starts again" in done.stderr
    assert (plan.resume, plan.inputs, plan.phases) == (None, old.inputs, old.phases)


def test_a_run_that_is_complete_has_nothing_to_do(world: World) -> None:
    old = ended(world)
    result(world.hub, old, "sft")
    done = resume(world, "--yes")
    assert (
        done.returncode == 0
        and "complete: every phase is proven" in done.stdout
        and creates(world.cloud) == 1
    )


def test_a_run_that_still_bills_is_refused(world: World) -> None:
    plan = launched(world)
    done = resume(world, "--yes")
    assert done.returncode == 4 and creates(world.cloud) == 1
    for part in (world.cloud.instances[0].id, "$33.60/h", f"just stop {plan.run_id}"):
        assert part in done.stderr


@pytest.mark.parametrize("action", ["unauthorized", "html", "reset"])
@pytest.mark.slow  # a whole command; tests/manage/ has the decision
def test_an_account_that_cannot_be_read_is_no_leave_to_rent_again(
    world: World, action: str
) -> None:
    ended(world)
    world.cloud.fault(LIST, action, times=None)
    done = resume(world, "--yes")
    assert done.returncode != 0 and "Traceback" not in done.stderr and creates(world.cloud) == 1


@pytest.mark.slow  # a whole command; tests/manage/ has the decision
def test_a_no_and_a_dry_run_change_nothing(world: World) -> None:
    old = ended(world)
    before = world.hub.files(REPO)
    done = resume(world)
    assert done.returncode == 2 and "not a terminal" in done.stderr
    dry = resume(world, "--dry-run", "--json")
    told = json.loads(dry.stdout)
    assert dry.returncode == 0 and (told["run_id"], told["limit_usd"]) == (old.run_id, "137.66")
    assert (
        f"To rent it: just resume {old.run_id} gpu=H100\n"
        in resume(world, "--dry-run", "gpu=H100").stderr
    )
    assert (
        world.hub.files(REPO) == before
        and creates(world.cloud) == 1
        and not ledger(world).find(old.run_id).earlier
    )


@pytest.mark.slow
def test_a_refused_create_is_noted_and_the_run_may_go_on_later(world: World) -> None:
    old = ended(world)
    world.cloud.fault(CREATE, "out_of_stock")
    refused = resume(world, "--yes")
    assert (
        refused.returncode == 3
        and f"(dearer than the $33.60/h agreed to; with --yes, max-price= allows more): just resume {old.run_id} "
        "cloud=datacrunch region=FIN-01 instance-type=B200_sxm6x8"
        in refused.stderr
    )
    entry = ledger(world).find(old.run_id)
    assert entry.gone and [a.spent_cents for a in entry.earlier] == [1234]
    done = resume(world, "--yes")
    entry = ledger(world).find(old.run_id)
    assert (
        done.returncode == 0
        and [(a.number, a.spent_cents) for a in entry.earlier] == [(1, 1234), (2, 0)]
        and entry.plan.attempt == 3
    )


@pytest.mark.slow  # a whole command; tests/manage/ has the decision
def test_a_stock_out_goes_on_with_the_next_offer_up_to_max_price(world: World) -> None:
    old = ended(world)
    world.cloud.fault(CREATE, "out_of_stock")
    done = resume(world, "--yes", "--json", "max-price=36")
    entry, told = ledger(world).find(old.run_id), json.loads(done.stdout)
    assert done.returncode == 0 and (
        entry.plan.attempt,
        entry.plan.offer.cloud,
        told["attempt"],
    ) == (3, "datacrunch", 3)
    assert [(a.number, a.spent_cents) for a in entry.earlier] == [(1, 1234), (2, 0)]


@pytest.mark.slow
def test_the_code_is_this_checkouts_when_asked_and_the_machine_can_fetch_it(
    world: World, tmp_path: Path
) -> None:
    old = ended(world)
    world.hub.put(REPO, {f"{old.folder}/code.bundle": b"not the run's"})
    done = resume(world, "--yes")
    assert (
        done.returncode == 4 and "is not the run's; use this checkout's: --code here" in done.stderr
    )
    done = resume(world, "--yes", "code=here")
    assert done.returncode == 0, done.stderr
    bundle = tmp_path / "code.bundle"
    bundle.write_bytes(world.hub.read(REPO, f"{old.folder}/code.bundle"))
    heads = subprocess.run(
        ["git", "bundle", "list-heads", str(bundle)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert f"refs/nanolan/{old.run_id}/nanolan" in heads  # the name that boot.sh fetches


def test_bad_input_is_one_clear_line_and_nothing_is_rented(world: World) -> None:
    ended(world)
    for word, said in (
        ("phase=rl", "no setting called 'phase'"),
        ("model-tag=d21", "no setting called 'model-tag'"),
        ("zz", "no run called"),
        ("$(touch evil)", "no run called"),
        ("spend-limit=0", "spend-limit: "),
        ("gpu=H10O", "Did you mean gpu=H100?"),
        ("output-tag=../x", "output-tag: "),
    ):
        done = resume(world, "--yes", word)
        assert (
            done.returncode == 2
            and said in done.stderr
            and "Traceback" not in done.stderr
            and not (ROOT / "evil").exists()
        )
    assert creates(world.cloud) == 1


def test_the_limits_of_the_launch_hold_for_its_next_attempt(world: World) -> None:
    old = ended(world, max_price="40", max_duration="5h", cloud="hyperstack")
    done = resume(world, "--dry-run")
    assert "max-price=40, max-duration=300m, cloud=hyperstack" in done.stderr
    assert old.limits and old.limits.max_price == 4000
    dearer = resume(world, "--dry-run", "max-price=30")
    assert dearer.returncode == 3 and "above max-price ($30.00/h)" in dearer.stderr


def test_a_run_that_stopped_at_its_gate_goes_on_only_with_another_one(world: World) -> None:
    old = ended(world, phase="mid+sft", gate="val_bpb<0.5")
    result(world.hub, old, "mid", extra={"val_bpb": 0.9})
    before = creates(world.cloud)
    done = resume(world, "--yes")
    assert done.returncode == 4 and creates(world.cloud) == before
    assert f"just resume {old.run_id} 'gate=val_bpb<0.901'" in done.stderr
    for word in ("gate=val_bpb<0.901", "gate=none"):
        assert resume(world, "--dry-run", word).returncode == 0
