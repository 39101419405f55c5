"""The guard as a unit that systemd parses back unchanged, and as a job that the real client sends; no secret in either."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from nanolan.errors import UsageProblem
from nanolan.manage.guard_service import quoted, unit
from nanolan.run.ledger import Ledger
from nanolan.settings.settings import ROOT
from tests.support.box_fixtures import TOKEN
from tests.support.core_fixtures import script

OWNER, KEY = "0badcafe", "CANARY-shadeform-0123456789"
SECRETS = {"HF_TOKEN": TOKEN, "SHADEFORM_API_KEY": KEY}


# ---- a systemd unit


def parsed(text: str) -> configparser.ConfigParser:
    found = configparser.ConfigParser(interpolation=None, strict=False, comment_prefixes=("#",))
    found.optionxform = str  # type: ignore[assignment,method-assign]
    found.read_string(text)
    return found


def as_systemd_reads(word: str) -> str:
    """A quoted word of a unit, after systemd's own unquoting, specifiers and variables."""
    assert word[0] == word[-1] == '"'
    return re.sub(
        r"\\(.)", r"\1", re.sub("%(.?)", lambda m: {"%": "%"}.get(m[1], "SPECIFIER"), word[1:-1])
    )


def test_the_unit_starts_the_guard_of_this_checkout_for_that_owner_and_restarts_it() -> None:
    text = unit(
        ROOT, OWNER, {"NANOLAN_HOME": "/srv/a $b", "SHADEFORM_API_KEY": KEY, "PATH": "/bin"}
    )
    found = parsed(text)
    assert found.sections() == ["Unit", "Service", "Install"]
    service = found["Service"]
    assert [as_systemd_reads(w) for w in re.findall(r'"[^"]*"', service["ExecStart"])] == [
        f"{ROOT}/.venv/bin/python",
        f"{ROOT}/scripts/guard.py",
        "--owner",
        OWNER,
    ]
    assert (
        service["WorkingDirectory"] == str(ROOT)
        and service["Environment"] == '"NANOLAN_HOME=/srv/a $b"'
    )
    assert service["Restart"] == "always" and found["Install"]["WantedBy"] == "default.target"
    assert '"/a$$b/scripts/guard.py"' in unit(
        Path("/a$b"), OWNER, {}
    )  # variables are expanded in that line
    assert "hunter2" not in unit(
        ROOT, OWNER, {"HTTPS_PROXY": "http://me:hunter2@proxy.example.org:3128"}
    )
    assert '"HTTPS_PROXY=http://proxy.example.org:3128"' in unit(
        ROOT, OWNER, {"HTTPS_PROXY": "http://proxy.example.org:3128"}
    )
    assert (
        KEY not in text
        and "enable --now nanolan-guard" in text
        and "loginctl enable-linger" in text
    )


@pytest.mark.parametrize(
    "word", ["/a b/c", 'quo"te', "back\\slash", "per%cent %h", "$HOME ${x}", "pl'ain", "ünï"]
)
def test_any_path_is_the_same_word_for_systemd(word: str) -> None:
    assert as_systemd_reads(quoted(word)) == word


@pytest.mark.parametrize("word", ["a\nExecStart=/bin/evil", "a\rb", "\x1b[2J"])
def test_a_path_that_would_be_another_line_is_refused(word: str) -> None:
    with pytest.raises(UsageProblem, match="control character"):
        quoted(word)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd here")
def test_systemd_itself_finds_nothing_wrong_with_it(tmp_path: Path) -> None:
    path = tmp_path / "nanolan-guard.service"
    path.write_text(unit(ROOT, OWNER, {}))
    done = subprocess.run(
        ["systemd-analyze", "--user", "verify", str(path)],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)},
    )
    assert done.returncode == 0 and "nanolan-guard" not in done.stderr, done.stderr


def test_the_command_prints_the_unit_and_names_missing_settings(tmp_path: Path) -> None:
    env = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "NANOLAN_HOME": str(tmp_path),
        "SHADEFORM_API_KEY": KEY,
        "NANOLAN_ENV_FILE": str(tmp_path / ".env"),
    }
    done = script("guard", "--unit", env=env)
    assert done.returncode == 0 and parsed(done.stdout)["Service"]["ExecStart"].endswith(
        f'"{Ledger(tmp_path).owner}"'
    )
    assert KEY not in done.stdout + done.stderr
    assert all(
        f"{name} is not set" in done.stderr for name in ("SHADEFORM_API_KEY", "HF_TOKEN", "HF_REPO")
    )
    (tmp_path / ".env").write_text(f"SHADEFORM_API_KEY={KEY}\nHF_TOKEN=hf_x0123456\nHF_REPO=me/x\n")
    (tmp_path / ".env").chmod(0o600)
    assert script("guard", "--unit", env=env | {"SHADEFORM_API_KEY": ""}).stderr == ""
    done = script(
        "guard", "--unit", env=env | {"HTTPS_PROXY": "http://me:hunter2@proxy.example.org:3128"}
    )
    assert (
        "HTTPS_PROXY may contain a password" in done.stderr
        and "hunter2" not in done.stdout + done.stderr
    )


@pytest.mark.parametrize(
    "words",
    [
        ("--any-owner", "--owner", OWNER),
        ("--any-owner", "--unit"),
        ("--owner", "me"),
        ("0",),
        ("words",),
    ],
    ids=" ".join,
)
def test_words_that_do_not_go_together_are_refused(words: tuple[str, ...], tmp_path: Path) -> None:
    from click.testing import CliRunner
    from guard import guard

    done = CliRunner(env={"NANOLAN_HOME": str(tmp_path)}).invoke(guard, list(words))
    assert done.exit_code == 2, done.output
