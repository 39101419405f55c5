"""docs/security.md and SECURITY.md: every test that they name is there, and the tables are the code's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nanolan.box.sandbox import UID
from nanolan.redact import SHORTEST
from nanolan.settings.settings import TABLE

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "SECURITY.md", ROOT / "docs/security.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", page.read_text())
    assert links
    for target, anchor in links:
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), target
        if anchor:
            heads = {
                re.sub(r"[^a-z0-9 -]", "", h.lower()).replace(" ", "-")
                for h in re.findall(r"^#+ (.*)$", path.read_text(), re.M)
            }
            assert anchor in heads, f"{target}#{anchor}"


def test_every_secret_setting_has_its_row_in_both_pages() -> None:
    for page in PAGES:
        rows = set(
            re.findall(
                r"`([A-Z_]+)`",
                "\n".join(line for line in page.read_text().splitlines() if line.startswith("|")),
            )
        )
        assert {meta["env"] for meta in TABLE.values() if meta["secret"]} <= rows, page


def test_the_figures_are_the_codes() -> None:
    text = (ROOT / "docs/security.md").read_text()
    assert f"user {UID} " in text
    assert f"shorter than {SHORTEST} characters" in text
