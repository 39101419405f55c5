"""The HTML that a report is built of."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from nanolan.report.html import (
    Html,
    esc,
    joined,
    link,
    note,
    page,
    paragraph,
    section,
    table,
    terms,
)


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


BAD, SAFE = '<img src=x onerror="x">', "&lt;img src=x onerror=&quot;x&quot;&gt;"


@pytest.mark.parametrize(
    "made",
    [
        lambda text: Html("<p>{}</p>").format(text),
        lambda text: Html('<a title="{name}">').format(name=text),
        lambda text: joined([text, text]),
        lambda text: section("title", text),
        lambda text: section(text, "x", mark=text),
        lambda text: table([text], [[text]]),
        lambda text: terms({text: text}),
        lambda text: link(text, text),
        note,
        paragraph,
        lambda text: page(text, [text]),
    ],
)
def test_text_is_escaped_wherever_it_is_put_in_and_html_is_not(
    made: Callable[[object], Html],
) -> None:
    html = made(BAD)
    assert isinstance(html, Html) and SAFE in html and BAD not in html
    assert "<i>x</i>" in made(Html("<i>x</i>"))


def test_a_format_in_a_value_is_text() -> None:
    assert Html("<p>{}</p>").format("{0.__class__}") == "<p>{0.__class__}</p>"


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
