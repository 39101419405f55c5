"""What is fuzzed: a name, what is drawn, and the law that holds for all of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from tests.fuzz import reading, running


@dataclass(frozen=True)
class Target:
    """One reader or renderer."""

    given: st.SearchStrategy[Any]
    law: Callable[[Any], None]


TARGETS = {
    "api": Target(reading.answers(), reading.api),
    "env": Target(reading.ENV, reading.env),
    "plan": Target(reading.PLANS, reading.plan),
    "manifest": Target(reading.MANIFESTS, reading.manifest),
    "told": Target(reading.TOLD, reading.told),
    "log": Target(reading.SCREEN, reading.log),
    "checkpoint": Target(running.CHECKPOINTS, running.checkpoint),
    "tokenizer": Target(running.tokenizers(), running.tokenizer),
    "jsonl": Target(running.LINES, running.jsonl),
    "calculator": Target(running.EXPRESSIONS, running.calculator),
    "renderer": Target(running.stories(), running.renderer),
}
