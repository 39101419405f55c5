"""A foreign trainer on the machine: fetched once and whole, installed as it says, tried before anything is paid for."""

from __future__ import annotations

import itertools
import os
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nanolan.box import fork as fork_module
from nanolan.box.context import RunStopped
from nanolan.box.fork import fetch_fork, install_commands, prepare_fork, uv_for
from nanolan.box.sandbox import UID, TrainerUser
from nanolan.errors import BadAnswer
from tests.support.checkouts import write
from tests.support.fork_box import LIMIT, MANAGER, SFT, WORKING, ForkBox

New = Callable[..., ForkBox]


@pytest.fixture
def new(tmp_path: Path) -> New:
    """Machines whose fork is WORKING with some files changed; "-" leaves one out."""
    count = itertools.count()

    def make(changes: dict[str, str] | None = None, **fork: Any) -> ForkBox:
        files = {k: v for k, v in (WORKING | (changes or {})).items() if v != "-"}
        return ForkBox(tmp_path / str(next(count)), files, **fork)

    return make


# ---- fetch


def test_the_code_is_fetched_once_whatever_restarts(new: New) -> None:
    at = new()
    fetch_fork(at.box, at.fork, at.place)
    assert (at.place / "scripts/chat_sft.py").read_text() == WORKING["scripts/chat_sft.py"]
    (at.place / "mine").touch()
    fetch_fork(at.box, at.fork, at.place)
    assert len(at.downloads) == 1 and (at.place / "mine").exists()


def test_what_an_earlier_start_left_is_replaced(new: New) -> None:
    at = new()
    fetch_fork(at.box, at.fork, at.place)
    (at.place.parent / "fork-code").unlink()  # killed before it was noted
    (at.place / "scripts/chat_sft.py").write_text("half")
    (at.place / "mine").touch()
    fetch_fork(at.box, at.fork, at.place)
    assert (at.place / "scripts/chat_sft.py").read_text() == WORKING["scripts/chat_sft.py"]
    assert not (at.place / "mine").exists()


def test_a_link_in_its_place_is_not_followed(new: New, tmp_path: Path) -> None:
    """The folder is the trainer's; this program may be root."""
    at = new()
    (tmp_path / "elsewhere").mkdir()
    at.place.symlink_to(tmp_path / "elsewhere")
    fetch_fork(at.box, at.fork, at.place)
    assert list((tmp_path / "elsewhere").iterdir()) == [] and not at.place.is_symlink()


def test_a_mark_that_is_no_file_does_not_block(new: New) -> None:
    at = new()
    os.mkfifo(at.place.parent / "fork-code")
    fetch_fork(at.box, at.fork, at.place)
    assert at.downloads


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_the_code_is_unpacked_by_the_trainers_user(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="nanolan-tests-") as folder:
        root = Path(folder)
        root.chmod(0o755)
        at = ForkBox(root / "a", WORKING)
        home = at.place.parent
        at.box.account = TrainerUser(UID, home)
        os.chown(home, UID, UID)
        fetch_fork(at.box, at.fork, at.place)
        assert {p.stat().st_uid for p in (at.place, *at.place.rglob("*"))} == {UID}


@pytest.mark.parametrize("data", [b"", b"x" * 10, b"PACK"])
def test_other_bytes_than_the_pinned_ones_are_refused(data: bytes, new: New) -> None:
    at = new()
    at.hub = {name: data for name in at.hub}
    with pytest.raises(BadAnswer, match="fork.bundle arrived 3 times with other bytes"):
        fetch_fork(at.box, at.fork, at.place)
    assert not at.place.exists()


@pytest.mark.parametrize("cut", [0, 5, 200])
def test_a_damaged_bundle_is_named(cut: int, new: New) -> None:
    at = new()
    at.change_code(at.bundle[:cut] + b"x" * (cut == 5))
    with pytest.raises(BadAnswer, match="the fork's bundle cannot be unpacked: "):
        fetch_fork(at.box, at.fork, at.place)
    assert not (at.place.parent / "fork-code").exists()


# ---- install

GPU = ["--extra", "gpu"]
# pyproject.toml -> uv's words for the extra on a machine with GPUs
TOMLS = {
    "[project.optional-dependencies]\ngpu = [\n'torch']\ncpu = ['torch']\n": GPU,
    "[project.optional-dependencies]\ngpu=['torch']\n": GPU,
    "[project.optional-dependencies]\n'gpu' = []\n": GPU,
    '[project.optional-dependencies]\n  "gpu"   =   []\n': GPU,
    "[project]\nname = 'x'\noptional-dependencies = { gpu = ['torch'], cpu = [] }\n": GPU,
    "[project]\noptional-dependencies.gpu = ['torch']\n": GPU,
    "[project.optional-dependencies]\r\ngpu = []\r\n": GPU,
    "\ufeff[project.optional-dependencies]\ngpu = []\n": GPU,
    "[project.optional-dependencies]\nGPU = []\n": GPU,
    "[project.optional-dependencies]\ncpu = []\n": [],
    "[project.optional-dependencies]\ngpu-extras = []\n": [],
    "[dependency-groups]\ngpu = []\n": [],
    "[tool.x]\ngpu = []\n": [],
    "# [project.optional-dependencies]\n# gpu = []\n": [],
    "[project]\nname = 'x'\n": [],
    "[project]\noptional-dependencies = []\n": [],
    "project = 3\n": [],
    "": [],
    "[broken": [],
    "\0": [],
}


@pytest.mark.parametrize("text", TOMLS)
def test_the_extra_is_read_in_each_spelling_of_toml(text: str, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(text, newline="")
    (command,) = install_commands(tmp_path, "cuda", "/bin/uv")
    assert command[1:] == ["sync", "--no-install-project", "--no-dev", *TOMLS[text]]


def test_the_lock_file_and_rustbpe_in_the_tree_are_heeded(tmp_path: Path) -> None:
    both = "[project.optional-dependencies]\ngpu = []\ncpu = []\n"
    write(tmp_path, {"pyproject.toml": both, "uv.lock": "", "rustbpe/Cargo.toml": ""})
    sync, rust = install_commands(tmp_path, "cpu", "/bin/uv")
    assert sync[1:] == ["sync", "--frozen", "--no-install-project", "--no-dev", "--extra", "cpu"]
    assert rust[1:] == ["pip", "install", "--python", "../fork-venv/bin/python", "rustbpe"]
    assert [Path(c[0]).name for c in (sync, rust)] == ["uv", "uv"]


def commands(*texts: str) -> Callable[..., list[list[str]]]:
    return lambda *args: [["bash", "-c", text] for text in texts]


def test_an_installed_fork_is_not_installed_again(
    new: New, monkeypatch: pytest.MonkeyPatch
) -> None:
    install = commands("echo x >> ../installed; env > ../env", "mkdir -p ../fork-venv/bin")
    monkeypatch.setattr(fork_module, "install_commands", install)
    at = new(python="")
    for _ in range(2):
        with pytest.raises(RunStopped, match="fork-venv/bin/python cannot be run: No such file"):
            prepare_fork(at.box, at.fork)
    folder = at.place.parent
    assert (folder / "installed").read_text() == "x\n" and "install" in at.stages
    env = dict(line.split("=", 1) for line in (folder / "env").read_text().splitlines())
    assert env["UV_PROJECT_ENVIRONMENT"] == str(folder / "fork-venv")
    assert env["UV_PYTHON_INSTALL_DIR"].startswith(str(folder)) and "HF_TOKEN" not in env


def test_an_installation_that_fails_is_tried_again_by_a_restart(
    new: New, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fork_module, "install_commands", commands("echo no wheel for torch; false"))
    at = new(python="")
    for _ in range(2):
        with pytest.raises(RunStopped, match="cannot be installed: no wheel for torch") as found:
            prepare_fork(at.box, at.fork)
        assert found.value.reason == "trainer_failed"
    assert not (at.place.parent / "fork-ready").exists() and len(at.downloads) == 1


UV_SAYS = """
Using CPython 3.10.14
error: Failed to parse `uv.lock`
  Caused by: TOML parse error at line 5537, column 1
missing field `version`
"""
RESOLVES = """
  × No solution found when resolving dependencies:
  ╰─▶ Because torch==2.9.1 needs Python>=3.10, your project cannot be used.

hint: try another version
"""
# what uv prints -> the one line
SAID = {
    UV_SAYS: "error: Failed to parse `uv.lock`; missing field `version`",
    RESOLVES: "× No solution found when resolving dependencies:; hint: try another version",
    "error: no space": "error: no space",
    "": "exit code 2",
}


@pytest.mark.parametrize("text", SAID)
def test_the_line_that_names_the_problem_is_said(
    text: str, new: New, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "said").write_text(text)
    monkeypatch.setattr(fork_module, "install_commands", commands(f"cat {tmp_path}/said; exit 2"))
    at = new(python="")
    with pytest.raises(RunStopped) as found:
        prepare_fork(at.box, at.fork)
    assert str(found.value) == f"the trainer cannot be installed: {SAID[text]}"


def test_uv_of_a_machine_is_copied_to_where_the_trainer_may_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uv = tmp_path / "root/.local/bin/uv"
    write(tmp_path, {"root/.local/bin/uv": "#!/bin/sh\n"})
    uv.chmod(0o700)
    monkeypatch.setenv("PATH", str(uv.parent))
    monkeypatch.setattr(fork_module.sys, "executable", str(tmp_path / "venv/bin/python"))
    assert uv_for(tmp_path) == str(tmp_path / "uv")
    assert (tmp_path / "uv").stat().st_mode & 0o777 == 0o755
    write(tmp_path, {"venv/bin/uv": ""})
    assert uv_for(tmp_path) == str(tmp_path / "venv/bin/uv")


# ---- the trial


def test_a_fork_that_works_is_said_to(new: New, capfd: pytest.CaptureFixture[str]) -> None:
    at = new()
    prepare_fork(at.box, at.fork)
    text = "trainer: PyTorch 2.9.1+cu128, 8 GPUs; loads the input, 2,000 parameters"
    assert text in capfd.readouterr().out
    assert not (at.box.work / "fork-trial").exists()


KEYS = (
    "Error(s) in loading state_dict for GPT:\\n\\tMissing key(s) in state_dict: \\n\\t'x0_lambdas'"
)
# changed files -> the one line of the receipt, after "the trainer does not work here: "
BROKEN = {
    "another generation": (
        {
            "nanochat/checkpoint_manager.py": f"def load_model(*a, **k):\n raise RuntimeError({KEYS!r})"
        },
        "RuntimeError: Error\\(s\\) in loading state_dict for GPT:.*x0_lambdas",
    ),
    "too few GPUs": (
        {"torch/__init__.py": str(WORKING["torch/__init__.py"]).replace("return 8", "return 3")},
        r"RuntimeError: its PyTorch 2.9.1\+cu128 sees 3 of 8 GPUs",
    ),
    "no torch": ({"torch/__init__.py": "raise ImportError('libcudart.so.12')"}, "libcudart.so.12"),
    "no script": ({"scripts/chat_sft.py": "-"}, "there is no module scripts.chat_sft"),
    "no scripts": (
        {"scripts/chat_sft.py": "-", "scripts/__init__.py": "-"},
        "(no module scripts.chat_sft|No module named 'scripts')",
    ),
    "a library": (
        {"scripts/chat_sft.py": "import json\nimport no_such_lib.sub as x\n"},
        "scripts.chat_sft imports no_such_lib.sub, which is not installed",
    ),
    "no syntax": ({"scripts/chat_sft.py": "def:\n"}, "SyntaxError: invalid syntax"),
    "no loader": (
        {"nanochat/checkpoint_manager.py": ""},
        "AttributeError: module 'nanochat.checkpoint_manager' has no attribute 'load_model'",
    ),
    "it ends itself": (
        {"nanochat/checkpoint_manager.py": "print('bad input'); raise SystemExit(3)"},
        "bad input",
    ),
    "the memory is full": (
        {"nanochat/checkpoint_manager.py": "import os; os.kill(os.getpid(), 9)"},
        "killed by signal 9",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_does_not_work_ends_the_run_with_one_line(name: str, new: New) -> None:
    changes, words = BROKEN[name]
    at = new(changes)
    with pytest.raises(RunStopped, match=f"does not work here: .*{words}") as found:
        prepare_fork(at.box, at.fork)
    assert found.value.reason == "trainer_failed"
    assert "\n" not in str(found.value) and len(str(found.value)) < 400


def test_what_a_script_can_do_without_is_not_missing(new: New) -> None:
    text = "try:\n import no_such_lib\nexcept ImportError: pass\nif False:\n import other_lib\n"
    at = new({"scripts/chat_sft.py": text})
    prepare_fork(at.box, at.fork)


def test_a_command_is_not_tried_and_an_unknown_folder_is_not_loaded(new: New) -> None:
    phases = {"sft": replace(SFT, module="", command="bash train.sh")}
    for change in (phases, {"sft": replace(SFT, input_dir="mine_checkpoints")}):
        at = new({"nanochat/checkpoint_manager.py": "1/0"}, phases=change)
        prepare_fork(at.box, at.fork)


HANGS = "print('loading', flush=True)\nimport time; time.sleep(60)\n" + MANAGER
DAEMON = (
    "import subprocess\n"
    "subprocess.Popen(['sleep', '60'], start_new_session=True)\nprint('bad', flush=True)\n"
)


def test_a_trial_that_hangs_is_killed(new: New, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fork_module, "TRIAL_S", 0.5)
    at = new({"nanochat/checkpoint_manager.py": HANGS})
    began = time.monotonic()
    with pytest.raises(RunStopped, match="it did not end within 0.5 s: loading"):
        prepare_fork(at.box, at.fork)
    assert time.monotonic() - began < 10


def test_a_stop_is_obeyed_while_it_is_tried(new: New) -> None:
    at = new({"nanochat/checkpoint_manager.py": HANGS})
    fetch_fork(at.box, at.fork, at.place)
    threading.Timer(0.3, lambda: setattr(at, "stop", LIMIT)).start()
    began = time.monotonic()
    text = "the spend limit is reached, before anything was trained"
    with pytest.raises(RunStopped, match=text) as found:
        prepare_fork(at.box, at.fork)
    assert found.value.reason == "spend_limit" and time.monotonic() - began < 10


def test_what_a_command_leaves_running_is_not_waited_for(new: New) -> None:
    at = new({"nanochat/checkpoint_manager.py": DAEMON + "raise ValueError('no')"})
    began = time.monotonic()
    with pytest.raises(RunStopped, match="ValueError: no"):
        prepare_fork(at.box, at.fork)
    assert time.monotonic() - began < 10
