"""The status of runs as read over HTTP from Shadeform and the Hub."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs

from nanolan.hub.client import Hub
from nanolan.redact import Secret
from nanolan.run.ledger import Attempt, Entry
from nanolan.run.presence import NOT_ASKED
from nanolan.shadeform.client import Shadeform
from nanolan.status.status import look
from nanolan.times import iso, now_utc
from tests.support.box_fixtures import AT_ONCE, KEY, REPO, TOKEN
from tests.support.status_fixtures import (
    MANIFEST,
    META,
    MODEL,
    RUN,
    SFT,
    TRAINING,
    Desk,
    desk,  # noqa: F401  # a fixture
    receipt,
)


def test_a_live_run_is_seen_with_its_machine_its_money_and_its_progress_in_one_round_trip(
    desk: Desk,
) -> None:
    desk.tell(progress=TRAINING)
    before = len(desk.hub.log)
    run = desk.look().runs[0]
    assert (
        (run.state, run.reason) == ("training", "words")
        and run.instance
        and run.instance.id == desk.entry.instance_id
    )
    assert (
        run.spent_cents is not None and run.phases["sft"].state == "training" and not run.problems
    )
    asked = [line["path"].rsplit("/", 1)[-1] for line in desk.hub.log[before:]]
    assert len(asked) == len(set(asked)) == 5, "each thing is asked for once"


def test_an_account_of_thousands_of_machines_is_sorted_in_a_moment(desk: Desk) -> None:
    def crowd(body: Any) -> None:
        body["instances"] += [
            body["instances"][0] | {"id": f"x{n}", "name": f"n{n}", "tags": []} for n in range(8000)
        ]

    desk.cloud.fault("GET /v1/instances$", "edit", change=crowd)
    begun = time.process_time()
    seen = desk.look()
    assert len(seen.others) == 8000 and seen.runs[0].instance and time.process_time() - begun < 6


def test_after_the_end_the_receipt_the_proof_and_the_log_are_still_there(desk: Desk) -> None:
    desk.hub.put(
        REPO,
        {
            f"{SFT}/model_000090.pt": MODEL,
            f"{SFT}/meta_000090.json": META,
            f"{SFT}/manifest.json": MANIFEST.to_json().encode(),
            f"logs/error-{desk.entry.plan.instance_name}.log": "".join(
                f"line {i}\n" for i in range(20)
            ).encode(),
        },
    )
    desk.tell(progress=TRAINING, receipt=receipt("failed", "trainer_failed"))
    desk.cloud.account.delete(desk.entry.instance_id or "")
    run = desk.look().runs[0]
    assert run.state == "failed" and run.ended and run.instance is None and run.spent_cents == 123
    assert run.phases["sft"].state == "proven" and run.log_tail == tuple(
        f"line {i}" for i in range(15, 20)
    )
    assert desk.ledger.find(RUN).gone


def test_a_receipt_that_was_seen_is_kept_in_the_ledger_also_before_the_machine_is_gone(
    desk: Desk,
) -> None:
    told = structs.replace(receipt(), stages={"boot": 9}, metered_cents=120, provider_cents=None)
    desk.tell(receipt=told)
    desk.look()
    assert desk.ledger.find(RUN) == structs.replace(desk.entry, receipt=told), (
        "the machine is still there"
    )
    desk.cloud.account.delete(desk.entry.instance_id or "")
    desk.look()
    assert desk.ledger.find(RUN) == structs.replace(desk.entry, receipt=told, gone=True)
    desk.hub.fault(rf"GET /{REPO}/.*receipt.json", status=503, times=50)
    assert desk.look().runs[0].problems and desk.ledger.find(RUN).receipt == told, (
        "a look that failed takes nothing back"
    )


def test_the_receipt_of_an_earlier_attempt_is_not_kept_as_that_of_this_one(desk: Desk) -> None:
    desk.ledger.put(structs.replace(desk.entry, plan=structs.replace(desk.entry.plan, attempt=2)))
    desk.tell(receipt=receipt())
    desk.look()
    assert desk.ledger.find(RUN).receipt is None
    desk.tell(receipt=structs.replace(receipt(), attempt=2))
    desk.look()
    assert desk.ledger.find(RUN).receipt


@pytest.mark.parametrize(
    "fault",
    [
        dict(action="status", status=500, times=4),
        dict(action="unauthorized"),
        dict(action="html"),
        dict(action="status", status=200, body={}),
        dict(action="status", status=200, body={"instances": None}),
    ],
    ids=str,
)
def test_an_account_that_cannot_be_read_is_a_named_problem_and_ends_no_run(
    desk: Desk, fault: dict[str, Any]
) -> None:
    desk.tell(receipt=receipt())
    desk.cloud.fault("GET /v1/instances$", **fault)
    seen = desk.look()
    assert (
        "Shadeform" in seen.problems[0]
        and seen.runs[0].instance
        and seen.others == seen.strays == ()
    ), "it is seen by its id"
    assert (
        not desk.ledger.find(RUN).gone
        and not seen.runs[0].ended
        or seen.runs[0].state == "stopping"
    )
    for path in ("GET /v1/instances$", "GET /v1/instances/.*/info"):
        desk.cloud.fault(path, **fault)
    seen = desk.look()
    assert seen.runs[0].instance is None and seen.runs[0].unknown.startswith(NOT_ASKED)
    assert not desk.ledger.find(RUN).gone, "not seen is not gone"


def test_a_hub_that_cannot_be_read_is_a_named_problem_and_ends_no_run(desk: Desk) -> None:
    desk.cloud.account.delete(desk.entry.instance_id or "")
    desk.hub.fault(rf"GET /{REPO}/.*receipt.json", status=503, times=50)
    run = desk.look().runs[0]
    assert (
        any("receipt.json" in p for p in run.problems)
        and not run.ended
        and not desk.ledger.find(RUN).gone
    )


def test_a_receipt_that_comes_between_the_two_looks_is_still_found(desk: Desk) -> None:
    desk.cloud.account.delete(desk.entry.instance_id or "")
    desk.tell(receipt=receipt())
    desk.hub.fault(rf"GET /{REPO}/.*receipt.json", status=404)  # not there at the first look
    assert desk.look().runs[0].state == "succeeded"


def test_a_run_that_left_nothing_but_its_result_says_so(desk: Desk) -> None:
    desk.hub.put(
        REPO,
        {
            f"{SFT}/model_000090.pt": MODEL,
            f"{SFT}/meta_000090.json": META,
            f"{SFT}/manifest.json": MANIFEST.to_json().encode(),
        },
    )
    desk.cloud.account.delete(desk.entry.instance_id or "")
    run = desk.look().runs[0]
    assert run.state == "lost" and "every phase is proven" in run.reason


def test_other_peoples_instances_are_only_counted_and_ours_outside_the_ledger_are_named(
    desk: Desk,
) -> None:
    desk.cloud.add_foreign("somebody-elses", 250)
    stray = desk.rent(structs.replace(desk.entry.plan, run_id="ffffffff"))
    seen = desk.look()
    assert [i.name for i in seen.others] == ["somebody-elses"] and [i.id for i in seen.strays] == [
        stray.id
    ]
    stray.delete(0, "asked")
    assert desk.look().strays == (), "one that is gone is no stray"


def second_attempt(desk: Desk) -> tuple[Any, Any]:
    """(the first machine, the second one) of a run whose launch has gone on to the next offer."""
    first = desk.cloud.instance(desk.entry.instance_id or "")
    plan = structs.replace(desk.entry.plan, attempt=2, created_at=iso(now_utc()))
    second = desk.rent(plan)
    desk.entry = Entry(plan, second.id, earlier=(Attempt(1, first.id, 85, "it did not come up"),))
    desk.ledger.put(desk.entry)
    return first, second


def test_what_an_earlier_attempt_told_says_nothing_about_this_one(desk: Desk) -> None:
    first, second = second_attempt(desk)
    first.delete(0, "asked")
    desk.tell(
        progress=structs.replace(TRAINING, state="stopping"),
        receipt=receipt("failed", "boot_failed"),
    )
    run = desk.look().runs[0]
    assert (
        (run.state, run.receipt, run.progress) == ("booting", None, None)
        and run.instance
        and run.instance.id == second.id
    )
    desk.tell(
        progress=structs.replace(TRAINING, attempt=2), receipt=receipt("failed", "boot_failed")
    )
    assert desk.look().runs[0].state == "training"


def test_what_is_left_of_an_earlier_attempt_is_not_the_run_while_the_new_machine_is_not_listed(
    desk: Desk,
) -> None:
    first, second = second_attempt(desk)
    first.delays = replace(AT_ONCE, deleting_s=60)
    first.delete(time.time(), "asked")
    second.behavior["list_lag"] = 60.0
    run = desk.look().runs[0]
    assert run.state == "booting" and run.instance and run.instance.id == second.id, "by its id"


def test_an_earlier_attempts_machine_that_bills_is_named(desk: Desk) -> None:
    first, second = second_attempt(desk)
    first.behavior["tags_not_stored"] = True
    seen = desk.look()
    assert (
        [i.id for i in seen.strays] == [first.id]
        and seen.runs[0].instance
        and seen.runs[0].instance.id == second.id
    )


def test_a_look_does_not_overwrite_what_a_launch_has_noted_meanwhile(desk: Desk) -> None:
    first, api = (
        desk.cloud.instance(desk.entry.instance_id or ""),
        Shadeform(Secret(KEY), desk.cloud.url, sleep=lambda s: None),
    )
    old = desk.ledger.entries()
    second_attempt(desk)
    with desk.cloud.account.lock:
        desk.cloud.account.instances.clear()
    desk.tell(receipt=receipt("failed", "boot_failed"))
    look(desk.ledger, old, api, lambda e: Hub(desk.hub.url, Secret(TOKEN), patience_s=0.2))
    assert desk.ledger.entries() == [desk.entry] and first.id != desk.entry.instance_id


def test_an_attempt_that_failed_is_not_the_end_while_its_launch_may_rent_the_next_offer(
    desk: Desk,
) -> None:
    desk.tell(receipt=receipt("failed", "boot_failed"))
    desk.cloud.account.delete(desk.entry.instance_id or "")
    with desk.ledger.launching(RUN):
        v = desk.look().runs[0]
        assert (v.state, v.ended) == (
            "pending",
            False,
        ) and "attempt 1 failed: boot_failed; its launch may rent the next" in v.reason
    assert desk.look().runs[0].ended
    desk.tell(receipt=receipt("succeeded"))
    with desk.ledger.launching(RUN):
        assert desk.look().runs[0].state == "succeeded"


def test_of_two_machines_of_one_run_the_one_that_bills_is_shown(desk: Desk) -> None:
    first = desk.cloud.instance(desk.entry.instance_id or "")
    first.delays = replace(AT_ONCE, deleting_s=60)  # still listed, as deleting
    first.delete(time.time(), "asked")
    second = desk.rent(desk.entry.plan)
    run = desk.look().runs[0]
    assert run.instance and run.instance.id == second.id and run.state == "booting"


def test_two_runs_are_looked_at_together(desk: Desk) -> None:
    other = structs.replace(desk.entry.plan, run_id="ffffffff", created_at=iso(now_utc()))
    desk.ledger.put(Entry(other, desk.rent(other).id))
    desk.tell(progress=TRAINING)
    seen = desk.look()
    assert [v.entry.plan.run_id for v in seen.runs] == ["ffffffff", RUN] and seen.strays == ()
    assert [v.state for v in seen.runs] == ["booting", "training"] and not any(
        v.problems for v in seen.runs
    )
