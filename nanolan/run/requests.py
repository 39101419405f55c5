"""Requests of the laptop to a running box: small files that `just stop` and `just limit` put into the run folder."""

from __future__ import annotations

import msgspec

STOP_FILE = "stop.json"  # in the run folder
LIMIT_FILE = "limit.json"


class StopRequest(msgspec.Struct, frozen=True):
    """stop.json; the box ignores one for another attempt."""

    attempt: int
    at: str = ""


class LimitRequest(msgspec.Struct, frozen=True):
    """limit.json: replaces the limits of the plan; the box ignores one for another attempt."""

    attempt: int
    limit_cents: int
    deadline: str  # ISO-8601 UTC
    epoch: int  # the same, for cloud/rescue.py
    at: str = ""
