"""nanolan's promises over random histories: both halves as they are, on a fake clock, in a world where anything may go wrong.

Laws: tests/support/life_laws.py. The world: tests/support/life_world.py, with its machines, its cloud and its Hub beside it.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from nanolan.shadeform.client import CALL_S
from nanolan.sim.shadeform.faults import Fault, Switches
from tests.shadeform.test_records import FIELDS, ODD, RECORDS, THEIRS
from tests.support.life_box import Box
from tests.support.life_hub import LIES, REFUSALS, TROUBLES
from tests.support.life_hub import Fault as HubFault
from tests.support.life_laptop import KEY
from tests.support.life_laws import Laws
from tests.support.life_trainer import FATES
from tests.support.life_world import World

CREATE, DELETE, INFO, LIST = (
    "POST /v1/instances/create",
    "POST /v1/instances/.*/delete",
    "GET /v1/instances/.*/info",
    "GET /v1/instances$",
)
RUNS, STEPS = 4, 20
ODD_VALUES = st.sampled_from([v for v in ODD if len(str(v)) < 1000])
OTHERS: list[Any] = [
    *RECORDS,
    *(
        THEIRS | {name: v}
        for v in ODD
        if len(str(v)) < 1000
        for name in ("id", "name", "tags", "status")
    ),
]

pytestmark = pytest.mark.shows(
    "file", "*/lanbot-training.log", "a library in the trainer prints the token"
)

DRIPS: tuple[str, dict[str, Any]] = ("stall_after_effect", {"seconds": CALL_S})
# What a create can come to: a fault of its answer, and what the machine is like
CREATES: dict[str, tuple[str, dict[str, Any]]] = {
    "lost": ("reset_after_effect", {}),
    "never arrived": ("reset", {}),
    "500 though made": ("status_after_effect", {"status": 500}),
    "500": ("status", {"status": 500}),
    "half an answer": ("truncated", {}),
    "a page": ("html_after_effect", {}),
    "cut": ("cut", {}),
    "unsure": ("internal_error_after_effect", {}),
    "sold out": ("out_of_stock", {}),
    "no key": ("unauthorized", {}),
    "too slow": ("stall_after_effect", {"seconds": 30.0}),
    "drips": DRIPS,
    "no id": ("status_after_effect", {"status": 200, "body": {}}),
}
MACHINES: dict[str, dict[str, Any]] = {
    "": {},
    "lagging list": {"list_lag": 20.0},
    "unlisted": {"list_lag": 600.0},
    "no tags": {"tags_not_stored": True},
    "limits come late": {"auto_delete_late": 30.0},
    "limits lost": {"auto_delete_not_stored": 1},
    "limits lost twice": {"auto_delete_not_stored": 2},
    "dearer": {"price_differs": 4000},
    "cost unknown": {"cost_frozen": True},
    "never boots": {"stuck_in_pending_provider": True},
    "goes to error": {"goes_to_error": True},
    "no script": {"script_never_started": True},
    "dearer later": {"price_rises": 600.0},
    "much later": {"price_rises": 2000.0},
    "limits dropped": {"limits_dropped": 300.0},
    "comes back": {"comes_back": 60.0},
}
DEAD = ("never boots", "goes to error", "no script")
READS: dict[str, tuple[str, dict[str, Any]]] = {
    "503": ("status", {"status": 503}),
    "reset": ("reset", {}),
    "a page": ("html", {}),
    "half": ("truncated", {}),
    "slow down": ("rate_limit", {"retry_after": "20"}),
    "refused": ("status", {"status": 418, "body": {"error": f"who sends {KEY}?"}}),
    "no key": ("unauthorized", {}),
    "404 though there": ("not_found", {}),
    "drips": DRIPS,
}
DELETES: dict[str, tuple[str, dict[str, Any]]] = {
    "lost": ("reset_after_effect", {}),
    "500": ("status", {"status": 500}),
    "never arrived": ("reset", {}),
    "404 though there": ("not_found", {}),
    "a page": ("html", {}),
    "drips": DRIPS,
}
API = [
    *((INFO, *r) for r in READS.values()),
    *((LIST, *r) for r in READS.values() if r[0] != "not_found"),
    *((DELETE, *d) for d in DELETES.values()),
    (DELETE, "nothing", {}),
    (DELETE, "nothing", {}),
]

CUT = st.tuples(st.sampled_from(["ctrl-c", "off"]), st.floats(0, 30))
PLANS = {
    "phases": st.sampled_from([("sft",), ("mid", "sft")]),
    "step_s": st.sampled_from([60, 120, 400]),
    "save_every": st.integers(2, 4),
    "evaluate": st.sampled_from(["none", "quick"]),
}
SMOOTH = st.fixed_dictionaries(PLANS)
ROUGH = st.fixed_dictionaries(
    PLANS
    | {
        "create": st.sampled_from(["", *CREATES]),
        "machine": st.sampled_from(sorted(MACHINES)),
        "cut": st.none() | CUT,
        "stop_s": st.none() | st.floats(0, 60),
        "wait": st.sampled_from([False, False, False, True]),
        "outage": st.none() | st.tuples(st.floats(0, 20), st.sampled_from([1, 12])),
    }
)
# A launch with a definite no, and with luck a word to stop before its next attempt; a machine of which the provider changes its mind
FAILOVER = st.fixed_dictionaries(
    PLANS
    | {
        "create": st.sampled_from(["sold out", ""]),
        "machine": st.sampled_from(["dearer", "limits lost twice"]),
        "stop_s": st.none() | st.floats(0, 40),
        "wait": st.booleans(),
    }
)
CHANGED = st.fixed_dictionaries(
    PLANS
    | {"machine": st.sampled_from(["dearer later", "much later", "limits dropped", "comes back"])}
)


class Life(RuleBasedStateMachine):
    """One history: a few runs, and what befalls them. Every rule works at any time: without a machine the next run begins."""

    def __init__(self) -> None:
        super().__init__()
        self.w = World()
        self.laws = Laws(self.w)
        self.laptop_on = True
        self.plans: list[dict[str, Any]] = []

    def teardown(self) -> None:
        try:
            if not self.w.problems:
                self.w.run_on()
                self.laws.at_the_end()
        finally:
            self.w.close()

    @initialize(
        provider=st.booleans(),
        first=SMOOTH | FAILOVER | CHANGED,
        then=st.lists(ROUGH | SMOOTH | FAILOVER, min_size=RUNS - 1, max_size=RUNS - 1),
    )
    def begin(self, provider: bool, first: dict[str, Any], then: list[dict[str, Any]]) -> None:
        self.w.provider, self.plans = provider, [*then, first]
        self.machine()

    def machine(self) -> Box | None:
        """The machine that is on, if any; where none bills, the next run begins, and gets two minutes."""
        if self.plans and not self.w.at_work:
            self._launch(**self.plans.pop())
            self.w.run(120)
        return next((b for b in self.w.boxes.values() if b.on), None)

    # ---- the laptop

    def _launch(
        self,
        create: str = "",
        machine: str = "",
        cut: tuple[str, float] | None = None,
        outage: tuple[float, int] | None = None,
        *,
        step_s: int,
        save_every: int,
        **plan: Any,
    ) -> None:
        if machine in DEAD and not self.w.provider:
            return  # nobody at all would end it
        self.laptop_on = True
        if create:
            self.w.cloud.faults.add(Fault(CREATE, CREATES[create][0], params=CREATES[create][1]))
        self.w.cloud.account.switches = (
            Switches()
        )  # what an earlier machine had left over is not for this one
        for name, value in MACHINES[machine].items():
            self.w.cloud.account.switches.set(name, value, times=1)
        if outage:
            self._api_down(*outage)
        self.w.launch(
            recipe={"steps": 10, "step_s": step_s, "save_every": save_every}, cut=cut, **plan
        )

    @rule(how=st.sampled_from(["on the Hub", "on the Hub", "at once"]), cut=st.none() | CUT)
    def stop(self, how: str, cut: tuple[str, float] | None) -> None:
        if self.machine() and self.laptop_on and how == "on the Hub":
            self.w.request_stop(self.w.plans[-1])
        elif self.laptop_on and (entry := self.w.entry(self.w.plans[-1])):
            self.w.stop(entry, cut)

    # ---- time

    @rule(minutes=st.sampled_from([0.2, 1, 3, 8, 20]))
    def tick(self, minutes: float) -> None:
        self.machine()
        self.w.run(60.0 * minutes)

    @rule(
        line=st.sampled_from(
            [
                "training (attempt",
                "uploading",
                "proven",
                "verdict",
                "deleting",
                "evaluation",
                "state of step",
            ]
        ),
        seconds=st.floats(0, 5),
    )
    def until(self, line: str, seconds: float) -> None:
        """A moment that matters: just after the box program said something."""
        if box := self.machine():
            seen = len(box.said)
            self.w.run(3600, lambda: line in box.said[seen:] or not box.on)
            self.w.run(seconds)

    # ---- programs die, machines fail

    @rule(
        how=st.sampled_from(["a rank dies", "killed", "in a save", *FATES]),
        lines=st.integers(1, 60),
    )
    def trainer_fails(self, how: str, lines: int) -> None:
        """The trainer that runs, or the next one."""
        if box := self.machine():
            box.fail_trainer(how, lines)

    @rule(
        lines=st.sampled_from([0, 0, 3, 10, 30, 60, 100, 200, 400, 700]), thread=st.integers(0, 4)
    )
    def crash(self, lines: int, thread: int) -> None:
        """kill -9 of the box program: now, or so many lines of nanolan from now in one of its threads."""
        if box := self.machine():
            with self.w.ears():
                box.crash_soon(lines, thread)

    @rule(seconds=st.integers(10, 600))
    def reboot(self, seconds: int) -> None:
        if box := self.machine():
            self.laws.grace_s += seconds + 60
            with self.w.ears():
                box.reboot(seconds)

    @rule(which=st.integers(0, 20), at=st.integers(0, 200))
    def bit_rots(self, which: int, at: int) -> None:
        """A byte of a saved file changes on the machine's disk."""
        if box := self.machine():
            box.rot(which, at)

    @rule(minutes=st.sampled_from([1, 5, 20, 10_000]))
    def disk_is_full(self, minutes: int) -> None:
        if box := self.machine():
            box.fill(60.0 * minutes)

    @rule(
        what=st.sampled_from(
            [
                "the laptop is shut",
                "it is open again",
                "a GPU falls off",
                "the machine is taken away",
            ]
        )
    )
    def misfortune(self, what: str) -> None:
        box = self.machine()
        if what.endswith(("shut", "again")):
            self.laptop_on = what.endswith("again")
        elif box and what == "a GPU falls off":
            box.gpu_lost = True
        elif box:
            box.instance.delete(self.w.clock.now, "preempted")

    # ---- the Hub and the API fail

    @rule(
        call=st.sampled_from(["commit", "commit", "info", "get"]),
        kind=st.sampled_from(TROUBLES),
        times=st.integers(1, 3),
        skip=st.integers(0, 3),
    )
    def hub_fails(self, call: str, kind: str, times: int, skip: int) -> None:
        self.machine()
        self.w.hub.faults.append(HubFault(call, kind, times, skip))

    @rule(kind=st.sampled_from(LIES), skip=st.integers(0, 3))
    def hub_lies(self, kind: str, skip: int) -> None:
        """It says yes to a checkpoint and holds something else."""
        self.machine()
        self.w.hub.faults.append(HubFault("commit", kind, 1, skip))

    @rule(
        status=st.sampled_from(REFUSALS),
        seconds=st.integers(5, 60),
        call=st.sampled_from(["", "", "commit", "info", "get"]),
    )
    def hub_refuses(self, status: int, seconds: int, call: str) -> None:
        self.machine()
        self.w.hub.refused = self.w.clock.now + seconds, status, call

    @rule(minutes=st.sampled_from([1, 5, 20, 80]))
    def hub_down(self, minutes: int) -> None:
        self.machine()
        self.w.hub.down_until = self.w.clock.now + 60.0 * minutes
        self.no_limit_is_known()

    @rule(minutes=st.sampled_from([1, 4, 12, 30]))
    def api_down(self, minutes: int) -> None:
        self.machine()
        self._api_down(0, minutes)

    @rule(
        others=st.lists(st.integers(0, len(OTHERS) - 1), max_size=3),
        fields=st.dictionaries(st.sampled_from(FIELDS), ODD_VALUES, max_size=3),
    )
    def records_are_odd(self, others: list[int], fields: dict[str, Any]) -> None:
        """Of a colleague, and in those fields of our own machine by which nobody has to find or to stop it."""
        self.machine()
        self.w.cloud.odd_records, self.w.cloud.odd_fields = [OTHERS[n] for n in others], fields
        self.no_limit_is_known()

    def no_limit_is_known(self) -> None:
        """Only a guard without a plan depends on the provider's limits."""

    @rule(seconds=st.sampled_from([20, 60, 180]), minutes=st.sampled_from([1, 5, 20]))
    def list_is_late(self, seconds: int, minutes: int) -> None:
        self.machine()
        self.laws.grace_s += seconds + 60
        self.w.cloud.late_s, self.w.cloud.late_until = seconds, self.w.clock.now + 60.0 * minutes

    @rule(
        hours=st.sampled_from([-24, -8, -0.1, 0, 0.1, 1, 8, 24]),
        whose=st.sampled_from(["laptop", "machine"]),
    )
    def clock_jumps(self, hours: float, whose: str) -> None:
        box = self.machine()
        if whose == "laptop":
            self.w.ahead_s = hours * 3600
        elif box:
            box.ahead_s = hours * 3600

    def _api_down(self, after_s: float, minutes: int) -> None:
        start = self.w.clock.now + after_s
        self.w.cloud.outages.append((start, start + 60.0 * minutes))
        self.w.api_troubled_at = start + 60.0 * minutes

    @rule(fault=st.sampled_from(API), times=st.integers(1, 6))
    def api_fails(self, fault: tuple[str, str, dict[str, Any]], times: int) -> None:
        self.machine()
        match, action, params = fault
        self.laws.grace_s += (60 + CALL_S * (params == DRIPS[1])) * times
        self.w.api_troubled_at = self.w.clock.now
        if action == "nothing":  # answers 200 and does nothing
            self.w.cloud.account.switches.set("delete_ignored", times)
        else:
            self.w.cloud.faults.add(Fault(match, action, times, params=params))

    @invariant()
    def the_laws_hold(self) -> None:
        self.laws.check()


QUIET = dict(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
    report_multiple_bugs=False,
)


@pytest.mark.timeout(900)  # about 20 s; a shared machine may take several times that
def test_every_promise_holds_in_40_histories() -> None:
    run_state_machine_as_test(
        Life, settings=settings(max_examples=40, stateful_step_count=STEPS, **QUIET)
    )  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))  # several processes take some each
@pytest.mark.timeout(2 * 3600)
def test_every_promise_holds_in_10_000_histories(part: int) -> None:
    of_part = settings(max_examples=1_250, stateful_step_count=STEPS, **QUIET)  # type: ignore[arg-type]
    run_state_machine_as_test(seed(part)(type("Part", (Life,), {})), settings=of_part)
