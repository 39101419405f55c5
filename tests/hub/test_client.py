"""The Hub client: every call is retried within its patience, and a refusal says what to do."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from nanolan.errors import ApiProblem, AuthProblem, BadAnswer, NotFound, Unreachable
from nanolan.hub.client import SMALL_FILE
from nanolan.plan import PinnedFile
from nanolan.sim.hub.server import HubServer
from tests.support.hub_client_fixtures import (
    COMMIT,
    READER,
    REPO,
    USERS,
    WRITER,
    client,
    server,  # noqa: F401  # a fixture
)


def commits(server: HubServer) -> int:
    return sum(line["method"] == "POST" and "/commit/" in line["path"] for line in server.log)


def test_tree_reads_sizes_and_hashes_in_one_request(server: HubServer) -> None:
    hub, _ = client(server)
    before = len(server.log)
    tree = hub.tree(REPO)
    assert len(server.log) == before + 1
    large, small = server.files(REPO)["d20/model_000001.pt"], server.files(REPO)["a.json"]
    assert tree.files["d20/model_000001.pt"] == PinnedFile(
        "d20/model_000001.pt", 7, large.sha256, large.oid
    )
    assert tree.files["a.json"] == PinnedFile("a.json", 2, None, small.oid)
    assert tree.private and not hub.tree("owner/data", "dataset").private
    assert (
        sorted(tree.under("d20"))
        == sorted(tree.under("d20/"))
        == ["d20/meta_000001.json", "d20/model_000001.pt"]
    )
    pinned = tree.pin(["d20/model_000001.pt", "d20/meta_000001.json"], proven=True)
    assert (pinned.revision, pinned.size, pinned.proven) == (tree.revision, 9, True)


def test_one_commit_adds_and_removes(server: HubServer, tmp_path: Path) -> None:
    hub, _ = client(server)
    (tmp_path / "b.txt").write_text("b")
    revision = hub.commit(
        REPO, {"logs/b.log": tmp_path / "b.txt", "c.json": b"[]"}, "words", delete=["a.json"]
    )
    assert commits(server) == 1 and revision == hub.tree(REPO).revision
    assert {"logs/b.log", "c.json"} < set(server.files(REPO)) and "a.json" not in server.files(REPO)
    assert hub.read(REPO, "logs/b.log") == b"b"


@pytest.mark.parametrize(
    "fault",
    [
        dict(status=503),
        dict(status=500),
        dict(status=502),
        dict(status=429, headers={"Retry-After": "1"}),
        dict(status=412),
        dict(action="reset"),
    ],
    ids=str,
)
def test_a_commit_survives_errors_that_huggingface_hub_does_not_retry(
    server: HubServer, fault: dict[str, object]
) -> None:
    hub, sleeper = client(server)
    server.fault(COMMIT, times=2, **fault)  # type: ignore[arg-type]
    hub.commit(REPO, {"new.json": b"1"}, "words")
    assert server.read(REPO, "new.json") == b"1" and len(sleeper.slept) == 2


@pytest.mark.parametrize(
    "fault", [dict(action="committed_reply_lost"), dict(action="truncate", after=5)], ids=str
)
def test_a_lost_commit_reply_does_no_harm(server: HubServer, fault: dict[str, object]) -> None:
    hub, sleeper = client(server)
    server.fault(COMMIT, **fault)  # type: ignore[arg-type]
    revision = hub.commit(REPO, {"new.json": b"1"}, "words", delete=["a.json"])
    assert len(sleeper.slept) == 1, "it was tried again, though it had happened"
    assert server.read(REPO, "new.json") == b"1" and "a.json" not in server.files(REPO)
    assert revision == hub.tree(REPO).revision


@pytest.mark.parametrize(
    "fault", [dict(status=503), dict(status=429), dict(action="reset")], ids=str
)
@pytest.mark.parametrize("call", ["tree", "read", "check_write"])
def test_every_read_survives_them_too(
    server: HubServer, call: str, fault: dict[str, object]
) -> None:
    hub, sleeper = client(server)
    server.fault(r"(GET|HEAD) ", times=2, **fault)  # type: ignore[arg-type]
    hub.read(REPO, "a.json") if call == "read" else getattr(hub, call)(REPO)
    assert sleeper.slept


@pytest.mark.parametrize(
    "header, least, most",
    [
        ("7", 7, 7),
        ("0", 0, 1),
        ("-5", 0, 1),
        ("nan", 0, 1),
        ("soon", 0, 1),
        ("100000", 120, 120),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 1),
    ],
)
def test_retry_after_is_obeyed_up_to_two_minutes(
    server: HubServer, header: str, least: float, most: float
) -> None:
    hub, sleeper = client(server, patience_s=600)
    server.fault(COMMIT, status=429, headers={"Retry-After": header})
    hub.commit(REPO, {"new.json": b"1"}, "words")
    assert least <= sum(sleeper.slept) <= most and max(sleeper.slept) <= 5, (
        "in naps, so that an end is noticed"
    )


def test_waits_grow_with_jitter_until_patience_is_over(server: HubServer) -> None:
    hub, sleeper = client(server, patience_s=300)
    server.fault(COMMIT, status=503, times=1000)
    with pytest.raises(Unreachable, match="HTTP 503.*commit to me/lanbot.*300 s"):
        hub.commit(REPO, {"new.json": b"1"}, "words")
    assert 200 < sum(sleeper.slept) < 300, "the wait that would end after the patience is not begun"
    tries = commits(server)
    assert 10 < tries < 26 and max(sleeper.slept) <= 5, "waits of up to 30 s, in naps"
    assert "new.json" not in server.files(REPO)


@pytest.mark.parametrize("call", ["tree", "commit"])
def test_an_unreadable_answer_is_retried(server: HubServer, call: str) -> None:
    for times in (2, 1000):
        hub, sleeper = client(server)
        server.fault(
            r"(GET|POST) /api/models", status=200, body={"page": "just a moment"}, times=times
        )

        def ask() -> object:
            return (
                hub.tree(REPO) if call == "tree" else hub.commit(REPO, {"new.json": b"1"}, "words")
            )

        if times == 2:
            assert ask() and len(sleeper.slept) == 2
        else:
            with pytest.raises(Unreachable, match="unreadable answer"):
                ask()


def test_a_missing_hub_raises_unreachable(tmp_path: Path) -> None:
    with HubServer(tmp_path / "hub", tokens=USERS) as gone:  # type: ignore[arg-type]
        hub, sleeper = client(gone)
    with pytest.raises(Unreachable, match="Is the network up"):
        hub.tree(REPO)
    assert len(sleeper.slept) > 3


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_names_the_variable_and_never_its_value(server: HubServer, status: int) -> None:
    hub, sleeper = client(server)
    server.fault(COMMIT, status=status, body={"error": f"the token {WRITER} may not"})
    with pytest.raises(
        AuthProblem, match=f"HF_TOKEN.*HTTP {status}.*huggingface.co/settings/tokens"
    ) as caught:
        hub.commit(REPO, {"new.json": b"1"}, "words")
    assert WRITER not in str(caught.value) and not sleeper.slept, (
        "a definite no is not asked for again"
    )


def test_a_read_only_token_is_refused_before_anything_is_sent(server: HubServer) -> None:
    hub, _ = client(server, READER)
    assert hub.tree(REPO).files
    with pytest.raises(AuthProblem, match="HF_TOKEN"):
        hub.check_write(REPO)
    client(server)[0].check_write(REPO)
    assert commits(server) == 0


def test_a_wrong_token_is_an_auth_problem_and_not_a_missing_repo(server: HubServer) -> None:
    with pytest.raises(AuthProblem, match="HF_TOKEN"):
        client(server, "hf_nobody_0123456789")[0].tree(REPO)


def test_other_errors_do_not_show_the_token(server: HubServer) -> None:
    server.fault(COMMIT, status=400, body={"error": f"bad commit by {WRITER}"})
    with pytest.raises(ApiProblem, match="HTTP 400") as caught:
        client(server)[0].commit(REPO, {"new.json": b"1"}, "words")
    assert WRITER not in str(caught.value)


def test_a_missing_repo_or_file_raises_not_found(server: HubServer) -> None:
    hub, sleeper = client(server)
    for look in (
        lambda: hub.tree("me/nothing"),
        lambda: hub.read(REPO, "nothing.json"),
        lambda: hub.check_write("me/nothing"),
        lambda: hub.tree("someone/private"),
        lambda: hub.tree(REPO, revision="0" * 40),
        lambda: hub.commit("me/nothing", {"a": b""}, "words"),
    ):
        with pytest.raises(NotFound, match="the Hub has no|has no file"):
            look()
    assert not sleeper.slept


def test_a_file_too_large_for_memory_is_refused(server: HubServer) -> None:
    server.put(REPO, {"huge.log": b"x" * (SMALL_FILE + 1)})
    with pytest.raises(BadAnswer, match="larger than 16 MB"):
        client(server)[0].read(REPO, "huge.log")


def test_a_second_client_does_not_close_the_connections_of_the_first(server: HubServer) -> None:
    hub, sleeper = client(server)
    server.fault(r"GET .*/a\.json", "stall", seconds=0.5)
    answer: list[object] = []
    reading = threading.Thread(target=lambda: answer.append(hub.read(REPO, "a.json")))
    reading.start()
    time.sleep(0.2)
    client(server)
    reading.join()
    assert answer == [b"{}"] and not sleeper.slept, (
        "the first one's request was cut off and sent again"
    )


def test_loopback_bypasses_the_proxy(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.utils import close_session

    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # nothing listens there
    close_session()
    try:
        assert client(server)[0].read(REPO, "a.json") == b"{}"
    finally:
        close_session()


def test_a_stalled_answer_times_out(server: HubServer) -> None:
    from huggingface_hub.utils import get_session

    client(server)
    timeout = get_session().timeout
    assert timeout.read and timeout.read <= 60 and timeout.connect and timeout.connect <= 10
