"""The forecast of a run's time and cost: low, likely and high, from published times and measurements of earlier runs. Pure.

The likely times are the guide's, for the old scripts; this trainer is not measured on these GPUs yet. The first
receipts replace them: see nanolan/cost/history.py. Without figures there is no forecast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from nanolan.checkpoint.model_size import D20, parameters_of_tag
from nanolan.cost.budget import upload_minutes
from nanolan.cost.fork_forecast import stage_seconds, usual_seconds
from nanolan.cost.gpu_check import GpuCheck, usual_steps, with_checks
from nanolan.cost.history import BYTES_PER_PARAMETER, TOKENS, Figures, measured
from nanolan.cost.ranges import NOTHING, Range, total
from nanolan.cost.spot import Preemptions, preemptions, repeated_s
from nanolan.money import cost_cents, dollars
from nanolan.plan import Fork, Predicted
from nanolan.run.ledger import Entry
from nanolan.settings.settings import OWN_TRAINER, Settings
from nanolan.shadeform.offers import Offer

# Tokens per second of one GPU with a d20. From the guide: 60 minutes on 8xH100 for each phase with its other parts, and 45 for
# mid on 8xB200
GUIDE_SPEED = {
    ("mid", "H100"): 17_800,
    ("mid", "B200"): 25_500,
    ("sft", "H100"): 460,
    ("rl", "H100"): 840,
}
# nanochat's published run reports of 2025-11-11 (mid in 10:02, sft in 2:26) and 2025-10-16 (rl in 43:25), 8xH100 SXM: the low end
PUBLISHED_SPEED = {"mid": 88_000, "sft": 9_400, "rl": 960}
# Relative to H100, from public bf16 training throughput; 45 of 60 minutes gives B200 its 1.33
GPU_SPEED = {
    "B300": 1.5,
    "B200": 1.33,
    "H200": 1.1,
    "GH200": 1.0,
    "H100": 1.0,
    "H100_nvl": 0.9,
    "A100_80G": 0.42,
    "A100": 0.42,
    "L40S": 0.25,
    "A6000": 0.14,
}
# Seconds from the same reports; rl's covered only one task, so sft's is used. Quick: 1/14 of the long answers, plus the start
EVALUATE_S = {"mid": 469.0, "sft": 408.0, "rl": 408.0}
SCOPES = {"none": 0.0, "quick": 0.1, "full": 1.0}
PUBLISHED_ON = 8  # GPUs
BOOT_S = 300.0  # if the provider reports no boot time
SETUP_S = 180.0  # 3 GB of packages
DATA_BYTES = 1e9  # data sets, before they are pinned
DOWNLOAD_BYTES_S, UPLOAD_BYTES_S = (
    100e6,
    50e6,
)  # bytes a second: the Hub's client made 106-205 MB/s against a server beside it
END_S = 30.0  # proof, receipt, deletion
LEAST_PHASE_S = 60.0  # a phase of the smallest model: start, data sets, compile
HIGH = 1.6  # times the likely training: covers the guide's "3-4 hours, $80-100"
LOOSE = Range(0.5, 1.0, 2.0)  # times an unmeasured estimate
NETWORK = Range(0.3, 1.0, 4.0)
MEASURED = Range(0.9, 1.0, 1.2)  # times the minimum, median and maximum of the measurements
BEGINNING = ("boot", "setup", "download")  # parts that every instance of a run has


@dataclass(frozen=True)
class Work:
    """The properties of a run that determine its cost."""

    phases: tuple[str, ...]
    parameters: int = D20
    evaluate: str = "quick"
    download_bytes: int | None = None  # None: nothing is pinned yet
    recipe: Mapping[str, object] | None = (
        None  # of a rehearsal: only earlier rehearsals have figures for it
    )
    fork: tuple[str, str] | None = None  # row and source of a foreign trainer
    save_minutes: float = 10.0
    upload_minutes: float | None = None  # None: as many as cost $5


@dataclass(frozen=True)
class Forecast:
    """Seconds of a run by part (boot, setup, download, train, evaluate, upload), from create to delete; two of them by phase.

    On a spot instance one more part, `again`: what is repeated after preemptions."""

    hourly_cents: int
    parts: dict[str, Range]
    train: dict[str, Range]
    evaluate: dict[str, Range]
    own: bool  # the speed of every phase was measured
    checked: bool = False  # that of some phases by `just gpu-check`, not by earlier runs
    spot: Preemptions | None = None  # None: on demand

    @property
    def phases(self) -> dict[str, Range]:
        """Training and evaluation of each phase."""
        return {p: total(self.train[p], self.evaluate[p]) for p in self.train}

    @property
    def seconds(self) -> Range:
        return total(*self.parts.values())

    @property
    def hours(self) -> Range:
        return Range(*(s / 3600 for s in self.seconds))

    @property
    def low_cents(self) -> int:
        return cost_cents(self.hourly_cents, self.seconds.low)

    @property
    def likely_cents(self) -> int:
        return cost_cents(self.hourly_cents, self.seconds.likely)

    @property
    def high_cents(self) -> int:
        return cost_cents(self.hourly_cents, self.seconds.high)

    @property
    def predicted(self) -> Predicted:
        """The part that the plan and the receipt store."""
        return Predicted(
            self.low_cents,
            self.likely_cents,
            self.high_cents,
            {p: cost_cents(self.hourly_cents, r.high) for p, r in self.phases.items()},
            self.stage_s,
        )

    @property
    def stage_s(self) -> dict[str, int]:
        """Likely seconds by stage, as in Predicted."""
        apart = ("train", "evaluate", "again")
        stages = {part: r for part, r in self.parts.items() if part not in apart}
        stages |= {f"{p}.train": r for p, r in self.train.items()} | {
            f"{p}.evaluate": r for p, r in self.evaluate.items()
        }
        return {stage: round(r.likely) for stage, r in stages.items()}

    def text(self) -> str:
        """The three costs and their source."""
        hours = self.hours.likely
        measured = "measured by gpu-check" if self.checked else "measured by earlier runs"
        source = measured if self.own else "by the guide"
        source += f"; {self.spot.text}" if self.spot else ""
        time = f"{hours:.1f} h" if hours >= 0.05 else f"{3600 * hours:.0f} s"
        return (
            f"likely {dollars(self.likely_cents)} in {time}, low {dollars(self.low_cents)}, high {dollars(self.high_cents)} "
            f"({source})"
        )


def work_of(
    settings: Settings, parameters: int | None = None, download_bytes: int | None = None
) -> Work:
    """The work that the settings ask for; the model's size follows from its tag unless `parameters` is given. The size
    of a foreign trainer's model says nothing: 0."""
    if parameters is None:
        parameters = parameters_of_tag(settings.model_tag)
    return Work(
        settings.phases,
        parameters if settings.trainer == OWN_TRAINER else 0,
        settings.eval,
        download_bytes,
        fork=(settings.fork.row, settings.fork.source) if settings.fork else None,
        save_minutes=settings.save_minutes,
        upload_minutes=settings.upload_minutes,
    )


def no_figures(fork: Fork | None) -> str:
    """Why there is no forecast."""
    return f"no figures for this {'trainer' if fork else 'GPU'}"


def forecaster(
    work: Work, entries: Iterable[Entry], checks: Sequence[GpuCheck] = ()
) -> Callable[[Offer], Forecast | None]:
    """A function that forecasts `work` on an offer from the measurements in the ledger, else from checks of such GPUs."""
    entries = tuple(entries)
    rate = preemptions(entries)
    if work.fork:
        fork = work.fork
        return lambda offer: _on_spot(_of_fork(work, fork, offer, entries), work, offer, rate)
    figures = measured(entries, work.parameters, work.recipe) if work.parameters > 0 else {}
    known = with_checks(figures, checks) if work.recipe is None else figures

    def on_offer(offer: Offer) -> Forecast | None:
        found = _on_spot(forecast(work, offer, known), work, offer, rate)
        by_runs = all(("speed", offer.gpu, p) in figures for p in work.phases)
        return replace(found, checked=True) if found and found.own and not by_runs else found

    return on_offer


def _on_spot(
    found: Forecast | None, work: Work, offer: Offer, rate: Preemptions
) -> Forecast | None:
    """The forecast with what is repeated after preemptions, if the offer is spot: a new boot, and the training since the state
    uploaded last (on average half of the interval; of a foreign trainer, which cannot resume, half a phase)."""
    if found is None or not offer.spot:
        return found
    interval = max(work.save_minutes, work.upload_minutes or upload_minutes(offer.hourly_cents))
    lost = max(found.train.values()) if work.fork else Range(*(60 * interval,) * 3)
    again = total(Range(*(s / 2 for s in lost)), *(found.parts[p] for p in BEGINNING))
    parts = found.parts | {"again": repeated_s(found.seconds, again, rate.every_h)}
    return replace(found, parts=parts, spot=rate)


def _of_fork(
    work: Work, fork: tuple[str, str], offer: Offer, entries: Iterable[Entry]
) -> Forecast | None:
    """The forecast of a foreign trainer; None before it has run on such GPUs."""
    found = stage_seconds(fork, work.phases, work.evaluate, offer, entries)
    if found is None:
        return None
    train = {p: _around(found[f"{p}.train"]) or NOTHING for p in work.phases}
    evaluate = {p: _around(found.get(f"{p}.evaluate", ())) or NOTHING for p in work.phases}
    last = work.phases[-1]
    parts = {
        "boot": _around(usual_seconds(found, "boot")) or _times(LOOSE, offer.boot_max_s or BOOT_S),
        "setup": _around(usual_seconds(found, "setup", "install", "probation"))
        or _times(LOOSE, SETUP_S),
        "download": _around(usual_seconds(found, "download")) or NOTHING,
        "train": total(*train.values()),
        "evaluate": total(*evaluate.values()),
        "upload": total(
            _around(usual_seconds(found, f"{last}.upload")) or NOTHING, _times(LOOSE, END_S)
        ),
    }
    return Forecast(offer.hourly_cents, parts, train, evaluate, True)


def forecast(work: Work, offer: Offer, figures: Figures) -> Forecast | None:
    """The forecast of `work` on `offer`; None if a needed figure is missing."""
    if work.parameters < 1 or offer.num_gpus < 1 or not work.phases:
        return None
    train = {p: r for p in work.phases if (r := _train(p, work, offer, figures))}
    evaluate = {p: r for p in work.phases if (r := _evaluate(p, work, offer, figures))}
    if len(train) + len(evaluate) < 2 * len(work.phases):
        return None
    guess = _times if work.recipe is None else _no_guess
    model_bytes = work.parameters * BYTES_PER_PARAMETER
    download = model_bytes + DATA_BYTES if work.download_bytes is None else work.download_bytes
    upload = _around(model_bytes / v for v in figures.get(("upload",), ())) or guess(
        NETWORK, model_bytes / UPLOAD_BYTES_S
    )
    parts = {
        "boot": _around(figures.get(("boot", offer.cloud), ()))
        or guess(LOOSE, offer.boot_max_s or BOOT_S),
        "setup": _around(figures.get(("setup",), ())) or guess(LOOSE, SETUP_S),
        "download": _around(download / v for v in figures.get(("download",), ()))
        or guess(NETWORK, download / DOWNLOAD_BYTES_S),
        "train": total(*train.values()),
        "evaluate": total(*evaluate.values()),
        # only the last phase's: earlier uploads overlap with the next phase's training
        "upload": total(upload, guess(Range(1.0, 1.0, 1.0), END_S)),
    }
    return Forecast(
        offer.hourly_cents,
        parts,
        train,
        evaluate,
        all(("speed", offer.gpu, p) in figures for p in work.phases),
    )


def usual(
    work: Work, offer: Offer, entries: Iterable[Entry], checks: Sequence[GpuCheck] = ()
) -> tuple[dict[str, float], int]:
    """The usual speeds on such an instance (Plan.usual): tokens/s by phase, bytes/s of the download; and the number of runs.

    Without any run, the steps of a check: a slow machine then gets a warning.
    """
    figures = measured(entries, work.parameters) if work.parameters > 0 else {}
    scale = offer.num_gpus * D20 / max(work.parameters, 1)
    found = {
        p: figures["speed", offer.gpu, p] for p in work.phases if ("speed", offer.gpu, p) in figures
    }
    speeds = {p: median(v) * scale for p, v in found.items()}
    if not found:
        steps = usual_steps(checks, offer.gpu)
        speeds = {p: steps[p] * scale for p in work.phases if p in steps}
    hub = {"download": median(figures["download",])} if ("download",) in figures else {}
    return speeds | hub, min((len(v) for v in found.values()), default=0)


def _train(phase: str, work: Work, offer: Offer, figures: Figures) -> Range | None:
    """Seconds of a phase's training: its tokens over the speed of this GPU, scaled by the model's size (6N FLOPs per token)."""
    tokens = (
        median(figures.get(("tokens", phase), (TOKENS[phase],)))
        * work.parameters
        / D20
        / offer.num_gpus
    )
    own = _around(tokens / v for v in figures.get(("speed", offer.gpu, phase), ()))
    if own or offer.gpu not in GPU_SPEED or work.recipe is not None:
        return own
    relative = GPU_SPEED[offer.gpu]
    likely = tokens / GUIDE_SPEED.get((phase, offer.gpu), GUIDE_SPEED[phase, "H100"] * relative)
    low = min(likely, tokens / (PUBLISHED_SPEED[phase] * relative))
    return Range(*(max(LEAST_PHASE_S, s) for s in (low, likely, likely * HIGH)))


def _evaluate(phase: str, work: Work, offer: Offer, figures: Figures) -> Range | None:
    scale = work.parameters / D20 / offer.num_gpus
    own = _around(s * scale for s in figures.get(("evaluate", offer.gpu, phase, work.evaluate), ()))
    if work.evaluate == "none":
        return NOTHING
    if work.recipe is not None:
        return own or NOTHING
    if own or offer.gpu not in GPU_SPEED:
        return own
    return _times(
        LOOSE,
        EVALUATE_S[phase] * SCOPES[work.evaluate] * PUBLISHED_ON * scale / GPU_SPEED[offer.gpu],
    )


def _times(spread: Range, likely: float) -> Range:
    return Range(*(factor * likely for factor in spread))


def _no_guess(spread: Range, likely: float) -> Range:
    """The estimate in a rehearsal: stages that its receipts omit took less than a second."""
    return NOTHING


def _around(measured: Iterable[float]) -> Range | None:
    """The range around the measurements, or None."""
    values = list(measured)
    return (
        Range(MEASURED.low * min(values), median(values), MEASURED.high * max(values))
        if values
        else None
    )
