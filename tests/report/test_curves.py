"""Curves: what is drawn is what was measured."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanolan.report.curves import Curve, Metrics, curve, read_metrics, running_mean, thin
from tests.support.report_fixtures import lines, rows


def test_a_damaged_line_is_counted_and_keeps_no_other_away() -> None:
    data = b'{"phase": "mid", "step": 1, "loss": 2.0}\nnonsense\n{"phase": "mid", "step": 2, "loss": 1.5}\n{"phase": "mid", "st'
    found = read_metrics(data)
    assert [(r.step, r.numbers["loss"]) for r in found.rows] == [
        (1, 2.0),
        (2, 1.5),
    ] and found.damaged == 2


@pytest.mark.parametrize(
    "line",
    [
        b"null",
        b"[]",
        b"3",
        b'"x"',
        b"{}",
        b'{"phase": 1, "step": 1}',
        b'{"phase": "mid", "step": "1"}',
        b'{"phase": "mid", "step": true}',
        b'{"phase": "mid", "step": -1}',
        b'{"phase": "mid", "step": 1e9}',
        b'{"phase": "mid", "step": 99999999999999999999}',
        b"[" * 100_000,
        b"\xff\xfe",
        b'{"phase": "mid", "step": 1, "loss": 1' + b"0" * 400 + b"}",
    ],
)
def test_a_line_that_is_no_row_is_damaged(line: bytes) -> None:
    assert read_metrics(line) == Metrics((), 1)


def test_what_is_not_a_number_is_left_out_of_a_row() -> None:
    [row] = read_metrics(
        b'{"phase": "mid", "step": 1, "loss": null, "why": "x", "on": true, "lr": 1}'
    ).rows
    assert dict(row.numbers) == {"lr": 1.0}


def test_nan_and_infinity_are_gaps() -> None:
    data = "".join(
        json.dumps({"phase": "mid", "step": n, "loss": v}) + "\n"
        for n, v in enumerate((1.0, math.nan, math.inf, 2.0))
    )
    c = curve(read_metrics(data.encode()), "mid", "loss")
    assert [math.isnan(y) for y in c.ys] == [False, True, True, False] and c.known == [1.0, 2.0]


def test_a_phase_that_was_started_once_more_has_a_gap_where_it_went_back() -> None:
    c = curve(read_metrics(lines(rows(5) + rows(5)[2:])), "mid", "tok_per_s")
    assert [x for x, y in zip(c.xs, c.ys, strict=True) if math.isnan(y)] == [5] and len(
        c.known
    ) == 8


def test_a_phase_has_its_own_rows_alone() -> None:
    found = read_metrics(lines(rows(4) + rows(6, "sft")))
    assert (
        len(curve(found, "mid", "loss").xs),
        len(curve(found, "sft", "loss").xs),
        curve(found, "rl", "loss"),
    ) == (4, 6, Curve())


numbers = st.floats(-1e6, 1e6) | st.just(math.nan)


@given(st.lists(numbers, min_size=1, max_size=400), st.integers(1, 40))
def test_thinning_keeps_the_extremes_of_every_pixel_and_every_gap_between(
    ys: list[float], pixels: int
) -> None:
    c = Curve(tuple(map(float, range(len(ys)))), tuple(ys))
    t = thin(c, pixels)
    assert len(t.xs) <= max(2 * pixels, 3 * (pixels + 1))
    assert set(t.known) <= set(c.ys)
    if c.known:
        assert (min(t.known), max(t.known)) == (min(c.known), max(c.known))
    assert any(map(math.isnan, t.ys)) == any(map(math.isnan, c.ys))


def test_one_step_among_twenty_thousand_that_is_out_of_line_is_kept() -> None:
    ys = [1.0] * 20_000
    ys[7_777], ys[12_345] = 50.0, -50.0
    t = thin(Curve(tuple(map(float, range(20_000))), tuple(ys)), 500)
    assert (7_777.0, 50.0) in zip(t.xs, t.ys, strict=True) and (12_345.0, -50.0) in zip(
        t.xs, t.ys, strict=True
    )
    assert len(t.xs) <= 1_002 and list(t.xs) == sorted(t.xs)


def test_the_running_mean_is_of_the_window_and_begins_anew_after_a_gap() -> None:
    c = Curve(tuple(range(100)), tuple([4.0] * 50 + [math.nan] + [2.0, 4.0, 6.0] + [8.0] * 46))
    mean = running_mean(c).ys
    assert (
        mean[49] == 4.0
        and math.isnan(mean[50])
        and mean[51:54] == (2.0, 3.0, 5.0)
        and mean[-1] == 8.0
    )
