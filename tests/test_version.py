"""The version stands in one place, and every command, plan and receipt shows it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from nanolan.settings.settings import ROOT
from nanolan.version import VERSION
from tests.support.recipes import command_of, recipes

# All words of `just hf` are those of the Hub's own program
SCRIPTS = sorted({r.script for r in recipes((ROOT / "justfile").read_text()) if r.script} - {"hf"})
NOTES = ROOT / "scripts/release_notes.sh"


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_command_says_its_version(script: str) -> None:
    done = CliRunner().invoke(command_of(script), ["--version"])
    assert (done.exit_code, done.output) == (0, f"nanolan {VERSION}\n")


def test_a_script_run_as_a_program_says_its_version() -> None:
    for name in ("launch", "ssh"):
        done = subprocess.run(
            [sys.executable, str(ROOT / f"scripts/{name}.py"), "--version"],
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stdout) == (0, f"nanolan {VERSION}\n"), done.stderr


def test_the_version_stands_in_one_place() -> None:
    files = [*ROOT.glob("nanolan/**/*.py"), *ROOT.glob("scripts/*"), ROOT / "pyproject.toml"]
    named = {
        str(p.relative_to(ROOT))
        for p in files
        if p.is_file() and re.search(rf"""["']v?{re.escape(VERSION)}["']""", p.read_text())
    }
    assert named == {"nanolan/version.py"}


def release_notes(folder: Path, tag: str, changelog: str) -> subprocess.CompletedProcess[str]:
    for path, text in (
        ("scripts/release_notes.sh", NOTES.read_text()),
        ("nanolan/version.py", 'VERSION = "1.2.3"\n'),
        ("CHANGELOG.md", changelog),
    ):
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(text)
    return subprocess.run(
        ["sh", str(folder / "scripts/release_notes.sh"), tag], capture_output=True, text=True
    )


LOG = "# Changelog\n\n## [1.2.3] - 2026-12-01\n\n### Added\n- a thing\n\n## [1.2.2] - 2026-11-01\n- old\n"


@pytest.mark.parametrize(
    ("tag", "changelog", "said"),
    [
        ("v1.2.3", LOG, ""),
        ("v1.2.4", LOG, "nanolan/version.py says 1.2.3"),
        ("1.2.3", LOG, "the tag is '1.2.3'"),
        ("", LOG, "the tag is ''"),
        ("v1.2.3", LOG.replace("2026-12-01", "not released yet"), "no part '## [1.2.3] - DATE'"),
        ("v1.2.3", LOG.replace("1.2.3", "11203"), "no part"),
    ],
)
def test_a_tag_is_released_with_its_part_of_the_changelog_or_refused(
    tmp_path: Path, tag: str, changelog: str, said: str
) -> None:
    done = release_notes(tmp_path, tag, changelog)
    assert done.returncode == (1 if said else 0)
    assert said in done.stderr
    if not said:
        assert "- a thing" in done.stdout and "old" not in done.stdout


def test_the_changelog_has_a_part_for_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    parts = re.findall(r"^## \[(.+?)\] - (\d{4}-\d\d-\d\d|not released yet)$", text, re.M)
    assert len(parts) == text.count("\n## ") and parts[0][0] == VERSION
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.+)$", text, re.M)) <= kinds
