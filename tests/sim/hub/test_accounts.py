"""The accounts of the local Hub, under the real client: read and write permissions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nanolan.sim.hub.server import HubServer
from nanolan.sim.hub.state import READER
from tests.sim.hubclient import BIG, REPO, client


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "hub") as hub:
        yield hub


def test_a_private_repo_hides_from_strangers(tmp_path: Path) -> None:
    tokens: Any = {
        "hf_owner": {"name": "me", "orgs": [], "role": "write"},
        "hf_other": {"name": "other", "orgs": [], "role": "write"},
    }
    with HubServer(tmp_path / "hub", tokens=tokens) as hub:
        hub.put(REPO, {"a.txt": b"x"})
        hub.put("me/open", {"a.txt": b"x"}, private=False)
        got = client(
            hub,
            tmp_path,
            """
say([[failure(api.model_info, repo, token=token) for token in ("hf_owner", "hf_other", False, "hf_wrong")]
     for repo in ("me/model", "me/open")])
""",
        )
        assert got[0] == [
            None,
            ["RepositoryNotFoundError", 404],
            ["RepositoryNotFoundError", 401],
            ["HfHubHTTPError", 401],
        ]
        assert got[1] == [None, None, None, ["HfHubHTTPError", 401]]


def test_a_read_only_token_reads_and_is_refused_every_write(hub: HubServer, tmp_path: Path) -> None:
    head = hub.put(REPO, {"a.pt": BIG})
    got = client(
        hub,
        tmp_path,
        """
upload = dict(repo_id="me/model", path_in_repo="b.txt", path_or_fileobj=b"x")
say([failure(api.upload_file, **upload), failure(api.create_repo, "me/new"), failure(api.delete_repo, "me/model"),
     failure(api.auth_check, "me/model", write=True), failure(api.auth_check, "me/model"),
     failure(api.hf_hub_download, "me/model", "a.pt"), api.whoami()["auth"]["accessToken"]["role"]])
""",
        HF_TOKEN=READER,
    )
    assert [status for _, status in got[:4]] == [403, 403, 403, 403]
    assert got[4:] == [None, None, "read"]
    assert hub.files(REPO) == hub.files(REPO, rev=head)


def test_a_repo_is_made_private_once_and_then_found(hub: HubServer, tmp_path: Path) -> None:
    hub.put("other/open", {"a.txt": b"x"}, private=False)
    got = client(
        hub,
        tmp_path,
        """
api.create_repo("me/model", private=True); api.create_repo("me/model", private=True, exist_ok=True)
again = failure(api.create_repo, "me/model")
private = api.model_info("me/model").private
api.update_repo_settings("me/model", visibility="public")
say([again, private, api.model_info("me/model").private, [m.id for m in api.list_models(author="me")],
     failure(api.delete_repo, "me/model"), failure(api.model_info, "me/model")])
""",
    )
    assert got == [
        ["HfHubHTTPError", 409],
        True,
        False,
        [REPO],
        None,
        ["RepositoryNotFoundError", 404],
    ]
