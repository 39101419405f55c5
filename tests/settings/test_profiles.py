"""`profile=NAME`: its settings are typed words, nothing else; a wrong file is a clear error before anything is asked."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from nanolan.cli.command import KeyValueCommand, profile_option, setting_options
from nanolan.errors import UsageProblem
from nanolan.settings.profiles import profile_words

GOOD = """
[cheap-sft]
phase = "sft"
gpu = "H100:8"
spend-limit = 40
max_price = 30.5
no-identity = true
humaneval = false

[empty]
"""


def file(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "profiles.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_profile_is_the_words_that_one_would_type(tmp_path: Path) -> None:
    assert profile_words(file(tmp_path, GOOD), "cheap-sft") == {
        "phase": "sft",
        "gpu": "H100:8",
        "spend-limit": "40",
        "max-price": "30.5",
        "no-identity": "yes",
        "humaneval": "no",
    }
    assert profile_words(file(tmp_path, GOOD), "empty") == {}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (GOOD.replace("cheap-sft", "cheap-stf"), "did you mean cheap-stf"),
        ("[a]\n[b]\n", "it has a, b"),
        ("", "it has none"),
        ("cheap-sft = 3\n", "is not a table"),
        ("[cheap-sft]\nspend-limit = 40\nspend_limit = 150\n", "spend-limit is given twice"),
        ("[cheap-sft]\nno_identity = true\nno-identity = true\n", "no-identity is given twice"),
        ("[cheap-sft]\nspend-limt = 3\n", "did you mean spend-limit"),
        ("[cheap-sft]\nqqqq = 3\n", "no setting called 'qqqq'"),
        ("[cheap-sft]\nhf-token = 'x'\n", "put HF_TOKEN into .env"),
        ("[cheap-sft]\nprofile = 'other'\n", "no setting called 'profile'"),
        ("[cheap-sft]\ngpu = ['H100']\n", "must be a text"),
        ("[cheap-sft]\ngpu = ''\n", "must be a text"),
        ("[cheap-sft]\ngpu = 2026-01-01\n", "must be a text"),
        ("[cheap-sft\n", "not valid TOML"),
        ("[cheap-sft]\ngpu = 'a'\ngpu = 'b'\n", "not valid TOML"),
        (b"\xff\xfe", "not valid TOML"),
        ("x = " + "[" * 5000, "not valid TOML"),
        ("a = 1\n" * 20_000, "cannot be read"),
    ],
)
def test_a_wrong_file_is_a_clear_error(tmp_path: Path, text: str | bytes, says: str) -> None:
    with pytest.raises(UsageProblem, match=says):
        profile_words(file(tmp_path, text), "cheap-sft")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageProblem, match=r"there is no .*profiles\.toml"):
        profile_words(tmp_path / "profiles.toml", "cheap-sft")


@click.command(cls=KeyValueCommand)
@profile_option
@setting_options("phase", "gpu", "spend_limit", "run_name", "no_identity", "humaneval")
def command(**flags: str | None) -> None:
    click.echo(json.dumps({k: v for k, v in flags.items() if v is not None}))


@pytest.mark.parametrize(
    ("words", "given"),
    [
        (["profile=cheap-sft"], {"phase": "sft", "gpu": "H100:8", "spend_limit": "40"}),
        (["--profile", "cheap-sft"], {"phase": "sft", "gpu": "H100:8", "spend_limit": "40"}),
        (["--profile=cheap-sft", "gpu=A100"], {"phase": "sft", "gpu": "A100", "spend_limit": "40"}),
        (
            ["--gpu", "A100", "profile=cheap-sft"],
            {"phase": "sft", "gpu": "A100", "spend_limit": "40"},
        ),
        (["--run-name", "profile"], {"run_name": "profile"}),
        (["--run-name", "profile=cheap-sft"], {"run_name": "profile=cheap-sft"}),
        (
            ["profile=cheap-sft", "--run-name", "spend-limit=9"],
            {"phase": "sft", "gpu": "H100:8", "spend_limit": "40", "run_name": "spend-limit=9"},
        ),
    ],
)
def test_what_is_typed_wins_and_settings_of_other_commands_are_left_out(
    tmp_path: Path, words: list[str], given: dict[str, str]
) -> None:
    file(tmp_path, GOOD)
    done = CliRunner().invoke(command, words, env={"NANOLAN_ENV_FILE": str(tmp_path / ".env")})
    seen = given | ({"no_identity": "yes", "humaneval": "no"} if "phase" in given else {})
    assert done.exit_code == 0 and json.loads(done.stdout) == seen, done.output


@pytest.mark.parametrize("words", [["profile=nope"], ["profile="], ["--profile"]])
def test_a_profile_that_is_not_there_is_a_usage_error(tmp_path: Path, words: list[str]) -> None:
    file(tmp_path, GOOD)
    done = CliRunner().invoke(command, words, env={"NANOLAN_ENV_FILE": str(tmp_path / ".env")})
    assert done.exit_code == 2, done.output
