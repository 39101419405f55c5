"""Of two commands that continue a run only one rents: the claim in the run folder."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import structs

from nanolan.errors import Conflict, NanolanError, PreflightFailed
from nanolan.hub.client import Hub
from nanolan.launch.claim import (
    TRIES,
    LaunchedElsewhere,
    commit_claimed,
    read_claim,
    refuse_claimed,
)
from nanolan.manage.stop_request import ask_to_stop
from nanolan.plan import Plan
from nanolan.run.ledger import Entry, Ledger
from nanolan.run.requests import LaunchClaim
from nanolan.sim.world import REPO, World
from tests.support.core_fixtures import CREATE, a_plan, creates
from tests.support.launch_fixtures import Launch, hub_of
from tests.support.world_fixtures import one_world, world  # noqa: F401  # fixtures

MINE, THEIRS = "0badcafe", "deadbeef"


@pytest.fixture(autouse=True)
def no_claim(request: pytest.FixtureRequest) -> None:
    """The Hub of this file's world keeps what earlier tests wrote."""
    if "world" in request.fixturenames:
        hub = hub_of(request.getfixturevalue("world"))
        hub.commit(
            REPO, {}, "reset", delete=[f"runs/ab12cd34/{n}.json" for n in ("launch", "plan")]
        )


def plan(attempt: int = 2, **changes: Any) -> Plan:
    return a_plan(**{"attempt": attempt, "runs_repo": REPO} | changes)


def claim(hub: Hub, attempt: int = 2, by: str = MINE, **more: Any) -> str:
    p = plan(attempt, **more)
    return commit_claimed(hub, p, by, {f"{p.folder}/plan.json": p.to_json()}, [])


@pytest.mark.parametrize(
    "found, refused",
    [
        (None, False),
        (LaunchClaim(1, THEIRS), False),
        (LaunchClaim(2, THEIRS), True),
        (LaunchClaim(3, THEIRS), True),
        (LaunchClaim(2, MINE), False),  # a command of this ledger that has ended
        (LaunchClaim(3, MINE), False),
        (LaunchClaim(10**12, ""), True),
    ],
)
def test_an_attempt_is_refused_once_another_ledger_has_claimed_it(
    found: LaunchClaim | None, refused: bool
) -> None:
    if refused:
        with pytest.raises(LaunchedElsewhere, match="nothing was rented"):
            refuse_claimed(found, plan(), MINE)
    else:
        refuse_claimed(found, plan(), MINE)


def test_the_second_of_two_laptops_is_refused_and_its_plan_is_not_written(world: World) -> None:
    hub = hub_of(world)
    claim(hub)
    with pytest.raises(LaunchedElsewhere, match=f"ledger {MINE}"):
        claim(hub, by=THEIRS, run_name="theirs")
    assert b"theirs" not in world.hub.read(REPO, f"{plan().folder}/plan.json")
    claim(hub, 3, THEIRS)  # the next attempt is free


def test_of_many_at_the_same_moment_exactly_one_claims_it(world: World) -> None:
    """Each has read the folder without a claim; other commits come in between."""
    start, done, lost = threading.Barrier(6), list[str](), list[NanolanError]()

    def run(by: str) -> None:
        start.wait()
        try:
            claim(hub_of(world), by=by, run_name=by)
            done.append(by)
        except NanolanError as e:
            lost.append(e)

    def others() -> None:
        start.wait()
        for n in range(3):
            hub_of(world).commit(REPO, {f"runs/other/{n}": b"x"}, "a heartbeat")

    threads = [threading.Thread(target=run, args=(f"{n:08x}",)) for n in range(5)]
    threads.append(threading.Thread(target=others))
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert len(done) == 1 and len(lost) == 4, (done, lost)
    assert all(isinstance(e, LaunchedElsewhere) for e in lost)
    assert done[0].encode() in world.hub.read(REPO, f"{plan().folder}/plan.json")


def test_a_lost_answer_of_the_own_commit_is_not_taken_for_another_laptop(world: World) -> None:
    """The commit was made, its answer was lost; the retry finds the branch moved on."""
    hub = hub_of(world)
    world.hub.fault("POST .*/commit/", "committed_reply_lost")
    assert claim(hub) and read_claim(hub, hub.tree(REPO), plan()) == LaunchClaim(2, MINE)


def test_a_repo_that_never_rests_ends_with_an_error_and_rents_nothing() -> None:
    class Busy(Hub):
        def __init__(self) -> None:
            self.commits = 0

        def tree(self, repo: str, kind: str = "model", revision: str | None = None) -> Any:
            from nanolan.hub.client import Tree

            return Tree(repo, kind, "f" * 40, True, {})

        def commit(self, *args: Any, **more: Any) -> str:
            self.commits += 1
            raise Conflict("changed")

    hub = Busy()
    with pytest.raises(PreflightFailed, match="nothing was rented"):
        claim(hub)
    assert hub.commits == TRIES


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"attempt": "2", "by": "x"}', b"\xff"])
def test_a_claim_that_cannot_be_read_is_not_none(world: World, data: bytes) -> None:
    world.hub.put(REPO, {f"{plan().folder}/launch.json": data})
    with pytest.raises(PreflightFailed, match="cannot be read.*nothing was rented"):
        claim(hub_of(world))


def test_a_commit_on_an_older_revision_writes_nothing(world: World) -> None:
    hub = hub_of(world)
    old = hub.tree(REPO).revision
    hub.commit(REPO, {"x": b"1"}, "one", parent=old)
    with pytest.raises(Conflict):
        hub.commit(REPO, {"x": b"2"}, "two", parent=old)
    assert world.hub.read(REPO, "x") == b"1"


def test_the_claim_names_no_attempt_of_another_run(world: World) -> None:
    hub = hub_of(world)
    claim(hub)
    claim(hub, by=THEIRS, run_id="ab12cd35")
    assert read_claim(hub, hub.tree(REPO), structs.replace(plan(), run_id="ab12cd36")) is None


def test_files_of_the_attempt_and_its_claim_are_one_commit(world: World, tmp_path: Path) -> None:
    revision = claim(hub_of(world))
    folder = plan().folder
    tree = hub_of(world).tree(REPO, revision=revision)
    assert {f"{folder}/plan.json", f"{folder}/launch.json"} <= tree.files.keys()


# ---- in a launch


def test_a_launch_of_an_attempt_that_another_laptop_has_launched_rents_nothing(
    world: World, tmp_path: Path
) -> None:
    """Its own failed create comes first; meanwhile another laptop resumes the run."""
    world.cloud.fault(CREATE, "out_of_stock")
    launch = Launch(world, tmp_path)

    def heard(text: str) -> None:
        if text.startswith("attempt 2:") and "sold out" not in text:
            newest = launch.ledger.entries()[0].plan
            theirs = structs.replace(newest, attempt=2)
            commit_claimed(launch.hub, theirs, THEIRS, {}, [])

    launch.heard = heard
    with pytest.raises(LaunchedElsewhere, match="attempt 2 .* launched elsewhere"):
        launch.run()
    assert creates(world.cloud) == 1 and launch.live == []


def test_a_command_whose_attempt_another_command_of_this_laptop_has_launched_rents_nothing(
    world: World, tmp_path: Path
) -> None:
    from nanolan.launch.create import refuse_superseded

    ledger = Ledger(tmp_path)
    ledger.put(Entry(plan(2)))
    with pytest.raises(LaunchedElsewhere, match="another command"):
        refuse_superseded(ledger, plan(2))
    refuse_superseded(ledger, plan(3))
    refuse_superseded(ledger, plan(2, run_id="ab12cd35"))


def test_a_stop_between_the_last_check_and_the_create_reaches_the_box(
    world: World, tmp_path: Path
) -> None:
    """It names the earlier attempt, and a box reads only requests for its own."""
    world.cloud.fault(CREATE, "out_of_stock")
    launch = Launch(world, tmp_path)

    def heard(text: str) -> None:
        if text.startswith("instance "):
            newest = launch.ledger.entries()[0].plan
            ask_to_stop(launch.hub, structs.replace(newest, attempt=1))

    launch.heard = heard
    newest = launch.run().prepared.plan
    request = msgspec.json.decode(world.hub.read(REPO, f"{newest.folder}/stop.json"))
    assert newest.attempt == 2 == request["attempt"]
