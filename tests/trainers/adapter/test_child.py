"""A fork's process: whatever it prints is read and passed on, and a stop reaches those who can save."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanolan.trainers.adapter import child as child_module
from nanolan.trainers.adapter.child import MOST_LINE, Child, Lines, ranks_below

Start = Callable[..., Child]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts Python programs; at the end none of them and of their children lives."""
    started: list[Child] = []
    mark = str(tmp_path)

    def run(code: str, *, hear: Callable[[str], None] | None = None) -> Child:
        environment = dict(os.environ) | {"NANOLAN_TEST": mark}
        command = [sys.executable, "-S", "-c", code]
        started.append(Child(command, tmp_path, environment, hear or (lambda text: None)))
        return started[-1]

    yield run
    for p in psutil.process_iter():
        try:
            if p.environ().get("NANOLAN_TEST") == mark:
                p.kill()
        except psutil.Error:
            continue
    for child in started:
        child.end()


def wait_for(condition: Callable[[], object], limit_s: float = 10.0) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


# bytes -> (what is printed, what is heard)
OUTPUTS = {
    "lines": (b"a\nb\n", "a\nb\n", ["a", "b"]),
    "no end": (b"a\nb", "a\nb\n", ["a", "b"]),
    "nothing": (b"", "", []),
    "empty lines": (b"\n\n a\n", "\n\n a\n", [" a"]),
    "windows": (b"a\r\nb\r\n", "a\r\nb\r\n", ["a", "b"]),
    "overwritten": (b"\r1/2\r2/2\ndone\n", "2/2\ndone\n", ["1/2", "2/2", "done"]),
    "erased": (b"\r\x1b[K1/2\r\x1b[K2/2", "\x1b[K2/2\n", ["1/2", "2/2"]),
    "ends with a return": (b"a\r", "a\n", ["a"]),
    "invalid": (b"\xff\xfe a \xe4\xb8\n", "\ufffd\ufffd a \ufffd\n", ["\ufffd\ufffd a \ufffd"]),
    "cut off": ("ä".encode()[:1], "\ufffd\n", ["\ufffd"]),
    "zero": (b"a\0b\n", "a\0b\n", ["a\0b"]),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_the_output_is_printed_and_heard(
    name: str, start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    data, printed, heard = OUTPUTS[name]
    texts: list[str] = []
    child = start(f"import sys; sys.stdout.buffer.write({data!r})", hear=texts.append)
    assert child.end() == 0 and not child.running
    assert texts == heard
    assert capfd.readouterr().out.replace("\r\n", "\n") == printed.replace("\r\n", "\n")


def test_a_character_in_two_pieces_stays_one(start: Start) -> None:
    texts: list[str] = []
    parts = "import sys, time\nfor b in 'äöü\\n'.encode():\n  sys.stdout.buffer.write(bytes([b]))"
    start(f"{parts}\n  sys.stdout.flush()", hear=texts.append).end()
    assert texts == ["äöü"]


def test_a_huge_line_is_passed_on_and_takes_no_memory(
    start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    texts: list[str] = []
    start("print('x' * 5_000_000); print('end')", hear=texts.append).end()
    assert texts[-1] == "end" and max(map(len, texts)) <= MOST_LINE
    assert capfd.readouterr().out == "x" * 5_000_000 + "\nend\n"


@given(st.lists(st.text(alphabet="a\r\n", max_size=8), max_size=12))
def test_lines_lose_nothing_wherever_they_are_cut(pieces: list[str]) -> None:
    lines, text = Lines(), "".join(pieces)
    found = [line for piece in pieces for line in lines.feed(piece)] + lines.end()
    whole = Lines()
    assert found == whole.feed(text) + whole.end()
    assert "".join(found) == text.removesuffix("\r")
    assert all("\n" not in line[:-1] for line in found)


def test_a_line_without_end_takes_linear_time() -> None:
    lines, began = Lines(), time.process_time()
    found = [line for _ in range(500_000) for line in lines.feed(".")]
    assert time.process_time() - began < 5 and len(found) == 500_000 // (MOST_LINE + 1)


def test_a_reader_that_fails_stops_no_output(
    start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(text: str) -> None:
        raise ValueError(text)

    child = start("for i in range(50_000): print('x' * 20)", hear=fail)
    assert child.end() == 0  # a full pipe would block it
    assert capfd.readouterr().out.count("warning: a line was not understood (ValueError: xx") == 1


def test_a_process_that_keeps_the_pipe_open_is_not_waited_for(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_module, "REST_S", 0.3)
    texts: list[str] = []
    daemon = "subprocess.Popen(['sleep', '60'], start_new_session=True)"
    child = start(f"import subprocess; print('done'); {daemon}", hear=texts.append)
    began = time.monotonic()
    assert child.end() == 0 and texts == ["done"]
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "code, end",
    [
        ("pass", 0),
        ("raise SystemExit(7)", 7),
        ("1/0", 1),
        ("import os; os.kill(os.getpid(), 9)", -9),
        ("import os; os.abort()", -6),
    ],
)
def test_the_exit_code_is_the_childs(code: str, end: int, start: Start) -> None:
    assert start(code).end() == end


# ---- a stop

SAVES = """
import os, signal, sys, time
def stop(*a):
    time.sleep(0.1); os.write(1, (NAME + ' saved\\n').encode()); sys.exit(0)
signal.signal(signal.SIGTERM, stop)
os.write(1, (NAME + ' ready\\n').encode())
time.sleep(60)
"""


def program(name: str) -> str:
    """The source of a program that saves at SIGTERM, as a word for a shell."""
    return SAVES.replace("NAME", repr(name)).replace('"', "'")


def python(name: str, **environment: str) -> str:
    """Python source that starts such a program."""
    return (
        f"subprocess.Popen([sys.executable, '-S', '-c', {program(name)!r}], "
        f"env=dict(os.environ) | {environment!r})"
    )


def stopped(child: Child, texts: list[str], ready: int) -> tuple[int, list[str]]:
    wait_for(lambda: sum("ready" in t for t in texts) == ready)
    child.stop()
    assert child.stopping
    return child.end(), sorted(t for t in texts if "saved" in t)


def test_a_stop_goes_to_the_ranks_and_not_to_torchrun_or_their_workers(start: Start) -> None:
    """torchrun would kill its ranks 30 s later; a rank whose data workers end cannot save."""
    worker = f"import subprocess, sys, os\n{python('worker')}\n{program('rank 1')}"
    torchrun = (
        "import subprocess, sys, os, signal\n"
        "signal.signal(signal.SIGTERM, lambda *a: print('torchrun saved', flush=True))\n"
        f"a = {python('rank 0', LOCAL_RANK='0')}\n"
        f"b = subprocess.Popen([sys.executable, '-S', '-c', {worker!r}], "
        "env=dict(os.environ) | {'LOCAL_RANK': '1'})\n"
        "a.wait(), b.wait()"
    )
    texts: list[str] = []
    child = start(torchrun, hear=texts.append)
    wait_for(lambda: len([t for t in texts if "ready" in t]) == 3)
    assert len(ranks_below(child._process.pid)) == 2
    child.stop()
    wait_for(lambda: not child.running)
    assert sorted(t for t in texts if "saved" in t) == ["rank 0 saved", "rank 1 saved"]


def test_a_stop_goes_to_a_single_process_alone(start: Start) -> None:
    code = f"import subprocess, sys, os\n{python('worker')}\n{program('script')}"
    texts: list[str] = []
    child = start(code, hear=texts.append)
    wait_for(lambda: len([t for t in texts if "ready" in t]) == 2)
    child.stop()
    wait_for(lambda: not child.running)
    assert [t for t in texts if "saved" in t] == ["script saved"]


def test_a_stop_reaches_what_a_shell_runs_and_the_shell_waits_for_it(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "a.py").write_text(program("program"))
    (tmp_path / "run.sh").write_text(f"set -e\n{sys.executable} -S a.py; echo next\n")
    script = "trap 'exit 143' TERM\nbash run.sh\necho after\n"
    texts: list[str] = []
    child = start(
        f"import os; os.execvp('bash', ['bash', '-c', {script!r}])",
        hear=texts.append,
    )
    code, saved = stopped(child, texts, ready=1)
    assert (code, saved) == (143, ["program saved"])
    assert "after" not in texts


def test_a_stop_after_the_end_does_nothing(start: Start) -> None:
    child = start("pass")
    child.end()
    child.stop()
    assert ranks_below(child._process.pid) == [] and child.end() == 0


def test_who_is_asked_to_stop_may_be_gone_already(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()

    class Late(psutil.Process):
        def send_signal(self, number: int) -> None:
            raise psutil.NoSuchProcess(self.pid)

    monkeypatch.setattr(child_module, "ranks_below", lambda pid: [Late(os.getpid())])
    child = Child(["true"], Path("/"), os.environ, lambda text: None)
    child.stop()
    assert child.end() == 0
