"""Pulled checkpoints are proven, complete and where nanochat looks; existing files are kept."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanolan.checkpoint.manifest import Manifest, hash_bytes
from nanolan.errors import NanolanError, NotFound, PreflightFailed
from nanolan.hub.client import Hub
from nanolan.hub.pull import newest_phase, pull
from nanolan.redact import Secret
from nanolan.sim.hub.server import HubServer
from nanolan.sim.hub.state import WRITER

ROOT = Path(__file__).resolve().parents[2]
REPO, FOLDER = "me/models", "chatsft_checkpoints/d20"
TOKENIZER = {"tokenizer/tokenizer.pkl": b"a tokenizer", "tokenizer/token_bytes.pt": b"its bytes"}


def checkpoint(step: int, folder: str = FOLDER, run_id: str = "ab12cd34") -> dict[str, bytes]:
    files = {f"model_{step:06d}.pt": bytes([step]) * 5000, f"meta_{step:06d}.json": b"{}"}
    manifest = Manifest(run_id, "sft", step, tuple(hash_bytes(n, d) for n, d in files.items()))
    return {f"{folder}/{n}": d for n, d in files.items()} | {
        f"{folder}/manifest.json": manifest.to_json().encode()
    }


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer(tmp_path / "hub") as server:
        for name, value in server.env(
            tmp_path / "home"
        ).items():  # the downloading child reads its environment
            monkeypatch.setenv(name, value)
        yield server


def pulled(server: HubServer, base: Path) -> Path:
    return pull(Hub(server.url, Secret(WRITER)), REPO, "sft", "d20", base, lambda _: None)


def test_pull_writes_the_checkpoint_and_tokenizer_where_nanochat_looks(
    server: HubServer, tmp_path: Path
) -> None:
    server.put(REPO, checkpoint(7) | TOKENIZER)
    folder = pulled(server, tmp_path / "base")
    assert folder == tmp_path / "base" / FOLDER
    assert {p.name for p in folder.iterdir()} == {"model_000007.pt", "meta_000007.json"}
    assert (tmp_path / "base/tokenizer/tokenizer.pkl").read_bytes() == b"a tokenizer"
    assert not list((tmp_path / "base").glob(".pull-*"))


def test_what_is_here_already_is_not_downloaded_again(server: HubServer, tmp_path: Path) -> None:
    server.put(REPO, checkpoint(7) | TOKENIZER)
    folder = pulled(server, tmp_path / "base")
    said: list[str] = []

    def again() -> str:
        said.clear()
        pull(Hub(server.url, Secret(WRITER)), REPO, "sft", "d20", tmp_path / "base", said.append)
        return " ".join(said)

    assert "downloading" not in again() and "holds this checkpoint already" in again()
    (folder / "meta_000007.json").write_bytes(b"[]")  # same size, other content
    assert "downloading 1 files" in again()
    assert (folder / "meta_000007.json").read_bytes() == b"{}"
    assert (folder / "model_000007.pt").read_bytes() == bytes([7]) * 5000


def test_an_interrupted_download_continues(server: HubServer, tmp_path: Path) -> None:
    server.put(REPO, checkpoint(7) | TOKENIZER)
    hub, base, said = Hub(server.url, Secret(WRITER)), tmp_path / "base", list[str]()
    there = base / f".pull-{hub.tree(REPO).revision[:12]}" / FOLDER
    there.mkdir(parents=True)
    (there / "model_000007.pt").write_bytes(bytes([7]) * 5000)
    pull(hub, REPO, "sft", "d20", base, said.append)
    assert any("downloading 3 files" in text for text in said)
    assert (base / FOLDER / "model_000007.pt").is_file() and not there.exists()


def test_the_base_checkpoint_is_pulled_too(server: HubServer, tmp_path: Path) -> None:
    server.put(REPO, checkpoint(3, "base_checkpoints/d20") | TOKENIZER)
    hub = Hub(server.url, Secret(WRITER))
    folder = pull(hub, REPO, "base", "d20", tmp_path, lambda _: None)
    assert folder == tmp_path / "base_checkpoints/d20" and (folder / "model_000003.pt").is_file()


def test_an_existing_checkpoint_is_moved_aside(server: HubServer, tmp_path: Path) -> None:
    server.put(REPO, checkpoint(7) | TOKENIZER)
    there = tmp_path / "base" / FOLDER
    there.mkdir(parents=True)
    (there / "model_000999.pt").write_bytes(b"mine")  # nanochat would take this one: a larger step
    pulled(server, tmp_path / "base")
    assert [p.name for p in there.glob("model_*.pt")] == ["model_000007.pt"]
    aside = [p for p in there.parent.iterdir() if p != there]
    assert [(p / "model_000999.pt").read_bytes() for p in aside] == [b"mine"]
    assert not aside[0].name.startswith("d")  # or nanochat could take that folder for a model


def test_pulling_twice_changes_nothing(server: HubServer, tmp_path: Path) -> None:
    server.put(REPO, checkpoint(7) | TOKENIZER)
    first = pulled(server, tmp_path / "base")
    pulled(server, tmp_path / "base")
    assert len(list(first.parent.iterdir())) == 1


@pytest.mark.parametrize(
    "files, error",
    [
        (
            {k: v for k, v in checkpoint(7).items() if "manifest" not in k} | TOKENIZER,
            PreflightFailed,
        ),  # unproven
        (
            checkpoint(7) | TOKENIZER | {f"{FOLDER}/model_000007.pt": b"other"},
            NanolanError,
        ),  # not what its manifest says
        (checkpoint(7), NotFound),  # no tokenizer
    ],
    ids=["unproven", "differs", "no tokenizer"],
)
def test_unproven_or_incomplete_checkpoints_are_not_pulled(
    server: HubServer, tmp_path: Path, files: dict[str, bytes], error: type[Exception]
) -> None:
    server.put(REPO, files)
    with pytest.raises(error):
        pulled(server, tmp_path / "base")
    assert not (tmp_path / "base" / FOLDER).exists()


def test_without_a_phase_the_latest_one_is_taken(server: HubServer) -> None:
    server.put(REPO, checkpoint(3, "mid_checkpoints/d20") | checkpoint(7))
    hub = Hub(server.url, Secret(WRITER))
    assert newest_phase(hub.tree(REPO), "d20") == "sft"
    with pytest.raises(NotFound, match="no trained checkpoint of d32"):
        newest_phase(hub.tree(REPO), "d32")


def test_the_command_prints_the_folder(server: HubServer, tmp_path: Path) -> None:
    server.put(REPO, checkpoint(7) | TOKENIZER)
    env = {**os.environ, "HF_REPO": REPO, "NANOCHAT_BASE_DIR": str(tmp_path / "base")}
    done = subprocess.run(
        [sys.executable, "scripts/pull.py"], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.strip()) == (0, str(tmp_path / "base" / FOLDER)), (
        done.stderr
    )
    assert (
        subprocess.run(
            [sys.executable, "scripts/pull.py", "nope"], cwd=ROOT, env=env, capture_output=True
        ).returncode
        == 2
    )
