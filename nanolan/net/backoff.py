"""How long to wait before a failed call is sent again."""

from __future__ import annotations

import random
from collections.abc import Callable

MAX_DOUBLINGS = 30  # 2**1024 is no float: a box tries for days


def backoff_s(failures: int, first_s: float, longest_s: float) -> float:
    """Seconds to wait after so many failures in a row (0 counts as 1): doubled each time, up to `longest_s`."""
    return min(first_s * 2.0 ** min(max(0, failures - 1), MAX_DOUBLINGS), longest_s)


def jittered_s(wait_s: float, fraction: Callable[[], float] = random.random) -> float:
    """Between half of a wait and all of it, so that several clients do not call at the same moment."""
    return wait_s * (0.5 + fraction() / 2)
