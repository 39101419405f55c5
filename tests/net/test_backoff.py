"""The wait before a failed call is sent again."""

from __future__ import annotations

import pytest

from nanolan.net.backoff import backoff_s, jittered_s


@pytest.mark.parametrize(
    ("failures", "wait"),
    [(-1, 0.5), (0, 0.5), (1, 0.5), (2, 1.0), (3, 2.0), (7, 30.0), (5000, 30.0), (10**6, 30.0)],
)
def test_the_wait_doubles_up_to_its_longest_however_often_it_failed(
    failures: int, wait: float
) -> None:
    assert backoff_s(failures, 0.5, 30.0) == wait


@pytest.mark.parametrize(("fraction", "wait"), [(0.0, 2.0), (0.5, 3.0), (1.0, 4.0)])
def test_jitter_keeps_half_of_the_wait(fraction: float, wait: float) -> None:
    assert jittered_s(4.0, lambda: fraction) == wait
