"""The forecast of time and cost: the guide's figures at first, then measurements of earlier runs; never a guess."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from nanolan.checkpoint.model_size import D20
from nanolan.cost.forecast import GPU_SPEED, Forecast, Work, forecast, forecaster, work_of
from nanolan.cost.history import BYTES_PER_PARAMETER, TOKENS
from nanolan.money import cost_cents
from nanolan.plan import Pinned, PinnedFile, Plan
from nanolan.run.ledger import Entry, Ledger
from nanolan.run.record import PhaseReport, Receipt
from nanolan.settings.load import load_settings
from nanolan.shadeform.offers import Offer
from tests.support.core_fixtures import a_plan

ALL = ("mid", "sft", "rl")


def offer(gpu: str = "H100", n: int = 8, cents: int = 2400, **more: Any) -> Offer:
    return Offer("c", "r", "t", gpu, n, 80, cents, (), **more)


def forecast_of(*phases: str, on: Offer | None = None, **work: Any) -> Forecast:
    found = forecast(Work(phases or ("sft",), **work), on or offer(), {})
    assert found
    return found


# ---- the guide's figures


@pytest.mark.parametrize(
    "phases, gpu, hourly, minutes, dollars",
    [
        (("mid",), "H100", 2400, (60, 60), (24, 24)),
        (("mid",), "B200", 3360, (45, 45), (25, 25)),
        (("sft",), "H100", 2400, (60, 60), (24, 24)),
        (("rl",), "H100", 2400, (60, 60), (24, 24)),
        (ALL, "H100", 2400, (180, 240), (80, 100)),
    ],
)
def test_the_guides_time_and_dollars_lie_between_low_and_high(
    phases: tuple[str, ...],
    gpu: str,
    hourly: int,
    minutes: tuple[int, int],
    dollars: tuple[int, int],
) -> None:
    f = forecast_of(*phases, on=offer(gpu, cents=hourly))
    assert f.hours.low * 60 < minutes[0] <= minutes[1] < f.hours.high * 60
    assert f.low_cents < dollars[0] * 100 <= dollars[1] * 100 < f.high_cents
    if len(phases) == 1:  # and they are what is likely: nobody has measured anything better
        assert (
            abs(f.hours.likely * 60 - minutes[0]) < 1
            and abs(f.likely_cents - dollars[0] * 100) < 50
        )
    assert not f.own


def test_the_parts_make_the_whole_and_low_is_never_above_likely_nor_likely_above_high() -> None:
    for gpu in GPU_SPEED:
        for n in (1, 2, 4, 8):
            for scope in ("none", "quick", "full"):
                for parameters in (1, 10**6, D20, 10 * D20):
                    f = forecast_of(*ALL, on=offer(gpu, n), parameters=parameters, evaluate=scope)
                    assert set(f.parts) == {
                        "boot",
                        "setup",
                        "download",
                        "train",
                        "evaluate",
                        "upload",
                    }
                    assert all(
                        0 <= r.low <= r.likely <= r.high
                        for r in (*f.parts.values(), *f.phases.values())
                    )
                    assert f.seconds.likely == pytest.approx(
                        sum(r.likely for r in f.parts.values())
                    )
                    assert (
                        f.predicted.low_cents <= f.predicted.likely_cents <= f.predicted.high_cents
                    )


def test_more_work_costs_more_and_more_gpus_take_less() -> None:
    one = forecast_of("sft").seconds.likely
    assert (
        forecast_of("sft", "rl").seconds.likely
        > one
        < forecast_of("sft", evaluate="full").seconds.likely
    )
    assert forecast_of("sft", evaluate="none").parts["evaluate"] == (0, 0, 0)
    assert 6 < forecast_of("sft", on=offer(n=1)).seconds.likely / one < 8
    assert forecast_of("sft", on=offer(boot_max_s=2400)).parts["boot"].likely == 2400
    assert forecast_of("sft", download_bytes=10**12).seconds.likely > one + 3600


def test_training_time_grows_with_the_parameters_and_is_at_least_a_minute_a_phase() -> None:
    d20, d32 = (
        forecast_of("mid", parameters=n).parts["train"].likely for n in (D20, 1_879_048_192)
    )
    assert d32 / d20 == pytest.approx(1_879_048_192 / D20)
    assert forecast_of(*ALL, parameters=1).parts["train"] == (180, 180, 180)


def test_each_phase_has_an_upper_estimate_of_its_own_without_boot_and_uploads() -> None:
    f = forecast_of(*ALL)
    assert (
        set(f.predicted.phase_high_cents) == set(ALL)
        and sum(f.predicted.phase_high_cents.values()) < f.high_cents
    )


@pytest.mark.parametrize(
    "work, on",
    [
        (Work(("sft",)), offer("RTX4090")),
        (Work(("sft",)), offer("")),
        (Work(("sft",)), offer(n=0)),
        (Work(("sft",)), offer(n=-1)),
        (Work(("sft",), 0), offer()),
        (Work(("sft",), -5), offer()),
        (Work(()), offer()),
    ],
    ids=str,
)
def test_where_there_is_no_figure_there_is_no_forecast(work: Work, on: Offer) -> None:
    assert forecast(work, on, {}) is None and forecaster(work, [])(on) is None


def test_the_work_follows_the_settings_and_the_checkpoint_overrides_its_tag() -> None:
    s = load_settings({"phase": "mid+sft", "model_tag": "d32", "eval": "full"}, {})
    assert work_of(s) == Work(("mid", "sft"), 1_879_048_192, "full") and work_of(s, 7, 8) == Work(
        ("mid", "sft"), 7, "full", 8
    )


# ---- what earlier runs measured


class Clock:
    """The time of a machine, which moves only as its stages take it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.stages: dict[str, int] = {}

    def run(self, stage: str, seconds: float) -> None:
        before, self.now = round(self.now), self.now + seconds
        self.stages[stage] = round(self.now) - before


class Cloud:
    """The true speeds of somebody's machines, as far from the guide's as they may be. Drawn once; a run differs by noise.

    Noise: each stage's time is the true one x (1 + a normal deviation), of 2 % for what GPUs do (training, evaluation) and of
    5 % for what is waited for (boot, set-up, transfers, deletion).
    """

    COMPUTE, WAIT = 0.02, 0.05

    def __init__(self, dice: random.Random) -> None:
        def spread(least: float, most: float) -> float:
            return math.exp(dice.uniform(math.log(least), math.log(most)))

        self.dice = dice
        self.gpu, self.n = (
            dice.choice(["H100", "B200", "A100_80G", "RTX4090"]),
            dice.choice([1, 2, 8]),
        )
        self.hourly = dice.randrange(100, 6000)
        self.phases = dice.choice([("mid",), ("sft",), ("rl",), ("mid", "sft"), ("sft", "rl"), ALL])
        self.evaluate = dice.choice(["none", "quick", "full"])
        self.parameters, self.size_bytes = int(D20 * spread(0.3, 5)), int(spread(1e9, 1e10))
        self.boot_s, self.setup_s, self.delete_s = spread(60, 900), spread(60, 600), 30.0
        self.down, self.up = spread(2e7, 5e8), spread(2e7, 5e8)
        self.speed = {p: spread(0.5, 10) * {"mid": 17_800, "sft": 460, "rl": 840}[p] for p in ALL}
        self.tokens = {p: TOKENS[p] * spread(0.5, 2) for p in ALL}
        self.evaluate_s = {p: spread(30, 600) for p in ALL}

    def plan(self, number: int) -> Plan:
        plan = a_plan(
            run_id=f"{number:07x}f",
            created_at=f"2026-11-23T12:0{number}:00Z",
            phases=self.phases,
            parameters=self.parameters,
            evaluate=self.evaluate,
            inputs=(
                Pinned(
                    "me/x", "model", "e" * 40, (PinnedFile("model.pt", self.size_bytes, None, "a"),)
                ),
            ),
        )
        return structs.replace(
            plan,
            offer=structs.replace(
                plan.offer, cloud="c", gpu=self.gpu, num_gpus=self.n, hourly_cents=self.hourly
            ),
        )

    def run(self, number: int) -> tuple[Entry, int]:
        """A run under the fake clock: what the ledger gets to know of it, and the provider's bill."""
        clock, share = Clock(), self.parameters / D20 / self.n

        def take(stage: str, seconds: float, noise: float) -> None:
            clock.run(stage, seconds * (1 + self.dice.gauss(0, noise)))

        take("boot", self.boot_s, self.WAIT)
        take("setup", self.setup_s, self.WAIT)
        take("download", self.size_bytes / self.down, self.WAIT)
        for phase in self.phases:
            take(f"{phase}.train", self.tokens[phase] * share / self.speed[phase], self.COMPUTE)
            if self.evaluate != "none":
                take(f"{phase}.evaluate", self.evaluate_s[phase] * share * 8, self.COMPUTE)
        take(
            f"{self.phases[-1]}.upload", self.parameters * BYTES_PER_PARAMETER / self.up, self.WAIT
        )
        phases = {p: PhaseReport("proven", tokens=int(self.tokens[p])) for p in self.phases}
        plan = self.plan(number)
        receipt = Receipt(
            plan.run_id,
            "succeeded",
            phases=phases,
            seconds=round(clock.now),
            stages=dict(clock.stages),
        )
        take("delete", self.delete_s, self.WAIT)
        return Entry(plan, "i", gone=True, receipt=receipt), cost_cents(self.hourly, clock.now)

    def forecast_of(self, entries: list[Entry]) -> Forecast | None:
        work = Work(self.phases, self.parameters, self.evaluate, self.size_bytes)
        return forecaster(work, entries)(offer(self.gpu, self.n, self.hourly))


def test_after_three_runs_the_forecast_is_within_10_percent_over_1000_random_runs(
    tmp_path: Path,
) -> None:
    dice, off_before = random.Random(20261123), 0
    for world in range(1000):
        cloud, ledger = Cloud(dice), Ledger(tmp_path / str(world))
        entries = [cloud.run(number)[0] for number in range(3)][::-1]
        if world % 20 == 0:  # not all: 3,000 files synced to the disk take 10 seconds
            for e in entries:
                ledger.put(e)
            assert ledger.entries() == entries
        learned, before = cloud.forecast_of(entries), cloud.forecast_of([])
        _, bill = cloud.run(3)
        assert learned and learned.own and abs(learned.likely_cents / bill - 1) < 0.10, (
            world,
            vars(cloud),
        )
        assert learned.low_cents < bill < learned.high_cents
        off_before += before is None or abs(before.likely_cents / bill - 1) >= 0.10
    assert off_before > 800, "without the ledger the forecast was right as well: this shows nothing"


def test_one_odd_machine_of_three_does_not_move_the_forecast() -> None:
    cloud = Cloud(random.Random(5))
    entries = [cloud.run(n)[0] for n in (2, 1, 0)]
    good = cloud.forecast_of(entries)
    middle = entries[1].receipt
    assert middle
    slow = structs.replace(
        middle, seconds=10**6, stages={name: 20 * s for name, s in middle.stages.items()}
    )
    odd = structs.replace(entries[1], receipt=slow)
    moved = cloud.forecast_of([entries[0], odd, entries[2]])
    assert (
        good
        and moved
        and abs(moved.likely_cents / good.likely_cents - 1) < 0.10
        and moved.high_cents > 10 * good.high_cents
    )


def test_the_newest_three_runs_count_and_older_ones_no_longer() -> None:
    dice = random.Random(6)
    slow, fast = Cloud(dice), Cloud(dice)
    fast.__dict__.update(
        {**slow.__dict__, "speed": {p: 4 * v for p, v in slow.speed.items()}, "dice": dice}
    )
    entries = [fast.run(n)[0] for n in (5, 4, 3)] + [slow.run(n)[0] for n in (2, 1, 0)]
    assert (
        cloud_cents(fast, entries)
        == cloud_cents(fast, entries[:3])
        < cloud_cents(slow, entries[3:])
    )


def cloud_cents(cloud: Cloud, entries: list[Entry]) -> int:
    found = cloud.forecast_of(entries)
    assert found
    return found.likely_cents
