"""A request that several checks share is made once; without a key or a token no request is made."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from nanolan.doctor.context import DoctorContext, once, open_context
from nanolan.errors import AuthProblem, NotFound, UsageProblem
from nanolan.settings.load import load_settings
from nanolan.settings.settings import ROOT
from nanolan.sim.marker import MARKER


def make_context(tmp_path: Path, **env: str) -> DoctorContext:
    return open_context(
        load_settings({}, env),
        (),
        env,
        tmp_path / ".env",
        tmp_path,
        tmp_path / "home",
        tmp_path / "keys",
        0.1,
    )


def test_concurrent_callers_share_one_call() -> None:
    calls, go = list[int](), threading.Event()

    def slow() -> int:
        calls.append(1)
        go.wait(5)
        return 42

    ask, answers = once(slow), list[int]()
    threads = [threading.Thread(target=lambda: answers.append(ask())) for _ in range(5)]
    for t in threads:
        t.start()
    go.set()
    for t in threads:
        t.join()
    assert answers == [42] * 5 and calls == [1]


def test_every_caller_gets_the_same_error() -> None:
    calls = list[int]()

    def fails() -> int:
        calls.append(1)
        raise NotFound("not there")

    ask = once(fails)
    for _ in range(2):
        with pytest.raises(NotFound, match="not there"):
            ask()
    assert calls == [1]


def test_without_a_key_or_a_token_no_request_is_made(tmp_path: Path) -> None:
    context = make_context(tmp_path, HF_REPO="me/x")
    assert context.api is None and context.hub is None
    with pytest.raises(AuthProblem, match="not checked without SHADEFORM_API_KEY"):
        context.instances()
    for request in (context.tree, context.structure):
        with pytest.raises(UsageProblem, match="not checked without HF_TOKEN and HF_REPO"):
            request()


def test_opening_the_context_creates_no_folder_and_no_owner(tmp_path: Path) -> None:
    make_context(
        tmp_path, SHADEFORM_API_KEY=f"a-key-{MARKER}", HF_TOKEN=f"hf_{MARKER}", HF_REPO="me/x"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow  # many processes
def test_threads_that_decode_ledger_entries_for_the_first_time_do_not_crash(
    tmp_path: Path,
) -> None:
    code = (
        "import msgspec, sys, threading; from pathlib import Path; from nanolan.run.ledger import Entry; from nanolan.doctor.context import open_context\n"
        "from nanolan.settings.load import load_settings; from tests.support.core_fixtures import PLAN\n"
        "data, here, together = msgspec.json.encode(Entry(PLAN)), Path(sys.argv[1]), threading.Barrier(8)\n"
        "open_context(load_settings({}, {}), (), {}, here, here, here, here, 1); sys.setswitchinterval(1e-6)\n"
        "def read(): together.wait(); msgspec.json.decode(data, type=Entry)\n"
        "threads = [threading.Thread(target=read) for _ in range(8)]; [t.start() for t in threads]; [t.join() for t in threads]\n"
    )
    for _ in range(6):  # without the decoders of open_context, two of five crash
        assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT).returncode == 0
