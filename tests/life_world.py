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
from functools import partial
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from nanolan.config import load_settings
from nanolan.errors import NanolanError
from nanolan.hub import Hub
from nanolan.instance import Instance as Seen
from nanolan.launch import Prepared, rent
from nanolan.ledger import Entry, Ledger
from nanolan.offers import Offer
from nanolan.plan import Pinned, Plan, iso, parse_time
from nanolan.rent import delete_and_confirm
from nanolan.shadeform import Shadeform
from nanolan.sim.marker import MARKER, TWIST
from nanolan.sim.shadeform_instance import Instance

from .canary import CANARY
from .core_fixtures import PLAN
from .life_box import Box
from .life_clock import Actor, Clock
from .life_cloud import Cloud, Request
from .life_hub import MemoryHub

START = 2_208_988_800.0             # 2040: no time of today gets in unseen
KEY, TOKEN = f"sk-{MARKER}/of+the=cloud{TWIST}", f"hf_{MARKER}_of_the_Hub"
REPO = PLAN.hf_repo
SEED = {"base_checkpoints/d20/model_000009.pt": b"a base " * 9, "base_checkpoints/d20/meta_000009.json": b"{}",
        "mid_checkpoints/d20/model_000010.pt": b"a model " * 9, "mid_checkpoints/d20/meta_000010.json": b"{}",
        "tokenizer/tokenizer.pkl": b"a tokenizer"}
LIMIT_CENTS = 5000                  # at $33.60 an hour: 89 minutes, of which training gets 61
TEND_S = 15.0                       # how often the provider looks at its machines
LONGEST_S = 24 * 3600.0
DISK = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None      # on a disk each fsync takes milliseconds


@dataclass
class Outcome:
    """What one command on the laptop came to."""

    run_id: str
    value: Any = None
    error: BaseException | None = None
    off: bool = False               # the laptop was shut while it ran
    said: str = ""
    launch: bool = False


@dataclass
class World:
    """Everything there is."""

    provider: bool = True           # whether the provider keeps its own limits
    root: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="nanolan-life-", dir=DISK)))
    boxes: dict[str, Box] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)
    plans: list[Plan] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    api_troubled_at: float = -1e9   # when a call of the API was disturbed last
    heard: list[Callable[[Request], None]] = field(default_factory=list)
    left: list[Callable[[Box], None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.clock = Clock(START)
        self.clock.struck, self.clock.resumed = self._struck, self._resumed
        self.cloud = Cloud(self.clock, KEY, heard=lambda request: [tell(request) for tell in self.heard])
        self.foreign = self.cloud.account.add_foreign("somebody-elses", 100)
        self.hub = MemoryHub(self.clock, token=TOKEN)
        self.hub.put(REPO, SEED)
        self.ledger = Ledger(self.root / "ledger")
        self.settings = load_settings({}, {"HF_TOKEN": TOKEN, "SHADEFORM_API_KEY": KEY, "HF_REPO": REPO})
        self._saying, self._parts = Outcome(""), dict[Actor, str]()
        self.kept = {name: os.environ.get(name) for name in ("BOX_ROOT", "HF_HOME")}
        self.clock.at(START, self._tend)

    def close(self) -> None:
        """End every actor; leave nothing behind."""
        with self.ears():
            self.clock.kill(lambda actor: True)
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
        self.run(LONGEST_S, lambda: not any(self.cloud.billing(i) for i in self.cloud.ours))
        self.run(120)

    def _tend(self) -> None:
        """The provider's part: limits, and machines switched on and off."""
        now = self.clock.now
        if self.provider:
            self.cloud.account.enforce()
        for i in self.cloud.ours:
            if i.id not in self.boxes and i.runs_at(now):
                self.boxes[i.id] = Box(self, i)
                self.boxes[i.id].boot()
            elif i.id in self.boxes and self.boxes[i.id].on and not i.runs_at(now):
                self.boxes[i.id].off()
        self.clock.at(now + TEND_S, self._tend)

    def has_power(self, box: Box) -> bool:
        return box.instance.runs_at(self.clock.now)

    def _struck(self, actor: Actor) -> None:
        """Its counted lines are over: nothing of its program may go on, nor touch the disk."""
        if actor.box is None:
            return
        actor.box.freeze()
        program = actor.program
        self.clock.at(0, actor.box.crash if program == "box" else lambda: actor.box.end(lambda a: a.program == program))

    # ---- the laptop

    def laptop(self, run_id: str, act: Callable[[Outcome], object], cut: tuple[str, float] | None = None) -> Outcome:
        """A command, to its end; cut=("ctrl-c" or "off", after seconds)."""
        outcome = self._saying = Outcome(run_id)

        def command() -> None:
            outcome.value = act(outcome)
        actor = self.clock.spawn(command, None, "laptop")
        if cut:
            self.clock.at(self.clock.now + cut[1], partial(self._cut, actor, outcome, cut[0]))
        self.run(LONGEST_S, lambda: actor.done)
        outcome.error = actor.error
        if isinstance(actor.error, Exception) and not isinstance(actor.error, NanolanError):
            raise actor.error
        self.outcomes.append(outcome)
        return outcome

    def _cut(self, actor: Actor, outcome: Outcome, how: str) -> None:
        if actor.done:
            return
        if how == "ctrl-c":
            actor.throw = KeyboardInterrupt()
            self.clock.ready(actor)
        else:
            outcome.off = True
            self.clock.kill(lambda a: a is actor)

    def api(self) -> Shadeform:
        return Shadeform(self.settings.shadeform_api_key, PLAN.shadeform_api, session=self.cloud, sleep=self.clock.sleep,  # type: ignore[arg-type]
                         jitter=lambda: 0.5)

    def hub_client(self) -> Hub:
        return Hub(PLAN.hf_endpoint, self.settings.hf_token, sleep=self.clock.sleep, clock=self.clock.monotonic, api=self.hub,
                   get=self.hub.get)

    def launch(self, phases: tuple[str, ...], recipe: dict[str, int], cut: tuple[str, float] | None = None, **fields: Any) -> Outcome:
        """just launch, from the consent on."""
        plan = self._plan(phases, recipe, **fields)
        self.plans.append(plan)
        o = plan.offer
        offer = Offer(o.cloud, o.region, o.instance_type, o.gpu, o.num_gpus, o.vram_gb, o.hourly_cents, (o.os,), True, "", None)

        def act(outcome: Outcome) -> Seen:
            outcome.launch = True
            return rent(Prepared(plan, offer, [], b"a bundle", False), self.settings, self.api(), self.hub_client(), self.ledger,
                        self.say, clock=self.clock.monotonic)
        return self.laptop(plan.run_id, act, cut)

    def _plan(self, phases: tuple[str, ...], recipe: dict[str, int], **fields: Any) -> Plan:
        born, number = self.clock.now, len(self.plans) + 1
        inputs = tuple(f for path, f in self.hub.pinned(REPO).items() if path in SEED)
        return replace(
            PLAN, run_id=f"{number:07d}a", created_at=iso(self.clock.utc()), limit_cents=LIMIT_CENTS, phases=phases,
            deadline=iso(parse_time(iso(self.clock.utc())) + _seconds(LIMIT_CENTS * 3600 / PLAN.offer.hourly_cents)),
            output_tag=f"d20-{number}", recipe=recipe, hf_endpoint="https://hub.invalid", shadeform_api="https://api.invalid/v1",
            inputs=(Pinned(REPO, "model", self.hub.head(REPO).revision, inputs),) if born else (), upload_minutes=5.0, **fields)

    def stop(self, entry: Entry, cut: tuple[str, float] | None = None) -> Outcome:
        """just stop, after its yes: every instance of the run, until it is seen to be gone."""
        def act(outcome: Outcome) -> list[str]:
            api, gone = self.api(), []
            mine: list[Seen] = [i for i in api.instances() if i.is_run(entry.plan.run_id) or i.id == entry.instance_id]
            for i in mine:
                gone.append(delete_and_confirm(api, i, clock=self.clock.monotonic).id)
                self.ledger.put(replace(entry, instance_id=i.id, gone=True, note="stopped"))
            return gone
        return self.laptop(entry.plan.run_id, act, cut)

    def entry(self, plan: Plan) -> Entry | None:
        """What the ledger knows of a run."""
        return next((e for e in self.ledger.entries() if e.plan.run_id == plan.run_id), None)

    def request_stop(self, plan: Plan) -> Outcome:
        """The user's word on the Hub."""
        word = json.dumps({"attempt": plan.attempt, "at": iso(self.clock.utc())}).encode()
        return self.laptop(plan.run_id, lambda outcome: self.hub_client().commit(
            plan.runs_repo, {f"{plan.folder}/stop.json": word}, "stop"))

    # ---- what programs say

    def say(self, text: str) -> None:
        self._saying.said += text + "\n"

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
        if actor.box is not None:
            actor.box.enter()

    # ---- what machines reach

    def ask(self, url: str, token: str = "", key: str = "", body: bytes | None = None) -> bytes:
        """rescue.call: the API, or a commit to the Hub."""
        if not token:
            return self.cloud.ask(url, key, body)
        lines = [json.loads(line) for line in (body or b"").splitlines()]
        add = {line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines if line["key"] == "file"}
        try:
            self.hub._call("commit", REPO, lambda kind="": self.hub._add(REPO, add, (), lines[0]["value"]["summary"]))
        except Exception as e:
            raise OSError(str(e)) from None
        return b"{}"

    def is_whole(self, folder: Path) -> bool:
        """Whether a saved step on a disk is what a trainer saved, by other eyes than nanolan's."""
        from .life_laws import whole_on_disk
        return any(whole_on_disk(folder))

    def gpu_problem(self, box: Box) -> str:
        """nanolan.inspection.inspect_machine."""
        self.clock.sleep(5)
        return "8 GPUs were rented, nvidia-smi shows 7" if box.gpu_lost else ""

    def box_left(self, box: Box) -> None:
        """A box program has come to its own end."""
        for tell in self.left:
            tell(box)


def _seconds(number: float) -> Any:
    from datetime import timedelta
    return timedelta(seconds=int(number))


def instance_of(world: World, plan: Plan) -> list[Instance]:
    """Every instance of a run that ever was, by its name."""
    return [i for i in world.cloud.instances if i.name.endswith(plan.run_id)]
