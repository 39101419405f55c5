"""What several looks need is asked for once, and without a key or a token nobody is asked."""

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


def admitted(tmp_path: Path, **env: str) -> DoctorContext:
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


def test_many_who_ask_at_once_get_one_answer() -> None:
    asked, go = list[int](), threading.Event()

    def slow() -> int:
        asked.append(1)
        go.wait(5)
        return 42

    ask, answers = once(slow), list[int]()
    threads = [threading.Thread(target=lambda: answers.append(ask())) for _ in range(5)]
    for t in threads:
        t.start()
    go.set()
    for t in threads:
        t.join()
    assert answers == [42] * 5 and asked == [1]


def test_an_error_is_the_same_for_everybody_and_never_an_empty_answer() -> None:
    asked = list[int]()

    def fails() -> int:
        asked.append(1)
        raise NotFound("not there")

    ask = once(fails)
    for _ in range(2):
        with pytest.raises(NotFound, match="not there"):
            ask()
    assert asked == [1]


def test_without_a_key_or_a_token_nobody_is_asked(tmp_path: Path) -> None:
    p = admitted(tmp_path, HF_REPO="me/x")
    assert p.api is None and p.hub is None
    with pytest.raises(AuthProblem, match="not looked at without SHADEFORM_API_KEY"):
        p.instances()
    for look in (p.tree, p.structure):
        with pytest.raises(UsageProblem, match="not looked at without HF_TOKEN and HF_REPO"):
            look()


def test_looking_makes_no_folder_and_no_owner(tmp_path: Path) -> None:
    admitted(tmp_path, SHADEFORM_API_KEY=f"a-key-{MARKER}", HF_TOKEN=f"hf_{MARKER}", HF_REPO="me/x")
    assert list(tmp_path.iterdir()) == []


def test_threads_that_read_the_ledger_for_the_first_time_at_once_do_not_crash(
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
    for _ in range(6):  # without the decoders that open_context makes, two of five crash
        assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT).returncode == 0
