"""Faults for rehearsals, and the required outcome of each. A new one is a row of SCENARIOS.

    just rehearse fault=hang            one of them
    just rehearse-faults                all of them, as a table

A scenario changes the world before the launch, or acts when a line of the box's log matches its `moment`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nanolan.sim.scenarios_box import (
    KILL,
    PAUSE,
    disk_full,
    is_box_program,
    is_rank,
    is_torchrun,
    no_process,
    reboot,
    send,
)
from nanolan.sim.scenarios_cloud import (
    Act,
    all_of,
    ask_to_stop,
    clock_differs,
    multiply_prices,
    odd_records,
    preempt,
    refused,
    slow_between_attempts,
    stop_after_the_first_machine,
    switched,
    troubled,
    vanish,
)
from nanolan.sim.scenarios_hub import (
    hub_down,
    hub_drips,
    hub_refuses,
    refused_after_commit,
    renamed,
    storage_full,
    upload_cut,
)

# 150 steps of about 0.1 s, a state every second: long enough for a fault in between
LONG = {"max_steps": 150}
ENDLESS = {"max_steps": 2000}
# A step as nanolan's trainer prints it, as forks of 2026 do, and as sft of 2025 does
STEP = r"(?:sft step {0}/|^step 0*{0} \(|^Step 0*{0}/)"
TRAINED = STEP.format("40")
STATES = ("save-minutes=0.02", "upload-minutes=0.03", "eval=none")


@dataclass(frozen=True)
class Scenario:
    """One fault: its description, how it is injected, and how the run must end."""

    what: str
    verdict: str = "succeeded"
    reason: str = ""
    exit_code: int = 0
    words: tuple[str, ...] = ()  # additional options of the launch
    recipe: Mapping[str, Any] = field(default_factory=dict)  # changes to the rehearsal's recipe
    watch_s: Mapping[str, float] = field(default_factory=dict)
    usual: Mapping[str, float] = field(default_factory=dict)
    before: Act = lambda world: None
    moment: str = ""  # a pattern; `then` acts at a matching line of the box's log
    # Returns False if it has done nothing: then the line does not count
    then: Act = lambda world: None
    times: int = 1  # how many matching lines count
    most_lost: int = 0  # how many steps may be lost
    resume: bool = False  # afterwards `just resume` finishes it


# ------------------------------------------------------------------ helpers for rows with common options
def other_offer(what: str, before: Act) -> Scenario:
    """`before` spoils the first offer; the launch may take the next one."""
    return Scenario(what, before=before, words=("max-price=60",))


def spend_limit(what: str, before: Act) -> Scenario:
    """`before` makes the run reach its spend limit."""
    return Scenario(
        what,
        "stopped",
        "spend_limit",
        6,
        words=(*STATES, "spend-limit=200", "--yes-really"),
        recipe=ENDLESS,
        before=before,
        most_lost=2,
    )


def mid_training(what: str, then: Act, most_lost: int = 60, **more: Any) -> Scenario:
    """`then` acts after 40 steps of sft."""
    options = {"words": STATES, "recipe": LONG, "moment": TRAINED, "then": then, **more}
    return Scenario(what, most_lost=most_lost, **options)


def phase_end(what: str, then: Act) -> Scenario:
    """`then` acts when sft is done and not yet uploaded."""
    return Scenario(what, moment=r"phase sft: done", then=then)


SCENARIOS: dict[str, Scenario] = {
    # ---- renting
    "stockout": other_offer(
        "the offer is sold out on create; the next one is rented", refused("out_of_stock")
    ),
    "stock-late": Scenario(
        "nothing is in stock at first; the launch waits for it",
        words=("wait=3m",),
        before=switched("no_stock", 8.0),
    ),
    "create-lost": Scenario(
        "the instance is created, the answer is lost", before=refused("reset_after_effect")
    ),
    "price": other_offer(
        "the instance costs more than was agreed to; deleted, the next offer is rented",
        switched("price_differs", 9900, 1),
    ),
    "boot-stuck": other_offer(
        "the instance never boots; deleted, the next offer is rented",
        switched("stuck_in_pending_provider", True, 1),
    ),
    "boot-error": other_offer(
        "the provider reports an error; deleted, the next offer is rented",
        switched("goes_to_error", True, 1),
    ),
    "wrong-gpus": other_offer(
        "a GPU is missing; the instance deletes itself, the next offer is rented",
        switched("gpu_count_wrong", 7, 1),
    ),
    "slow-box": Scenario(
        "a tenth of the usual speed; reported, and replaced once three runs have measured",
        words=("eval=none",),
        usual={"sft": 1e6},
    ),
    "list-lags": Scenario(
        "the instance is created, the answer is lost, and the listing shows it 8 s later",
        before=all_of(refused("reset_after_effect"), switched("list_lag", 8.0)),
    ),
    "stop-between": Scenario(
        "stopped between two attempts of its launch, when there is no instance",
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
    "came-back": other_offer(
        "an instance that was confirmed deleted comes back before the next attempt",
        all_of(
            switched("goes_to_error", True, 1),
            switched("comes_back", 0.5, 1),
            slow_between_attempts(3.0),
        ),
    ),
    "odd-records": Scenario(
        "the account lists a colleague's instances with fields of other types, and records that are not instances",
        before=odd_records,
    ),
    # ---- limits
    "limit": spend_limit("the money runs out during training", multiply_prices(428)),
    "price-rises": spend_limit(
        "the price triples after the create, the provider's figure is frozen",
        all_of(multiply_prices(143), switched("price_rises", 0.5), switched("cost_frozen")),
    ),
    "limit-dropped": spend_limit(
        "the provider drops the limits after they were read back",
        all_of(multiply_prices(428), switched("limits_dropped", 1.0)),
    ),
    "deadline": Scenario(
        "the time runs out during training",
        "stopped",
        "max_duration",
        6,
        recipe=ENDLESS,
        words=(*STATES, "max-duration=80s", "--yes-really"),
        most_lost=2,
    ),
    "gate": Scenario(
        "the gate after mid does not pass",
        "stopped",
        "gate",
        6,
        words=("phase=mid+sft", "gate=val_bpb<0.01"),
    ),
    "stop": mid_training(
        "the user stops the run from another laptop",
        ask_to_stop,
        most_lost=2,
        verdict="stopped",
        reason="user",
        exit_code=5,
    ),
    # ---- the trainer
    "hang": mid_training("a rank hangs", send(PAUSE, is_rank), watch_s={"train": 6.0}),
    "nan": Scenario(
        "sft's loss is NaN, twice; mid is safe",
        "failed",
        "nan",
        5,
        words=("phase=mid+sft", "eval=none"),
        recipe={"sft": {"matrix_lr": 9e12, "init_lr_frac": 9e12}},
        most_lost=10,
    ),
    "oom": mid_training(
        "a rank is killed, as by the kernel when memory runs out", send(KILL, is_rank)
    ),
    "oom-again": Scenario(
        "a rank is killed twice",
        "failed",
        "killed",
        5,
        words=STATES,
        recipe=LONG,
        moment=STEP.format("(?:4|8)0"),
        times=2,
        then=send(KILL, is_rank),
        most_lost=90,
    ),
    "kill-torchrun": mid_training(
        "torchrun is killed; its ranks must end too", send(KILL, is_torchrun)
    ),
    # ---- the instance
    "kill-box": mid_training("the box program is killed", send(KILL, is_box_program)),
    "reboot": mid_training("the instance reboots during training", reboot),
    "vanish": Scenario(
        "the provider removes the instance during training; resumed on another",
        words=STATES,
        recipe=LONG,
        moment=r"state of step \d+ proven",
        then=vanish,
        resume=True,
        most_lost=120,
    ),
    "preempted": mid_training(
        "a spot instance is taken away twice; each time the launch takes the run up on the next offer",
        preempt,
        words=(*STATES, "spot=only"),
        moment=STEP.format("60"),
        times=2,
        most_lost=180,
    ),
    "disk-full-boot": Scenario(
        "root's disk is full at the boot; plan and secrets are kept in memory",
        before=switched("home_takes_nothing"),
    ),
    "disk-full": mid_training(
        "the disk is full during training; the newest complete state is uploaded",
        disk_full,
        verdict="failed",
        reason="disk_full",
        exit_code=5,
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
        "apt's own timer holds its locks when the instance boots", before=troubled("apt-locked")
    ),
    "dns-late": Scenario(
        "no name resolves at first; apt says so with exit 0", before=troubled("dns-late")
    ),
    "apt-dead": Scenario(
        "one of apt's repositories is permanently unavailable",
        before=troubled("apt-repository-dead"),
    ),
    "dpkg-interrupted": Scenario(
        "an earlier installation was interrupted", before=troubled("dpkg-interrupted")
    ),
    "driver-late": Scenario(
        "the NVIDIA driver comes up after the startup script", before=troubled("driver-late")
    ),
    "smi-warns": Scenario(
        "nvidia-smi warns of a damaged infoROM and exits with 14", before=troubled("smi-warns")
    ),
    "df-broken": Scenario(
        "df cannot read one mount and exits with 1", before=troubled("df-broken")
    ),
    "no-hostname": Scenario(
        "the instance's own host name does not resolve", before=troubled("no-hostname")
    ),
    # ---- the Hub, and the end
    "hub-down": phase_end("the Hub is down when the phase ends", hub_down),
    "upload-cut": Scenario(
        "the upload is interrupted three times", moment=r"sft step 20/", then=upload_cut
    ),
    "hub-refuses": phase_end(
        "the Hub refuses with 400, 401 and 403 for 15 s when the phase ends", hub_refuses
    ),
    "hub-403-after-commit": Scenario(
        "for 10 s the Hub refuses reads of the upload",
        moment=r"uploading chatsft_checkpoints",
        then=refused_after_commit,
    ),
    "hub-drips": phase_end(
        "the Hub answers with a byte every two seconds when the phase ends", hub_drips
    ),
    "storage-full": phase_end(
        "the Hub's storage is full when the phase ends; space is freed later", storage_full
    ),
    "repo-renamed": Scenario("HF_REPO was renamed since it was set", before=renamed),
    "clock-behind": Scenario(
        "the clocks of laptop and instance are 8 hours behind the provider's",
        before=clock_differs(8),
    ),
    "clock-ahead": Scenario(
        "the clocks of laptop and instance are 24 hours ahead of the provider's",
        before=clock_differs(-24),
    ),
    "delete-stuck": Scenario(
        "two deletes answer 200 without effect", before=switched("delete_ignored", 2)
    ),
    "delete-reverted": Scenario(
        "the deletion begins and is taken back; the instance, which runs on, deletes itself again",
        before=switched("deletion_reverted", 0.1),
    ),
}
