"""Repositories: rights, storage, other names, and refused READMEs."""

from __future__ import annotations

from pathlib import Path

import pytest

from nanolan.errors import ApiProblem, AuthProblem, BadAnswer, Unreachable
from nanolan.hub.client import _masked
from nanolan.sim.hub.server import HubServer
from nanolan.sim.marker import MARKER
from tests.support.hub_client_fixtures import (
    READER,
    REPO,
    WRITER,
    client,
    server,  # noqa: F401  # a fixture
)


# ---- what doctor and upload ask for
def test_whoami_reads_the_account_and_refuses_an_unknown_token(
    server: HubServer,
) -> None:
    assert client(server)[0].whoami()["name"] == "me"
    with pytest.raises(AuthProblem):
        client(server, "hf_nobody_0123456789")[0].whoami()


def test_create_makes_a_private_repo_and_keeps_an_existing_one(server: HubServer) -> None:
    hub, _ = client(server)
    hub.create("me/new")
    hub.create("me/new")
    hub.create(REPO)
    assert hub.tree("me/new").private and "a.json" in hub.tree(REPO).files
    with pytest.raises(AuthProblem):
        client(server, READER)[0].create("me/other")


def test_read_part_refuses_a_server_that_ignores_the_range(server: HubServer) -> None:
    hub, _ = client(server)
    server.fault(r"GET .*/model_000001.pt", status=200, body={"all": "of it"})
    with pytest.raises(BadAnswer, match="does not send parts"):
        hub.read_part(REPO, "d20/model_000001.pt", 0, 3, revision="main")
    assert hub.read_part(REPO, "d20/model_000001.pt", 1, 3, revision="main") == b"eig"


def test_no_secret_of_this_process_gets_onto_the_hub_in_a_text_or_a_message(
    server: HubServer,
) -> None:
    hub, _ = client(server)
    hub.commit(REPO, {"metrics.jsonl": f'{{"phase": "{WRITER}"}}\n'.encode()}, f"by {WRITER}")
    assert server.read(REPO, "metrics.jsonl") == b'{"phase": "***"}\n'
    assert _masked(b"\x80no text") == b"\x80no text" and _masked(Path("x")) == Path("x"), (
        "what is no text goes as it is"
    )
    rows = b'{"text": "\xff\x80"}\n' + f'{{"key": "{WRITER}"}}\n'.encode()
    assert _masked(rows) == b'{"text": "\xff\x80"}\n{"key": "***"}\n', (
        "bytes that are no text keep nothing from being masked"
    )
    assert _masked(bytes(range(256)) * 9) == bytes(range(256)) * 9
    loaded = server.store.load("model", REPO)
    assert loaded and loaded.at("main").title == "by ***"


@pytest.mark.parametrize(
    "body, said",
    [
        (f"who is {WRITER}? \x1b[2J\x07", "who is ***?"),
        ("x" * 290 + WRITER + "x" * 50, "xxx..."),
        ("<html>" + "y " * 9999, "y..."),
        ("", "HTTP 422"),
    ],
    ids=["secret", "cut", "page", "nothing"],
)
def test_an_error_quotes_little_of_an_answer_and_no_part_of_a_secret(
    server: HubServer, body: str, said: str
) -> None:
    hub, _ = client(server, patience_s=0)
    server.fault("POST .*/commit/", status=422, body={"error": body})
    with pytest.raises(ApiProblem) as e:
        hub.commit(REPO, {"a": b"x"}, "words")
    assert (
        said in str(e.value).replace(" ...", "...")
        and MARKER[:6] not in str(e.value)
        and len(str(e.value)) < 400
    )


# ---- a repo under another name, and a README that is refused
@pytest.mark.parametrize(
    "old",
    ["me/before", "Me/LanBot", "someone/lanbot"],
    ids=["renamed", "letter case", "transferred"],
)
def test_a_renamed_repo_is_reached_by_its_old_name_and_reported_by_its_new_one(
    server: HubServer, monkeypatch: pytest.MonkeyPatch, old: str
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    server.moved[old] = REPO
    hub, sleeper = client(server)
    assert hub.tree(old).repo == REPO and hub.tree(REPO).repo == REPO
    hub.check_write(old)
    hub.commit(old, {"new.json": b"1", "large.bin": b"weights"}, "words", delete=["a.json"])
    assert (
        hub.read(old, "new.json") == b"1"
        and "large.bin" in server.files(REPO)
        and "a.json" not in server.files(REPO)
    )
    assert not sleeper.slept


def test_a_readme_that_the_hub_refuses_is_reported_at_once_with_the_hubs_message(
    server: HubServer,
) -> None:
    server.bad_readmes = '"license" must be one of [...]'
    hub, sleeper = client(server)
    with pytest.raises(
        ApiProblem,
        match='the Hub refused commit to me/lanbot: Invalid metadata in README.md. - "license" must be one',
    ):
        hub.commit(REPO, {"README.md": b"---\nlicense: x\n---\n"}, "words")
    assert not sleeper.slept


def test_a_redirect_loop_is_a_failed_answer(server: HubServer) -> None:
    hub, _ = client(server, patience_s=5)
    server.fault(r"GET /api/models", "redirect", status=302, times=1000)
    with pytest.raises(Unreachable, match="TooManyRedirects"):
        hub.tree(REPO)


def test_full_storage_is_reported_with_the_hubs_message(
    server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    server.storage_full = True
    with pytest.raises(ApiProblem, match="Private repository storage limit reached.*Delete files"):
        client(server, patience_s=0)[0].commit(REPO, {"large.bin": b"other weights"}, "words")
