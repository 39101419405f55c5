"""Faults that a rehearsal plays for real, and what must come of each. A new one is a row of SCENARIOS.

    just rehearse fault=hang            one of them
    just rehearse-faults                all of them, as a table

A scenario changes the world before the launch, or acts at the moment when a line of the box's log says that it has come.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psutil

from nanolan.settings.settings import ROOT
from nanolan.sim.scenarios_hub import (
    DOWN_S,
    hub_down,
    hub_drips,
    hub_refuses,
    refused_after_commit,
    renamed,
    storage_full,
    upload_cut,
)

if TYPE_CHECKING:
    from nanolan.sim.box import Machine
    from nanolan.sim.world import World

Act = Callable[["World"], object]
CREATE = "POST /v1/instances/create"
# 150 steps of about 0.1 s, a state every second: long enough for something to happen
LONG = {"max_steps": 150}
ENDLESS = {"max_steps": 2000}
STATES = ("save-minutes=0.02", "upload-minutes=0.03", "eval=none")


@dataclass(frozen=True)
class Scenario:
    """One fault: what it is, how it is made, and how the run must end."""

    what: str
    verdict: str = "succeeded"
    reason: str = ""
    exit_code: int = 0
    words: tuple[str, ...] = ()  # more options of the launch
    recipe: Mapping[str, Any] = field(default_factory=dict)  # changes of the rehearsal's recipe
    watch_s: Mapping[str, float] = field(default_factory=dict)
    usual: Mapping[str, float] = field(default_factory=dict)
    before: Act = lambda world: None
    moment: str = ""  # a pattern of a line in the box's log
    then: Act = lambda world: None
    times: int = 1  # how many such lines count
    most_lost: int = 0  # steps that may have been trained in vain
    resume: bool = False  # afterwards `just resume` finishes it


# ------------------------------------------------------------------ acts on the cloud and the Hub
def refused(action: str, times: int = 1) -> Act:
    """The next creates are answered so."""
    return lambda world: world.cloud.fault(CREATE, action, times=times)


def switched(name: str, value: object = True, times: int | None = None) -> Act:
    """The cloud behaves so, for the next `times` instances."""
    return lambda world: world.cloud.switch(name, value, times)


def all_of(*acts: Act) -> Act:
    """One after the other."""

    def act(world: World) -> None:
        for each in acts:
            each(world)

    return act


def slow_between_attempts(seconds: float) -> Act:
    """The look at the account between two attempts takes so long; it is the launch's third, after the checks' and the create's."""
    return lambda world: world.cloud.fault("GET /v1/instances$", "stall", skip=2, seconds=seconds)


def stop_after_the_first_machine(world: World) -> None:
    """`just stop` in another terminal, once the first machine is gone again."""

    def act() -> None:
        while not any(i.status in ("deleting", "deleted") for i in world.cloud.instances):
            time.sleep(0.05)
        subprocess.run(
            [sys.executable, str(ROOT / "scripts/stop.py"), "--yes"],
            env=world.env(),
            cwd=ROOT,
            check=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    threading.Thread(target=act, daemon=True).start()


def odd_records(world: World) -> None:
    """A colleague's machines, and what is none, that no strict reader takes."""
    odd: dict[str, Any] = {
        "id": "i-odd",
        "name": None,
        "status": "active",
        "tags": {"team": "a"},
        "hourly_price": 33.6,
        "cost_estimate": "1,234.50",
        "created_at": "yesterday",
        "auto_delete": [],
        "configuration": None,
        "ip": 7,
    }
    world.cloud.account.odd_records += [None, "odd", 5, [], {}, {"id": None}, odd]


def troubled(name: str) -> Act:
    """Every machine has this trouble of nanolan/sim/box_trouble.py."""
    return switched("box_trouble", name)


def dear(factor: int) -> Act:
    """Every offer costs so much more: limits are reached in seconds."""

    def act(world: World) -> None:
        for entry in world.cloud.account.catalogue:
            entry["hourly_price"] *= factor

    return act


def ask_to_stop(world: World) -> None:
    """As `just stop` does from any laptop."""
    from nanolan.sim.world import REPO

    run_id = newest_run(world)
    world.hub.put(REPO, {f"runs/{run_id}/stop.json": b'{"attempt": 1, "at": "in a rehearsal"}'})


def newest_run(world: World) -> str:
    """The id at the end of the newest instance's name."""
    return (
        next(i for i in reversed(world.cloud.instances) if i.machine)
        .spec["name"]
        .rsplit("-", 1)[-1]
    )


# ------------------------------------------------------------------ acts on the box
def box(world: World) -> Machine:
    """The newest machine that is on."""
    return next(i.machine for i in reversed(world.cloud.instances) if i.machine and i.machine.on)


def processes(world: World, wanted: Callable[[psutil.Process], bool]) -> list[psutil.Process]:
    """The living processes of the box that are wanted; one that goes meanwhile is not."""
    found = []
    for p in box(world).processes():
        try:
            if wanted(p):
                found.append(p)
        except (psutil.Error, OSError):
            continue
    return found


def is_rank(p: psutil.Process) -> bool:
    return "LOCAL_RANK" in p.environ() and "nanolan.train" in p.cmdline()


def is_torchrun(p: psutil.Process) -> bool:
    return "torch.distributed.run" in p.cmdline()


def is_box_program(p: psutil.Process) -> bool:
    return any(word.endswith("cloud/train.py") for word in p.cmdline())


def send(number: signal.Signals, wanted: Callable[[psutil.Process], bool]) -> Act:
    """The signal to one such process."""

    def act(world: World) -> None:
        for p in processes(world, wanted)[:1]:
            p.send_signal(number)

    return act


def reboot(world: World) -> None:
    """Every process gone at once, then boot.sh again."""
    box(world).reboot()


def disk_full(world: World) -> None:
    """No file of the box takes another byte."""
    box(world).take_writes()


def no_process(world: World) -> None:
    """The box can start no Python for a while, as without memory for another process."""
    python = box(world).folder / "nanolan/code/.venv/bin/python"
    aside = python.with_name("python.aside")
    python.rename(aside)
    timer = threading.Timer(DOWN_S, aside.rename, [python])
    timer.daemon = True
    timer.start()


def vanish(world: World) -> None:
    """The provider takes the machine away, without a word."""
    instance = next(i for i in reversed(world.cloud.instances) if i.machine)
    instance.delete(world.cloud.account.now(), "preempted")


def clock_differs(hours: float) -> Act:
    """The service's clock is so far ahead of this machine's, and of the box's."""

    def act(world: World) -> None:
        world.cloud.account.now = lambda: time.time() + 3600 * hours

    return act


KILL, PAUSE = signal.SIGKILL, signal.SIGSTOP
TRAINED = r"sft step 40/"
SCENARIOS: dict[str, Scenario] = {
    # ---- renting
    "stockout": Scenario(
        "the offer is sold out on create; the next one is rented",
        before=refused("out_of_stock"),
        words=("max-price=60",),
    ),
    "create-lost": Scenario(
        "the machine is made, the answer is lost", before=refused("reset_after_effect")
    ),
    "price": Scenario(
        "the machine costs more than was agreed to; deleted, the next offer",
        words=("max-price=60",),
        before=switched("price_differs", 9900, 1),
    ),
    "boot-stuck": Scenario(
        "the machine never boots; deleted, the next offer",
        words=("max-price=60",),
        before=switched("stuck_in_pending_provider", True, 1),
    ),
    "boot-error": Scenario(
        "the provider reports an error; deleted, the next offer",
        words=("max-price=60",),
        before=switched("goes_to_error", True, 1),
    ),
    "wrong-gpus": Scenario(
        "a GPU is missing; the machine deletes itself, the next offer",
        words=("max-price=60",),
        before=switched("gpu_count_wrong", 7, 1),
    ),
    "slow-box": Scenario(
        "a tenth of the usual speed; told, and exchanged once three runs have measured",
        words=("eval=none",),
        usual={"sft": 1e6},
    ),
    "list-lags": Scenario(
        "the machine is made, the answer is lost, and the listing shows it 8 s later",
        before=all_of(refused("reset_after_effect"), switched("list_lag", 8.0)),
    ),
    "stop-between": Scenario(
        "stopped between two attempts of its launch, when there is no machine",
        "stopped",
        "",
        5,
        words=("max-price=60",),
        before=all_of(
            switched("goes_to_error", True, 1),
            slow_between_attempts(6.0),
            stop_after_the_first_machine,
        ),
    ),
    "came-back": Scenario(
        "a machine that was seen to be deleted comes back before the next attempt",
        words=("max-price=60",),
        before=all_of(
            switched("goes_to_error", True, 1),
            switched("comes_back", 0.5, 1),
            slow_between_attempts(3.0),
        ),
    ),
    "odd-records": Scenario(
        "the account lists a colleague's machines with fields of other types, and what is no machine",
        before=odd_records,
    ),
    # ---- limits
    "limit": Scenario(
        "the money runs out in mid-training",
        "stopped",
        "spend_limit",
        6,
        recipe=ENDLESS,
        words=(*STATES, "spend-limit=200", "--yes-really"),
        before=dear(428),
        most_lost=2,
    ),
    "price-rises": Scenario(
        "the price triples after the create, the provider's figure is frozen",
        "stopped",
        "spend_limit",
        6,
        recipe=ENDLESS,
        words=(*STATES, "spend-limit=200", "--yes-really"),
        most_lost=2,
        before=all_of(dear(143), switched("price_rises", 0.5), switched("cost_frozen")),
    ),
    "limit-dropped": Scenario(
        "the provider drops the limits after they were read back",
        "stopped",
        "spend_limit",
        6,
        recipe=ENDLESS,
        words=(*STATES, "spend-limit=200", "--yes-really"),
        most_lost=2,
        before=all_of(dear(428), switched("limits_dropped", 1.0)),
    ),
    "deadline": Scenario(
        "the time runs out in mid-training",
        "stopped",
        "max_duration",
        6,
        recipe=ENDLESS,
        words=(*STATES, "max-duration=50s", "--yes-really"),
        most_lost=2,
    ),
    "gate": Scenario(
        "the gate after mid stays shut",
        "stopped",
        "gate",
        6,
        words=("phase=mid+sft", "gate=val_bpb<0.01"),
    ),
    "stop": Scenario(
        "the user stops it from another laptop",
        "stopped",
        "user",
        5,
        words=STATES,
        recipe=LONG,
        moment=TRAINED,
        then=ask_to_stop,
        most_lost=2,
    ),
    # ---- the trainer
    "hang": Scenario(
        "a rank stands still",
        words=STATES,
        recipe=LONG,
        watch_s={"train": 6.0},
        moment=TRAINED,
        then=send(PAUSE, is_rank),
        most_lost=60,
    ),
    "nan": Scenario(
        "sft's loss is no number, twice; mid is safe",
        "failed",
        "nan",
        5,
        words=("phase=mid+sft", "eval=none"),
        recipe={"sft": {"matrix_lr": 9e12, "init_lr_frac": 9e12}},
        most_lost=10,
    ),
    "oom": Scenario(
        "a rank is killed, as by the kernel when memory runs out",
        words=STATES,
        recipe=LONG,
        moment=TRAINED,
        then=send(KILL, is_rank),
        most_lost=60,
    ),
    "oom-again": Scenario(
        "a rank is killed, and killed again",
        "failed",
        "killed",
        5,
        words=STATES,
        recipe=LONG,
        moment=r"sft step (4|8)0/",
        times=2,
        then=send(KILL, is_rank),
        most_lost=90,
    ),
    "kill-torchrun": Scenario(
        "torchrun is killed; its ranks must not live on",
        words=STATES,
        recipe=LONG,
        moment=TRAINED,
        then=send(KILL, is_torchrun),
        most_lost=60,
    ),
    # ---- the machine
    "kill-box": Scenario(
        "the box program is killed",
        words=STATES,
        recipe=LONG,
        moment=TRAINED,
        then=send(KILL, is_box_program),
        most_lost=60,
    ),
    "reboot": Scenario(
        "the machine reboots in mid-training",
        words=STATES,
        recipe=LONG,
        moment=TRAINED,
        then=reboot,
        most_lost=60,
    ),
    "vanish": Scenario(
        "the machine is taken away in mid-training; resumed on another",
        words=STATES,
        recipe=LONG,
        moment=r"state of step \d+ proven",
        then=vanish,
        resume=True,
        most_lost=120,
    ),
    "disk-full-boot": Scenario(
        "root's disk is full at the boot; what the machine must know is kept in memory",
        before=switched("home_takes_nothing"),
    ),
    "disk-full": Scenario(
        "the disk is full in mid-training; the newest whole state goes up",
        "failed",
        "disk_full",
        5,
        words=STATES,
        recipe=LONG,
        moment=TRAINED,
        then=disk_full,
        most_lost=60,
    ),
    "disk-full-end": Scenario(
        "the disk is full when the phase ends",
        words=("eval=none",),
        moment=r"phase sft: done",
        then=disk_full,
    ),
    "no-fork": Scenario(
        "no process can be started when the phase ends, for a while",
        words=("eval=none",),
        moment=r"sft step 20/",
        then=no_process,
    ),
    # ---- a real Ubuntu, freshly rented
    "apt-locked": Scenario(
        "apt's own timer holds its locks when the machine boots", before=troubled("apt-locked")
    ),
    "dns-late": Scenario(
        "no name resolves at first; apt says so with exit 0", before=troubled("dns-late")
    ),
    "apt-dead": Scenario(
        "one of apt's repositories is dead for good", before=troubled("apt-repository-dead")
    ),
    "dpkg-interrupted": Scenario(
        "an earlier installation was interrupted", before=troubled("dpkg-interrupted")
    ),
    "driver-late": Scenario(
        "the NVIDIA driver comes up after the startup script", before=troubled("driver-late")
    ),
    "smi-warns": Scenario(
        "nvidia-smi warns of a damaged infoROM and ends with 14", before=troubled("smi-warns")
    ),
    "df-broken": Scenario("df cannot read one mount and ends with 1", before=troubled("df-broken")),
    "no-hostname": Scenario(
        "the machine's own host name does not resolve", before=troubled("no-hostname")
    ),
    # ---- the Hub, and the end
    "hub-down": Scenario(
        "the Hub is away when the phase ends", moment=r"phase sft: done", then=hub_down
    ),
    "upload-cut": Scenario(
        "the upload is cut in the middle, three times", moment=r"sft step 20/", then=upload_cut
    ),
    "hub-refuses": Scenario(
        "the Hub refuses with 400, 401 and 403 for 15 s when the phase ends",
        moment=r"phase sft: done",
        then=hub_refuses,
    ),
    "hub-403-after-commit": Scenario(
        "the Hub refuses for 10 s to show what was uploaded",
        moment=r"uploading chatsft_checkpoints",
        then=refused_after_commit,
    ),
    "hub-drips": Scenario(
        "answers of the Hub come at a byte every two seconds when the phase ends",
        moment=r"phase sft: done",
        then=hub_drips,
    ),
    "storage-full": Scenario(
        "the Hub's storage is full when the phase ends; room is made later",
        moment=r"phase sft: done",
        then=storage_full,
    ),
    "repo-renamed": Scenario("HF_REPO was renamed since it was set", before=renamed),
    "clock-behind": Scenario(
        "the clocks of laptop and machine are 8 hours behind the provider's",
        before=clock_differs(8),
    ),
    "clock-ahead": Scenario(
        "the clocks of laptop and machine are 24 hours ahead of the provider's",
        before=clock_differs(-24),
    ),
    "delete-stuck": Scenario(
        "two deletes answer 200 and do nothing", before=switched("delete_ignored", 2)
    ),
}


class Player:
    """Plays a scenario's act when its moment comes."""

    def __init__(self, scenario: Scenario, world: World) -> None:
        self._scenario, self._world, self._left = (
            scenario,
            world,
            scenario.times if scenario.moment else 0,
        )
        self.played = 0

    def hear(self, line: str) -> None:
        """A line of the box's log."""
        if self._left and re.search(self._scenario.moment, line):
            self._left -= 1
            self.played += 1
            self._scenario.then(self._world)
