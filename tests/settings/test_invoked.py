"""Advice names the command as the user has typed it."""

from __future__ import annotations

import io
import os
import subprocess
from pathlib import Path

import pytest

from nanolan.redact import Secret, redact_stream
from nanolan.settings.invoked import AsInvoked, as_invoked, invoked, recipe_names
from nanolan.settings.settings import ROOT
from tests.support.core_fixtures import script
from tests.support.recipes import recipes


def test_the_recipes_are_those_of_the_justfile() -> None:
    assert recipe_names() == [r.name for r in recipes((ROOT / "justfile").read_text())]


@pytest.mark.parametrize(
    "text, said",
    [
        ("Its log: just logs ab12", "Its log: nanolan logs ab12"),
        ("(just status) or `just stop`.", "(nanolan status) or `nanolan stop`."),
        ("just dry-run phase=sft\njust hf auth login", None),
        ("just export skypilot, just export-hf", None),
        ("Usage: just launch [OPTIONS]", "Usage: nanolan launch [OPTIONS]"),
        ("it has just ended; just a moment", "it has just ended; just a moment"),
        ("just launched, just stopping, just watch-tower", None),
        ("/usr/bin/just launch, unjust launch, ./just launch", None),
        ("just", "just"),
    ],
)
def test_only_the_name_of_a_command_is_replaced(text: str, said: str | None) -> None:
    stream = io.StringIO()
    assert AsInvoked(stream, "nanolan", recipe_names()).write(text) == len(text)
    kept = text if "launched" in text or "bin" in text else text.replace("just ", "nanolan ")
    assert stream.getvalue() == (kept if said is None else said)


@pytest.mark.parametrize(
    "value, name",
    [("", "just"), ("nanolan", "nanolan"), ("./just", "./just"), ("rm -rf /", "just")],
)
def test_only_known_names_count(value: str, name: str) -> None:
    environ = {"NANOLAN_COMMAND": value}
    assert invoked(environ) == name
    stream = io.StringIO()
    assert (as_invoked(stream, environ) is stream) is (name == "just")
    assert as_invoked(None, environ) is None


def test_secrets_are_masked_and_the_streams_facts_are_kept() -> None:
    behind = io.StringIO()
    stream = redact_stream(as_invoked(behind, {"NANOLAN_COMMAND": "nanolan"}))
    stream.write(f"just stop {Secret('hf_abcdefgh12345').reveal()}\n")
    assert behind.getvalue() == "nanolan stop ***\n" and stream.isatty() is False


@pytest.mark.parametrize("name", ["just", "nanolan"])
def test_help_and_errors_of_a_command(name: str, tmp_path: Path) -> None:
    env = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "TMPDIR", "LANG")}
    env |= {"NANOLAN_COMMAND": name, "NANOLAN_HOME": str(tmp_path), "NANOLAN_ENV_FILE": os.devnull}
    shown, other = script("limit", "--help", env=env).stdout, {"just", "nanolan"} - {name}
    assert f"Usage: {name} limit" in shown and f"  {name} limit 200  " in shown
    said = script("why", env=env).stderr
    assert f"{name} init" in said and not any(f"{o} init" in said for o in other)


def test_the_wrapper_names_itself_where_just_is_not_on_path() -> None:
    shown = subprocess.run(
        ["./just"],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "HOME": os.environ["HOME"]},
        capture_output=True,
        text=True,
    )
    assert shown.returncode == 0, shown.stderr
    assert "Try: ./just rehearse; then: ./just doctor" in shown.stdout
