"""The adapter where something fails: the last line says why; a command in place of a module; what a fork may see."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from nanolan.run.causes import cause_of
from tests.support.adapter_jobs import NewRun, Run

# how a script begins -> (words of the last line, reason)
FAILURES = {
    "an error": ("raise ValueError('bad rows')", "ValueError: bad rows", "trainer_failed"),
    "memory": (
        "class OutOfMemoryError(RuntimeError): pass\n"
        "raise OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB')",
        "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
        "oom",
    ),
    "killed": (
        "import os; os.kill(os.getpid(), 9)",
        "it was killed by signal 9 (SIGKILL) and left no checkpoint",
        "killed",
    ),
    "a module that is not there": (
        "import no_such_thing",
        "ModuleNotFoundError: No module named 'no_such_thing'",
        "trainer_failed",
    ),
    "a syntax error": ("def:", "SyntaxError: invalid syntax", "trainer_failed"),
    "words of an exit": (
        "raise SystemExit('no tokenizer here')",
        "it ended with exit code 1 and left no checkpoint; its last line: no tokenizer here",
        "trainer_failed",
    ),
    "output without an end": (
        "import sys, os; sys.stdout.write('half a line'); sys.stdout.flush(); os._exit(3)",
        "it ended with exit code 3 and left no checkpoint; its last line: half a line",
        "trainer_failed",
    ),
    "a good end without result": (
        "raise SystemExit(0)",
        "ended well but left no model_SSSSSS.pt in chatsft_checkpoints/",
        "bad_data",
    ),
    "a full disk": (
        "raise OSError(28, 'No space left on device', 'model_000001.pt')",
        "OSError: [Errno 28] No space left on device: 'model_000001.pt'",
        "disk_full",
    ),
}


@pytest.mark.parametrize("name", FAILURES)
def test_the_last_line_says_why(name: str, new_run: NewRun) -> None:
    text, words, reason = FAILURES[name]
    run = new_run("2026").edit("scripts/chat_sft.py", text)
    assert run.start().end() == 1, run.log()
    assert run.last_line().startswith("nanolan.train: ") and run.last_line().endswith(words)
    assert "scripts.chat_sft" in run.last_line()
    assert cause_of(run.log())[0] == reason
    assert run.saved(final=True) is None and run.saved(final=False) is None


@pytest.mark.slow
def test_an_error_under_torchrun_is_the_ranks_and_not_torchruns(new_run: NewRun) -> None:
    """The others fail at a closed connection, torchrun ends with a ChildFailedError."""
    fail = (
        "import os, torch.distributed as dist\n"
        "dist.init_process_group('gloo') if not dist.is_initialized() else None\n"
        "if os.environ['RANK'] == '1': raise KeyError('messages')\n"
        "dist.barrier()"
    )
    run = new_run("2026").change(processes=2).edit("scripts/chat_sft.py", fail).start()
    assert run.end() == 1, run.log()
    assert "ChildFailedError" in run.log()
    assert run.last_line() == "nanolan.train: scripts.chat_sft: KeyError: 'messages'"


def test_a_crash_when_the_ranks_leave_loses_no_result(new_run: NewRun) -> None:
    run = new_run("2026")
    run.edit("scripts/chat_sft.py", "import atexit, os; atexit.register(os.abort)").start()
    assert run.end() == 0, run.log()
    assert run.saved(final=True)


# what is wrong with the job or its folder -> words of the last line
REFUSED: dict[str, tuple[Callable[[Run], object], str]] = {
    "no input": (lambda r: r.change(init_dir="/nowhere"), "refused: /nowhere holds no model"),
    "no interpreter": (lambda r: r.change(python="/no/python"), "FileNotFoundError: "),
    "no checkout": (lambda r: r.change(checkout="/no/checkout"), "FileNotFoundError: "),
    "a file in place of the output": (
        lambda r: Path(r.job.out_dir).write_text("x"),
        "FileExistsError: ",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_job_that_cannot_run_ends_with_one_line(name: str, new_run: NewRun) -> None:
    spoil, words = REFUSED[name]
    run = new_run("2026").edit("scripts/chat_sft.py", "")
    spoil(run)
    code = run.start().end()
    assert code == 1 and run.last_line().startswith(f"nanolan.train: {words}"), run.log()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"phase": "sft"}', "\xff"])
def test_a_job_that_is_none_is_refused(text: str, new_run: NewRun, tmp_path: Path) -> None:
    run = new_run("2026")
    (tmp_path / "other.json").write_bytes(text.encode("latin-1"))
    run.program = (*run.program, str(tmp_path / "other.json"))
    run.values = lambda: {}  # type: ignore[method-assign]
    assert run.start().end() == 1
    run.program = run.program[:-1]
    assert "usage: " in run.last_line() or run.last_line().startswith("nanolan.train: refused: ")


def test_a_disk_that_is_full_for_heartbeat_and_metrics_ends_no_training(
    new_run: NewRun,
) -> None:
    run = new_run("2026").change(heartbeat="/nowhere/heartbeat.json")
    Path(run.job.metrics).symlink_to("/dev/full")
    assert run.start().end() == 0, run.log()
    assert run.saved(final=True)


# ---- a command in place of a module


def command(run: Run, text: str) -> Run:
    phase = replace(run.job.fork.phase, module="", command=text, arguments=())
    return run.change(phase=phase)


TRAIN = """
set -e
for i in 1 2 3; do echo "step 0000$i/3 | loss: $((4 - i)).5 | tok/sec: 1,000"; sleep 0.6; done
out=$NANOCHAT_BASE_DIR/chatsft_checkpoints/mine; mkdir -p $out
cp $NANOCHAT_BASE_DIR/base_checkpoints/d20/model_000010.pt $out/model_000003.pt
echo '{"model_config": {}, "gpus": "'$NANOLAN_GPUS'"}' > $out/meta_000003.json
"""


def test_a_command_trains_and_its_output_is_its_heartbeat(new_run: NewRun) -> None:
    run = command(new_run("2026"), TRAIN).change(processes=4).start()
    assert run.end() == 0, run.log()
    manifest = run.saved(final=True)
    assert manifest and manifest.step == 3 and manifest.extra["loss_end"] == 1.5
    meta = Path(run.job.out_dir) / "step-000003/meta_000003.json"
    assert json.loads(meta.read_text())["gpus"] == "4"
    assert run.stages() == ["load", "command"] and run.step() >= 2
    assert [r["tok_per_s"] for r in run.rows()] == [1000] * 3


# a command that fails -> words of the last line
COMMANDS = {
    "echo a; exit 3": "the command: it ended with exit code 3 and left no checkpoint; its last line: a",
    "no-such-program --x": "its last line: bash: line 2: no-such-program: command not found",
    "echo ok": "the command ended well but left no model_SSSSSS.pt in chatsft_checkpoints/",
    "echo 'ValueError: bad' >&2; false": "the command: ValueError: bad",
    'for i in 1 2 3; do echo "step 0000$i | loss: nan |"; done; sleep 60': "the command: the loss is nan",
    "kill -9 $$": "the command: it was killed by signal 9 (SIGKILL) and left no checkpoint",
    "if": "syntax error",
}


@pytest.mark.parametrize("text", COMMANDS)
def test_a_command_that_fails_says_why(text: str, new_run: NewRun) -> None:
    run = command(new_run("2026"), text).start()
    assert run.end() == 1
    assert run.last_line().startswith("nanolan.train: ") and COMMANDS[text] in run.last_line()


NAN_LINES = "for i in 1, 2, 3, 4: print(f'step {i:05d} | loss: nan | lrm: 1', flush=True)"


@pytest.mark.parametrize("lost", [True, False])
def test_weights_that_are_nan_end_a_module_and_a_printed_nan_does_not(
    lost: bool, new_run: NewRun
) -> None:
    """nanochat prints a mean over steps: one batch without a token that counts makes it NaN for good."""
    mark = "import os, pathlib; p = pathlib.Path(os.environ['NANOLAN_KEEP']); (p / 'not-finite').touch()"
    wait = "import time; time.sleep(2)\n"
    run = new_run("2026").edit(
        "scripts/chat_sft.py", f"{NAN_LINES}\n{mark if lost else ''}\n{wait}"
    )
    assert run.start().end() == int(lost)
    assert (run.saved(final=True) is None) is lost
    assert not lost or "scripts.chat_sft: the loss is nan" in run.last_line()


def test_a_command_that_is_stopped_leaves_no_result(new_run: NewRun) -> None:
    """Whatever it has written: nobody knows whether that is the end."""
    run = command(new_run("2026"), TRAIN + "sleep 60\necho next\n").start()
    run.until(lambda r: list((r.folder / "nanochat-sft").glob("chatsft_checkpoints/*/meta_*")))
    assert run.stop().end() == 1
    assert run.saved(final=True) is None and "next" not in run.log().splitlines()
    assert "it ended with exit code 143" in run.last_line()


# ---- what a fork may see


def test_no_secret_reaches_a_fork(new_run: NewRun) -> None:
    secrets = {n: f"{n.lower()}-value" for n in ("HF_TOKEN", "SHADEFORM_API_KEY")}
    run = command(new_run("2026"), "env; cat /proc/$$/environ | tr '\\0' '\\n'; echo end")
    run.start(**secrets).end()
    assert "end" in run.log() and not any(v in run.log() for v in secrets.values())
    run = new_run("2026").edit("scripts/chat_sft.py", "import os; print(dict(os.environ)); 1/0")
    run.start(**secrets).end()
    assert "NANOCHAT_BASE_DIR" in run.log()
    assert not any(v in run.log() for v in secrets.values())


@pytest.mark.parametrize(
    ("task_data", "downloads", "offline"),
    [(True, False, "1"), (True, True, "0"), (False, False, "0")],
)
def test_a_fork_with_pinned_data_alone_is_offline(
    task_data: bool, downloads: bool, offline: str, new_run: NewRun
) -> None:
    run = command(new_run("2026"), "env").change(task_data=task_data, downloads=downloads)
    run.start(PYTHONPATH="/evil")
    run.end()
    found = dict(line.split("=", 1) for line in run.log().splitlines() if "=" in line)
    assert found["HF_HUB_OFFLINE"] == found["HF_DATASETS_OFFLINE"] == offline
    assert found["PYTHONPATH"] == "" and found["HF_HOME"] == str(run.folder / "hf")
    assert found["HF_ENDPOINT"].startswith("http://127.0.0.1")


def test_nothing_is_left_running(new_run: NewRun) -> None:
    run = new_run("2026").start()
    assert run.end() == 0
    mark = str(run.folder)
    left = [p for p in psutil.process_iter() if _environ(p).get("NANOLAN_TEST") == mark]
    assert left == []


def _environ(p: psutil.Process) -> dict[str, str]:
    try:
        return p.environ()
    except psutil.Error:
        return {}
