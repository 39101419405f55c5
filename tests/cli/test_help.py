"""Help that teaches: every script has examples that parse, every recipe a comment, and nothing is wider than 80 columns."""

from __future__ import annotations

import importlib
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from nanolan.cli.help import GROUPS, GroupedHelp, examples_of
from nanolan.settings.settings import ROOT
from tests.support.recipes import command_of, recipes

MENU = {r.name: r for r in recipes((ROOT / "justfile").read_text())}
# the help of `just hf` is hf's own
SCRIPTS = sorted({r.script for r in MENU.values() if r.script} - {"hf"})


def command(script: str) -> click.Command:
    return command_of(script)


def help_of(script: str) -> str:
    done = CliRunner(env={"COLUMNS": "80"}).invoke(
        command(script), ["--help"], prog_name=f"just {command(script).name}"
    )
    assert done.exit_code == 0
    return done.output


def test_every_script_with_a_command_is_in_the_menu() -> None:
    with_main = {p.stem for p in (ROOT / "scripts").glob("*.py") if "__main__" in p.read_text()}
    assert with_main == {*SCRIPTS, "hf"}


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_has_two_to_five_examples_that_parse(script: str) -> None:
    examples = examples_of(command(script))
    assert 2 <= len(examples) <= 5, script
    for line, what in examples:
        recipe, *words = shlex.split(
            line.partition(" && ")[0].partition(" > ")[0].partition(" >> ")[0]
        )[1:]
        assert MENU[recipe].script == script, line
        command(script).make_context(recipe, words)  # click's errors are raised here
        assert what or len(line) > 20, f"{line}: say what it does"


@pytest.mark.parametrize("script", SCRIPTS)
def test_no_line_of_help_is_wider_than_80_columns_and_the_examples_are_in_it(script: str) -> None:
    text = help_of(script)
    assert max(map(len, text.splitlines())) <= 80
    assert "Examples:\n  just " in text and text.startswith(f"Usage: just {command(script).name}")
    for param in command(script).params:
        assert not isinstance(param, click.Option) or param.help, param.name


def test_many_options_stand_under_headings_and_each_just_once() -> None:
    text = help_of("launch")
    heads = [
        line.rstrip(":")
        for line in text.splitlines()
        if line and not line.startswith(" ") and line.endswith(":")
    ]
    assert heads == ["Options", *GROUPS, "Examples"]
    for param in command("launch").params:
        assert (
            sum(
                line.split(" ", 3)[2].rstrip(",") in param.opts
                or any(f" {o} " in f" {line} " for o in param.opts)
                for line in text.splitlines()
                if line.startswith("  -")
            )
            == 1
        ), param.name
    assert "Limits:" not in help_of("costs")


def test_a_grouped_name_is_an_option_of_some_script() -> None:
    known = {p.name for script in SCRIPTS for p in command(script).params}
    assert {name for names in GROUPS.values() for name in names} <= known


def test_a_typo_names_the_command_that_helps() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/launch.py"), "zzz=1"], capture_output=True, text=True
    )
    assert done.returncode == 2 and "just launch --help" in done.stderr


def test_every_recipe_has_a_group_and_a_comment_that_fits() -> None:
    text = (ROOT / "justfile").read_text()
    public = [
        line.split(" ")[0].rstrip(":")
        for line in text.splitlines()
        if line[:1].isalpha()
        and ":" in line
        and ":=" not in line
        and not line.startswith(("set ", "export "))
    ]
    assert [r for r in public if r not in MENU] == []
    widest = max(len(name) for name in MENU) + len(" *args")
    for r in MENU.values():
        assert 4 + widest + len(" # ") + len(r.help) <= 80, r.name
        assert importlib.import_module(r.script) if r.script else r.command


def test_what_just_alone_says_below_the_list_fits_too() -> None:
    said = [
        line.partition("@echo ")[2].strip('"')
        for line in (ROOT / "justfile").read_text().splitlines()
        if "@echo" in line
    ]
    assert said and all(len(line) <= 80 for line in said)


def test_examples_are_read_with_what_they_do_and_what_goes_on_below(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taught_script.py").write_text(
        '"""Words.\n\n    just a b=1   first\n                 and more\n    just a\n\nEnd.\n"""\n'
        "import click\nfrom nanolan.cli.help import GroupedHelp\n"
        "@click.command(cls=GroupedHelp)\ndef a(): ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    found = command("taught_script")
    assert isinstance(found, GroupedHelp)
    assert examples_of(found) == [("just a b=1", "first and more"), ("just a", "")]
