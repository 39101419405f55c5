"""The forecast of a foreign trainer: only what earlier runs of the same checkout took on as many of the same GPUs. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median

from nanolan.cost.history import NEWEST
from nanolan.run.ledger import Entry
from nanolan.run.record import Receipt
from nanolan.shadeform.offers import Offer

OTHER_STAGES = ("boot", "setup", "install", "download", "probation")


def stage_seconds(
    fork: tuple[str, str],
    phases: tuple[str, ...],
    scope: str,
    offer: Offer,
    entries: Iterable[Entry],
) -> dict[str, list[float]] | None:
    """Seconds by stage ("sft.train", "boot", ...) of the newest runs of `fork`, its row and source; None unless every phase was
    trained, and evaluated with this `scope`."""
    found: dict[str, list[float]] = {}
    for entry in entries:
        if entry.receipt and _is_alike(entry, fork, offer):
            for stage, seconds in _stages(entry, entry.receipt, scope):
                found.setdefault(stage, []).append(seconds)
    needed = [f"{p}.train" for p in phases]
    needed += [f"{p}.evaluate" for p in phases] if scope != "none" else []
    if any(stage not in found for stage in needed):
        return None
    return {stage: seconds[:NEWEST] for stage, seconds in found.items()}


def _is_alike(entry: Entry, fork: tuple[str, str], offer: Offer) -> bool:
    plan = entry.plan
    same = plan.fork is not None and (plan.fork.row, plan.fork.source) == fork
    return (
        same
        and plan.device == "cuda"
        and (plan.offer.gpu, plan.offer.num_gpus) == (offer.gpu, offer.num_gpus)
    )


def _stages(entry: Entry, receipt: Receipt, scope: str) -> Iterable[tuple[str, float]]:
    """The stages of proven phases that were trained from their beginning, and those of the machine."""
    plan = entry.plan
    for stage, seconds in receipt.stages.items():
        phase, _, part = stage.partition(".")
        whole = phase in receipt.phases and receipt.phases[phase].state == "proven"
        resumed = plan.resume is not None and phase == plan.phases[0]
        trained = part in ("train", "upload") and whole and not resumed
        evaluated = part == "evaluate" and whole and plan.evaluate == scope
        if seconds > 0 and (stage in OTHER_STAGES or trained or evaluated):
            yield stage, float(seconds)


def usual_seconds(found: dict[str, list[float]], *stages: str) -> list[float]:
    """The sum of the medians of some stages, as a list of one; [] if none is known."""
    known = [median(found[s]) for s in stages if s in found]
    return [sum(known)] if known else []
