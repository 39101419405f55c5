"""What is read as JSON from services, the Hub and the disk: wrong in every place, without end, and full of terminal codes."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nanolan.errors import BadAnswer, NanolanError, NotFound, UnclearAnswer, Unreachable
from nanolan.hub.client import SMALL_FILE, Hub
from nanolan.plan import UNREADABLE
from nanolan.redact import Secret, printable
from nanolan.run.find import checked_plan
from nanolan.run.ledger import Entry, Ledger
from nanolan.run.postmortem import read_postmortem
from nanolan.run.record import read_progress, read_receipt
from nanolan.run.requests import LimitRequest
from nanolan.shadeform.client import MOST_BYTES, Shadeform
from tests.fuzz import reading
from tests.fuzz.made import paths_of
from tests.support.core_fixtures import PLAN
from tests.support.pickle_fixtures import grown

NASTY: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    2**63,
    10**30,
    -(10**30),
    0.5,
    1e308,
    "",
    "x" * 3000,
    "\x1b]52;c;cHduZWQ=\x07",
    "\u202e",
    "9999-12-31T23:59:59Z",
    "0001-01-01T00:00:00Z",
    "2026-13-40",
    "1" * 5000,
    "nan",
    "<script>",
    [],
    {},
    [[]],
    {"a": 1e308},
    ["x"],
    "../../x",
    "-oProxyCommand=touch pwned",
    "$(touch pwned)",
)


def with_one_wrong(good: Any) -> Iterator[tuple[str, bytes]]:
    """The document with each of its values in turn replaced by each nasty one."""
    for path in filter(None, paths_of(good)):
        for value in NASTY:
            document = copy.deepcopy(good)
            into = document
            for step in path[:-1]:
                into = into[step]
            into[path[-1]] = value
            yield f"{path} = {value!r:.40}", json.dumps(document).encode()


DOCUMENTS: dict[str, tuple[Any, Callable[[bytes], None]]] = {
    "receipt": (
        reading.RECEIPT,
        lambda data: reading.told(
            (data, json.dumps(reading.PROGRESS).encode(), json.dumps(reading.BOX).encode(), "")
        ),
    ),
    "progress": (
        reading.PROGRESS,
        lambda data: reading.told(
            (json.dumps(reading.RECEIPT).encode(), data, json.dumps(reading.BOX).encode(), "")
        ),
    ),
    "black box": (
        reading.BOX,
        lambda data: reading.told(
            (json.dumps(reading.RECEIPT).encode(), json.dumps(reading.PROGRESS).encode(), data, "")
        ),
    ),
    "plan": (reading.GOOD_PLAN, reading.plan),
    "manifest": (reading.GOOD_MANIFEST, reading.manifest),
    **{
        f"answer of {name}": (good, lambda data, name=name: reading.api((name, 200, data, {})))
        for name, good in reading.ANSWERS.items()
    },
}


@pytest.mark.parametrize("name", list(DOCUMENTS))
def test_no_value_in_any_place_of_a_document_gets_past_its_reader(name: str) -> None:
    """Status, why, costs, offers and ssh have something to say, and nothing but NanolanError is raised (see tests/fuzz/reading.py)."""
    good, law = DOCUMENTS[name]
    for what, data in with_one_wrong(good):
        try:
            law(data)
        except Exception as e:
            raise AssertionError(f"{what}: {type(e).__name__}: {e}") from e


BAD = (
    ("nothing", b""),
    ("null", b"null"),
    ("a list", b"[]"),
    ("a number", b"5"),
    ("a page", b"<html><title>Sign in</title>"),
    ("half", b'{"run_id": "ab'),
    ("deep", b"[" * 100_000),
    ("deep and closed", b'{"a": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"),
    ("deep maps", b'{"a":' * 50_000),
    ("no text", b'{"run_id": "\xff\xfe"}'),
    ("half a pair", b'{"run_id": "\\ud800"}'),
    ("UTF-16", '{"run_id": "a"}'.encode("utf-16")),
    ("NUL", b"\0" * 1000),
    ("a long number", b'{"limit_cents": ' + b"9" * 10_000 + b"}"),
    ("NaN", b'{"version": NaN}'),
    ("two values", b"{} {}"),
)


READERS: dict[str, Callable[[bytes], Any]] = {
    "plan": lambda data: checked_plan(data, PLAN.run_id, PLAN.runs_repo, reading.SETTINGS),
    "receipt": read_receipt,
    "progress": read_progress,
    "black box": read_postmortem,
}


@pytest.mark.parametrize("reader", list(READERS))
@pytest.mark.parametrize("data", [d for _, d in BAD], ids=[n for n, _ in BAD])
def test_what_is_no_such_document_is_refused_in_one_short_line(data: bytes, reader: str) -> None:
    with pytest.raises(BadAnswer) as e:
        READERS[reader](data)
    assert len(str(e.value)) < 400 and "\n" not in str(e.value)


@pytest.mark.parametrize("data", [d for _, d in BAD], ids=[n for n, _ in BAD])
def test_a_damaged_entry_of_the_ledger_is_named_and_keeps_no_other_away(
    data: bytes, tmp_path: Path
) -> None:
    ledger = Ledger(tmp_path / "home")
    (tmp_path / "home/runs").mkdir(parents=True)
    (tmp_path / "home/runs/ab12cd34.json").write_bytes(data)
    assert ledger.readable() == ([], [tmp_path / "home/runs/ab12cd34.json"])
    with pytest.raises(BadAnswer, match="git pull; else: just status ab12cd34"):
        ledger.find("ab12")
    with pytest.raises(BadAnswer, match="give its id"):
        ledger.find(None)
    ledger.put(Entry(msgspec.structs.replace(PLAN, run_id="ffffffff")))
    assert (
        [e.plan.run_id for e in ledger.entries()]
        == ["ffffffff"]
        == [ledger.find("ffffffff").plan.run_id]
    )
    with pytest.raises(UNREADABLE):
        msgspec.json.decode(data, type=LimitRequest)


def test_a_plan_that_would_raise_its_own_limit_or_go_elsewhere_is_left_alone() -> None:
    for change in (
        {"limit_cents": 10**12},
        {"limit_cents": -1},
        {"hf_endpoint": "https://evil.invalid"},
        {"shadeform_api": "https://evil.invalid/v1"},
        {"runs_repo": "evil/repo"},
        {"phases": ["mid", "mid"]},
        {"run_name": "a; touch pwned"},
        {"owner": "x"},
        {"version": 2},
        {"surprise": 1},
        {"processes": 0},
        {"deadline": "never"},
    ):
        with pytest.raises(BadAnswer):
            checked_plan(
                json.dumps(reading.GOOD_PLAN | change).encode(),
                PLAN.run_id,
                PLAN.runs_repo,
                reading.SETTINGS,
            )


class Endless(BaseHTTPRequestHandler):
    """Answers every request with 400 MB, or a page."""

    body = b"x" * (1 << 20)

    def answer(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        try:
            for _ in range(400):
                self.wfile.write(self.body)
        except OSError:
            pass  # enough

    do_GET = do_POST = answer

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def endless() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Endless) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


# ---- answers without end, from a real socket
def test_an_answer_without_end_is_not_taken_into_memory(endless: str) -> None:
    api = Shadeform(Secret("key-0123456789"), f"{endless}/v1", sleep=lambda s: None)
    hub = Hub(endless, Secret("hf_0123456789"), patience_s=0)
    with pytest.raises(BadAnswer, match="larger than"):
        hub.read("me/repo", "first")  # what the client loads on its first call is not the answer's
    before = grown()
    with pytest.raises(Unreachable):
        api.instances()
    with pytest.raises(UnclearAnswer):
        api.create({"name": "x"})
    with pytest.raises(BadAnswer, match="larger than"):
        hub.read("me/repo", "runs/ab12cd34/plan.json")
    assert grown() - before < 3 * (MOST_BYTES + SMALL_FILE) >> 20, "MB"


def test_a_refusal_says_what_was_answered_in_one_line_of_words() -> None:
    for text in (
        "\x1b[2J\x1b]52;c;cHduZWQ=\x07 nothing is running",
        "a\nerror: nothing is billed",
        "\u202ednuf",
        "x" * 10**6,
    ):
        with pytest.raises(NanolanError) as e:
            reading.Shadeform(
                Secret("key-0123456789"),
                "http://127.0.0.1:1",
                sleep=lambda s: None,
                session=type(
                    "S",
                    (),
                    {  # type: ignore[arg-type]
                        "trust_env": False,
                        "request": lambda *a, **k: type(
                            "A",
                            (),
                            {
                                "status_code": 400,
                                "content": json.dumps({"error": text}).encode(),
                                "text": "",
                                "headers": {},
                            },
                        ),
                    },
                )(),
            ).delete("i")
        said = printable(str(e.value))
        assert "\n" not in said and said.isprintable() and len(said) < 500


def test_an_instance_id_is_no_path() -> None:
    asked: list[str] = []
    api = Shadeform(
        Secret("key-0123456789"),
        "http://127.0.0.1:1/v1",
        sleep=lambda s: None,
        session=type(
            "S",
            (),
            {  # type: ignore[arg-type]
                "trust_env": False,
                "request": lambda self, method, url, **k: (
                    asked.append(url)
                    or type(
                        "A", (), {"status_code": 404, "content": b"", "text": "", "headers": {}}
                    )
                ),
            },
        )(),
    )
    for act in (api.info, api.delete, api.restart):
        with pytest.raises(NotFound):
            act("../../sshkeys/k/delete?x=")
    assert all("/instances/..%2F..%2Fsshkeys" in url for url in asked) and len(asked) == 3
