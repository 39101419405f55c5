"""'No machine' is said only after it was seen: each moment of a run, with each way that the account can answer, in words and exit codes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from msgspec import structs

from nanolan.errors import MayBeBilling, NanolanError, PreflightFailed
from nanolan.manage.resume import check_ended
from nanolan.run.ledger import Entry
from nanolan.status.as_json import to_dict
from nanolan.status.text import render
from nanolan.status.view import Overview
from nanolan.times import iso, now_utc
from tests.support.box_fixtures import KEY, REPO, TOKEN
from tests.support.core_fixtures import script
from tests.support.status_fixtures import RUN, TRAINING, Desk, new_desk, receipt

LISTING, BY_ID = "GET /v1/instances$", "GET /v1/instances/.*/info"


@pytest.fixture(scope="module")
def one_desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with new_desk(tmp_path_factory.mktemp("desk")) as made:
        yield made


@pytest.fixture
def desk(one_desk: Desk) -> Desk:
    """The run of half an hour ago with its machine, and nothing else."""
    one_desk.cloud.faults.clear()
    one_desk.cloud.account.instances.clear()
    one_desk.tell(
        progress=structs.replace(TRAINING, attempt=99),
        receipt=structs.replace(receipt(), attempt=99),
    )  # of no attempt
    one_desk.entry = Entry(
        structs.replace(one_desk.entry.plan, created_at=iso(now_utc() - timedelta(minutes=30))),
        None,
    )
    one_desk.entry = structs.replace(
        one_desk.entry, instance_id=one_desk.rent(one_desk.entry.plan).id
    )
    one_desk.ledger.put(one_desk.entry)
    return one_desk


# ---- the moments of a run


def unclear(desk: Desk) -> None:
    """The create happened, its answer was lost, and the listing lags for longer than anybody looks."""
    desk.cloud.instances[0].behavior["list_lag"] = 1e9
    desk.ledger.put(structs.replace(desk.entry, instance_id=None))


def training(desk: Desk) -> None:
    """Its machine is there, its id is in the ledger."""


def lagging(desk: Desk) -> None:
    """Its id is in the ledger, the listing does not show it."""
    desk.cloud.instances[0].behavior["list_lag"] = 1e9


def came_back(desk: Desk) -> None:
    """Seen to be deleted, and billing again."""
    desk.ledger.put(structs.replace(desk.entry, gone=True, note="stopped by just stop"))


def passed(desk: Desk) -> None:
    """The create was unclear, nothing was ever shown, and date and limit have passed."""
    desk.cloud.account.instances.clear()
    old = structs.replace(
        desk.entry.plan,
        created_at=iso(now_utc() - timedelta(hours=99)),
        deadline=iso(now_utc() - timedelta(hours=50)),
    )
    desk.ledger.put(Entry(old))


def gone(desk: Desk) -> None:
    """It was deleted by hand."""
    desk.cloud.account.instances.clear()


# ---- how the account answers: (listing, by id)
STATES: dict[str, tuple[Any, Any]] = {
    "ok": (None, None),
    "401": ("unauthorized", "unauthorized"),
    "listing odd": ("html", None),
    "all odd": ("html", "html"),
    "empty": ("empty", None),
    "empty, and by id odd": ("empty", "html"),
}


def answers(desk: Desk, state: str) -> None:
    listing, by_id = STATES[state]
    if listing == "empty":
        desk.cloud.fault(LISTING, "edit", times=None, change=lambda body: {"instances": []})
    elif listing:
        desk.cloud.fault(LISTING, listing, times=None)
    if by_id:
        desk.cloud.fault(BY_ID, by_id, times=None)


# moment, state -> the run's state, what status says of its machine, status' exit code, resume's (None: it may go on)
TABLE: list[tuple[Any, str, str, str, int, int | None]] = [
    (unclear, "ok", "unknown", "not known", 8, 8),
    (unclear, "empty", "unknown", "not known", 8, 8),
    (unclear, "401", "pending", "not known", 1, 8),
    (unclear, "all odd", "pending", "not known", 1, 8),
    (training, "ok", "booting", ": active", 0, 4),
    (training, "listing odd", "booting", ": active", 1, 4),
    (training, "401", "pending", "not known", 1, 8),
    (training, "all odd", "pending", "not known", 1, 8),
    (training, "empty", "booting", ": active", 0, 4),
    (training, "empty, and by id odd", "pending", "not known", 1, 8),
    (lagging, "ok", "booting", ": active", 0, 4),
    (lagging, "all odd", "pending", "not known", 1, 8),
    (came_back, "ok", "booting", ": active", 0, 4),
    (came_back, "401", "pending", "not known", 1, 4),
    (passed, "ok", "lost", ": none", 0, None),
    (passed, "401", "pending", "not known", 1, 8),
    (gone, "ok", "lost", ": gone", 0, None),
    (gone, "all odd", "pending", "not known", 1, 8),
]


def exit_code(seen: Overview) -> int:
    """As `just status` ends."""
    if problem := seen.unresolved():
        return problem.exit_code
    return 1 if seen.problems or any(v.problems for v in seen.runs) else 0


@pytest.mark.parametrize(
    "moment, state, run, machine, status, resume",
    TABLE,
    ids=lambda v: getattr(v, "__name__", str(v)),
)
def test_what_status_says_of_a_machine_and_whether_resume_rents_another(
    desk: Desk, moment: Any, state: str, run: str, machine: str, status: int, resume: int | None
) -> None:
    moment(desk)
    answers(desk, state)
    seen = desk.look()
    text = "\n".join(render(seen))
    line = next(line for line in render(seen) if line.startswith("  machine"))
    assert seen.runs[0].state == run and machine in line and exit_code(seen) == status, text
    assert (": gone" in line or ": none" in line) == (moment in (gone, passed) and state == "ok")
    assert desk.ledger.find(RUN).gone == (
        moment is came_back or moment in (gone, passed) and state == "ok"
    )
    if resume is None:
        check_ended(desk.look())
        return
    with pytest.raises(NanolanError) as e:
        check_ended(seen)
    assert e.value.exit_code == resume and "nothing was rented" in str(e.value)
    if resume == 8:
        assert "$1.00/h" in str(e.value) and f"just stop {RUN} --now" in str(e.value)


def test_an_unclear_create_is_resolved_when_its_machine_is_seen(desk: Desk) -> None:
    unclear(desk)
    assert desk.look().runs[0].state == "unknown"
    box = desk.cloud.instances[0]
    box.behavior.clear()
    assert desk.look().runs[0].state == "booting" and desk.ledger.find(RUN).instance_id == box.id, (
        "and its id is noted"
    )
    box.behavior["list_lag"] = 1e9
    assert desk.look().runs[0].state == "booting", "from then on it is seen by its id"
    desk.cloud.account.instances.clear()
    assert desk.look().runs[0].state == "lost" and desk.ledger.find(RUN).gone


def test_a_receipt_of_a_machine_without_a_key_does_not_say_that_it_is_gone(desk: Desk) -> None:
    unclear(desk)
    desk.ledger.put(Entry(structs.replace(desk.entry.plan, self_delete=False)))
    desk.tell(progress=TRAINING, receipt=receipt())
    assert desk.look().runs[0].state == "unknown" and not desk.ledger.find(RUN).gone
    desk.ledger.put(structs.replace(desk.entry, instance_id=None))
    assert desk.look().runs[0].state == "succeeded", (
        "one with a key had found itself in the listing"
    )


# ---- every machine of the account that bills is shown


def test_every_machine_that_bills_appears_in_text_and_json(desk: Desk) -> None:
    desk.ledger.put(structs.replace(desk.entry, gone=True, note="stopped by just stop"))
    mine = desk.cloud.instances[0]
    second = desk.rent(desk.entry.plan)  # of the same run
    unasked = desk.rent(structs.replace(desk.entry.plan, run_id="ffffffff"))
    desk.ledger.put(Entry(structs.replace(desk.entry.plan, run_id="ffffffff"), unasked.id))
    back = desk.rent(structs.replace(desk.entry.plan, run_id="eeeeeeee"))
    desk.ledger.put(Entry(structs.replace(desk.entry.plan, run_id="eeeeeeee"), back.id, gone=True))
    unknown = desk.rent(structs.replace(desk.entry.plan, run_id="dddddddd"))  # in no ledger
    other = desk.cloud.add_foreign("somebody-elses", 250)
    try:
        for asked in ([RUN], [RUN, "ffffffff"], []):
            seen = desk.look_at([e for e in desk.ledger.entries() if e.plan.run_id in asked])
            text, shown = "\n".join(render(seen)), to_dict(seen)
            roles = {m["instance_id"]: m["role"] for m in shown["machines"]}
            assert set(roles) == {mine.id, second.id, unasked.id, back.id, unknown.id, other.id}, (
                asked
            )
            assert (roles[back.id], roles[unknown.id], roles[other.id], roles[unasked.id]) == (
                "stray",
                "stray",
                "other",
                "run",
            )
            for box in (second, back, unknown, other):
                assert box.name in text
            assert "run eeeeeeee was believed gone" in text and exit_code(seen) == 8
            said = str(seen.unresolved())
            for box in (second, back, unknown):
                assert f"just stop {box.id} --now" in said and "$33.60/h" in said
            assert other.id not in said
    finally:
        for run_id in ("ffffffff", "eeeeeeee"):
            (desk.ledger.runs / f"{run_id}.json").unlink()


# ---- the commands


def command(desk: Desk, name: str, *words: str) -> Any:
    home = str(desk.ledger.home)
    env = {
        "PATH": "/usr/bin:/bin",
        "HOME": home,
        "NANOLAN_HOME": home,
        "NANOLAN_ENV_FILE": "/dev/null",
        "HF_TOKEN": TOKEN,
        "HF_ENDPOINT": desk.hub.url,
        "HF_REPO": REPO,
        "SHADEFORM_API": desk.cloud.url,
        "SHADEFORM_API_KEY": KEY,
    }
    return script(name, *words, env=env)


@pytest.mark.parametrize(
    "moment, state, name, words",
    [
        (training, "401", "orphans", ()),
        (training, "all odd", "guard", ("--once",)),
        (unclear, "ok", "orphans", ()),
        (unclear, "ok", "guard", ("--once",)),
        (unclear, "ok", "check_status", ()),
        (unclear, "ok", "wait", ("--timeout=1s",)),
        (training, "all odd", "wait", ("--timeout=1s",)),
        (unclear, "ok", "resume", ("--yes",)),
        (training, "401", "resume", ("--yes",)),
        (unclear, "ok", "limit", ("50", "--yes")),
    ],
    ids=lambda v: getattr(v, "__name__", str(v)),
)
def test_wherever_money_may_go_on_a_command_ends_with_8_the_machine_its_price_and_what_stops_it(
    desk: Desk, moment: Any, state: str, name: str, words: tuple[str, ...]
) -> None:
    moment(desk)
    answers(desk, state)
    done = command(desk, name, *words)
    named = desk.entry.instance_id if moment is training else desk.entry.plan.instance_name
    assert done.returncode == 8, done.stderr
    for part in (named or "", "$1.00/h", f"just stop {RUN} --now"):
        assert part in done.stderr
    assert not desk.ledger.find(RUN).gone


def test_what_is_known_to_bill_and_goes_on_as_it_should_is_no_error(desk: Desk) -> None:
    for name, words in (("orphans", ()), ("check_status", ("--json",))):
        done = command(desk, name, *words)
        assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["machines"][0]["role"] == "run"
    assert MayBeBilling.exit_code == 8 and PreflightFailed.exit_code == 4


# ---- the provider changes its mind


def as_agreed(desk: Desk) -> dict[str, str]:
    return {"spend_threshold": "10.00", "date_threshold": desk.entry.plan.deadline}


@pytest.mark.parametrize(
    "stored, price, said, money",
    [
        ("as agreed", 100, "", "deleted by"),
        (None, 100, "the provider keeps no spend limit and no date for it", "NO DATE"),
        ({"spend_threshold": "10.00"}, 100, "keeps no date", "NO DATE"),
        ({"spend_threshold": "99.00"}, 100, "its limit is $99.00 instead", "NO DATE"),
        ("nearer", 100, "its limit is $4.00 instead of $10.00", "of $4.00 spent"),
        ("as agreed", 300, "it costs $3.00/h instead of $1.00/h", "$3.00/h"),
    ],
    ids=str,
)
def test_status_tells_the_price_and_the_limits_that_hold_now(
    desk: Desk, stored: Any, price: int, said: str, money: str
) -> None:
    box = desk.cloud.instances[0]
    box.price_cents = price
    known = {"as agreed": as_agreed(desk), "nearer": as_agreed(desk) | {"spend_threshold": "4.00"}}
    box.spec["auto_delete"] = known.get(stored, stored) if isinstance(stored, str) else stored
    seen = desk.look()
    text = "\n".join(render(seen))
    assert ("the provider changed the terms" in text) == bool(said) and money in text
    assert (
        said in " ".join(text.split())
        and (to_dict(seen)["runs"][0]["provider_changed"] or "") == seen.runs[0].changed()
    )
