"""One reader of the user's conversations: each form gives the same conversations, or the same line and reason, everywhere."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nanolan.checkpoint.conversations import (
    count_conversations,
    iter_conversations,
    read_conversations,
    read_spans,
    write_conversations,
)
from nanolan.checkpoint.json_values import CHUNK, MAX_VALUE_BYTES
from nanolan.errors import NanolanError
from nanolan.hub.client import Hub
from nanolan.hub.input_check import inspect_identity
from nanolan.hub.upload_set import collect
from nanolan.phases import IDENTITY_FILE
from nanolan.redact import Secret
from nanolan.sim.hub.server import HubServer
from nanolan.sim.hub.state import WRITER
from tests.support.conversation_forms import ACCEPTED, BYE, HI, REFUSED, text, turns

REPO = "me/x"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    with HubServer(tmp_path_factory.mktemp("hub")) as hub:
        yield hub


def of_launch(path: Path, server: HubServer) -> str:
    """What launch, doctor, verify and resume say of the file on the Hub."""
    server.put(REPO, {IDENTITY_FILE: path.read_bytes()})
    hub = Hub(server.url, Secret(WRITER), patience_s=1)
    return inspect_identity(hub, hub.tree(REPO)).text


def of_upload(path: Path) -> str:
    return collect("data", path, "d20").text


def of_trainer(path: Path) -> list[Any]:
    mixtures = pytest.importorskip("nanolan.train.data.mixtures")
    source = mixtures.open_part(mixtures.Part(mixtures.IDENTITY), path.parent, 42)
    return [c["messages"] for b in source.blocks for _, c in source.take(b)]


def written(path: Path) -> list[Any]:
    """What a fork reads of the file that the box writes: an array of messages in each line."""
    write_conversations(path, path.with_name("written"))
    content = path.with_name("written").read_bytes()
    assert content.isascii()
    return [json.loads(line) for line in content.decode().splitlines()]


def put(folder: Path, file: bytes) -> Path:
    path = folder / IDENTITY_FILE
    path.write_bytes(file)
    return path


@pytest.mark.parametrize("form", ACCEPTED)
def test_an_accepted_form_is_read_alike_by_all(
    form: str, tmp_path: Path, server: HubServer
) -> None:
    file, want = ACCEPTED[form]
    path = put(tmp_path, file)
    assert read_conversations(path) == want
    assert of_trainer(path) == written(path) == want
    assert read_conversations(path.with_name("written")) == want
    found = [(c.offset, c.size) for c in iter_conversations(path)]
    assert list(read_spans(path, found)) == want
    assert of_upload(path) == of_launch(path, server) == f"{len(want)} conversations"


@pytest.mark.parametrize("form", REFUSED)
def test_a_refused_form_is_refused_alike_by_all(
    form: str, tmp_path: Path, server: HubServer
) -> None:
    file, line, why = REFUSED[form]
    path = put(tmp_path, file)
    readers: list[Callable[[], Any]] = [
        lambda: read_conversations(path),
        lambda: of_upload(path),
        lambda: of_launch(path, server),
        lambda: of_trainer(path),
        lambda: written(path),
    ]
    reasons = []
    for read in readers:
        with pytest.raises(NanolanError) as e:
            read()
        reasons.append(str(e.value).partition(IDENTITY_FILE)[2])
    assert len(set(reasons)) == 1, reasons
    assert why in reasons[0] and len(reasons[0]) < 400
    assert reasons[0].startswith(f", line {line}: " if line else ": "), reasons[0]
    assert not path.with_name("written").exists() and len(list(tmp_path.iterdir())) == 1


def test_the_table_has_the_forms_that_were_promised() -> None:
    assert len(ACCEPTED) >= 35 and len(REFUSED) >= 65


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_line_ends_at_the_edge_of_what_is_read_at_once_are_one(end: bytes, tmp_path: Path) -> None:
    first = text(turns("x", "y")) + end
    for edge in range(CHUNK - 3, CHUNK + 3):
        filler = text(turns("z" * (edge - len(first) - len(text(turns("", "")))), "")[:1])
        assert count_conversations(io.BytesIO(first * 3), "x") == 3
        file = first + filler + end + first
        with pytest.raises(NanolanError, match="x, line 2: no array of two"):
            count_conversations(io.BytesIO(file), "x")
        document = b"[" + first + b"," + b" " * (edge - len(first)) + end + b"5]"
        with pytest.raises(NanolanError, match="x, line 3: no array of messages"):
            count_conversations(io.BytesIO(document), "x")


@pytest.mark.parametrize("size", [CHUNK - 1, CHUNK, CHUNK + 1, MAX_VALUE_BYTES - 30])
def test_characters_at_the_edge_of_what_is_read_at_once_are_whole(
    size: int, tmp_path: Path
) -> None:
    c = turns("\u6211" * (size // 3 - 25), "\U0001f600")
    for file in (
        json.dumps([HI, c, BYE, c], ensure_ascii=False),
        "\n".join(json.dumps(v, ensure_ascii=False) for v in (HI, c, BYE, c)),
    ):
        path = put(tmp_path, file.encode())
        spans = [(f.offset, f.size) for f in iter_conversations(path)]
        assert list(read_spans(path, spans)) == read_conversations(path) == [HI, c, BYE, c]


def test_tool_calls_are_refused_for_scripts_that_read_only_text() -> None:
    file = b"\n".join([text(HI), text(ACCEPTED["tool calls"][1][0])])
    assert count_conversations(io.BytesIO(file), "x") == 2
    with pytest.raises(NanolanError, match="x, line 2: an answer with tool calls.*--no-identity"):
        count_conversations(io.BytesIO(file), "x", text_only=True)


def test_a_file_that_is_gone_or_a_folder_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(NanolanError, match=re.escape(f"{path}: cannot be read")):
            read_conversations(path)
