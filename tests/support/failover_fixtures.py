"""Shared by tests/launch/test_failover*.py."""

from __future__ import annotations

from tests.support.launch_fixtures import B200

FIRST, SECOND, THIRD = B200  # $33.60, $35.84, $38.40 an hour
