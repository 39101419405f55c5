"""Whether a fork's batch settings work on a number of GPUs: its scripts assert this only after the model was loaded. Pure.

The recipe is never changed here: a setting that does not fit is refused, with the numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def batch_problem(values: Mapping[str, Any], processes: int) -> str:
    """What does not divide, or "". `values` are the options of a script by name; missing and None ones are not checked.

    The rules of nanochat's scripts: sft until 2026 examples % (rows x ranks); mid and newer sft tokens % (rows x length x
    ranks); rl questions % ranks and samples % rows.
    """
    rows, length = values.get("device_batch_size"), values.get("max_seq_len")
    rules = (
        ("target_examples_per_step", ("device_batch_size", rows)),
        ("total_batch_size", ("device_batch_size", rows), ("max_seq_len", length)),
        ("examples_per_step",),
    )
    for name, *parts in rules:
        found = _remainder(name, values.get(name), parts, processes)
        if found:
            return found
    return _remainder("num_samples", values.get("num_samples"), [("device_batch_size", rows)], None)


def _remainder(name: str, whole: Any, parts: list[tuple[str, Any]], processes: int | None) -> str:
    factors = [*parts, *([("GPUs", processes)] if processes else [])]
    if not _count(whole) or not all(_count(n) for _, n in factors):
        return ""
    product = 1
    for _, n in factors:
        product *= n
    if whole % product == 0:
        return ""
    words = " x ".join(f"{n} {what}" for what, n in factors)
    return f"{name}={whole} is no multiple of {words} = {product}"


def _count(value: Any) -> bool:
    return type(value) is int and value > 0
