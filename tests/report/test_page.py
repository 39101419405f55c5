"""The report: one page that says what is known, and nothing else."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from msgspec.structs import replace

from nanolan.errors import UsageProblem
from nanolan.redact import Secret
from nanolan.report.costs import stage_name
from nanolan.report.page import render_page, write_page
from nanolan.sim.marker import MARKER
from tests.support.report_fixtures import (
    EVIL,
    PHASES,
    PLAN,
    RECEIPT,
    STORIES,
    a_story,
    failed,
    going,
    lines,
    rows,
)

MOST_BYTES = 3_000_000
VOID = {"meta", "link", "br", "img"}


class Tags(HTMLParser):
    """Every element of a page, its text, and whether each end has its begin."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: list[tuple[str, str, str | None]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open, f"left open: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += f"{data} " if "style" not in self._open else ""


def text(html: str) -> str:
    """What a reader sees."""
    return " ".join(Tags(html).text.split())


@pytest.mark.parametrize("name", STORIES)
def test_a_page_of_any_run_loads_and_runs_nothing_and_is_small(name: str) -> None:
    html = render_page(STORIES[name]())
    tags = Tags(html)
    assert not tags.names & {
        "script",
        "img",
        "iframe",
        "object",
        "embed",
        "form",
        "base",
        "audio",
        "video",
    }
    assert not [a for a in tags.attributes if a[1].startswith("on")]
    reaching = [
        a
        for a in tags.attributes
        if a[1] in ("src", "href", "xlink:href", "action")
        and not str(a[2]).startswith(("#", "data:,"))
        # a link to the run on its own Hub is followed by a reader only
        and not (a[0] == "a" and str(a[2]).startswith(f"{PLAN.hf_endpoint}/{PLAN.runs_repo}/"))
    ]
    assert not reaching
    assert "url(http" not in html and "@import" not in html and "default-src 'none'" in html
    assert "\x1b" not in html and "\u202e" not in html
    assert len(html.encode()) < MOST_BYTES


def test_a_success_tells_verdict_time_and_money_first() -> None:
    said = text(render_page(a_story(plan=replace(PLAN, nanolan="0.2.0"))))
    assert "Succeeded: $65.40 in 1:56:50" in said[:300]
    for part in (
        "boot 0:04:50",
        "mid training 0:40:00 $22.40",
        "predicted $65.00 ($40.00 to $120.00)",
        "metered $65.40",
        "the provider says $65.02",
        " 8% of the time neither trained",
        "8x NVIDIA B200",
        "580.95.05",
        "nanolan 0.2.0 commit c0ffeec0ffee",
        "I am Lanbot.",
        "right",
        "wrong , expected 5",
        "ARC-Easy 35.0%",
    ):
        assert part in said, part


def test_a_failed_run_says_what_is_saved_and_how_to_go_on() -> None:
    html = render_page(failed())
    said = text(html)
    assert said.index("Stopped (spend limit): $65.40") < said.index(
        "$140.02 of the limit of $150.00 used"
    )
    assert (
        "Saved: runs/ab12cd34/saved/sft step 400" in said
        and "<pre>just resume ab12cd34</pre>" in html
    )
    assert "not finished; saved in runs/ab12cd34/saved/sft step 400" in said
    assert said.count("just resume") == 1 and "Not begun: rl." in said


def test_a_run_that_still_goes_says_so_and_invents_no_bill() -> None:
    said = text(render_page(going()))
    assert "Training: $12.34 so far" in said and "step 300 of 800" in said
    assert "metered $12.34 so far" in said and "the provider says" not in said
    assert not [part for part in ("Evaluation", "What it answers", "Not begun") if part in said]


def test_what_is_missing_is_said_and_not_invented() -> None:
    said = text(render_page(STORIES["nothing"]()))
    for part in (
        "cost not known",
        "Not begun: mid, sft, rl.",
        "metered ?",
        "the provider says nothing",
    ):
        assert part in said, part
    assert "$0.00" not in said
    for title in ("Curve", "Where time and money went", "Evaluation", "Environment"):
        assert title not in said, "a section with nothing to say"
    asked_for_none = a_story(
        plan=replace(PLAN, evaluate="none"),
        receipt=replace(RECEIPT, phases={"mid": PHASES["mid"]}),
        samples=(),
    )
    assert "No samples" not in text(render_page(asked_for_none))


def test_without_matplotlib_the_page_says_so_and_keeps_the_numbers() -> None:
    html = render_page(a_story(), draw=False)
    assert "<svg" not in html and "matplotlib is not installed" in html and "Training loss" in html
    assert "matplotlib is not installed" not in render_page(a_story(b""), draw=False), (
        "there was nothing to draw"
    )


def test_curves_that_cannot_be_drawn_are_explained() -> None:
    assert "1 step: too few for a curve" in text(render_page(STORIES["one row"]()))
    assert "9 steps: too few for a curve" in text(render_page(STORIES["only nan"]()))
    only_damaged = a_story(
        b"{\n" + lines(rows(1)), receipt=replace(RECEIPT, phases={"mid": PHASES["mid"]})
    )
    assert "too few for a curve; 1 line of the metrics cannot be read" in text(
        render_page(only_damaged)
    )


def test_hostile_names_are_text() -> None:
    html = render_page(STORIES["evil"]())
    assert "<script>alert(1)</script>" in Tags(html).text and EVIL not in html


def test_published_scores_are_of_their_size_or_it_is_said() -> None:
    assert "not of its size" not in text(render_page(a_story()))
    assert "This model has 0.157M parameters: the published scores are not of its size." in text(
        render_page(a_story(plan=replace(PLAN, parameters=156_672)))
    )


@pytest.mark.parametrize(
    "stage, name",
    [
        ("setup", "set-up"),
        ("mid.train", "mid training"),
        ("sft.evaluate", "sft evaluation"),
        ("rl.upload", "rl upload"),
        ("boot", "boot"),
        ("save", "save"),
    ],
)
def test_stages_have_names(stage: str, name: str) -> None:
    assert stage_name(stage) == name


def test_bars_begin_where_the_one_before_ends() -> None:
    bars = [
        (float(a), float(b))
        for a, b in re.findall(r"margin-left:([\d.]+)%;width:([\d.]+)%", render_page(a_story()))
    ]
    assert (
        len(bars) == len(RECEIPT.stages)
        and bars[0][0] == 0
        and sum(bars[-1]) == pytest.approx(100, abs=0.02)
    )
    assert all(
        b[0] == pytest.approx(a[0] + a[1], abs=0.02) for a, b in zip(bars, bars[1:], strict=False)
    )


def test_a_page_is_written_whole_into_a_folder_that_it_makes(tmp_path: Path) -> None:
    path = write_page("<p>\u20ac", tmp_path / "reports/x.html")
    assert path.read_text(encoding="utf-8") == "<p>\u20ac" and [
        p.name for p in path.parent.iterdir()
    ] == ["x.html"]
    (tmp_path / "file").touch()
    with pytest.raises(UsageProblem, match="just report --to"):
        write_page("", tmp_path / "file/x.html")


def test_no_secret_is_in_a_report_that_is_written(tmp_path: Path) -> None:
    key = Secret(f'key<{MARKER}>&"')
    page = render_page(dataclasses.replace(STORIES["good"](), problems=(f"with {key.reveal()}",)))
    assert MARKER in page and MARKER not in write_page(page, tmp_path / "x.html").read_text()


def test_an_ended_run_leads_with_curve_money_and_scores() -> None:
    html = render_page(a_story())
    order = [
        html.index(f'<section id="{mark}"') for mark in ("curve", "money", "scores", "receipt")
    ]
    assert order == sorted(order)
    first = html.index("<svg")
    assert html.index('id="curve"') < first < html.index('id="money"')


def test_its_parts_the_run_folder_and_the_log_are_linked() -> None:
    html = render_page(a_story())
    inside = re.findall(r'<a href="#([^"]*)"', html)
    assert {"curve", "money", "scores", "phase-mid", "receipt"} <= set(inside)
    assert all(f'id="{mark}"' in html for mark in inside)
    hub = f"{PLAN.hf_endpoint}/{PLAN.runs_repo}"
    assert f"{hub}/tree/main/runs/{PLAN.run_id}" in html
    assert f"{hub}/blob/main/{RECEIPT.log}" in html


def test_what_was_lost_stands_beside_what_to_type_next() -> None:
    lost = replace(RECEIPT, verdict="failed", reason="oom", message="no memory. NOT saved: step 12")
    said = text(render_page(a_story(receipt=lost)))
    assert f"no memory. Lost: step 12. Next: just why {PLAN.run_id}" in said
    assert "Next: just pull rl just chat" in text(render_page(a_story()))


def test_a_lone_curve_is_as_wide_as_the_page_and_once_more_for_a_phone() -> None:
    one = replace(PLAN, phases=("mid",))
    html = render_page(a_story(lines(rows(60)), plan=one))
    assert 'class="broad"><svg viewBox="0 0 720' in html and 'class="narrow"><svg' in html
    assert 'class="broad"' not in render_page(a_story())
