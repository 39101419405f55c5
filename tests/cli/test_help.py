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
from nanolan.settings.settings import ROOT, TABLE
from tests.support.recipes import command_of, recipes

MENU = {r.name: r for r in recipes((ROOT / "justfile").read_text())}
# the help of `just hf` is hf's own
SCRIPTS = sorted({r.script for r in MENU.values() if r.script} - {"hf"})


def command(script: str) -> click.Command:
    return command_of(script)


def help_of(script: str, option: str = "--help") -> str:
    done = CliRunner(env={"COLUMNS": "80", "NANOLAN_HOME": "/nowhere"}).invoke(
        command(script), [option], prog_name=f"just {command(script).name}"
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


def test_all_options_stand_under_headings_and_each_just_once() -> None:
    text = help_of("launch", "--help-all")
    heads = [
        line.rstrip(":")
        for line in text.splitlines()
        if line and not line.startswith(" ") and line.endswith(":")
    ]
    assert heads == ["Examples", "Options", *GROUPS]
    all_of_them = [o for p in command("launch").params for o in p.opts[-1:]]
    assert sorted({*options_in(text)} - {"--version"}) == sorted(
        [*all_of_them, "--help", "--help-all"]
    )
    assert len(options_in(text)) == len({*options_in(text)})
    assert "Limits:" not in help_of("costs")


def options_in(text: str) -> list[str]:
    """The options that the help lists, in its order."""
    return [
        next(word for word in line.split() if word.startswith("--"))
        for line in text.splitlines()
        if line.startswith("  -")
    ]


def test_the_help_of_launch_is_the_guides_ten_options_and_the_three_that_most_runs_need() -> None:
    ten = "phase gpu num-gpus spend-limit run-name cloud region instance-type all-configs dry-run"
    shown = options_in(help_of("launch"))
    assert {*shown} - {"--version"} == {f"--{o}" for o in ten.split()} | {
        "--model-tag",
        "--max-duration",
        "--yes",
        "--help",
        "--help-all",
    }
    assert len(shown) == len({*shown}) and len(help_of("launch").splitlines()) <= 40


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_rest_is_found_with_help_all_and_examples_come_first(script: str) -> None:
    text = help_of(script)
    assert text.index("\nExamples:\n") < text.index("\nOptions:\n")
    if len(options_in(text)) < len(
        [p for p in command(script).params if p.param_type_name == "option"]
    ):
        assert (
            "--help-all" in text and max(map(len, help_of(script, "--help-all").splitlines())) <= 80
        )


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_value_is_called_by_its_type_and_not_by_its_variable(script: str) -> None:
    for p in command(script).params:
        if isinstance(p, click.Option) and p.name in TABLE and not p.is_flag:
            assert p.metavar in (None, TABLE[p.name]["metavar"])  # None: not from the table


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
        line.partition("@echo ")[2].strip('"').replace("{{name}}", "nanolan")
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
