"""Which interpreters `just test-pythons` finds, and what it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.pythons import Outcome, Python, ask, candidates, checkout, last_line, newest, table


def stub(folder: Path, version: str = "", says: str = "", name: str = "python3") -> Path:
    """A program that answers like an interpreter of that version."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    answer = says or f'[[{version.replace(".", ", ")}], "{path}", true]'
    path.write_text(f"#!/bin/sh\necho '{answer}'\n")
    path.chmod(0o755)
    return path


def test_this_interpreter_is_found_by_its_real_path() -> None:
    base = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info[1]}"
    found = ask(base)
    assert found == Python(sys.version_info[:3], base.resolve())


@pytest.mark.parametrize(
    "says",
    [
        '[[3, 9, 18], "/p", true]',
        '[[2, 7, 18], "/p", true]',
        '[[3, 12, 1], "/p", false]',  # a virtual environment, or not CPython
        "pyenv: python3.6: command not found",
        "[]",
        " ",
    ],
)
def test_what_is_too_old_or_no_plain_python_is_left_out(tmp_path: Path, says: str) -> None:
    assert ask(stub(tmp_path, says=says)) is None
    assert ask(tmp_path / "missing") is None


def test_a_virtual_environment_is_left_out() -> None:
    if sys.prefix == sys.base_prefix:
        pytest.skip("these tests run outside of one")
    assert ask(Path(sys.prefix) / "bin/python3") is None


def test_all_places_are_searched_but_shims(tmp_path: Path) -> None:
    for folder in ("versions/3.10.1/bin", "versions/3.13.0/bin", "shims", "path"):
        stub(tmp_path / folder, "3.10.1")
    stub(tmp_path / "path", "3.12.0", name="python3.12")
    stub(tmp_path / "path", "3.12.0", name="python3.12-config")
    path = f"{tmp_path / 'shims'}:{tmp_path / 'path'}:/nonexistent"
    found = [str(p.relative_to(tmp_path)) for p in candidates([f"{tmp_path}/versions/*/bin"], path)]
    assert sorted(found) == [
        "path/python3",
        "path/python3.12",
        "versions/3.10.1/bin/python3",
        "versions/3.13.0/bin/python3",
    ]


def python(version: str, path: str) -> Python:
    major, minor, patch = map(int, version.split("."))
    return Python((major, minor, patch), Path(path))


def test_of_several_patch_versions_the_newest_is_run_and_the_systems_own_too() -> None:
    pyenv = [python(v, f"/v/{v}/bin/python3") for v in ("3.11.7", "3.11.10", "3.10.1", "3.11.7")]
    found = newest([*pyenv, python("3.11.2", "/usr/bin/python3.11")])
    assert [p.name for p in found] == ["3.10.1", "3.11.2-usr", "3.11.10"]


@pytest.mark.parametrize(
    ("word", "meant"),
    [("3.11", True), ("3.11.2", True), ("3.1", False), ("3.11.20", False), ("3.12", False)],
)
def test_a_version_names_an_interpreter_by_its_first_numbers(word: str, meant: bool) -> None:
    assert python("3.11.2", "/usr/bin/python3.11").is_meant(word) is meant
    assert python("3.11.2", "/v/python3.11").is_meant(word) is meant


def test_the_tests_run_on_the_tree_as_it_is_now_and_keep_their_venv(tmp_path: Path) -> None:
    root, homes = tmp_path / "root", tmp_path / "homes"
    root.mkdir()
    git = ["git", "-c", "user.name=me", "-c", "user.email=me@here"]
    for name in ("kept", "changed", "removed"):
        (root / name).write_text(name)
    (root / ".gitignore").write_text(".venv\n")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        subprocess.run([*git, *words], cwd=root, check=True)
    one = python("3.12.1", "/p")
    home = checkout(one, homes, root)
    (home / ".venv").mkdir()
    (home / ".venv/python").touch()
    (home / "stale").touch()
    (root / "changed").write_text("now")
    (root / "removed").unlink()
    (root / "new").write_text("new")
    assert checkout(one, homes, root) == home == homes / "3.12.1"
    assert {p.name for p in home.iterdir() if p.name != ".git"} == {
        ".gitignore",
        ".venv",
        "kept",
        "changed",
        "new",
    }
    assert (home / "changed").read_text() == "now" and (home / ".venv/python").exists()


def test_the_table_has_a_line_for_each_and_the_log_of_a_failure(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("...\n===== 3 failed, 2 passed in 1.2s =====\n\n")
    said = last_line(tmp_path / "log")
    good = Outcome(python("3.10.13", "/p"), 0, "5 passed in 1s", 61.4)
    bad = Outcome(python("3.13.0", "/q"), 1, said, 5)
    assert table([good, bad]) == [
        "3.10.13      ok         61 s  5 passed in 1s",
        "3.13.0       FAILED      5 s  3 failed, 2 passed in 1.2s; .venvs/3.13.0.log",
    ]
