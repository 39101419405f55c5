"""Charts: SVG that fits into any page."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from nanolan.report.charts import INKS, PANELS, charts_of, short, words
from nanolan.report.curves import Curve, Metrics, read_metrics
from tests.support.report_fixtures import NAN, lines, rows

MID = read_metrics(lines(rows(300)))


def test_every_measure_with_two_points_has_a_chart_in_the_colours_of_the_page() -> None:
    charts = charts_of(MID, "mid")
    assert [c.title for c in charts] == [
        "Training loss",
        "Tokens a second",
        "Model FLOPs utilisation",
    ]
    for chart in charts:
        assert "currentColor" in chart.svg and "var(--line)" in chart.svg
        assert not re.search(r"#[0-9a-f]{6}\b", chart.svg), (
            "a colour that light or dark cannot change"
        )
        assert not set(INKS) & set(re.findall(r"#\w+", chart.svg))


def test_a_chart_is_whole_and_brings_nothing_that_reaches_beyond_it() -> None:
    for chart in charts_of(MID, "mid"):
        ElementTree.fromstring(chart.svg.replace("xlink:href", "href"))
        assert not re.search(r"<style|<script|<metadata|<!|http", chart.svg)


def test_charts_of_one_page_share_no_id() -> None:
    ids = [
        i
        for phase in ("mid", "sft")
        for c in charts_of(read_metrics(lines(rows(30) + rows(30, "sft"))), phase)
        for i in re.findall(r'\bid="([^"]+)"', c.svg)
    ]
    assert len(ids) == len(set(ids))
    for chart in charts_of(MID, "mid"):
        assert set(re.findall(r'(?:url\(|href=")#([^)"]+)', chart.svg)) <= set(
            re.findall(r'\bid="([^"]+)"', chart.svg)
        )


def test_the_same_numbers_give_the_same_bytes() -> None:
    assert charts_of(MID, "mid") == charts_of(MID, "mid")


@pytest.mark.parametrize("metrics", [Metrics(), read_metrics(lines(rows(1)))])
def test_less_than_two_points_are_no_curve(metrics: Metrics) -> None:
    assert charts_of(metrics, "mid") == []


def test_the_words_tell_extremes_and_gaps() -> None:
    loss = PANELS[1]
    assert words(loss, Curve((1, 2, 3), (3.0, 9.0, 1.0))) == "3 to 1; lowest 1, highest 9"
    assert "60 gaps" in charts_of(read_metrics(NAN), "mid", draw=False)[0].words


def test_without_drawing_there_are_words_alone() -> None:
    assert [c.svg for c in charts_of(MID, "mid", draw=False)] == ["", "", ""]


@pytest.mark.parametrize(
    "value, said",
    [(0, "0"), (9_999, "9,999"), (26_000, "26k"), (1_020_000, "1.02M"), (-30_000, "-30k")],
)
def test_numbers_beside_an_axis_are_short(value: float, said: str) -> None:
    assert short(value, "{:,.0f}") == said
