"""wandb as a second sink: the same run for a phase that is resumed, kept and sent later, and never in the training's way."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nanolan.box.phase_runner import write_netrc
from nanolan.settings.settings import ROOT
from nanolan.sim.marker import MARKER
from nanolan.train.progress import Sink, within
from tests.support.wandb_server import WandbServer

WANTED = {"project": "lanbot", "name": "lanbot-v3-sft", "group": "lanbot-v3", "id": "ab12cd34-sft"}
# A process of its own for each training, as on a machine; a line on stdin lets it end
TRAINING = f"""
import sys
from pathlib import Path
from nanolan.train.progress import Sink
sink = Sink({WANTED}, Path(sys.argv[1]), {{"lr": 0.1}}, init_s=20.0, finish_s=float(sys.argv[3]))
sink.log({{"step": int(sys.argv[2]), "loss": 2.5, "phase": "sft"}})
print("logged", flush=True)
sys.stdin.readline()
sink.close()
"""


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def start(port: int, folder: Path, step: int, finish_s: float = 30.0) -> subprocess.Popen[str]:
    netrc = write_netrc(
        folder / "trainer", f"{MARKER:x<40}", None, host=f"127.0.0.1:{port}"
    )  # the only way that a trainer gets the key
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "WANDB_BASE_URL": f"http://127.0.0.1:{port}",
        "NETRC": str(netrc),
        "WANDB_SILENT": "true",
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_CACHE_DIR": str(folder),
        "WANDB_CONFIG_DIR": str(folder),
        "WANDB_DATA_DIR": str(folder),
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.Popen(
        [sys.executable, "-c", TRAINING, str(folder), str(step), str(finish_s)],
        env=env,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def end(child: subprocess.Popen[str]) -> str:
    """Its warnings."""
    _, err = child.communicate("\n", timeout=90)
    assert child.returncode == 0, err
    return "\n".join(line for line in err.splitlines() if "warning: " in line)


@pytest.mark.slow
def test_a_resumed_phase_goes_on_with_the_same_run_whose_steps_may_go_back(tmp_path: Path) -> None:
    with WandbServer() as server:
        for step in (60, 40):
            assert end(start(server.port, tmp_path, step)) == ""
    named = [r for r in server.runs if r.get("displayName")]
    assert {(r["name"], r["displayName"], r["groupName"], r["project"]) for r in named} == {
        ("ab12cd34-sft", "lanbot-v3-sft", "lanbot-v3", "lanbot")
    }
    assert [(row["step"], row["loss"]) for row in server.history] == [(60, 2.5), (40, 2.5)]


@pytest.mark.slow
def test_a_wandb_that_is_away_at_the_start_gets_everything_at_the_end(tmp_path: Path) -> None:
    port = free_port()
    child = start(port, tmp_path, 7)
    assert child.stdout and child.stdout.readline() == "logged\n"
    with WandbServer(port) as server:
        said = end(child)
    assert (
        "warning: wandb cannot be reached; its run is kept on disk" in said
        and "could not be sent" not in said
    )
    assert [(row["step"], row["loss"]) for row in server.history] == [(7, 2.5)]
    assert {r["name"] for r in server.runs} == {"ab12cd34-sft"}


@pytest.mark.slow  # it waits out wandb's own patience
def test_a_wandb_that_stays_away_costs_a_while_and_a_line(tmp_path: Path) -> None:
    before = time.monotonic()
    said = end(start(free_port(), tmp_path, 7, finish_s=3.0))
    assert (
        "wandb's run could not be sent (no answer within 3 s); while this machine lives: wandb sync "
        in said
    )
    assert time.monotonic() - before < 45


def test_a_wandb_that_is_not_installed_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    sink = Sink(WANTED, tmp_path, {})
    sink.log({"step": 1})
    sink.close()
    assert capsys.readouterr().err.count("warning: continuing without wandb (") == 1


def test_what_hangs_is_left_behind_in_time() -> None:
    t0 = time.monotonic()
    problem = within(lambda: time.sleep(30), 0.2)
    assert isinstance(problem, TimeoutError)
    assert time.monotonic() - t0 < 5


def test_what_ends_in_time_has_no_problem() -> None:
    assert within(lambda: None, 5) is None
