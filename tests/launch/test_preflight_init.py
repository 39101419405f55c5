"""init=OWNER/REPO:FOLDER: a checkpoint to start from that lies elsewhere on the Hub."""

from __future__ import annotations

import pytest

from nanolan.errors import UsageProblem
from nanolan.sim.hub.server import HubServer
from tests.support.preflight_fixtures import (
    FILES,
    REPO,
    failed,
    look,
    server,  # noqa: F401  # a fixture
    settings,
)

OTHER = "somebody/nanochat-d32"


@pytest.mark.parametrize(
    "folder", ["", "d32/checkpoints", "base"], ids=["root", "tag/checkpoints", "folder"]
)
def test_the_newest_step_of_any_layout_is_pinned_from_its_repo(
    server: HubServer,  # noqa: F811
    folder: str,
) -> None:
    older = {name.replace("7", "3"): data for name, data in FILES.items()}
    where = f"{folder}/" if folder else ""
    server.put(OTHER, {f"{where}{n}": d for n, d in (older | FILES).items()}, private=False)
    found = look(server, init=f"{OTHER}:{folder}")
    assert not failed(found)
    pins = {p.repo: [f.path for f in p.files] for p in found.inputs if p.repo == OTHER}
    assert pins == {OTHER: [f"{where}meta_000007.json", f"{where}model_000007.pt"]}


@pytest.mark.parametrize(
    ("init", "says"),
    [
        (f"{OTHER}:d20", "no d20/"),
        (f"{OTHER}:", "holds no model_SSSSSS.pt"),
        ("nobody/nothing:d20", "nobody/nothing"),
    ],
)
def test_what_is_not_there_fails_its_check(
    server: HubServer,  # noqa: F811
    init: str,
    says: str,
) -> None:
    server.put(OTHER, {"README.md": b"hello"}, private=False)
    assert says in failed(look(server, init=init))["input checkpoint"]


def test_without_it_the_phases_own_folder_is_read(server: HubServer) -> None:  # noqa: F811
    assert {p.repo for p in look(server).inputs} == {REPO}


@pytest.mark.parametrize(
    "text",
    ["x", "a/b:../c", "a/b:/etc", "a/b:c/../d", "https://x/y:z", "a/b:.git", "a/b:c d", ":d20"],
)
def test_a_strange_place_is_refused(text: str) -> None:
    with pytest.raises(UsageProblem):
        settings(init=text)
