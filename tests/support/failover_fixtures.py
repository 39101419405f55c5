"""Shared by tests/launch/test_failover*.py."""

from __future__ import annotations

from nanolan.run.ledger import Attempt
from tests.support.launch_fixtures import B200

FIRST, SECOND, THIRD = B200  # $33.60, $35.84, $38.40 an hour


def spent(*cents: int) -> tuple[Attempt, ...]:
    return tuple(Attempt(n, f"i-{n}", c, "words") for n, c in enumerate(cents, 1))
