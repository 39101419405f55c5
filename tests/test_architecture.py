"""docs/architecture.md names what there is: every folder, and no file that is not there."""

from __future__ import annotations

import re

from nanolan.settings.settings import ROOT

TEXT = (ROOT / "docs" / "architecture.md").read_text()
PATHS = set(re.findall(r"`((?:nanolan|scripts|cloud|tests|docs)/[\w/.]*)`", TEXT))


def test_every_folder_is_in_the_table_once() -> None:
    rows = re.findall(r"^\| `(nanolan/[\w/]*)` \|", TEXT, re.M)
    folders = {f"{p.parent.relative_to(ROOT)}/" for p in ROOT.glob("nanolan/**/__init__.py")}
    assert len(rows) == len(set(rows)) and set(rows) == folders


def test_every_path_exists() -> None:
    assert [p for p in PATHS if not (ROOT / p).exists()] == []


def test_every_name_stands_in_its_file() -> None:
    """`NAME` in `path`, or `NAME` and `name` in `path`."""
    pairs = re.findall(r"`(\w+)`(?: and `(\w+)`)? in `([\w/.]+\.py)`", TEXT)
    assert len(pairs) >= 5
    for first, second, path in pairs:
        source = (ROOT / path).read_text()
        for name in filter(None, (first, second)):
            assert re.search(rf"^(?:def |class )?{name}\b", source, re.M), f"{name} in {path}"


def test_the_glossary_is_short() -> None:
    assert len(re.findall(r"^\|", TEXT.partition("## Glossary")[2], re.M)) <= 2 + 20


def test_the_page_fits_two_screens_and_a_half() -> None:
    assert len(TEXT.splitlines()) <= 140
