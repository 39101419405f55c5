"""Probation: an instance is deleted for an observed failure, never because a request failed."""

from __future__ import annotations

import re
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nanolan.errors import (
    LimitHitLost,
    LimitHitSaved,
    MachineFailed,
    MayBeBilling,
    NanolanError,
    RunFailed,
)
from nanolan.launch.readiness import (
    BLIND_S,
    FAILING,
    READY,
    REFUSED_S,
    WAITING,
    Snapshot,
    assess,
    patience_s,
)
from nanolan.run.record import PhaseReport, Progress, Receipt
from nanolan.shadeform.models import Instance, instance_of
from nanolan.sim.shadeform.instance import Instance as Box
from nanolan.sim.world import World
from tests.support.core_fixtures import INFO, LIST
from tests.support.launch_fixtures import B200, Launch, fails, progress, receipt, silent, tell
from tests.support.world_fixtures import one_world, world  # noqa: F401  # fixtures

PATIENCE = 900.0


def machine(status: str, details: str = "") -> Instance:
    return instance_of(
        dict(
            id="i-1",
            name="lanbot-sft-20260128-2053-ab12cd34",
            status=status,
            status_details=details,
            hourly_price=3360,
        )
    )


ACTIVE = machine("active")
TRAINED = {"sft": PhaseReport("training")}


@pytest.mark.parametrize(
    "instance, told, ended, silent_s, verdict, why",
    [
        # on its way up
        (machine("creating"), None, None, 0, WAITING, ""),
        (machine("pending_provider"), None, None, 899, WAITING, ""),
        (machine("a_new_word"), None, None, 10, WAITING, ""),
        (ACTIVE, None, None, 899, WAITING, ""),
        (ACTIVE, progress("booting"), None, 0, WAITING, ""),
        (ACTIVE, progress("preparing"), None, 899, WAITING, ""),
        # it trains: from here on the run is its own
        (ACTIVE, progress("training"), None, 9999, READY, "it is ready: training"),
        (ACTIVE, progress("uploading"), None, 9999, READY, "it is ready: uploading"),
        (machine("error"), progress("training"), None, 0, READY, ""),
        (None, progress("training"), None, 9999, READY, ""),
        (None, progress("succeeded"), None, 0, READY, "the run has already ended: succeeded"),
        # it does not come up
        (
            machine("error", "no capacity"),
            None,
            None,
            0,
            FAILING,
            "the provider says: error no capacity",
        ),
        (machine("error"), progress("preparing"), None, 0, FAILING, "the provider says: error"),
        (None, None, None, 0, FAILING, "disappeared before training (gone)"),
        (
            machine("deleting", "preempted"),
            None,
            None,
            0,
            FAILING,
            "disappeared before training (deleting preempted)",
        ),
        (machine("deleted"), progress("preparing"), None, 0, FAILING, "disappeared"),
        (
            machine("pending_provider"),
            None,
            None,
            900,
            FAILING,
            "no heartbeat for 15 minutes (pending_provider)",
        ),
        (ACTIVE, None, None, 900, FAILING, "no heartbeat"),
        (ACTIVE, progress("preparing"), None, 900, FAILING, "no further heartbeat"),
        # it says so itself, and only of its probation
        (ACTIVE, progress("stopping"), None, 10, WAITING, ""),
        (ACTIVE, progress("stopping"), None, 900, READY, "ending the run"),
        (None, progress("stopping"), None, 0, FAILING, "disappeared"),
        (
            ACTIVE,
            progress("stopping"),
            receipt("failed", "boot_failed", "7 GPUs"),
            0,
            FAILING,
            "boot failed: 7 GPUs",
        ),
        (
            None,
            None,
            receipt("failed", "probation_failed", "slow"),
            0,
            FAILING,
            "probation failed: slow",
        ),
        (
            None,
            None,
            receipt("failed", "trainer_failed"),
            0,
            READY,
            "the run has already ended: failed trainer_failed",
        ),
        (None, None, receipt("failed", "error"), 0, READY, ""),
        (None, None, receipt("stopped", "spend_limit"), 0, READY, ""),
        (None, progress("training"), receipt("succeeded"), 0, READY, ""),
    ],
)
def test_an_instance_is_assessed_by_its_status_and_files(
    instance: Instance | None,
    told: Progress | None,
    ended: Receipt | None,
    silent_s: float,
    verdict: str,
    why: str,
) -> None:
    got = assess(Snapshot(instance, told, ended), silent_s, PATIENCE)
    assert got[0] == verdict and why in got[1] and bool(got[1]) == (verdict != WAITING)


@pytest.mark.parametrize(
    "gpus, boot_max_s, minutes",
    [
        (1, None, 15),
        (1, 300, 15),
        (1, 3600, 120),
        (4, 600, 20),
        (8, None, 30),
        (8, 600, 30),
        (8, 1200, 40),
        (16, 5, 30),
    ],
)
def test_patience_is_twice_the_boot_time_of_the_type_with_a_minimum(
    gpus: int, boot_max_s: int | None, minutes: int
) -> None:
    assert patience_s(replace(B200[0], num_gpus=gpus, boot_max_s=boot_max_s)) == minutes * 60


# ---- over HTTP


def alone(world: World, home: Path, *parts: Any) -> Launch:
    """A launch that may not try another offer."""
    return Launch(world, home, *parts, failover="0")


def test_the_wait_ends_when_the_box_trains_and_reports_status_and_cost(
    world: World, tmp_path: Path
) -> None:
    launch = alone(world, tmp_path)
    launched = launch.run()
    assert launched.instance.id == launch.boxes[0].id and len(launch.live) == 1
    assert "waiting until it trains, for up to 30 minutes without a heartbeat" in launch.text
    assert "You may close this laptop or press Ctrl-C" in launch.text
    assert re.search(r"^  [a-z]+.*: no heartbeat yet, \$0.01 so far$", launch.text, re.M)
    assert launch.said[-1] == "it is ready: training"


def test_without_waiting_it_returns_after_the_read_back(world: World, tmp_path: Path) -> None:
    launch = alone(world, tmp_path, silent)
    launch.run(wait=False)
    assert launch.said[-1].startswith("read back") and len(launch.live) == 1


def test_an_earlier_attempts_words_are_not_heard(world: World, tmp_path: Path) -> None:
    def old_words(world: World, plan: Any, box: Box) -> None:
        tell(world, plan, progress("training"), attempt=plan.attempt + 1)
        tell(world, plan, receipt("succeeded"), attempt=plan.attempt + 1)

    launch = alone(world, tmp_path, old_words)
    with pytest.raises(MachineFailed, match="no heartbeat for 3[0-9] minutes"):
        launch.run()
    assert launch.live == []


def test_a_box_without_heartbeats_before_training_is_deleted_and_one_with_them_is_kept(
    world: World, tmp_path: Path
) -> None:
    words = iter(range(10**6))

    def talks(world: World, plan: Any, box: Box) -> None:
        n = next(words)
        tell(
            world,
            plan,
            progress("preparing", f"2026-01-28T20:53:{min(n, 50):02}Z")
            if n < 90
            else progress("training"),
        )

    launch = alone(world, tmp_path, talks)
    with pytest.raises(MachineFailed, match="no further heartbeat"):
        launch.run()
    assert len(launch.time) > 50 + 30, "half an hour after the last new word, not after the create"


@pytest.mark.parametrize(
    "fault", [dict(action="status", status=503), dict(action="html"), dict(action="reset")], ids=str
)
def test_a_temporary_outage_of_shadeform_is_waited_out(
    world: World, tmp_path: Path, fault: dict[str, Any]
) -> None:
    world.cloud.fault(INFO, times=10, skip=1, **fault)
    launch = alone(world, tmp_path)
    launch.run()
    assert "status unavailable" in launch.text and len(launch.live) == 1


@pytest.mark.slow
def test_short_outages_do_not_add_up(world: World, tmp_path: Path) -> None:
    looks = iter(range(10**6))

    def part(world: World, plan: Any, box: Box) -> None:
        n = next(looks)
        tell(
            world,
            plan,
            progress("preparing" if n < 60 else "training", f"2026-01-28T20:{n % 60:02}:39Z"),
        )
        if n in (5, 50):
            world.cloud.fault(INFO, "status", times=4, status=503)

    launch = alone(world, tmp_path, part)
    launch.run()
    assert launch.text.count("status unavailable") == 2 and len(launch.live) == 1


def test_a_404_while_the_instance_is_listed_is_no_deletion(world: World, tmp_path: Path) -> None:
    world.cloud.fault(INFO, "not_found", times=5, skip=1)
    launch = alone(world, tmp_path)
    launch.run()
    assert len(launch.live) == 1 and "deleting" not in launch.text


@pytest.mark.parametrize("where", ["shadeform", "hub"])
def test_an_instance_that_cannot_be_monitored_for_long_is_named_and_kept(
    world: World, tmp_path: Path, where: str
) -> None:
    launch = alone(world, tmp_path, silent)
    if where == "hub":
        world.hub.fault(r"GET .*progress.json", status=503, times=10**6)
    else:
        world.cloud.fault(INFO, "status", times=None, skip=1, status=503)
        world.cloud.fault(LIST, "status", times=None, skip=1, status=503)
    start = launch.time.now
    with pytest.raises(
        MayBeBilling, match=r"cannot be monitored.*\$33.60/h.*continues by itself.*just stop"
    ):
        launch.run()
    assert (
        launch.time.now - start >= BLIND_S
        and len(launch.live) == 1
        and not launch.ledger.entries()[0].gone
    )


@pytest.mark.parametrize("where", ["shadeform", "hub"])
def test_a_refused_key_ends_the_wait_after_minutes_and_names_the_instance(
    world: World, tmp_path: Path, where: str
) -> None:
    if where == "hub":
        world.hub.fault(r"GET .*progress.json", status=403, times=10**6)
    else:
        world.cloud.fault(INFO, "unauthorized", times=None, skip=1)
    launch = alone(world, tmp_path, silent)
    start = launch.time.now
    with pytest.raises(MayBeBilling, match="cannot be monitored.*continues by itself"):
        launch.run()
    assert REFUSED_S <= launch.time.now - start < BLIND_S and len(launch.live) == 1


@pytest.mark.parametrize("answer", ["unauthorized", "forbidden"])
def test_one_refusal_does_not_end_the_wait(world: World, tmp_path: Path, answer: str) -> None:
    world.cloud.fault(INFO, answer, times=1, skip=2)
    launch = alone(world, tmp_path, silent)
    with pytest.raises(MachineFailed):  # its silence does
        launch.run()
    assert launch.live == [] and "status unavailable" in "\n".join(launch.said)


def test_an_unreadable_run_folder_does_not_count_as_silence(world: World, tmp_path: Path) -> None:
    launch = alone(world, tmp_path, silent)
    world.hub.fault(
        r"GET .*(progress|receipt|plan).json", status=404, times=10**6
    )  # as for a token without access
    with pytest.raises(MayBeBilling, match="cannot be monitored"):
        launch.run()
    assert len(launch.live) == 1


@pytest.mark.parametrize(
    "verdict, reason, error",
    [
        ("failed", "trainer_failed", RunFailed),
        ("failed", "bad_data", RunFailed),
        ("stopped", "user", RunFailed),
        ("stopped", "spend_limit", LimitHitSaved),
        ("failed", "limit_lost", LimitHitLost),
        ("succeeded", "", None),
    ],
)
def test_a_run_that_has_already_ended_ends_the_launch_with_its_verdict(
    world: World, tmp_path: Path, verdict: str, reason: str, error: type[NanolanError] | None
) -> None:
    """Another machine would not help: none is rented, and the error does not say that it continues."""
    launch = alone(world, tmp_path, fails(reason, verdict))
    with pytest.raises(error) if error else nullcontext() as e:
        launch.run()
    assert launch.live == [] and not launch.ledger.entries()[0].gone and len(launch.boxes) == 1
    assert error is None or (type(e.value) is error and "just why" in str(e.value))  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "during, error, said",
    [
        ("wait", KeyboardInterrupt, "no longer waiting, no other offer is tried"),
        ("delete", MayBeBilling, ""),
    ],
)
def test_ctrl_c_leaves_the_machine_and_says_what_bills(
    world: World, tmp_path: Path, during: str, error: type[BaseException], said: str
) -> None:
    def pressed(world: World, plan: Any, box: Box) -> None:
        if during == "wait" or any("deleting it" in line for line in launch.said):
            raise KeyboardInterrupt

    world.cloud.switch("delete_ignored")
    launch = alone(world, tmp_path, pressed)
    with pytest.raises(error) as e:
        launch.run()
    (box,) = launch.live
    text = launch.text + str(e.value)
    assert (
        said in text
        and f"instance {box.id} ($33.60/h)" in text
        and f"just stop {launch.ledger.entries()[0].plan.run_id}" in text
    )
    assert len(launch.boxes) == 1


def test_a_failed_instance_that_cannot_be_deleted_may_bill_and_nothing_else_is_rented(
    world: World, tmp_path: Path
) -> None:
    world.cloud.switch("goes_to_error")
    world.cloud.switch("delete_ignored")
    launch = Launch(world, tmp_path)
    with pytest.raises(MayBeBilling, match=r"instance .* \(\$33.60/h\) could not be deleted"):
        launch.run()
    assert len(launch.boxes) == 1 == len(launch.live)


@pytest.mark.parametrize(
    "state, silent_s, verdict",
    [("preparing", 599, WAITING), ("preparing", 600, FAILING), ("", 0, FAILING)],
)
def test_an_instance_that_no_answer_shows_and_whose_box_reports_is_waited_for(
    state: str, silent_s: float, verdict: str
) -> None:
    seen = Snapshot(None, progress(state) if state else None, None)
    assert assess(seen, silent_s, 1800, 600)[0] == verdict
