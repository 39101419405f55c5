"""What HF_REPO should hold: every piece with its size, its proof and what needs it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nanolan.checkpoint.manifest import Manifest, hash_bytes
from nanolan.hub.client import Hub
from nanolan.hub.layout import EXPECTED, Piece, look, paths_needed, size_text
from nanolan.redact import Secret
from nanolan.settings.load import load_settings
from nanolan.sim.hub.server import HubServer
from nanolan.sim.hub.state import WRITER
from tests.support.checkpoint_fixtures import meta, saved, weights

REPO, MID, BASE = "me/x", "mid_checkpoints/d20", "base_checkpoints/d20"
META, MODEL = meta(), saved(weights())
FILES = {"model_000007.pt": MODEL, "meta_000007.json": META}
MANIFEST = (
    Manifest("ab12cd34", "mid", 7, tuple(hash_bytes(n, d) for n, d in FILES.items()))
    .to_json()
    .encode()
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "hub") as server:
        server.put(REPO, {"README.md": b"x"})
        yield server


def pieces(server: HubServer, tag: str = "d20") -> dict[str, Piece]:
    hub = Hub(server.url, Secret(WRITER))
    return {p.path: p for p in look(hub, hub.tree(REPO), tag)}


def test_an_empty_repo_lacks_everything_and_names_the_command_for_each(server: HubServer) -> None:
    found = pieces(server)
    assert len(found) == len(EXPECTED) and {p.state for p in found.values()} == {
        "missing",
        "none yet",
    }
    assert all("just " in p.text for p in found.values() if p.state == "missing")


def test_each_piece_is_proven_unproven_or_not_whole(server: HubServer) -> None:
    server.put(
        REPO,
        {f"{MID}/{n}": d for n, d in FILES.items()}
        | {
            f"{MID}/manifest.json": MANIFEST,
            f"{BASE}/meta_000007.json": META,
            f"{BASE}/model_000007.pt": MODEL,
            "logs/a.log": b"x" * 10,
        },
    )
    found = pieces(server)
    assert (found[MID].state, found[MID].text) == ("proven", "step 7, run ab12cd34") and found[
        MID
    ].size == len(MODEL) + len(META)
    assert (
        found[BASE].state == "unproven"
        and "just verify --adopt" in found[BASE].text
        and found["logs"].state == "there"
    )
    server.put(REPO, {f"{MID}/model_000007.pt": MODEL[:-1], f"{BASE}/model_000007.pt": b"short"})
    found = pieces(server)
    assert (
        found[MID].state == found[BASE].state == "NOT WHOLE"
        and "differs" in found[MID].text
        and "cut off" in found[BASE].text
    )


def test_the_lines_fit_80_columns(server: HubServer) -> None:
    server.put(
        REPO,
        {
            f"{BASE}/model_000007.pt": b"short",
            f"{BASE}/meta_000007.json": META,
            "identity_conversations.jsonl": b"x" * 99,
        },
    )
    assert all(len(line) <= 80 for p in pieces(server).values() for line in p.lines())
    assert len(Piece(MID, "proven", 12_345_600_000, "", "sft starts from it").lines()[0]) <= 80


@pytest.mark.parametrize(
    "flags, paths",
    [
        ({}, {MID, "tokenizer"}),
        ({"phase": "mid+sft"}, {BASE, "tokenizer", "identity_conversations.jsonl"}),
        ({"phase": "mid", "no_identity": "yes"}, {BASE, "tokenizer"}),
        ({"phase": "rl", "model_tag": "d32"}, {"chatsft_checkpoints/d32", "tokenizer"}),
    ],
    ids=["sft", "mid+sft", "mid alone", "a d32"],
)
def test_the_paths_that_a_run_needs(flags: dict[str, str], paths: set[str]) -> None:
    assert paths_needed(load_settings(flags, {})) == paths


@pytest.mark.parametrize(
    "size, text",
    [
        (0, "0.0 kB"),
        (1234, "1.2 kB"),
        (99_999, "100.0 kB"),
        (100_000, "0.1 MB"),
        (1_122_000_000, "1,122.0 MB"),
    ],
)
def test_sizes_are_readable(size: int, text: str) -> None:
    assert size_text(size) == text
