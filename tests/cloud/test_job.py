"""job.py, what a job runs first: it starts the same boot.sh, prints its masked log, and ends with its code."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nanolan.launch.request import UNPACK, pack, script_values
from nanolan.settings.settings import ROOT
from tests.support.box_fixtures import TOKEN, until
from tests.support.core_fixtures import PLAN


def module(root: Path) -> Any:
    """job.py with `root` as its machine."""
    spec = importlib.util.spec_from_file_location("job_under_test", ROOT / "cloud/job.py")
    assert spec and spec.loader
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    made.LOG = root / "log"
    return made


@pytest.fixture
def job(tmp_path: Path) -> Any:
    return module(tmp_path)


def test_it_needs_nothing_but_pythons_own_library() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-I",
            "-S",
            "-c",
            f"import runpy; runpy.run_path({str(ROOT / 'cloud/job.py')!r})",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


# ---- the startup script
VALUES = {"script": script_values(PLAN), "unpack": UNPACK, "life_s": 3600, "folder": "http://x"}
HOSTILE = ["$(touch hurt)", "'; touch hurt; '", "`touch hurt`", "a\nb", "é 💥", '"', "\\"]


@pytest.mark.parametrize("secret", HOSTILE)
def test_the_script_is_an_instances_with_the_secrets_and_a_deadline_from_now(
    job: Any, tmp_path: Path, secret: str
) -> None:
    boot = 'printf "%s\\n" "$RUN_ID" "$DEADLINE" "$RUN_URL"; unpack "$SECRETS"'
    values = VALUES | {"script": VALUES["script"] | {"BOOT": pack(boot.encode())}}  # type: ignore[operator]
    text = job.script_of(values, "http://hub/run $(touch hurt)", {"HF_TOKEN": secret}, 1000.5)
    done = subprocess.run(["bash"], input=text, capture_output=True, text=True, cwd=tmp_path)
    run_id, deadline, url, secrets = done.stdout.split("\n", 3)
    assert (run_id, deadline, url) == ("ab12cd34", "4600", "http://hub/run $(touch hurt)")
    assert json.loads(secrets) == {"HF_TOKEN": secret}
    assert not list(tmp_path.glob("hurt"))


# ---- the look at the run folder
class Hub:
    """Answers of the run folder, by name; an Exception is raised."""

    def __init__(self, *answers: dict[str, Any]) -> None:
        self.answers, self.slept = list(answers), 0.0

    def call(self, url: str, token: str) -> bytes:
        now = self.answers[0] if len(self.answers) == 1 else self.answers.pop(0)
        answer = now.get(url.rpartition("/")[2])
        if isinstance(answer, Exception):
            raise answer
        if answer is None:
            raise Missing
        return answer if isinstance(answer, bytes) else json.dumps(answer).encode()

    def sleep(self, seconds: float) -> None:
        self.slept += seconds


class Missing(OSError):
    code = 404


def looked(job: Any, *answers: dict[str, Any]) -> tuple[Any, Hub]:
    hub = Hub(*answers)
    return job.look(hub, VALUES, TOKEN, hub.sleep), hub


def test_a_run_that_succeeded_ends_at_once(job: Any) -> None:
    (over, _), _ = looked(job, {"receipt.json": {"verdict": "succeeded"}})
    assert over == "run ab12cd34 is over (succeeded); nothing to do"


@pytest.mark.parametrize(
    ("folder", "attempt"),
    [
        ({}, 1),
        ({"machine.json": {"attempt": 3}}, 3),
        ({"receipt.json": {"verdict": "failed"}, "machine.json": {"attempt": 2}}, 2),
        ({"receipt.json": [], "machine.json": []}, 1),
    ],
)
def test_else_it_knows_the_newest_attempt_so_far(
    job: Any, folder: dict[str, Any], attempt: int
) -> None:
    assert looked(job, folder)[0] == ("", attempt)


@pytest.mark.parametrize("odd", [b"", b"{", b"\xff", OSError("down"), ValueError("odd")])
def test_a_hub_that_does_not_tell_ends_nothing_the_box_program_decides(job: Any, odd: Any) -> None:
    found, hub = looked(job, {"receipt.json": odd})
    assert found == ("", 1) and hub.slept == job.LOOKS * job.LOOK_S
    once = looked(job, {"receipt.json": odd}, {"receipt.json": {"verdict": "succeeded"}})
    assert once[0][0] and once[1].slept == job.LOOK_S


# ---- the box program under it
def supervised(tmp_path: Path, script: str, mask: str = "lambda line: line") -> Any:
    """A process that supervises a script; its log is printed."""
    (tmp_path / "boot.sh").write_text(script.replace("LOG", str(tmp_path / "log")))
    program = (
        "import importlib.util, sys; from pathlib import Path\n"
        f"spec = importlib.util.spec_from_file_location('job', {str(ROOT / 'cloud/job.py')!r})\n"
        "job = importlib.util.module_from_spec(spec); spec.loader.exec_module(job)\n"
        f"job.LOG, job.RESTART_S = Path({str(tmp_path / 'log')!r}), 0.1\n"
        f"sys.exit(job.supervise(Path({str(tmp_path / 'boot.sh')!r}), 2, {mask}))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("code", [0, 1, 5, 6, 7, 127])
def test_it_ends_with_the_box_programs_code(tmp_path: Path, code: int) -> None:
    assert supervised(tmp_path, f"exit {code}").wait(20) == code


def test_a_killed_box_program_is_started_again_a_few_times(tmp_path: Path) -> None:
    process = supervised(tmp_path, "echo started >>LOG; kill -9 $$")
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and out.count("was killed (exit code -9)") == 6
    assert (tmp_path / "log").read_text().count("started") == 6


def test_the_log_is_printed_in_whole_lines_and_masked(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("of an earlier job\n")
    script = "printf 'one sec' >>LOG; sleep 1; printf 'ret\\ntwo\\nhalf' >>LOG"
    process = supervised(tmp_path, script, "lambda line: line.replace('secret', '***')")
    out, _ = process.communicate(timeout=60)
    assert out == "one ***\ntwo\n"


def test_a_signal_ends_the_job_and_the_box_program_but_not_the_timer(tmp_path: Path) -> None:
    script = (
        "sleep 60 & echo $! >LOG.timer; echo $NANOLAN_JOB $NANOLAN_ATTEMPT >>LOG; exec sleep 61"
    )
    process = supervised(tmp_path, script)
    until(lambda: (tmp_path / "log").is_file() and (tmp_path / "log").read_text().endswith("\n"))
    assert (tmp_path / "log").read_text() == f"{process.pid} 2\n"
    timer = int((tmp_path / "log.timer").read_text())
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 143 and "the time is up" in out
    os.kill(timer, 0)  # it lives: it powers a machine off that nobody takes down
    os.kill(timer, signal.SIGKILL)


def test_what_the_script_says_before_its_log_is_open_is_printed(tmp_path: Path) -> None:
    out, _ = supervised(tmp_path, "echo no unpack here >&2; exit 1").communicate(timeout=20)
    assert out == "job: no unpack here\n"


def test_a_reader_of_the_log_that_is_gone_ends_nothing(job: Any, tmp_path: Path) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    follower = job.Follower(tmp_path / "log", str, Gone())
    (tmp_path / "log").write_text("a line\n")
    time.sleep(0.7)
    follower.close()


def test_settings_of_the_platform_do_not_reach_the_box_program(tmp_path: Path) -> None:
    odd = {
        "HF_HUB_OFFLINE": "1",
        "HF_ENDPOINT": "http://elsewhere",
        "PYTHONPATH": "/nowhere",
        "PYTHONHOME": "",
        "CONDA_PREFIX": "/conda",
        "NANOLAN_REHEARSAL": "{}",
        "WANDB_MODE": "offline",
    }
    kept = {"SKYPILOT_TASK_ID": "sky-1", "NANOLAN_BOX": "b", "NVIDIA_VISIBLE_DEVICES": "all"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ({k: v for k, v in odd.items() if k != "PYTHONHOME"} | kept).items():
            patch.setenv(name, value)
        process = supervised(tmp_path, "env >LOG.env")
        assert process.wait(20) == 0
    seen = dict(
        line.split("=", 1)
        for line in (tmp_path / "log.env").read_text().splitlines()
        if "=" in line
    )
    assert not odd.keys() & seen.keys() and kept.items() <= seen.items()


# ---- root
def test_without_root_and_without_sudo_it_says_so(job: Any, monkeypatch: Any) -> None:
    for found in (None, "/bin/false"):
        job.shutil = SimpleNamespace(which=lambda name, found=found: found)
        with pytest.raises(SystemExit, match="needs root, or sudo without a password"):
            job.become_root({"HF_TOKEN": TOKEN})


def test_sudo_gets_the_secrets_on_stdin_and_nothing_in_its_arguments(
    tmp_path: Path,
) -> None:
    sudo = tmp_path / "sudo"
    sudo.write_text('#!/bin/sh\n[ "$2" = true ] && exit 0\nprintf "%s " "$@" >args\ncat >stdin\n')
    sudo.chmod(0o755)
    program = (
        "import importlib.util, sys, os\n"
        f"spec = importlib.util.spec_from_file_location('job', {str(ROOT / 'cloud/job.py')!r})\n"
        "job = importlib.util.module_from_spec(spec); spec.loader.exec_module(job)\n"
        "sys.argv = ['start.py', 'http://hub/run']\n"
        "job.become_root({'HF_TOKEN': 'a secret'})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        timeout=20,
    )
    assert done.returncode == 0
    assert json.loads((tmp_path / "stdin").read_text()) == {"HF_TOKEN": "a secret"}
    args = (tmp_path / "args").read_text()
    assert args.startswith("-n --preserve-env=SKYPILOT_TASK_ID,JOB_ID,BOX_ROOT ")
    assert args.rstrip().endswith("start.py http://hub/run") and "a secret" not in args
