"""Near misses: every option mistyped in every usual way, words without an option, names from other tools."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from nanolan.cli.suggest import ALSO_CALLED, option_for, option_of
from nanolan.settings.settings import TABLE
from tests.support.recipes import command_of

COMMANDS = ("launch", "offers", "resume", "rehearse", "limit", "logs", "upload")


def options(script: str) -> dict[str, bool]:
    """The options of a command, and whether each is a flag."""
    return {
        name.lstrip("-"): p.is_flag
        for p in command_of(script).params
        if isinstance(p, click.Option)
        for name in p.opts
        if name.startswith("--")
    }


LAUNCH = options("launch")


def misses(name: str) -> set[str]:
    """The option with a letter missing, doubled or swapped, in capitals, and without or with other dashes."""
    middle = len(name) // 2
    swapped = name[: middle - 1] + name[middle] + name[middle - 1] + name[middle + 1 :]
    return {
        name[:middle] + name[middle + 1 :],
        name[:middle] + name[middle] + name[middle:],
        swapped,
        name.upper().replace("-", "_"),
        name.replace("-", ""),
        f"{name}s",
    } - {name}


@pytest.mark.parametrize("script", COMMANDS)
def test_every_option_is_found_however_it_is_mistyped(script: str) -> None:
    names = options(script)
    wrong = {
        (miss, name): found
        for name in names
        if len(name) > 3
        for miss in misses(name) - names.keys()
        if (found := option_for(miss, names)) != name
    }
    assert wrong == {}


def test_the_variable_of_a_setting_means_its_option() -> None:
    for name, meta in TABLE.items():
        assert option_for(meta["env"], LAUNCH) == name.replace("_", "-")


def test_the_names_of_other_tools_are_known() -> None:
    known = {o for script in COMMANDS for o in options(script)}
    assert set(ALSO_CALLED.values()) <= known
    assert (
        option_for("gpus", LAUNCH) == "num-gpus" and option_for("timeout", LAUNCH) == "max-duration"
    )
    assert option_for("detach", LAUNCH) == option_for("d", LAUNCH) == "no-wait"
    assert (
        option_for("detach", options("logs"))
        == option_for("zzz", LAUNCH)
        == option_for("", LAUNCH)
        == ""
    )


@pytest.mark.parametrize(
    "word, meant",
    [
        ("sft", "phase=sft"),
        ("sfft", "phase=sft"),
        ("SFT", "phase=sft"),
        ("mid+sft", "phase=mid+sft"),
        ("sft+mid", "phase=mid+sft"),
        ("mid,sft,rl", "phase=all"),
        ("all", "phase=all"),
        ("H100", "gpu=H100"),
        ("h100:8", "gpu=H100:8"),
        ("a100-80g", "gpu=A100_80G"),
        ("H100:", ""),
        ("d20", "model-tag=d20"),
        ("quick", "eval=quick"),
        ("total", "sort=total"),
        ("90m", "max-duration=90m"),
        ("$50", "spend-limit=50"),
        ("50", ""),
        ("me/lanbot", "hf-repo=me/lanbot"),
        ("me/lanbot:d20", "init=me/lanbot:d20"),
        ("dryrun", "--dry-run"),
        ("yes", "--yes"),
        ("gpu", "gpu=..."),
        ("spend_limit", "spend-limit=..."),
        ("zzz", ""),
        ("", ""),
        ("x\x1b[2J", ""),
    ],
)  # fmt: skip
def test_a_word_without_an_option_is_told_which_one_it_needs(word: str, meant: str) -> None:
    assert option_of(word, LAUNCH) == meant


@pytest.mark.parametrize(
    "words, said",
    [
        (["sft"], "'sft' belongs to no option. Did you mean phase=sft?"),
        (["sft", "H100:8"], "Did you mean phase=sft gpu=H100:8?"),
        (["zzz", "sft"], "Options are words such as NAME=VALUE. See: just launch --help"),
        (["NUM_GPUS=4"], "no setting called 'NUM_GPUS'. Did you mean num-gpus=4?"),
        (["--gpus", "4"], "no setting called 'gpus'. Did you mean num-gpus=4?"),
        (["--gpus=4"], "Did you mean num-gpus=4?"),
        (["--gpus", "--yes"], "Did you mean num-gpus=...?"),
        (["dryrun=yes"], "Did you mean --dry-run?"),
        (["hf_tokn=hf_abcdefghij"], "Did you mean hf-token=...?"),
        (["SHADEFORM_API_KEY=abc"], "Did you mean shadeform-api-key=...?"),
        (["-d"], "no setting called 'd'. Did you mean --no-wait?"),
    ],
    ids=str,
)  # fmt: skip
def test_the_answer_is_one_line_that_can_be_typed_and_shows_no_secret(
    words: list[str], said: str
) -> None:
    done = CliRunner().invoke(command_of("launch"), words, prog_name="just launch")
    assert done.exit_code == 2 and said in done.output and "hf_abc" not in done.output
