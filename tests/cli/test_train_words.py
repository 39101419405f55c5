"""train.NAME=VALUE on the command line: the options of another program, which nanolan passes on as they are."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from nanolan.cli.command import KeyValueCommand, setting_options
from nanolan.errors import UsageProblem
from nanolan.settings.load import load_settings, usable_settings
from nanolan.settings.settings import Settings
from nanolan.settings.values import train_options

SEEN: dict[str, Any] = {}


@click.command(cls=KeyValueCommand)
@setting_options("phase", "trainer", "train_options", "run_name", "spend_limit")
@click.option("-y", "--yes", is_flag=True)
@click.argument("which", required=False)
def command(**given: Any) -> None:
    SEEN.clear()
    SEEN.update(given)


@click.command(cls=KeyValueCommand)
@setting_options("phase", "run_name")
def another(**_: Any) -> None: ...


def call(*args: str) -> Result:
    return CliRunner().invoke(command, args, prog_name="launch")


ONE = (("init_lr_frac", "0.1"),)
TWO = (("a", "1"), ("sft.b", "2"))
WORDS: list[tuple[list[str], tuple[tuple[str, str], ...]]] = [
    (["train.init-lr-frac=0.1"], ONE),
    (["train.init_lr_frac=0.1"], ONE),
    (["--train.init-lr-frac=0.1"], ONE),
    (["train.init-lr-frac=0.1", "phase=sft", "-y"], ONE),
    (["phase=sft", "train.init-lr-frac=0.1", "-y"], ONE),
    (["-y", "phase=sft", "train.init-lr-frac=0.1"], ONE),
    (["--phase", "sft", "train.init-lr-frac=0.1", "--yes"], ONE),
    (["train.init-lr-frac=0.1", "--phase", "sft"], ONE),
    (["train.a=1", "phase=sft", "train.sft.b=2"], TWO),
    (["--train.a=1", "-y", "--train.sft.b=2"], TWO),
    (["train-options=a=1 sft.b=2"], TWO),
    (["--train-options", "a=1 sft.b=2"], TWO),
    (["--train_options=train.a=1 train.sft.b=2"], TWO),
    (["train.x=a b"], (("x", "a b"),)),
    (["train.x= a "], (("x", " a "),)),
    (["train.x=a=b=c"], (("x", "a=b=c"),)),
    (["train.x='"], (("x", "'"),)),
    (['train.x="a" b\\'], (("x", '"a" b\\'),)),
    (["train.x=$(touch evil); `id`"], (("x", "$(touch evil); `id`"),)),
    (["train.x="], (("x", ""),)),
    (["train.x=--y=1"], (("x", "--y=1"),)),
    (["train.x=train.y=1"], (("x", "train.y=1"),)),
    (["train.x=#y"], (("x", "#y"),)),
    (["train.x=日本"], (("x", "日本"),)),
    (["train.X=1", "train.x=2"], (("X", "1"), ("x", "2"))),
    (["train.train.x=1"], (("train.x", "1"),)),
]  # fmt: skip


@pytest.mark.parametrize("args, options", WORDS, ids=str)
def test_train_words_in_any_place_are_options_of_the_trainer(
    args: list[str], options: tuple[tuple[str, str], ...]
) -> None:
    done = call(*args)
    assert done.exit_code == 0, done.output
    assert train_options(SEEN["train_options"].strip()) == options
    assert SEEN["phase"] in (None, "sft") and SEEN["which"] is None


@pytest.mark.parametrize(
    "args, said",
    [
        (["train.x"], "train.x has no value: write train.x=VALUE"),
        (["--train.x"], "write --train.x=VALUE"),
        (["--train.x", "1"], "write --train.x=VALUE"),
        (["train."], "write train.=VALUE"),
        (["trian.x=1"], "no setting called 'trian.x'"),
        (["train.x=1", "train-options=y=2"], "train-options is given twice"),
        (["--phase", "train.x=1"], "requires an argument"),
    ],
    ids=str,
)
def test_a_train_word_that_is_none_says_how_to_write_it(args: list[str], said: str) -> None:
    done = call(*args)
    assert done.exit_code == 2 and said in done.output


def test_after_two_dashes_no_word_is_the_trainers() -> None:
    assert call("-y", "--", "train.x=1").exit_code == 0
    assert SEEN["which"] == "train.x=1" and SEEN["train_options"] is None
    assert call("train.a=1", "--", "b").exit_code == 0
    assert SEEN["which"] == "b" and SEEN["train_options"] == "train.a=1"


def test_a_command_that_does_not_train_has_no_such_words() -> None:
    done = CliRunner().invoke(another, ["train.x=1"], prog_name="stop")
    assert done.exit_code == 2 and "no setting called 'train.x'" in done.output


WRONG = {
    "x": "is not an option such as",
    "=1": "is not an option such as",
    "x y=1": "is not an option such as",
    "1x=1": "is not an option such as",
    "-x=1": "is not an option such as",
    "a.b.c=1": "is not an option such as",
    "A.x=1": "is not an option such as",
    ".x=1": "is not an option such as",
    "sft.=1": "is not an option such as",
    "é=1": "is not an option such as",
    "x" * 61 + "=1": "is not an option such as",
    "x=1 x=1": "x is given twice",
    "x-y=1 x_y=2": "x_y is given twice",
    "sft.x=1 sft.x=2": "sft.x is given twice",
    "x='a": "No closing quotation",
    "x=\\": "No escaped character",
}


@pytest.mark.parametrize("text, said", WRONG.items(), ids=list(WRONG))
def test_options_that_cannot_be_meant_are_refused_where_they_were_set(
    tmp_path: Path, text: str, said: str
) -> None:
    with pytest.raises(UsageProblem, match="train-options: .*") as e:
        load_settings({"train_options": text}, {})
    assert said in str(e.value)
    with pytest.raises(UsageProblem, match=r"TRAIN_OPTIONS \(environment\): ") as e:
        load_settings({}, {"TRAIN_OPTIONS": text})
    assert said in str(e.value)


def test_twice_the_same_word_is_refused() -> None:
    call("train.x=1", "train.x=2")
    with pytest.raises(UsageProblem, match="x is given twice"):
        load_settings({"train_options": SEEN["train_options"]}, {})


@pytest.mark.parametrize("text", ["x=a\nb", "x=\x1b[2J", "x=\udcff", "x=a\0"])
def test_a_control_character_is_refused(text: str) -> None:
    with pytest.raises(UsageProblem, match="control character"):
        load_settings({"train_options": text}, {})


def loaded(folder: Path, lines: str, **environ: str) -> Settings:
    path = folder / ".env"
    path.write_text(lines)
    s, wrong = usable_settings({}, environ, path, lambda: None)
    assert wrong == ()
    return s


@pytest.mark.parametrize(
    "line",
    [
        "TRAIN_OPTIONS=a=1 sft.b=2",
        "TRAIN_OPTIONS='a=1 sft.b=2'  # comment",
        'export TRAIN_OPTIONS="a=1   sft.b=2"\r\n',
        "TRAIN_OPTIONS=train.a=1 train.sft.b=2",
    ],
)
def test_options_in_the_env_file(tmp_path: Path, line: str) -> None:
    assert loaded(tmp_path, f"TRAINER=../fork\n{line}\n").train_options == TWO
    with_both = loaded(tmp_path, f"TRAINER=../fork\n{line}\n", TRAIN_OPTIONS="c=3")
    assert with_both.train_options == (("c", "3"),), "the environment wins, as for each setting"


@pytest.mark.parametrize(
    "value, where",
    [
        ("../fork", "HERE/../fork"),
        ("my fork", "HERE/my fork"),
        ("/abs/fork", "/abs/fork"),
        ("~/fork", "~/fork"),
        ("nanolan", "nanolan"),
        ("https://github.com/a/b@" + "0" * 40, "https://github.com/a/b@" + "0" * 40),
        ("git@github.com:a/b@" + "0" * 40, "git@github.com:a/b@" + "0" * 40),
    ],
)
def test_a_trainer_in_the_env_file_is_relative_to_that_file(
    tmp_path: Path, value: str, where: str
) -> None:
    """The same run, wherever the command is typed; in the environment it is relative to where it is typed."""
    s = loaded(tmp_path, f"TRAINER={shlex.quote(value)}\n")
    assert s.trainer == where.replace("HERE", str(tmp_path))
    assert loaded(tmp_path, "", TRAINER=value).trainer == value


def test_any_phase_name_is_let_through_with_a_foreign_trainer_only() -> None:
    assert load_settings({"phase": "agent_rl", "trainer": "../x"}, {}).phases == ("agent_rl",)
    assert load_settings({"phase": "all", "trainer": "../x"}, {}).phases == ("all",)
    for flags in ({"phase": "agent_rl"}, {"phase": "agent_rl", "trainer": "nanolan"}):
        with pytest.raises(UsageProblem, match="phase: agent_rl is not a phase of nanolan"):
            load_settings(flags, {})
    with pytest.raises(UsageProblem, match="unknown phase 'stf'; the phases are mid, sft, rl"):
        load_settings({"phase": "stf"}, {"TRAINER": " "})
    with pytest.raises(UsageProblem, match=r"TRAINING_PHASE \(environment\): unknown phase 'stf'"):
        load_settings({}, {"TRAINING_PHASE": "stf"})


@pytest.mark.parametrize(
    "name", ["../x", "a b", "A", "sft+", "+sft", "a-b", "x" * 41, "a" + "+a" * 10, "é", "1"]
)
def test_a_phase_name_that_no_trainer_has_is_refused_at_once(name: str) -> None:
    with pytest.raises(UsageProblem, match="unknown phase"):
        load_settings({"phase": name, "trainer": "../x"}, {})
