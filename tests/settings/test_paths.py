"""A typed path is relative to the folder where the command was typed, and written files follow the user's umask."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from nanolan.hub.pull import base_dir
from nanolan.model.export_hf import ordinary_mode
from nanolan.settings.load import load_settings
from nanolan.settings.paths import CALLED_FROM, typed
from nanolan.settings.settings import ROOT
from nanolan.shadeform.ssh_key import load_own_key
from scripts.upload import sources_of
from tests.support.core_fixtures import script

KEY = "ssh-ed25519 " + "A" * 68
JUST = next(
    (p for p in (str(ROOT / ".venv/bin/just"), shutil.which("just")) if p and Path(p).is_file()), ""
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the user's shell; the program runs in another one."""
    monkeypatch.setenv(CALLED_FROM, str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    "text, wanted", [("a/b", "a/b"), ("./a", "a"), (".", ""), ("../x", "../x")]
)
def test_a_typed_path_is_relative_to_the_users_folder(here: Path, text: str, wanted: str) -> None:
    assert typed(text) == here / wanted
    assert typed("/abs") == Path("/abs") and typed("~/x") == Path.home() / "x"
    assert typed(text, {}) == Path.cwd() / wanted, "without just, the current folder is the user's"


def test_so_are_the_paths_in_settings(here: Path) -> None:
    (here / "id.pub").write_text(KEY)
    assert base_dir(os.environ | {"NANOCHAT_BASE_DIR": "base"}) == here / "base"
    assert load_own_key("id.pub").public == KEY
    assert sources_of(("base", "mine"), "d20", None) == [("base", here / "mine")]


def test_a_path_in_env_is_relative_to_the_folder_of_that_file(here: Path) -> None:
    folder = here / "elsewhere"
    folder.mkdir()
    for text, wanted in (
        ("keys/id.pub", str(folder / "keys/id.pub")),
        ("/k/id.pub", "/k/id.pub"),
        (f"{KEY} me", f"{KEY} me"),
    ):
        (folder / ".env").write_text(f"SSH_PUBLIC_KEY='{text}'\n")
        assert load_settings({}, {}, env_file=folder / ".env").ssh_public_key == wanted


def test_identity_writes_to_the_users_folder_and_reports_a_missing_one(
    here: Path,
) -> None:
    env = {"PATH": "/usr/bin:/bin", "HOME": str(here), CALLED_FROM: str(here)}
    done = script("identity", "name=L", "creator=G", "count=3", "to=mine.jsonl", env=env)
    assert done.returncode == 0 and (here / "mine.jsonl").is_file(), done.stderr
    done = script("identity", "name=L", "creator=G", "to=nosuch/x", env=env)
    assert (
        done.returncode == 2
        and f"there is no folder {here / 'nosuch'}" in done.stderr
        and "fault of" not in done.stderr
    )


@pytest.mark.skipif(not JUST, reason="no just here")
def test_just_passes_the_folder_where_it_was_called(tmp_path: Path) -> None:
    done = subprocess.run(
        [JUST, "--justfile", str(ROOT / "justfile"), "--evaluate", CALLED_FROM],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == str(tmp_path), done.stderr


@pytest.mark.parametrize("mask, mode", [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_an_exported_file_follows_the_users_umask(mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        assert ordinary_mode() == mode
    finally:
        os.umask(before)
