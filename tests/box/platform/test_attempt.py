"""Which attempt of a job a machine is: one machine at a time, the rest of the money, and only work proven on the Hub counts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from nanolan.box.platform.attempt import (
    Begun,
    NotNeeded,
    Seen,
    begin,
    cost_of_newest,
    next_number,
    plan_of_attempt,
    whole_run,
)
from nanolan.errors import ApiProblem, BadAnswer
from nanolan.hub.client import Hub
from nanolan.plan import SKYPILOT, read_plan
from nanolan.redact import Secret
from nanolan.run.jobs import Claim
from nanolan.run.ledger import Attempt
from nanolan.run.record import Progress, Receipt, to_json
from nanolan.run.requests import LaunchClaim, LimitRequest, StopRequest
from nanolan.sim.hub.server import HubServer
from nanolan.times import iso, parse_time
from tests.support.box_fixtures import REPO, TOKEN, WRITERS, make_plan
from tests.support.run_fixtures import result, state

EXPORTED, START = "2026-11-24T06:00:00Z", parse_time("2026-11-24T12:00:00Z")
HOUR = timedelta(hours=1)
JOB, OTHER = "sky-managed-2026-11-24_lanbot_7-0", "sky-managed-2026-11-24_lanbot_8-0"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "hub", tokens=WRITERS) as server:  # type: ignore[arg-type]
        server.put(REPO, {"README.md": b"#"})
        yield server


class Job:
    """A job of one run on one Hub: $1 an hour, $10 in all, at most eight hours of machines."""

    def __init__(self, server: HubServer, **fields: Any) -> None:
        self.server = server
        exported = {"created_at": EXPORTED, "deadline": iso(parse_time(EXPORTED) + 8 * HOUR)}
        self.plan = make_plan(
            server.url,
            "http://127.0.0.1:1/v1",
            platform=SKYPILOT,
            **{"phases": ("mid", "sft"), **exported, **fields},
        )

    def hub(self) -> Hub:
        return Hub(self.server.url, Secret(TOKEN), patience_s=0.2)

    def begin(self, hours: float = 0.0, job: str = JOB) -> Begun:
        """A machine that comes up so many hours after the first."""
        now = START + hours * HOUR
        return begin(self.hub(), self.plan, job, 360, lambda: now)

    def put(self, name: str, value: Any) -> None:
        self.server.put(REPO, {f"{self.plan.folder}/{name}": to_json(value)})

    def beat(self, attempt: int, hours: float, cents: int = 0) -> None:
        """A heartbeat of a machine."""
        at = iso(START + hours * HOUR)
        self.put(
            "progress.json",
            Progress(self.plan.run_id, "training", {}, at, spent_cents=cents, attempt=attempt),
        )

    def end(self, attempt: int, verdict: str, reason: str = "", cents: int | None = 100) -> None:
        self.put(
            "receipt.json",
            Receipt(self.plan.run_id, verdict, reason, spent_cents=cents, attempt=attempt),
        )

    def files(self) -> set[str]:
        folder = f"{self.plan.folder}/"
        return {p.removeprefix(folder) for p in self.server.files(REPO) if p.startswith(folder)}

    def read(self, name: str) -> Any:
        return json.loads(self.server.read(REPO, f"{self.plan.folder}/{name}"))


def test_the_first_machine_counts_from_its_own_start_not_from_the_export(
    server: HubServer,
) -> None:
    job = Job(server)
    begun = job.begin()
    plan = begun.plan
    born = START - timedelta(minutes=6)
    assert plan.created_at == iso(born) and plan.deadline == iso(born + 8 * HOUR)
    assert (plan.attempt, plan.limit_cents, plan.phases) == (1, 1000, ("mid", "sft"))
    assert job.files() == {"machine.json", "plan.json"}
    assert read_plan(server.read(REPO, f"{plan.folder}/plan.json")) == plan


def test_after_a_preemption_the_next_machine_goes_on_with_the_rest_of_money_time_and_work(
    server: HubServer,
) -> None:
    job = Job(server)
    job.begin()
    result(server, job.plan, "mid", step=90)
    state(server, job.plan, "sft", step=40)
    job.beat(1, 2.0, cents=205)
    begun = job.begin(5.0)  # no spot machine was to be had for three hours: they cost nothing
    plan = begun.plan
    assert plan.attempt == 2 and plan.phases == ("sft",)
    # from six minutes before START to two heartbeats after the last sign of it, at $1 an hour
    lived_h = 0.1 + 2.0 + 1 / 6
    assert [a["spent_cents"] for a in job.read("earlier.json")] == [round(lived_h * 100 + 0.5)]
    assert plan.limit_cents == 1000 - 227 and plan.resume and not plan.model_only
    left_s = (parse_time(plan.deadline) - parse_time(plan.created_at)).total_seconds()
    assert left_s == pytest.approx((8 - 2.27) * 3600, abs=2)
    assert "vanished" in begun.note and "goes on from step 40" in begun.note
    assert job.files() >= {"machine.json", "plan.json", "earlier.json"}
    assert "progress.json" not in job.files()


def test_money_is_counted_over_all_machines_and_the_last_ones_get_what_is_left(
    server: HubServer,
) -> None:
    job = Job(server)
    limits = [job.begin().plan.limit_cents]
    for number, hours in enumerate((3.0, 6.0, 9.0, 12.0), 1):
        job.beat(number, hours - 0.5)
        limits.append(job.begin(hours).plan.limit_cents)
    assert limits[0] == 1000 and limits == sorted(limits, reverse=True)
    assert limits[-1] == 1, "nothing is left: its meter stops it before it trains"
    assert len(job.read("earlier.json")) == 4


@pytest.mark.parametrize("verdict", ["failed", "stopped"])
def test_a_verdict_stands_when_the_same_job_is_started_again(
    server: HubServer, verdict: str
) -> None:
    job = Job(server)
    job.begin()
    job.end(1, verdict, "nan")
    before = job.files()
    with pytest.raises(NotNeeded, match=f"is over \\({verdict} nan\\)") as refused:
        job.begin(1.0)
    assert refused.value.exit_code == 5 and job.files() == before


def test_a_run_that_succeeded_is_never_trained_again(server: HubServer) -> None:
    job = Job(server)
    job.begin()
    job.end(1, "succeeded")
    for again in (JOB, OTHER, ""):
        with pytest.raises(NotNeeded, match="is over") as refused:
            job.begin(30.0, again)
        assert refused.value.exit_code == 0


def test_a_new_job_of_the_same_file_goes_on_after_a_failure(server: HubServer) -> None:
    job = Job(server)
    job.begin()
    job.end(1, "stopped", "spend_limit", cents=990)
    begun = job.begin(1.0, OTHER)
    assert begun.plan.attempt == 2 and begun.plan.limit_cents == 10
    assert "receipt.json" not in job.files() and "stopped spend_limit" in begun.note


@pytest.mark.parametrize("other", [OTHER, ""])
def test_the_same_file_started_twice_never_trains_twice_at_once(
    server: HubServer, other: str
) -> None:
    job = Job(server)
    job.begin()
    job.beat(1, 1.0)
    with pytest.raises(NotNeeded, match="another machine of SkyPilot, heard of 5 minutes ago"):
        job.begin(1.0 + 5 / 60, other)
    assert job.read("machine.json")["attempt"] == 1
    assert job.begin(1.4, other).plan.attempt == 2, "silent for 24 minutes"


def test_the_last_machine_vanished_after_its_proof_and_the_next_one_writes_its_receipt(
    server: HubServer,
) -> None:
    job = Job(server)
    job.begin()
    result(server, job.plan, "mid"), result(server, job.plan, "sft")
    job.beat(1, 1.0, cents=110)
    with pytest.raises(NotNeeded, match="every phase is proven") as over:
        job.begin(1.1)
    receipt = job.read("receipt.json")
    assert over.value.exit_code == 0
    assert (receipt["verdict"], receipt["attempt"]) == ("succeeded", 1)
    assert receipt["spent_cents"] >= 110


def test_a_request_to_stop_outlives_the_machine_that_did_not_answer_it(server: HubServer) -> None:
    job = Job(server)
    job.begin()
    job.put("stop.json", StopRequest(1, "2026-11-24T12:30:00Z"))
    job.begin(1.0)
    assert job.read("stop.json") == {"attempt": 2, "at": "2026-11-24T12:30:00Z"}
    job.end(2, "stopped", "user")
    job.begin(2.0, OTHER)
    assert "stop.json" not in job.files(), "it was answered; the user started the job again"


def test_a_limit_that_was_raised_holds_for_all_machines_after_it(server: HubServer) -> None:
    job = Job(server)
    job.begin()
    deadline = START + 20 * HOUR
    limit = LimitRequest(1, 3000, iso(deadline), int(deadline.timestamp()))
    job.put("limit.json", limit)
    job.beat(1, 1.0)
    second = job.begin(2.0).plan
    job.beat(2, 3.0)
    third = job.begin(4.0).plan
    assert 1000 < third.limit_cents < second.limit_cents < 3000
    assert "limit.json" not in job.files()


def test_a_run_that_just_resume_has_continued_is_left_alone(server: HubServer) -> None:
    job = Job(server)
    job.begin()
    job.end(1, "stopped", "spend_limit")
    job.put("launch.json", LaunchClaim(2, "0badcafe"))
    for again in (JOB, OTHER):
        with pytest.raises(NotNeeded, match="continued by just resume, as attempt 2"):
            job.begin(30.0, again)


def test_of_two_machines_that_claim_at_the_same_moment_one_goes_on(server: HubServer) -> None:
    job = Job(server)

    class Late(Hub):
        """A Hub on which another machine claims between the look and the commit, once."""

        before = True

        def commit(self, *args: Any, **how: Any) -> str:
            if self.before:
                self.before = False
                job.begin(0.0, OTHER)
            return super().commit(*args, **how)

    late = Late(server.url, Secret(TOKEN), patience_s=0.2)
    with pytest.raises(NotNeeded, match="is being trained by another machine"):
        begin(late, job.plan, JOB, 0, lambda: START)
    assert job.read("machine.json")["job"] == OTHER


def test_commits_of_other_runs_only_delay_a_claim(server: HubServer) -> None:
    job = Job(server)
    busy = [3]

    class Busy(Hub):
        def commit(self, *args: Any, **how: Any) -> str:
            if busy[0]:
                busy[0] -= 1
                server.put(REPO, {"runs/cafe0123/progress.json": f"{busy}".encode()})
            return super().commit(*args, **how)

    hub = Busy(server.url, Secret(TOKEN), patience_s=0.2)
    assert begin(hub, job.plan, JOB, 0, lambda: START).plan.attempt == 1


def test_a_hub_that_does_not_answer_is_no_empty_run_folder(server: HubServer) -> None:
    job = Job(server)
    job.begin()
    server.stop()
    with pytest.raises(ApiProblem):
        job.begin(1.0)


CLAIM = {
    "attempt": 1,
    "token": "t",
    "job": JOB,
    "born": EXPORTED,
    "at": EXPORTED,
    "whole_cents": 10,
    "whole_s": 9,
}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b"{" * 5000,
        *(
            json.dumps(CLAIM | wrong).encode()
            for wrong in (
                {"attempt": 0},
                {"attempt": -3},
                {"attempt": "1"},
                {"born": "yesterday"},
                {"at": ""},
                {"whole_cents": 0},
                {"whole_cents": -5},
                {"whole_s": -1},
                {"whole_cents": 1e300},
            )
        ),
    ],
)
def test_a_claim_that_no_machine_writes_ends_the_job_before_it_costs_more(
    server: HubServer, body: bytes
) -> None:
    job = Job(server)
    server.put(REPO, {f"{job.plan.folder}/machine.json": body})
    with pytest.raises(BadAnswer):
        job.begin()


def test_odd_times_never_make_a_cost_negative() -> None:
    plan = make_plan("http://127.0.0.1:1", "", platform=SKYPILOT)
    claim = Claim(1, "t", JOB, iso(START), iso(START), 1000, 3600)
    for now in (START - HOUR, START, START + 1000 * HOUR):
        assert 0 <= cost_of_newest(plan, Seen(claim), now) <= 17
    told = Progress(plan.run_id, "training", {}, iso(START), spent_cents=400)
    assert cost_of_newest(plan, Seen(claim, told), START) == 400, "what it told is not less"
    assert cost_of_newest(plan, Seen(), START) == 0


def test_a_lowered_limit_below_the_spending_leaves_a_cent_and_no_time() -> None:
    plan = make_plan("http://127.0.0.1:1", "", platform=SKYPILOT)
    claim = Claim(3, "t", JOB, iso(START), iso(START), 100, 3600)
    past = (Attempt(1, None, 90, ""), Attempt(2, None, 90, ""))
    after = plan_of_attempt(plan, claim, past, None)
    assert after.limit_cents == 1 and after.deadline == after.created_at


def test_without_a_claim_the_plans_own_limits_are_the_whole_run() -> None:
    plan = make_plan("http://127.0.0.1:1", "", platform=SKYPILOT)
    assert whole_run(plan, Seen()) == (1000, 36000)
    assert next_number(plan, Seen(), JOB, START) == 1


def test_what_a_claim_holds_reads_back(server: HubServer) -> None:
    begun = Job(server).begin()
    again = msgspec.json.decode(to_json(begun.claim), type=Claim)
    assert again == begun.claim and replace(again, token="x") != begun.claim
