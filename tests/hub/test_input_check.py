"""Checks of pickles on the Hub download only the parts that they need."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanolan.errors import BadAnswer
from nanolan.hub.client import SMALL_FILE, Hub
from nanolan.hub.input_check import (
    InputFacts,
    RemoteFile,
    inspect_checkpoint,
    inspect_identity,
    inspect_inputs,
    inspect_tokenizer,
    model_in,
)
from nanolan.phases import IDENTITY_FILE
from nanolan.plan import Fork
from nanolan.redact import Secret
from nanolan.sim.hub.server import HubServer
from nanolan.sim.hub.state import WRITER
from tests.support.checkpoint_fixtures import BASE, LINE, MID, inputs, meta, saved, weights
from tests.support.conversation_forms import ACCEPTED

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
    return inspect_checkpoint(hub, tree, *model_in(tree.pin(tree.under(folder))))


def test_a_large_model_is_described_from_its_index(server: HubServer) -> None:
    wide = {"n_embd": 128, "n_layer": 4}
    server.put(
        REPO,
        {
            MODEL: saved(weights(**wide)),
            MODEL.replace("model", "meta").replace(".pt", ".json"): meta(9, **wide),
        },
    )
    assert (
        look(server).text == "26 tensors, 854,272 parameters, nothing else (checked by its index)"
    )
    sent = [line for line in server.log if line["method"] == "GET" and line["status"] == 206]
    assert 1 <= len(sent) <= 6 and not [
        line for line in server.log if line["status"] == 200 and MODEL in line["path"]
    ]


def test_a_pickle_that_would_run_code_is_refused(server: HubServer) -> None:
    class Evil:
        def __reduce__(self) -> object:
            return print, ("ran",)

    server.put(REPO, {"tokenizer/tokenizer.pkl": pickle.dumps(Evil())})
    hub = hub_of(server)
    with pytest.raises(BadAnswer, match="builtins.print"):
        inspect_tokenizer(hub, (tree := hub.tree(REPO)), tree.files.values())


@pytest.mark.slow  # many megabytes
def test_identity_data_of_many_megabytes_is_read_in_parts(server: HubServer) -> None:
    many = LINE * (SMALL_FILE // len(LINE) + 2)
    server.put(REPO, {IDENTITY_FILE: many})
    hub = hub_of(server)
    assert inspect_identity(hub, hub.tree(REPO)).text == f"{many.count(b'user')} conversations"


def test_read_part_returns_the_requested_bytes(server: HubServer) -> None:
    server.put(REPO, {"a.pt": bytes(range(256)) * 100})
    hub = hub_of(server)
    assert hub.read_part(REPO, "a.pt", 255, 3, revision="main") == b"\xff\x00\x01"


def fork(row: str) -> Fork:
    return Fork(row, "mine", "0" * 40, None, {}, "online")


def test_a_remote_file_is_read_to_its_last_byte(server: HubServer) -> None:
    server.put(REPO, {"a.bin": b"0123456789"})
    hub = hub_of(server)
    tree = hub.tree(REPO)
    file = RemoteFile(hub, tree, tree.files["a.bin"])
    assert [file.read(n) for n in (9, 1, 1)] == [b"012345678", b"9", b""]
    assert file.seek(0) == 0 and file.read(10) == b"0123456789"


def test_tool_calls_are_refused_for_forks_whose_scripts_read_only_text(server: HubServer) -> None:
    server.put(REPO, {IDENTITY_FILE: LINE + ACCEPTED["tool calls"][0]})
    hub = hub_of(server)
    tree = hub.tree(REPO)
    for reads in (None, fork("custom")):
        assert inspect_identity(hub, tree, reads).text.startswith("2 conversations")
    with pytest.raises(BadAnswer, match="line 2: an answer with tool calls.*--no-identity"):
        inspect_identity(hub, tree, fork("nanochat-2026"))


def test_conversations_that_no_phase_reads_are_not_checked_for_a_resume(server: HubServer) -> None:
    server.put(REPO, inputs() | {IDENTITY_FILE: b"[1]"})
    hub = hub_of(server)
    tree = hub.tree(REPO)
    pins = [tree.pin(p for p in tree.files if p.startswith(x)) for x in (BASE, "token", "ident")]
    assert "tensors" in inspect_inputs(hub, pins, identity=False)
    with pytest.raises(BadAnswer, match="line 1"):
        inspect_inputs(hub, pins)
