"""Checkpoints that were uploaded by hand: shown as unproven, adopted after a check of their content."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanolan.errors import BadAnswer, PreflightFailed
from nanolan.hub.client import Hub
from nanolan.hub.layout import BY_HAND, adopt, verify
from nanolan.redact import Secret
from nanolan.sim.hub.server import HubServer
from nanolan.sim.hub.state import WRITER
from tests.support.checkpoint_fixtures import meta, saved, weights

ROOT = Path(__file__).resolve().parents[2]
REPO, FOLDER = "me/models", "base_checkpoints/d20"
META, MODEL = meta(), saved(weights())


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "hub") as server:
        yield server


def hub_of(server: HubServer) -> Hub:
    return Hub(server.url, Secret(WRITER))


def put(server: HubServer, model: bytes = MODEL) -> None:
    server.put(REPO, {f"{FOLDER}/model_000007.pt": model, f"{FOLDER}/meta_000007.json": META})


def test_a_folder_without_a_manifest_is_unproven_and_says_how_to_adopt_it(
    server: HubServer,
) -> None:
    put(server)
    with pytest.raises(PreflightFailed, match="just verify --adopt base_checkpoints/d20"):
        verify(hub_of(server), REPO, FOLDER)


def test_an_adopted_checkpoint_is_proven_from_then_on(server: HubServer) -> None:
    put(server)
    assert adopt(hub_of(server), REPO, FOLDER).manifest.step == 7
    proof = verify(hub_of(server), REPO, FOLDER)
    assert (proof.manifest.run_id, proof.manifest.phase) == (BY_HAND, "base")
    assert {f.path for f in proof.manifest.files} == {"model_000007.pt", "meta_000007.json"}


def test_a_checkpoint_that_changed_after_its_adoption_is_not_proven(server: HubServer) -> None:
    put(server)
    adopt(hub_of(server), REPO, FOLDER)
    put(server, MODEL[:-1] + b"!")
    with pytest.raises(BadAnswer, match="model_000007.pt differs"):
        verify(hub_of(server), REPO, FOLDER)
    assert adopt(hub_of(server), REPO, FOLDER)  # on purpose, once more


def test_a_truncated_model_is_never_adopted(server: HubServer) -> None:
    put(server, MODEL[:1000])
    with pytest.raises(BadAnswer, match="cut off"):
        adopt(hub_of(server), REPO, FOLDER)
    assert f"{FOLDER}/manifest.json" not in server.files(REPO)


def test_the_command_lists_every_folder_and_exits_4_for_an_unproven_one(
    server: HubServer, tmp_path: Path
) -> None:
    put(server)
    env = {**os.environ, **server.env(tmp_path / "home"), "HF_REPO": REPO}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "scripts/verify.py", *words],
            cwd=ROOT,
            env=env,
            capture_output=True,
            text=True,
        )

    assert run().returncode == 4
    assert "proven    base_checkpoints/d20  step 7" in run("--adopt", FOLDER).stdout
    assert run().returncode == 0
