"""Small files that laptops put into the run folder: the requests of `just stop` and `just limit` to a running box, and the claim
of a launch.
"""

from __future__ import annotations

import msgspec

STOP_FILE = "stop.json"  # in the run folder
LIMIT_FILE = "limit.json"
LAUNCH_FILE = "launch.json"


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


class LaunchClaim(msgspec.Struct, frozen=True):
    """launch.json: who launched, or is launching, the newest attempt after the first."""

    attempt: int
    by: str  # owner id of the ledger that has its plan and its instance
