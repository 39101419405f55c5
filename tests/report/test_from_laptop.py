"""The story of a run as a laptop can tell it; scripts/report.py's tests take the whole way."""

from __future__ import annotations

import pytest

from nanolan.errors import ApiProblem, NotFound, Unreachable
from nanolan.report.from_laptop import look, where
from nanolan.status.view import RunView
from tests.status.test_status import LIVE
from tests.support.status_fixtures import TRAINING


def fails(error: Exception) -> bytes:
    raise error


def test_what_is_not_there_is_no_problem_and_what_cannot_be_seen_is_one() -> None:
    assert look(lambda: b"x") == (b"x", "")
    assert look(lambda: fails(NotFound("none"))) == (None, "")
    assert look(lambda: fails(Unreachable("no answer"))) == (None, "no answer")
    assert look(lambda: fails(ApiProblem("refused"))) == (None, "refused")


@pytest.mark.parametrize(
    "step, said", [(None, ""), (3, "step 3 of 9 (reported at 2026-01-28T20:53:39Z)")]
)
def test_where_a_run_is_is_said_with_the_time_it_was_told(step: int | None, said: str) -> None:
    from msgspec.structs import replace

    assert where(RunView(LIVE, "training", progress=replace(TRAINING, step=step, steps=9))) == said
    assert where(RunView(LIVE, "booting")) == ""
