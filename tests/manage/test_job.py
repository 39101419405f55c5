"""just stop and just limit of an exported run: by requests; what nanolan cannot do, it names."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nanolan.errors import MayBeBilling, UsageProblem
from nanolan.manage.job import ManagedJob, limit_job, stop_job
from nanolan.plan import HF_JOB
from nanolan.sim.hub.server import HubServer
from tests.support.box_fixtures import REPO, WRITERS
from tests.support.job_fixtures import JobDesk


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "hub", tokens=WRITERS) as server:  # type: ignore[arg-type]
        server.put(REPO, {"README.md": b"#"})
        yield server


@pytest.fixture
def desk(tmp_path: Path, server: HubServer) -> JobDesk:
    return JobDesk(tmp_path, server)


class Acting:
    """A managed job that notes what is said, on a clock that runs only in its sleeps."""

    def __init__(self, desk: JobDesk, meanwhile: Callable[[], None] = lambda: None) -> None:
        self.said, self.asked, self.s = list[str](), list[str](), 0.0
        self.meanwhile = meanwhile
        self.job = ManagedJob(
            desk.ledger,
            desk.api,
            desk.entry,
            desk.hub,
            self.said.append,
            self.said.append,
            self.asked.append,
            lambda: self.s,
            self.sleep,
        )

    def sleep(self, seconds: float) -> None:
        self.s += seconds
        self.meanwhile()

    def stop(self, *, now: bool = False, cancelled: bool = False, timeout_s: float = 60) -> int:
        return stop_job(self.job, now=now, cancelled=cancelled, timeout_s=timeout_s)


def request(desk: JobDesk, name: str) -> object:
    return json.loads(desk.server.read(REPO, f"{desk.plan.folder}/{name}"))


def test_a_running_job_is_asked_and_its_receipt_is_waited_for(desk: JobDesk) -> None:
    desk.start()
    desk.beat()
    acting = Acting(desk, lambda: desk.end("stopped", "user"))
    assert acting.stop() == 0
    assert request(desk, "stop.json")["attempt"] == 1  # type: ignore[index]
    assert acting.asked and "STOPPED" in acting.said[-1] and desk.entry.gone


def test_the_newest_attempt_is_asked(desk: JobDesk) -> None:
    desk.start()
    desk.beat(minutes_ago=40)
    desk.start(minutes_ago=3)
    desk.beat(attempt=2)
    acting = Acting(desk, lambda: desk.end("stopped", "user", attempt=2))
    assert acting.stop() == 0 and request(desk, "stop.json")["attempt"] == 2  # type: ignore[index]


def test_one_that_does_not_end_in_time_may_bill(desk: JobDesk) -> None:
    desk.start()
    desk.beat()
    with pytest.raises(MayBeBilling, match=f"sky jobs cancel -n lanbot-{desk.plan.run_id}"):
        Acting(desk).stop()


def test_a_hub_that_is_down_for_a_while_does_not_end_the_wait(
    desk: JobDesk, server: HubServer
) -> None:
    desk.start()
    desk.beat()
    looks = []

    def meanwhile() -> None:
        looks.append(1)
        if len(looks) == 1:
            server.fault(".*receipt.json", times=3)
        else:
            desk.end("stopped", "user")

    acting = Acting(desk, meanwhile)
    assert acting.stop() == 0 and any("It may bill" in line for line in acting.said)


@pytest.mark.parametrize(
    ("platform", "command"),
    [("skypilot", "sky jobs cancel -n lanbot-"), (HF_JOB, "hf jobs cancel sky-1")],
)
def test_at_once_is_not_nanolans_to_do_and_the_command_is_named(
    tmp_path: Path, server: HubServer, platform: str, command: str
) -> None:
    desk = JobDesk(tmp_path, server, platform=platform)
    desk.start()
    desk.beat()
    acting = Acting(desk)
    with pytest.raises(MayBeBilling) as refused:
        acting.stop(now=True)
    assert command in str(refused.value) and "--cancelled" in str(refused.value)
    assert "stop.json" not in desk.files() and not acting.asked


def test_a_job_without_a_machine_is_left_a_request_and_the_command_is_named(desk: JobDesk) -> None:
    acting = Acting(desk)
    assert acting.stop() == 0 and not desk.entry.gone
    assert "a machine that comes up ends at once" in acting.said[-1]
    assert "sky jobs cancel" in acting.said[-1] and "stop.json" in desk.files()


def test_that_it_was_cancelled_elsewhere_is_recorded_and_a_late_machine_ends(desk: JobDesk) -> None:
    desk.start()
    desk.beat(minutes_ago=30, cents=210)
    acting = Acting(desk)
    assert acting.stop(cancelled=True) == 0
    assert "nanolan cannot see that" in acting.asked[0]
    assert desk.entry.gone and desk.entry.spent_cents == 210
    assert desk.look().state == "stopped" and "stop.json" in desk.files()


def test_one_that_is_over_is_left_alone(desk: JobDesk) -> None:
    desk.start()
    desk.end("succeeded")
    acting = Acting(desk)
    assert acting.stop() == acting.stop(now=True) == acting.stop(cancelled=True) == 0
    assert "is over (succeeded); nothing to stop" in acting.said[0]
    assert "stop.json" not in desk.files()


def test_a_state_that_cannot_be_read_is_no_reason_to_do_nothing(
    desk: JobDesk, server: HubServer
) -> None:
    server.stop()
    with pytest.raises(MayBeBilling, match="It may bill: job lanbot-"):
        Acting(desk).stop()


# ---- just limit
def test_a_new_limit_goes_to_the_machine_and_into_the_ledger(desk: JobDesk) -> None:
    desk.start()
    desk.beat()
    assert limit_job(Acting(desk).job, 3000, None) == 0
    limit = request(desk, "limit.json")
    assert (limit["attempt"], limit["limit_cents"]) == (1, 3000)  # type: ignore[index]
    assert desk.entry.plan.limit_cents == 3000


@pytest.mark.parametrize(
    ("ended", "says"), [(True, "just resume .* spend-limit=30"), (False, "Export again with")]
)
def test_without_a_machine_that_reports_there_is_no_limit_to_change(
    desk: JobDesk, ended: bool, says: str
) -> None:
    if ended:
        desk.end("stopped", "spend_limit")
    with pytest.raises(UsageProblem, match=says):
        limit_job(Acting(desk).job, 3000, None)
    assert "limit.json" not in desk.files()


def test_a_limit_below_what_is_spent_is_refused(desk: JobDesk) -> None:
    desk.start()
    desk.beat(cents=500)
    with pytest.raises(UsageProblem, match="already spent"):
        limit_job(Acting(desk).job, 400, None)
