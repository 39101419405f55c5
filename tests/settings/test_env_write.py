"""A .env is changed in the named values only, read by its owner only, and never left half written."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from nanolan.settings.env_lines import read_env
from nanolan.settings.env_write import write_values
from nanolan.settings.settings import ROOT, TABLE

TEMPLATE = ROOT / ".env.example"
NAMES = [str(meta["env"]) for meta in TABLE.values()]


def values(path: Path) -> dict[str, str | None]:
    read = read_env(path, NAMES)
    assert not read.problems, read.problems
    return read.values


def test_a_new_file_has_the_template_and_the_values(tmp_path: Path) -> None:
    env = tmp_path / ".env"
    write_values(env, {"SHADEFORM_API_KEY": "abc", "HF_REPO": "me/lanbot"}, TEMPLATE)
    assert values(env)["SHADEFORM_API_KEY"] == "abc" and values(env)["HF_REPO"] == "me/lanbot"
    assert "# Defaults of launch" in env.read_text()
    assert stat.S_IMODE(env.stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == [".env"]


@pytest.mark.parametrize(
    "before",
    [
        "",
        "HF_REPO=old/one",
        "HF_REPO=old/one\n",
        "# mine\nexport HF_REPO='old/one'\nSPEND_LIMIT=40\n",
        "HF_REPO=\nOTHER_TOOL=1\r\n",
    ],
)
def test_what_else_is_in_the_file_stays(tmp_path: Path, before: str) -> None:
    env = tmp_path / ".env"
    env.write_text(before)
    env.chmod(0o644)
    write_values(env, {"HF_REPO": "me/new"}, TEMPLATE)
    rest = {"SPEND_LIMIT": "40"} if "SPEND_LIMIT" in before else {}
    rest |= {"OTHER_TOOL": "1"} if "OTHER_TOOL" in before else {}
    assert values(env) == {"HF_REPO": "me/new", **rest}
    assert stat.S_IMODE(env.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "text", ["a#b", "a b", "$HOME", "a'b", 'a"b', "a\\b", "=", "ntfy://x?y=1&z"]
)
def test_any_value_is_read_back_as_it_was_written(tmp_path: Path, text: str) -> None:
    env = tmp_path / ".env"
    write_values(env, {"NOTIFY_URL": text}, TEMPLATE)
    assert values(env)["NOTIFY_URL"] == text


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    kept = tmp_path / "elsewhere.env"
    kept.write_text("HF_REPO=old/one\n")
    (tmp_path / ".env").symlink_to(kept)
    write_values(tmp_path / ".env", {"HF_REPO": "me/new"}, TEMPLATE)
    assert (tmp_path / ".env").is_symlink() and values(kept) == {"HF_REPO": "me/new"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into every folder")
def test_a_folder_that_cannot_be_written_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    env = tmp_path / ".env"
    env.write_text("HF_REPO=old/one\n")
    tmp_path.chmod(0o500)
    with pytest.raises(OSError):
        write_values(env, {"HF_REPO": "me/new"}, TEMPLATE)
    tmp_path.chmod(0o700)
    assert values(env) == {"HF_REPO": "old/one"}
