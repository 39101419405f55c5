"""A look inside the pickles on the Hub: only the parts that are needed are fetched, and never more than that."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanolan.errors import BadAnswer
from nanolan.hub.client import SMALL_FILE, Hub
from nanolan.hub.input_check import (
    InputFacts,
    look_at_checkpoint,
    look_at_identity,
    look_at_tokenizer,
    model_in,
)
from nanolan.phases import IDENTITY_FILE
from nanolan.redact import Secret
from nanolan.sim.hub.server import HubServer
from nanolan.sim.hub.state import WRITER
from tests.support.checkpoint_fixtures import LINE, MID, meta, saved, weights

REPO, MODEL = "me/x", f"{MID}/model_000009.pt"


@pytest.fixture(params=[False, True], ids=["lfs", "xet"])
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[HubServer]:
    with HubServer(tmp_path / "hub", xet=request.param) as server:
        yield server


def hub_of(server: HubServer) -> Hub:
    return Hub(server.url, Secret(WRITER), patience_s=1)


def look(server: HubServer, folder: str = MID) -> InputFacts:
    hub = hub_of(server)
    tree = hub.tree(REPO)
    return look_at_checkpoint(hub, tree, *model_in(tree.pin(tree.under(folder))))


def test_a_large_model_is_described_from_its_index(server: HubServer) -> None:
    wide = {"n_embd": 128, "n_layer": 4}
    server.put(
        REPO,
        {
            MODEL: saved(weights(**wide)),
            MODEL.replace("model", "meta").replace(".pt", ".json"): meta(9, **wide),
        },
    )
    assert look(server).text == "26 tensors of 854,272 numbers, nothing else; by its index alone"
    sent = [line for line in server.log if line["method"] == "GET" and line["status"] == 206]
    assert 1 <= len(sent) <= 6 and not [
        line for line in server.log if line["status"] == 200 and MODEL in line["path"]
    ]


def test_what_would_run_something_is_refused(server: HubServer) -> None:
    class Evil:
        def __reduce__(self) -> object:
            return print, ("ran",)

    server.put(REPO, {"tokenizer/tokenizer.pkl": pickle.dumps(Evil())})
    hub = hub_of(server)
    with pytest.raises(BadAnswer, match="builtins.print"):
        look_at_tokenizer(hub, (tree := hub.tree(REPO)), tree.files.values())


def test_identity_data_of_many_megabytes_is_read_in_parts(server: HubServer) -> None:
    many = LINE * (SMALL_FILE // len(LINE) + 2)
    server.put(REPO, {IDENTITY_FILE: many})
    hub = hub_of(server)
    assert look_at_identity(hub, hub.tree(REPO)).text == f"{many.count(b'user')} conversations"


def test_a_part_of_a_file_is_that_part(server: HubServer) -> None:
    server.put(REPO, {"a.pt": bytes(range(256)) * 100})
    hub = hub_of(server)
    assert hub.read_part(REPO, "a.pt", 255, 3, revision="main") == b"\xff\x00\x01"
