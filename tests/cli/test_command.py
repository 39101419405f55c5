"""What every command line shares: words, suggestions, one line per error."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from nanolan.cli.command import KeyValueCommand, run, setting_options, settings_from
from nanolan.errors import InsufficientFunds, MayBeBilling
from nanolan.redact import printable
from nanolan.settings.settings import TABLE
from tests.support.core_fixtures import script


@click.command(cls=KeyValueCommand)
@setting_options("phase", "run_name", "spend_limit")
@click.option("-y", "--yes", is_flag=True)
@click.option("--all-configs", is_flag=True)
@click.argument("which", required=False)
def command(**given: Any) -> None:
    click.echo(repr({k: v for k, v in given.items() if v not in (None, False)}))


def call(*args: str) -> Result:
    return CliRunner().invoke(command, args, prog_name="launch")


@pytest.mark.parametrize(
    "args, given",
    [
        (["phase=sft"], {"phase": "sft"}),
        (["--phase", "sft"], {"phase": "sft"}),
        (["--phase=sft"], {"phase": "sft"}),
        (["run_name=x"], {"run_name": "x"}),
        (["run-name=x"], {"run_name": "x"}),
        (["--run_name=x"], {"run_name": "x"}),
        (["--run_name", "x"], {"run_name": "x"}),
        (["run-name=a=b"], {"run_name": "a=b"}),
        (["--run-name", "a=b"], {"run_name": "a=b"}),
        (["--run-name", "phase=sft"], {"run_name": "phase=sft"}),
        (["run-name="], {"run_name": ""}),
        (["run-name=a b"], {"run_name": "a b"}),
        (["run-name=$(id); x"], {"run_name": "$(id); x"}),
        (["yes=1"], {"yes": True}),
        (["yes=no"], {}),
        (["all_configs=true"], {"all_configs": True}),
        (["-y", "phase=mid"], {"yes": True, "phase": "mid"}),
        (["ab12", "phase=mid"], {"which": "ab12", "phase": "mid"}),
        (["--", "a=b"], {"which": "a=b"}),
    ],
    ids=str,
)
def test_words_and_options_are_the_same(args: list[str], given: dict[str, Any]) -> None:
    assert ast.literal_eval(call(*args).output) == given


@click.command(cls=KeyValueCommand)
@setting_options("humaneval", "no_identity")
def flags_only(**given: Any) -> None:
    s = settings_from(given)
    click.echo(repr((s.humaneval, s.no_identity)))


@pytest.mark.parametrize(
    "args, environ, want",
    [
        ([], {"HUMANEVAL": "yes", "NO_IDENTITY": "yes"}, (True, True)),
        (["humaneval=no"], {"HUMANEVAL": "yes"}, (False, False)),
        (["no-identity=no"], {"NO_IDENTITY": "yes"}, (False, False)),
        (["no_identity=off"], {"NO_IDENTITY": "yes"}, (False, False)),
        (["humaneval=false"], {"HUMANEVAL": "1", "NO_IDENTITY": "1"}, (False, True)),
        (["humaneval=yes"], {"HUMANEVAL": "no"}, (True, False)),
        (["--humaneval"], {}, (True, False)),
    ],
    ids=str,
)
def test_a_typed_no_wins_over_the_environment(
    tmp_path: Path, args: list[str], environ: dict[str, str], want: tuple[bool, bool]
) -> None:
    env = {"NANOLAN_ENV_FILE": os.devnull, "HUMANEVAL": None, "NO_IDENTITY": None, **environ}
    done = CliRunner().invoke(flags_only, args, env=env, prog_name="launch")
    assert ast.literal_eval(done.output) == want


@pytest.mark.parametrize(
    "args, hint",
    [
        (["--phse", "sft"], "Did you mean phase="),
        (["phse=sft"], "Did you mean phase="),
        (["--spend-limt=5"], "Did you mean spend-limit="),
        (["runname=x"], "Did you mean run-name="),
        (["all_confgs=1"], "Did you mean --all-configs?"),
        (["zzz=1"], "See: launch --help"),
        (["--" + "z" * 300], "no setting called"),
        (["-q"], "no setting called 'q'"),
    ],
    ids=lambda a: str(a)[:30],
)
def test_a_typo_gets_a_suggestion_and_exit_code_2(args: list[str], hint: str) -> None:
    result = call(*args)
    assert result.exit_code == 2 and hint in result.output and "z" * 41 not in result.output


@pytest.mark.parametrize(
    "args",
    [["phase=mid", "phase=sft"], ["phase=mid", "--phase", "sft"], ["run_name=a", "--run-name=b"]],
    ids=str,
)
def test_a_setting_given_twice_is_refused(
    args: list[str],
) -> None:  # which of two limits was meant?
    assert call(*args).exit_code == 2 and "given twice" in call(*args).output


@pytest.mark.parametrize("args", [["yes=maybe"], ["--yes=1"], ["--phase"], ["a", "b"]], ids=str)
def test_nonsense_is_exit_code_2(args: list[str]) -> None:
    assert call(*args).exit_code == 2


def test_every_setting_becomes_an_option_with_its_type_and_default() -> None:
    @click.command()
    @setting_options()
    def every(**_: Any) -> None: ...

    text = " ".join(CliRunner().invoke(every, ["--help"], terminal_width=300).output.split())
    assert all(
        f"--{n.replace('_', '-')} {m['help'].split()[0] if m['flag'] else m['metavar']}" in text
        for n, m in TABLE.items()
    )
    assert "[lanbot-v3]" in text and "[150]" in text


# ---- how a command ends


def end_of(monkeypatch: pytest.MonkeyPatch, error: BaseException | None, *argv: str) -> int:
    @click.command()
    def failing() -> int:
        if error:
            raise error
        return 6

    monkeypatch.setattr(sys, "argv", ["x", *argv])
    with pytest.raises(SystemExit) as e:
        run(failing)
    assert isinstance(e.value.code, int)
    return e.value.code


@pytest.mark.parametrize(
    "error, code, text",
    [
        (MayBeBilling("it may bill"), 8, "error: it may bill"),
        (InsufficientFunds("too low"), 4, "error: too low"),
        (click.UsageError("no such"), 2, "no such"),
        (KeyboardInterrupt(), 130, "stopped by Ctrl-C"),
        (click.Abort(), 130, "stopped by Ctrl-C"),
        (
            RuntimeError("odd"),
            1,
            "error: RuntimeError: odd (a bug in nanolan; details with --debug)",
        ),
        (
            PermissionError(13, "Permission denied", "/home/me/.cache/x"),
            1,
            "error: /home/me/.cache/x: Permission denied. Check that",
        ),
        (
            FileNotFoundError(2, "No such file or directory", b"nosuch/x"),
            1,
            "error: nosuch/x: No such file or directory",
        ),
        (OSError("odd"), 1, "error: OSError: odd (a bug in nanolan"),
        (None, 6, ""),
    ],
    ids=repr,
)
def test_an_error_is_one_line_and_its_exit_code(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException | None,
    code: int,
    text: str,
) -> None:
    assert end_of(monkeypatch, error) == code
    said = capsys.readouterr().err.strip()
    assert text in said and "Traceback" not in said


def test_debug_shows_the_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert end_of(monkeypatch, RuntimeError("odd"), "--debug") == 1
    said = capsys.readouterr().err
    assert "Traceback (most recent call last)" in said and "RuntimeError: odd" in said


def test_an_answer_cannot_drive_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert printable("a\x1b[2Jb\r\x07\u202ec\nd") == "a?[2Jb???c\nd"
    end_of(monkeypatch, InsufficientFunds("\x1b]0;owned\x07"))
    assert "\x1b" not in capsys.readouterr().err


def test_a_reader_that_hangs_up_is_no_traceback() -> None:
    code = (
        "import sys, click; sys.path.insert(0, '.'); from nanolan.cli.command import run\n"
        "@click.command()\ndef spout():\n for _ in range(100000): click.echo('x' * 100)\nrun(spout)"
    )
    done = subprocess.run(
        f'{sys.executable} -c "$CODE" | head -n 1',
        shell=True,
        env=os.environ | {"CODE": code},
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith("xxx") and "Traceback" not in done.stderr


# ---- .env


def test_a_key_file_that_others_can_read_is_pointed_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text("RUN_NAME=from-file\n")
    monkeypatch.setenv("NANOLAN_ENV_FILE", str(env_file))
    for mode, pointed_out in ((0o644, True), (0o640, True), (0o600, False)):
        env_file.chmod(mode)
        assert settings_from({}).run_name == "from-file"
        assert (f"chmod 600 {env_file}" in capsys.readouterr().err) is pointed_out


KEY = "hf_" + "S3CRET" + "q7Xw2VbN8kTz4RjMabcdefghijk"


@pytest.mark.parametrize(
    "words",
    [
        ["launch", KEY],
        ["launch", f"hf-endpoint=https://h.example/?token={KEY[3:]}"],
        ["launch", f"hf-endpont=https://h.example/?token={KEY[3:]}"],
        ["launch", f"spend-limt={KEY}"],
        ["launch", f"gpu={KEY}"],
        ["launch", f"me/{KEY}"],
        ["upload", "base", "--repo", KEY],
        ["stop", KEY],
        ["stop", "--timeout", KEY],
        ["why", KEY],
        ["export", KEY],
        ["logs", "-n", KEY],
        ["limit", f"spend-limit={KEY}"],
        ["chat", "--temperature", KEY],
        ["guard", f"yes={KEY}"],
        ["verify", KEY, KEY],
    ],
    ids=lambda w: " ".join(w)[:20],
)
def test_a_key_that_is_typed_in_the_wrong_place_is_not_shown(
    words: list[str], tmp_path: Path
) -> None:
    env = {"NANOLAN_HOME": str(tmp_path), "HOME": str(tmp_path), "NANOLAN_ENV_FILE": "/dev/null"}
    keys = {"SHADEFORM_API_KEY": "k" * 20, "SHADEFORM_API": "http://127.0.0.1:9"}
    done = script(*words, env=env | keys)
    assert done.returncode != 0 and done.stderr and "S3CRET" not in done.stdout + done.stderr
    assert "a bug" not in done.stderr
