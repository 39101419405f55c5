"""A whole world in one process: a laptop, a cloud, a Hub and rented machines, on one fake clock. Nothing in it is left to chance."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from nanolan.plan import Plan
from nanolan.run.ledger import Ledger
from nanolan.settings.load import load_settings
from nanolan.sim.shadeform.instance import Instance
from nanolan.times import SERVICE_CLOCK, ServiceClock
from tests.support.canary import CANARY
from tests.support.life_box import Box
from tests.support.life_clock import Actor, Clock
from tests.support.life_cloud import Cloud, Request
from tests.support.life_hub import MemoryHub
from tests.support.life_laptop import (
    KEY,
    LONGEST_S,
    REPO,
    SEED,
    START,
    TEND_S,
    TOKEN,
    Laptop,
    Outcome,
)

DISK = (
    "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
)  # on a disk each fsync takes milliseconds


@dataclass
class World(Laptop):
    """Everything there is."""

    provider: bool = True  # whether the provider keeps its own limits
    root: Path = field(
        default_factory=lambda: Path(tempfile.mkdtemp(prefix="nanolan-life-", dir=DISK))
    )
    boxes: dict[str, Box] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)
    plans: list[Plan] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    api_troubled_at: float = -1e9  # when a call of the API was disturbed last
    heard: list[Callable[[Request], None]] = field(default_factory=list)
    left: list[Callable[[Box], None]] = field(default_factory=list)
    ahead_s: float = 0.0  # of the laptop's clock
    prices: dict[str, int] = field(default_factory=dict)  # of our machines, as seen last
    risen: dict[str, float] = field(
        default_factory=dict
    )  # dollars that a machine has cost when its price had just risen
    dropped: set[str] = field(
        default_factory=set
    )  # machines of which the provider keeps no limits any more
    stopped: set[str] = field(
        default_factory=set
    )  # runs whose launch was told to stop, and has heard it
    back: set[str] = field(default_factory=set)  # machines that came back after their deletion

    def __post_init__(self) -> None:
        self.clock = Clock(START)
        self.clock.struck, self.clock.resumed, self.clock.paused = (
            self._struck,
            self._resumed,
            self._paused,
        )
        self._own_clock, self._clocks = vars(SERVICE_CLOCK), dict[Any, ServiceClock]()
        self.cloud = Cloud(
            self.clock, KEY, heard=lambda request: [tell(request) for tell in self.heard]
        )
        self.foreign = self.cloud.account.add_foreign("somebody-elses", 100)
        self.hub = MemoryHub(self.clock, token=TOKEN)
        self.hub.put(REPO, SEED)
        self.ledger = Ledger(self.root / "ledger")
        self.settings = load_settings(
            {},
            {
                "HF_TOKEN": TOKEN,
                "SHADEFORM_API_KEY": KEY,
                "HF_REPO": REPO,
                "HF_ENDPOINT": "https://hub.invalid",
                "SHADEFORM_API": "https://api.invalid/v1",
            },
        )
        self._saying, self._parts = Outcome(""), dict[Actor, str]()
        self.kept = {name: os.environ.get(name) for name in ("BOX_ROOT", "HF_HOME")}
        self.clock.at(START, self._tend)

    def close(self) -> None:
        """End every actor; leave nothing behind."""
        with self.ears():
            self.clock.kill(lambda actor: True)
        SERVICE_CLOCK.__dict__ = self._own_clock
        for name, value in self.kept.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
        CANARY.sweep(self.root)
        shutil.rmtree(self.root, ignore_errors=True)

    def broken(self, law: str) -> None:
        """Note a broken law where raising would only surprise the program that broke it."""
        self.problems.append(f"at {self.clock.now - START:.0f} s: {law}")

    # ---- time

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        with self.ears():
            self.clock.run(self.clock.now + seconds, lambda: bool(self.problems) or until())

    def run_on(self) -> None:
        """Until no machine bills and every program has come to its end."""
        self.run(LONGEST_S, lambda: not self.at_work)
        self.run(120)

    @property
    def at_work(self) -> list[Instance]:
        """What bills, but for a machine that came back."""
        return [i for i in self.cloud.ours if i.id not in self.back and self.cloud.billing(i)]

    def _tend(self) -> None:
        """The provider's part: limits, and machines switched on and off."""
        now = self.clock.now
        self._provider_changes_its_mind()
        if self.provider:
            self.cloud.account.enforce()
        for i in self.cloud.ours:
            if i.id in self.back:
                continue  # it bills; nothing runs there any more
            if i.id not in self.boxes and i.runs_at(now):
                self.boxes[i.id] = Box(self, i)
                self.boxes[i.id].boot()
            elif i.id in self.boxes and self.boxes[i.id].on and not i.runs_at(now):
                self.boxes[i.id].off()
        self.clock.at(now + TEND_S, self._tend)

    def _provider_changes_its_mind(self) -> None:
        now = self.clock.now
        for i in self.cloud.ours:
            gone, kept = i.status_at(now) == "deleted", "limits_dropped" in i.behavior
            i.apply_provider_changes(now)
            if kept and "limits_dropped" not in i.behavior:
                self.dropped.add(i.id)
            if gone and i.status_at(now) != "deleted":
                self.back.add(i.id)
            if self.price_risen(i) and not self.cloud.price_hidden:
                self.prices[i.id], self.risen[i.id] = i.price_cents, float(i.cost_at(now))
                self.api_troubled_at = now

    def price_risen(self, i: Instance) -> bool:
        """Whether its price is above the one that the answers have shown."""
        return i.price_cents > self.prices.setdefault(i.id, i.price_cents)

    def has_power(self, box: Box) -> bool:
        return box.id not in self.back and box.instance.runs_at(self.clock.now)

    def _struck(self, actor: Actor) -> None:
        """Its counted lines are over: nothing of its program may go on, nor touch the disk."""
        if actor.box is None:
            return
        actor.box.freeze()
        program = actor.program
        self.clock.at(
            0,
            actor.box.crash
            if program == "box"
            else lambda: actor.box.end(lambda a: a.program == program),
        )

    # ---- what programs say

    @contextlib.contextmanager
    def ears(self) -> Iterator[None]:
        with contextlib.redirect_stdout(self):  # type: ignore[type-var]
            yield

    def write(self, text: str) -> int:
        """stdout of whoever is running; a line at a time."""
        actor = self.clock.current
        if actor is None or actor.killed:
            return len(text)
        whole, newline, part = (self._parts.pop(actor, "") + text).rpartition("\n")
        if part:
            self._parts[actor] = part
        if newline and actor.box is not None:
            actor.box.hear(actor.program, whole + newline)
        elif newline:
            self._saying.said += whole + newline
        return len(text)

    def flush(self) -> None:
        """Nothing is kept back."""

    def _resumed(self, actor: Actor) -> None:
        SERVICE_CLOCK.__dict__ = vars(self._clock_of(actor.box, actor.program))
        if actor.box is not None:
            actor.box.enter()

    def _paused(self, actor: Actor) -> None:
        if actor.box is not None:
            actor.box.leave()

    def new_process(self, box: Box | None, program: str) -> None:
        """A program begins: nobody has told it yet what time it is."""
        self._clocks.pop((box and box.id, program), None)

    def _clock_of(self, box: Box | None, program: str) -> ServiceClock:
        """What SERVICE_CLOCK is in that process, on a machine whose own clock may be wrong."""
        key = box and box.id, program
        if key not in self._clocks:
            side = box or self
            self._clocks[key] = ServiceClock(
                lambda: self.clock.utc() + timedelta(seconds=side.ahead_s), self.clock.monotonic
            )
        return self._clocks[key]

    # ---- what machines reach

    def ask(self, url: str, token: str = "", key: str = "", body: bytes | None = None) -> bytes:
        """rescue.call: the API, or a commit to the Hub."""
        if not token:
            return self.cloud.ask(url, key, body)
        lines = [json.loads(line) for line in (body or b"").splitlines()]
        add = {
            line["value"]["path"]: base64.b64decode(line["value"]["content"])
            for line in lines
            if line["key"] == "file"
        }
        try:
            self.hub._call(
                "commit",
                REPO,
                lambda kind="": self.hub._add(REPO, add, (), lines[0]["value"]["summary"]),
            )
        except Exception as e:
            raise OSError(str(e)) from None
        return b"{}"

    def is_whole(self, folder: Path) -> bool:
        """Whether a saved step on a disk is what a trainer saved, by other eyes than nanolan's."""
        from tests.support.life_laws import whole_on_disk

        return any(whole_on_disk(folder))

    def gpu_problem(self, box: Box) -> str:
        """nanolan.box.machine_check.inspect_machine."""
        self.clock.sleep(5)
        return "8 GPUs were rented, nvidia-smi shows 7" if box.gpu_lost else ""

    def box_left(self, box: Box) -> None:
        """A box program has come to its own end."""
        for tell in self.left:
            tell(box)


def instance_of(world: World, plan: Plan) -> list[Instance]:
    """Every instance of a run that ever was, by its name."""
    return [i for i in world.cloud.instances if i.name.endswith(plan.run_id)]
