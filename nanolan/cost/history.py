"""Measurements of earlier runs: the newest figures in the ledger's receipts, by kind. Pure.

    ("boot", cloud)                   seconds            ("speed", gpu, phase)            tokens per second of one GPU, for a d20
    ("setup",)                        seconds            ("tokens", phase)                trained, or generated in rl
    ("download",), ("upload",)        bytes per second   ("evaluate", gpu, phase, scope)  seconds of one GPU, for a d20

Receipts come from rented instances, so implausible figures are dropped. A rehearsal learns from earlier rehearsals of the
same recipe, by the same rules.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from nanolan.checkpoint.model_size import D20, parameters_of_tag
from nanolan.plan import Plan
from nanolan.run.ledger import Entry
from nanolan.run.record import Receipt

Figures = Mapping[tuple[str, ...], tuple[float, ...]]

TOKENS = {
    "mid": 424e6,
    "sft": 11e6,
    "rl": 20e6,
}  # published: 809 steps of 524,288; 22,439 rows of about 490; 467 x 256 answers
BYTES_PER_PARAMETER = 3.71  # of a checkpoint file: embedding in bf16, the rest in fp32
NEWEST = 3  # runs whose figures count
ALIKE = 4.0  # a model more than this many times bigger or smaller is not comparable
LEAST_TRAIN_S = 10  # the minimum to start, compile and train a phase
MOST_FLOPS = 5e15  # per second, above any GPU
MOST_TOKENS = 10  # times the usual
LONGEST_S = 30 * 86400


def measured(
    entries: Iterable[Entry], parameters: int, recipe: Mapping[str, object] | None = None
) -> Figures:
    """The figures of the newest three runs that have them; `entries` are newest first, as in Ledger.entries().

    With the `recipe` of a rehearsal, only rehearsals of the same recipe count."""
    found: defaultdict[tuple[str, ...], list[float]] = defaultdict(list)
    for e in entries:
        # a foreign trainer's speed says nothing of ours
        if (
            e.receipt
            and e.plan.fork is None
            and (
                _is_comparable(e.plan, parameters)
                if recipe is None
                else e.plan.device == "cpu" and e.plan.recipe == recipe
            )
        ):
            for key, value in figures_of(e.plan, e.receipt):
                if len(found[key]) < NEWEST:
                    found[key].append(value)
    return {key: tuple(values) for key, values in found.items()}


def _is_comparable(plan: Plan, parameters: int) -> bool:
    """Whether it is a run of the usual recipe, on GPUs, with a model of similar size."""
    return (
        plan.device == "cuda"
        and not plan.recipe
        and 1 / ALIKE <= _size(plan) * D20 / parameters <= ALIKE
    )


def _size(plan: Plan) -> float:
    return (plan.parameters or parameters_of_tag(plan.model_tag)) / D20


def figures_of(plan: Plan, receipt: Receipt) -> Iterator[tuple[tuple[str, ...], float]]:
    """Every figure in the receipt of one run."""
    longest = LONGEST_S if receipt.seconds is None else receipt.seconds
    stage = {name: s for name, s in receipt.stages.items() if 0 < s <= longest}
    if "boot" in stage:
        yield ("boot", plan.offer.cloud), stage["boot"]
    if "setup" in stage:
        yield ("setup",), stage["setup"] + stage.get("idle", 0)
    size_bytes = sum(p.size for p in (*plan.inputs, *plan.datasets))
    if "download" in stage and size_bytes:
        yield ("download",), size_bytes / stage["download"]
    if s := stage.get(
        f"{plan.phases[-1]}.upload"
    ):  # earlier uploads overlap with the next phase's training
        yield ("upload",), _size(plan) * D20 * BYTES_PER_PARAMETER / s
    for phase in plan.phases:
        if phase in receipt.phases and receipt.phases[phase].state == "proven":
            yield from _phase_figures(plan, phase, receipt.phases[phase].tokens, stage)


def _phase_figures(
    plan: Plan, phase: str, reported_tokens: int | None, stage: Mapping[str, int]
) -> Iterator[tuple[tuple[str, ...], float]]:
    gpu, n, resumed = (
        plan.offer.gpu,
        plan.offer.num_gpus,
        plan.resume is not None and phase == plan.phases[0],
    )
    s, tokens = (
        stage.get(f"{phase}.train", 0),
        reported_tokens if reported_tokens is not None else None if resumed else TOKENS[phase],
    )
    if (
        s >= (LEAST_TRAIN_S if plan.device == "cuda" else 1)
        and tokens
        and 0 < tokens <= MOST_TOKENS * TOKENS[phase]
    ):
        speed = tokens * _size(plan) / (s * n)
        if 6 * D20 * speed <= MOST_FLOPS:
            yield ("speed", gpu, phase), speed
            if not resumed:
                yield ("tokens", phase), tokens
    if s := stage.get(f"{phase}.evaluate", 0):
        yield ("evaluate", gpu, phase, plan.evaluate), s * n / _size(plan)
