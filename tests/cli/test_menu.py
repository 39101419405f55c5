"""The menu as data, and shells that complete it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from nanolan.cli.menu import recipes
from nanolan.settings.settings import ROOT
from tests.support.core_fixtures import script

MENU = recipes((ROOT / "justfile").read_text())


def test_every_recipe_of_the_justfile_is_read() -> None:
    text = (ROOT / "justfile").read_text()
    assert len(MENU) == text.count("[group(") and len({r.name for r in MENU}) == len(MENU)
    by_name = {r.name: r for r in MENU}
    assert (by_name["dry-run"].script, by_name["dry-run"].group, by_name["hf"].script) == (
        "launch",
        "run",
        None,
    )


def completed(tmp_path: Path, *words: str) -> list[str]:
    """What bash offers for the last of `words`."""
    path, env = tmp_path / "completion", {"PATH": "/usr/bin:/bin", "NANOLAN_HOME": str(tmp_path)}
    path.write_text(script("completions", "bash", env=env | {"HOME": str(tmp_path)}).stdout)
    (tmp_path / "runs").mkdir(exist_ok=True)
    for run in ("1a2b3c4d", "9f8e7d6c"):
        (tmp_path / f"runs/{run}.json").write_text("{}")
    code = 'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _nanolan_just; printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(
        ["bash", "-u", "-c", code, "bash", str(path), *words],
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout.split()


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
@pytest.mark.parametrize(
    "words, offered",
    [
        (["just", "do"], ["doctor"]),
        (["just", "launch", "sp"], ["spend-limit="]),
        (["just", "launch", "--all"], ["--all-configs"]),
        (["just", "launch", "phase", "=", "mid"], ["mid", "mid+sft"]),
        (["just", "launch", "phase", "="], ["mid", "sft", "rl", "mid+sft", "sft+rl", "all"]),
        (["just", "launch", "phase=s"], ["phase=sft", "phase=sft+rl"]),  # zsh does not cut the word
        (["just", "stop", "1a"], ["1a2b3c4d"]),
        (["just", "launch", "1a"], []),
        (["just", "upload", "to"], ["tokenizer"]),
        (["./just", "completions", "f"], ["fish"]),
        (["just", "nothing", "x"], []),
    ],
    ids=str,
)
def test_bash_completes_recipes_options_values_and_runs(
    tmp_path: Path, words: list[str], offered: list[str]
) -> None:
    assert completed(tmp_path, *words) == offered


@pytest.mark.parametrize(
    "shell, check", [("bash", ["bash", "-n"]), ("zsh", ["zsh", "-n"]), ("fish", ["fish", "-n"])]
)
def test_what_is_printed_is_in_the_shells_own_language(
    tmp_path: Path, shell: str, check: list[str]
) -> None:
    printed = script("completions", shell, env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)})
    assert (
        printed.returncode == 0
        and all(r.name in printed.stdout for r in MENU)
        and "spend-limit=" in printed.stdout
    )
    (tmp_path / "file").write_text(printed.stdout)
    if shutil.which(check[0]):
        done = subprocess.run([*check, str(tmp_path / "file")], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_another_shell_is_refused() -> None:
    assert script("completions", "powershell", env={"PATH": "/usr/bin:/bin"}).returncode == 2
