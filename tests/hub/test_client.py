"""The Hub client: every call is retried within its patience, and a refusal says what to do."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanolan.errors import ApiProblem, AuthProblem, BadAnswer, NotFound, Unreachable
from nanolan.hub.client import SMALL_FILE, Hub, _masked
from nanolan.plan import PinnedFile
from nanolan.redact import Secret
from nanolan.sim.hub.server import HubServer
from nanolan.sim.marker import MARKER

REPO, COMMIT = "me/lanbot", r"POST /api/models/me/lanbot/commit"
WRITER, READER = f"hf_writer_{MARKER}", f"hf_reader_{MARKER}"
USERS = {
    WRITER: {"name": "me", "orgs": [], "role": "write"},
    READER: {"name": "me", "orgs": [], "role": "read"},
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "hub", tokens=USERS) as hub:  # type: ignore[arg-type]
        hub.put(
            REPO,
            {
                "a.json": b"{}",
                "d20/model_000001.pt": b"weights",
                "d20/meta_000001.json": b"{}",
                "d200/x.txt": b"x",
            },
        )
        hub.put("owner/data", {"data/train-0.parquet": b"rows"}, typ="dataset", private=False)
        yield hub


class Sleeper:
    """A clock that only moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now, self.slept = 0.0, list[float]()

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def client(server: HubServer, token: str = WRITER, patience_s: float = 45.0) -> tuple[Hub, Sleeper]:
    sleeper = Sleeper()
    return Hub(
        server.url,
        Secret(token),
        patience_s=patience_s,
        sleep=sleeper.sleep,
        clock=lambda: sleeper.now,
    ), sleeper


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
