"""The faults of the market, each played against the real launch: never two machines that bill, the right exit code, and
whatever may bill is named with its price and the command that stops it.

A row: what goes wrong, what the boxes do, the exit code, how many machines live at the end, how many creates were sent,
and what is said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nanolan.errors import NanolanError
from nanolan.plan import Plan
from nanolan.sim.shadeform.instance import Instance
from nanolan.sim.world import World
from tests.support.core_fixtures import CREATE, INFO, LIST, QUICK, creates, forget
from tests.support.launch_fixtures import Launch, fails, progress, silent, tell, trains

DELETE = "POST /v1/instances/.*/delete"
LOOK_S = 150.0  # of the launch's time from one look to the next
Arrange = Callable[[World], object]
Part = Callable[[World, Plan, Instance], None]


def answer(match: str, action: str, times: int | None = 1, skip: int = 0, **params: Any) -> Arrange:
    return lambda world: world.cloud.fault(match, action, times, skip, **params)


def on_hub(match: str, times: int = 10**6, **fault: Any) -> Arrange:
    return lambda world: world.hub.fault(match, times=times, **fault)


def machine(switch: str, value: Any = True, times: int | None = 1) -> Arrange:
    return lambda world: world.cloud.switch(switch, value, times)


def both(*arrange: Arrange) -> Arrange:
    return lambda world: [a(world) for a in arrange]


def deletes_itself_unseen(world: World, plan: Plan, box: Instance) -> None:
    """A box that is gone without having told anybody."""
    world.cloud.account.delete(box.id)


def cannot_reach_the_hub(world: World, plan: Plan, box: Instance) -> None:
    """No DNS, no code, no way out: whatever the box tries, nobody hears of it."""


def slow_to_start(world: World, plan: Plan, box: Instance) -> None:
    """A script that starts twenty minutes after the machine became active."""
    box.behavior["looks"] = box.behavior.get("looks", 0) + 1
    if box.behavior["looks"] * LOOK_S > 1200:
        tell(world, plan, progress("training"))


GOOD, BAD_FIRST = (trains,), (silent, trains)
AFTER, NOT_AT_ALL, UNKNOWN = "Checking whether", "", "UNKNOWN: an instance named"

FAULTS: list[tuple[str, Arrange, tuple[Part, ...], int, int, int, str]] = [
    # ---- answers to reads
    ("2 too many requests", answer(INFO, "rate_limit", 3, retry_after="1"), GOOD, 0, 1, 1, ""),
    (
        "2 a Retry-After that means nothing",
        answer(INFO, "rate_limit", 3, retry_after="nan"),
        GOOD,
        0,
        1,
        1,
        "",
    ),
    (
        "2 too many requests, to a create",
        answer(CREATE, "rate_limit"),
        GOOD,
        1,
        0,
        1,
        "refused POST /instances/create: HTTP 429",
    ),
    ("3 no answer to reads for a while", answer(INFO, "status", 3, status=503), GOOD, 0, 1, 1, ""),
    ("3 connections that end", answer(INFO, "reset", 3), GOOD, 0, 1, 1, ""),
    ("7 a page of a proxy in place of the machine", answer(INFO, "html", 1), GOOD, 0, 1, 1, ""),
    ("8 a status that nobody knows", machine("unknown_status", "warming_up"), GOOD, 0, 1, 1, ""),
    # ---- answers to the create
    *(
        (
            f"4 it was created, and the answer was {name}",
            answer(CREATE, f"{action}_after_effect", **params),
            GOOD,
            0,
            1,
            1,
            AFTER,
        )
        for name, action, params in (
            ("500", "status", {"status": 500}),
            ("504", "status", {"status": 504}),
            ("lost", "reset", {}),
            ("raw text", "text", {}),
            ("INTERNAL_SERVER_ERROR", "internal_error", {}),
        )
    ),
    *(
        (
            f"4 it was not created, and the answer was {name}",
            answer(CREATE, action, **params),
            GOOD,
            8,
            0,
            1,
            UNKNOWN,
        )
        for name, action, params in (
            ("500", "status", {"status": 500}),
            ("lost", "reset", {}),
            ("raw text", "text", {}),
            ("INTERNAL_SERVER_ERROR", "internal_error", {}),
        )
    ),
    (
        "4 it was created and is listed late",
        both(answer(CREATE, "reset_after_effect"), machine("list_lag", 0.06)),
        GOOD,
        0,
        1,
        1,
        AFTER,
    ),
    (
        "4 it was created and never listed",
        both(answer(CREATE, "reset_after_effect"), machine("list_lag", 99)),
        GOOD,
        8,
        1,
        1,
        UNKNOWN,
    ),
    (
        "4 it was created, its tags are not stored",
        both(answer(CREATE, "reset_after_effect"), machine("tags_not_stored")),
        GOOD,
        0,
        1,
        1,
        AFTER,
    ),
    (
        "6 200 and nothing",
        answer(CREATE, "status_after_effect", status=200, body=""),
        GOOD,
        0,
        1,
        1,
        AFTER,
    ),
    (
        "6 200 and no id",
        answer(CREATE, "status_after_effect", status=200, body={}),
        GOOD,
        0,
        1,
        1,
        AFTER,
    ),
    ("6 200 and half of it", answer(CREATE, "truncated"), GOOD, 0, 1, 1, AFTER),
    ("6 200 and a page", answer(CREATE, "html_after_effect"), GOOD, 0, 1, 1, AFTER),
    (
        "9 sold out",
        answer(CREATE, "out_of_stock"),
        GOOD,
        0,
        1,
        2,
        "attempt 2: 8x B200 at datacrunch/FIN-01",
    ),
    (
        "9 sold out twice",
        answer(CREATE, "out_of_stock", 2),
        GOOD,
        0,
        1,
        3,
        "attempt 3: 8x B200 at tensordock/us-east",
    ),
    (
        "9 sold out everywhere",
        answer(CREATE, "out_of_stock", None),
        GOOD,
        3,
        0,
        3,
        "3 offers tried",
    ),
    (
        "9 a 409 with a code that nobody knows",
        answer(CREATE, "status", status=409, body={"error_code": "NEW"}),
        GOOD,
        8,
        0,
        1,
        UNKNOWN,
    ),
    ("1 a refused key", answer(CREATE, "unauthorized"), GOOD, 4, 0, 1, "refused SHADEFORM_API_KEY"),
    ("20 an empty wallet", answer(CREATE, "insufficient_funds"), GOOD, 4, 0, 1, "minimum of $5"),
    (
        "16 the answer is lost and nothing can be listed",
        both(answer(CREATE, "reset_after_effect"), answer(LIST, "unauthorized", None, skip=1)),
        GOOD,
        8,
        1,
        1,
        UNKNOWN,
    ),
    (
        "the answer is lost and the listing lags for ever",
        both(answer(CREATE, "reset_after_effect"), machine("list_lag", 1e9)),
        GOOD,
        8,
        1,
        1,
        UNKNOWN,
    ),
    (
        "nothing can be listed right before the create",
        answer(LIST, "unauthorized", None),
        GOOD,
        4,
        0,
        0,
        "nothing was rented",
    ),
    (
        "an offer that is refused for sure",
        answer(CREATE, "status", status=400),
        GOOD,
        0,
        1,
        2,
        "nothing was rented",
    ),
    # ---- the read-back
    (
        "5 the next call fails",
        answer(INFO, "unauthorized", None),
        GOOD,
        8,
        1,
        1,
        "could not be read back",
    ),
    (
        "5 the next calls fail for long",
        answer(INFO, "status", None, status=500),
        GOOD,
        8,
        1,
        1,
        "could not be read back",
    ),
    (
        "10 a dearer machine",
        machine("price_differs", 9999),
        GOOD,
        0,
        1,
        2,
        "$99.99/h instead of $33.60/h",
    ),
    (
        "10 dearer machines everywhere",
        machine("price_differs", 9999, None),
        GOOD,
        5,
        0,
        3,
        "$99.99/h instead of $38.40/h",
    ),
    (
        "10 a dearer machine whose delete is lost twice",
        both(machine("price_differs", 9999), machine("delete_ignored", 2)),
        GOOD,
        0,
        1,
        2,
        "",
    ),
    (
        "10 a dearer machine that cannot be deleted",
        both(machine("price_differs", 9999), machine("delete_ignored", times=None)),
        GOOD,
        8,
        1,
        1,
        "could not be deleted",
    ),
    (
        "10 a dearer machine, and no answer to the delete",
        both(machine("price_differs", 9999), answer(DELETE, "reset", None)),
        GOOD,
        8,
        1,
        1,
        "could not be deleted",
    ),
    (
        "10 limits that are not stored",
        machine("auto_delete_not_stored", 2),
        GOOD,
        0,
        1,
        2,
        "did not store the limits",
    ),
    (
        "10 another limit",
        machine("auto_delete_stored_as", {"spend_threshold": "1500"}),
        GOOD,
        0,
        1,
        2,
        "$1,500.00 instead of $150.00",
    ),
    (
        "10 gone at once, and never seen",
        machine("vanishes", 0.0),
        GOOD,
        8,
        0,
        1,
        "could not be read back",
    ),
    # ---- the boot
    (
        "27 stuck on its way up",
        machine("stuck_in_pending_provider"),
        BAD_FIRST,
        0,
        1,
        2,
        "no heartbeat for",
    ),
    (
        "27 stuck everywhere",
        machine("stuck_in_pending_provider", times=None),
        (silent,),
        5,
        0,
        3,
        "3 offers tried",
    ),
    (
        "28 in error",
        machine("goes_to_error"),
        BAD_FIRST,
        0,
        1,
        2,
        "the provider could not make this instance",
    ),
    (
        "28 in error, and the delete is lost",
        both(machine("goes_to_error"), machine("delete_ignored", 1)),
        BAD_FIRST,
        0,
        1,
        2,
        "",
    ),
    (
        "28 in error, and cannot be deleted",
        both(machine("goes_to_error"), machine("delete_ignored", times=None)),
        GOOD,
        8,
        1,
        1,
        "could not be deleted",
    ),
    (
        "29 active, and the script never runs",
        machine("script_never_started"),
        BAD_FIRST,
        0,
        1,
        2,
        "no heartbeat for",
    ),
    (
        "29 active, and the script starts late",
        machine("script_delay", 3600),
        (slow_to_start,),
        0,
        1,
        1,
        "it is ready:",
    ),
    (
        "38 no way out for the box",
        machine("script_delay", 0),
        (cannot_reach_the_hub, trains),
        0,
        1,
        2,
        "no heartbeat for",
    ),
    (
        "33 34 39 the set-up fails",
        machine("list_lag", 0),
        (fails("boot_failed"), trains),
        0,
        1,
        2,
        "boot failed: words",
    ),
    (
        "35 the wrong GPUs",
        machine("gpu_count_wrong", 7),
        (fails("boot_failed"), trains),
        0,
        1,
        2,
        "boot failed: words",
    ),
    (
        "a machine that is too slow",
        machine("list_lag", 0),
        (fails("probation_failed"), trains),
        0,
        1,
        2,
        "probation failed: words",
    ),
    ("vanishes", machine("vanishes", 0.2), BAD_FIRST, 0, 1, 2, "disappeared before training"),
    ("taken away", machine("preempted", 0.05), BAD_FIRST, 0, 1, 2, "disappeared before training"),
    (
        "deleted by somebody",
        machine("list_lag", 0),
        (deletes_itself_unseen, trains),
        0,
        1,
        2,
        "disappeared before training",
    ),
    # ---- not the launch's business, or not to be judged
    (
        "the run fails later",
        machine("list_lag", 0),
        (fails("bad_data"),),
        5,
        0,
        1,
        "failed: words; it deletes itself. Why: just why",
    ),
    (
        "the Hub is down for a while",
        on_hub(r"GET .*progress.json", times=5, status=503),
        GOOD,
        0,
        1,
        1,
        "status unavailable",
    ),
    (
        "the Hub is down for long",
        on_hub(r"GET .*progress.json", status=503),
        GOOD,
        8,
        1,
        1,
        "cannot be monitored",
    ),
    (
        "the Hub does not take the plan",
        on_hub(r"POST .*/commit/", status=403),
        GOOD,
        4,
        0,
        0,
        "refused HF_TOKEN",
    ),
    (
        "the Hub does not take the next plan",
        both(
            answer(CREATE, "out_of_stock"), on_hub(r"POST .*/commit/", times=1, status=403, skip=1)
        ),
        GOOD,
        4,
        0,
        1,
        "refused HF_TOKEN",
    ),
]


@pytest.fixture(scope="module")
def one_world(tmp_path_factory: pytest.TempPathFactory, seed_cache: Path) -> Iterator[World]:
    with World(
        tmp_path_factory.mktemp("world"), cache=seed_cache, delays=QUICK, boxes=False
    ) as world:
        yield world


@pytest.mark.parametrize(
    "arrange, parts, code, live, sent, said",
    [row[1:] for row in FAULTS],
    ids=[row[0] for row in FAULTS],
)
def test_a_fault_costs_no_second_machine_and_is_told(
    one_world: World,
    tmp_path: Path,
    arrange: Arrange,
    parts: tuple[Part, ...],
    code: int,
    live: int,
    sent: int,
    said: str,
) -> None:
    one_world.hub.faults.clear()
    world = forget(one_world)
    arrange(world)
    launch, got, told = Launch(world, tmp_path, *parts), 0, ""
    launch.time.least_s = LOOK_S
    try:
        launch.run()
    except NanolanError as e:
        got, told = e.exit_code, str(e)
    assert got == code and said in launch.text + told
    assert creates(world.cloud) == sent and launch.never_two() and len(launch.live) == live
    if code == 8:
        names_what_may_bill(launch, told)
    elif code:
        assert live == 0


def names_what_may_bill(launch: Launch, told: str) -> None:
    """The machine (by its name when its id is not known), its price, and the command that stops it; the ledger knows it."""
    entry = launch.ledger.entries()[0]
    known = entry.instance_id or "no id"
    assert (
        known in told or f"an instance named {entry.plan.instance_name}" in told
    ) and not entry.gone
    assert "($33.60/h)" in told or "($99.99/h)" in told
    assert f"just stop {entry.plan.run_id}" in told or f"just stop {known}" in told


def test_every_fault_of_the_table_has_its_own_name() -> None:
    assert len({row[0] for row in FAULTS}) == len(FAULTS)
