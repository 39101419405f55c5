"""The HTML that a report is built of."""

from __future__ import annotations

import pytest

from nanolan.report.html import esc, note, page, section, table, terms


@pytest.mark.parametrize(
    "text, safe",
    [
        ("<b>&\"'", "&lt;b&gt;&amp;&quot;&#x27;"),
        ("a\x00b\x1b[1m", "a\ufffdb\ufffd[1m"),
        ("\u202eevil", "\ufffdevil"),
        ("Grüße €\n\t", "Grüße €\n\t"),
        (12, "12"),
        (None, "None"),
    ],
)
def test_any_text_becomes_text(text: object, safe: str) -> None:
    assert esc(text) == safe


def test_what_is_empty_leaves_no_trace() -> None:
    assert (section("t", "", ""), table(["a"], []), terms({"a": None, "b": ""}), note("")) == (
        "",
        "",
        "",
        "",
    )
    assert "<dt>zero</dt><dd>0</dd>" in terms({"zero": 0}), "nothing is not the same as zero"


def test_names_of_columns_and_lists_are_text() -> None:
    assert (
        "&lt;a&gt;" in table(["<a>"], [["x"]])
        and "&lt;a&gt;" in terms({"<a>": "x"})
        and "&lt;a&gt;" in section("<a>", "x")
    )


def test_a_page_forbids_itself_everything_but_its_own_style() -> None:
    html = page("<t>", ["<p>x"])
    assert (
        "default-src 'none'" in html
        and "<title>&lt;t&gt;</title>" in html
        and html.count("<style>") == 1
    )
    assert html.index("Content-Security-Policy") < html.index("<title>"), (
        "the policy comes before what it concerns"
    )
