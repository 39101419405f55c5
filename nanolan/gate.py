"""A condition on what a phase measured, such as "val_bpb<0.5": the next phase begins only if it holds. Pure."""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass

from nanolan.errors import UsageProblem

COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


@dataclass(frozen=True)
class Gate:
    """`name` compared with `value`."""

    name: str
    sign: str
    value: float


def parse_gate(text: str) -> Gate:
    """The Gate of a text; UsageProblem when it is none."""
    m = re.fullmatch(
        r"\s*([A-Za-z][A-Za-z0-9_]{0,39})\s*(<=|>=|<|>)\s*(-?[0-9]{1,6}(?:\.[0-9]{1,6})?)\s*", text
    )
    if not m:
        raise UsageProblem(
            f"gate {text[:60]!r}: write it as name<number or name>number, such as val_bpb<0.5"
        )
    return Gate(m[1], m[2], float(m[3]))


def closed(text: str, measured: Mapping[str, float | None]) -> str:
    """Why the gate stays shut under what was measured, or "" when it is open; a missing number never opens it."""
    gate = parse_gate(text)
    have = measured.get(gate.name)
    if have is None:
        known = ", ".join(sorted(k for k, v in measured.items() if v is not None)) or "nothing"
        return f"the gate {text!r} asks for {gate.name}, which was not measured (there is {known})"
    return (
        ""
        if COMPARE[gate.sign](have, gate.value)
        else f"{gate.name} is {have:.4g}, the gate asks for {text!r}"
    )
