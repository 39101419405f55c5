"""What `just mutate` changes, and how it tells a killed mutant from a survivor."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("cosmic_ray", reason="cosmic-ray belongs to the set `mutation`: just mutate")

from tests.mutations import (
    OPERATORS,
    ROOMS,
    Mutant,
    difference,
    killed_by,
    modules,
    mutants,
    stages,
)

CODE = "def fee(cents):\n    log(cents)\n    if cents > 100:\n        return 1\n    return 0\n\n\ndef log(x):\n    pass\n"
TEST = (
    "from nanolan.fee import fee\n\n\ndef test_fee():\n    assert (fee(101), fee(100)) == (1, 0)\n"
)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with one module, one test, and this interpreter."""
    files = {"nanolan/__init__.py": "", "nanolan/fee.py": CODE, "tests/test_fee.py": TEST}
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return tmp_path


def test_the_rooms_are_there_and_the_operators_known() -> None:
    assert len(modules(Path.cwd(), list(ROOMS))) > 100
    assert len(set(OPERATORS)) == len(OPERATORS)


def test_a_seed_gives_the_same_mutants_and_each_changes_the_file(checkout: Path) -> None:
    made = list(mutants(checkout, ["nanolan"], 30, seed=1))
    assert made == list(mutants(checkout, ["nanolan"], 30, seed=1)) and len(made) == 30
    assert all(m.text != CODE and difference(checkout, m) for m in made)
    assert CODE.replace("    log(cents)", "    pass", 1) in {m.text for m in made}


@pytest.mark.parametrize(
    "old, new, killed", [("> 100", ">= 100", True), ("log(cents)", "pass", False)]
)
def test_a_mutant_is_killed_by_the_test_that_fails(
    checkout: Path, old: str, new: str, killed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("promises", "attacks", "box", "manage", "launch", "scripts"):
        (checkout / "tests" / name).mkdir()
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    by = killed_by(checkout, Mutant(Path("nanolan/fee.py"), 2, "x", CODE.replace(old, new)))
    assert by == ("FAILED tests/test_fee.py::test_fee" if killed else "")
    assert (checkout / "nanolan/fee.py").read_text() == CODE


def test_the_nearest_tests_run_first(tmp_path: Path) -> None:
    near = tmp_path / "tests/box/watch/test_spend_late.py"
    near.parent.mkdir(parents=True)
    near.touch()
    first, second, *_ = stages(tmp_path, Path("nanolan/box/watch/spend.py"))
    assert first == ["tests/box/watch/test_spend_late.py"] and second == ["tests/box/watch"]
    assert next(stages(tmp_path, Path("cloud/rescue.py"))) == ["tests/cloud"]
