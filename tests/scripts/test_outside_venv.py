"""A script that runs without its packages says the one command to type."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nanolan.settings.settings import ROOT
from tests.support.recipes import recipes

SCRIPTS = sorted(p.stem for p in (ROOT / "scripts").glob("*.py"))
RECIPES = {r.script: r.name for r in recipes((ROOT / "justfile").read_text()) if r.script} | {
    "launch": "launch",
    "check_status": "status",
}


def without_packages(
    script: str, *words: str, cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """-S: as a Python that knows only its own library."""
    return subprocess.run(
        [sys.executable, "-S", str(ROOT / f"scripts/{script}.py"), *words],
        capture_output=True,
        text=True,
        cwd=cwd,
    )


@pytest.mark.parametrize("script", SCRIPTS)
def test_without_packages_every_script_says_the_one_command(script: str) -> None:
    done = without_packages(script, "--help")
    just = f"./just {RECIPES[script]} and the same words" if script in RECIPES else "./just"
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == (
        f"error: nanolan is not installed for {sys.executable}, which runs this script; nothing was done. Type: {just}\n"
    )


def test_elsewhere_the_command_has_its_whole_path(tmp_path: Path) -> None:
    done = without_packages("launch", cwd=tmp_path)
    assert done.stderr.endswith(f"Type: {ROOT / 'just'} launch\n")
