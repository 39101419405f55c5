"""The report in a real browser: nothing is fetched, nothing complains, nothing overflows, every word can be read. Needs Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nanolan.report.page import render_page
from tests.support.browser import CHROMIUM, Page, chromium
from tests.support.report_fixtures import STORIES

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
]
LOOKS = [(width, dark) for width in (1280, 400) for dark in (False, True)]
SHOWN = ("good", "failed", "going", "evil", "nothing", "long")
LEAST_CONTRAST = 4.5  # WCAG AA

# Of each element with a text of its own: its contrast with what is behind it, where that is too little
PALE = """(() => {
  const light = c => { const v = c.map(x => x / 255).map(x => x <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4);
                       return .2126 * v[0] + .7152 * v[1] + .0722 * v[2] };
  const parts = text => text.match(/[\\d.]+/g).map(Number);
  const behind = e => { for (; e; e = e.parentElement) { const c = parts(getComputedStyle(e).backgroundColor);
                        if (c.length < 4 || c[3] > 0) return c } return [255, 255, 255] };
  return [...document.querySelectorAll('body *')].filter(e => [...e.childNodes].some(n => n.nodeType == 3 && n.data.trim())).map(e => {
    const style = getComputedStyle(e), ink = parts(e instanceof SVGElement ? style.fill : style.color);
    const [a, b] = [light(ink), light(behind(e))].sort((x, y) => y - x);
    return [(a + .05) / (b + .05), e.tagName, e.textContent.slice(0, 40)] }).filter(x => x[0] < LEAST) })()""".replace(
    "LEAST", str(LEAST_CONTRAST)
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pages")


@pytest.mark.parametrize("name", SHOWN)
def test_a_report_opens_everywhere_without_a_request_a_complaint_or_an_overflow(
    name: str, browser: Page, folder: Path
) -> None:
    path = folder / f"{name}.html"
    path.write_text(render_page(STORIES[name]()), encoding="utf-8")
    for width, dark in LOOKS:
        browser.show(path.as_uri(), width, dark)
        assert browser.requests() == [path.as_uri()]
        assert browser.complaints() == []
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
        assert browser.evaluate(PALE) == [], (width, dark)
        browser.screenshot(folder / f"{name}-{width}-{'dark' if dark else 'light'}.png")


def test_light_and_dark_are_the_readers_choice(browser: Page, folder: Path) -> None:
    path = folder / "themes.html"
    path.write_text(render_page(STORIES["good"](), draw=False), encoding="utf-8")
    seen = []
    for dark in (False, True):
        browser.show(path.as_uri(), 1280, dark)
        seen.append(browser.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert seen == ["rgb(255, 255, 255)", "rgb(13, 17, 23)"]


def test_the_browser_would_tell_of_a_request_and_of_a_complaint(
    browser: Page, folder: Path
) -> None:
    path = folder / "bad.html"
    path.write_text(
        '<script>console.error("x")</script><img src="http://127.0.0.1:9/x.png"><p style="color:#eee">pale'
    )
    browser.show(path.as_uri(), 400, False)
    assert (
        "http://127.0.0.1:9/x.png" in browser.requests()
        and browser.complaints()
        and browser.evaluate(PALE)
    )
