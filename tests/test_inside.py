"""A look inside the pickles on the Hub: only the parts that are needed are fetched, and never more than that."""
from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from nanolan.errors import BadAnswer
from nanolan.hub import Hub
from nanolan.inside import look_inside, pickles_of
from nanolan.secret import Secret
from nanolan.sim.hub import HubServer
from nanolan.sim.hub_state import WRITER

REPO, MODEL = "me/x", "mid_checkpoints/d20/model_000009.pt"


@pytest.fixture(params=[False, True], ids=["lfs", "xet"])
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[HubServer]:
    with HubServer(tmp_path / "hub", xet=request.param) as server:
        yield server


def saved(value: object) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def hub_of(server: HubServer) -> Hub:
    return Hub(server.url, Secret(WRITER), patience_s=1)


def test_a_large_model_is_described_from_its_index(server: HubServer) -> None:
    server.put(REPO, {MODEL: saved({"w": torch.zeros(3_000_000), "b": torch.zeros(10)})})
    hub = hub_of(server)
    assert look_inside(hub, hub.tree(REPO), MODEL).startswith("2 tensors of 3,000,010 numbers, nothing else")
    sent = [line for line in server.log if line["method"] == "GET" and line["status"] == 206]
    assert 1 <= len(sent) <= 6 and not [line for line in server.log if line["status"] == 200 and MODEL in line["path"]]


def test_what_is_cut_off_or_would_run_something_is_refused(server: HubServer) -> None:
    class Evil:
        def __reduce__(self) -> object:
            return print, ("ran",)
    server.put(REPO, {MODEL: saved({"w": torch.zeros(100_000)})[:-50], "tokenizer/tokenizer.pkl": pickle.dumps(Evil())})
    hub = hub_of(server)
    with pytest.raises(BadAnswer, match="cut off"):
        look_inside(hub, hub.tree(REPO), MODEL)
    with pytest.raises(BadAnswer, match="builtins.print"):
        look_inside(hub, hub.tree(REPO), "tokenizer/tokenizer.pkl")


def test_a_part_of_a_file_is_that_part(server: HubServer) -> None:
    server.put(REPO, {"a.pt": bytes(range(256)) * 100})
    hub = hub_of(server)
    assert hub.read_part(REPO, "a.pt", 255, 3, revision="main") == b"\xff\x00\x01"


def test_the_pickles_that_a_run_loads_are_the_tokenizers_and_the_newest_models(server: HubServer) -> None:
    server.put(REPO, {MODEL: b"x", MODEL.replace("9", "8"): b"x", "mid_checkpoints/d32/model_000099.pt": b"x", "tokenizer/tokenizer.pkl": b"x",
                      "mid_checkpoints/d20/old/model_000099.pt": b"x"})
    hub = hub_of(server)
    assert pickles_of(hub.tree(REPO), "d20") == ["tokenizer/tokenizer.pkl", MODEL]
