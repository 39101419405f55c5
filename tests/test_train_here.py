"""`train-here`: the real trainer on this machine, from nanochat's folder and back into it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanolan.model.checkpoint import load
from nanolan.sim.hub.server import HubServer
from nanolan.sim.seed import seed
from nanolan.train.data.tiny_model import write_tiny
from nanolan.train_here import install_wandb
from tests.support.conversation_forms import REFUSED
from tests.support.settings_fixtures import settings

ROOT = Path(__file__).resolve().parent.parent
RECIPE = json.dumps(
    {
        "sequence_len": 128,
        "tokens_per_step": 1024,
        "max_steps": 3,
        "val_rows": 4,
        "exam_problems": 2,
        "exam_new_tokens": 8,
    }
)


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory, seed_cache: Path) -> Iterator[dict[str, str]]:
    folder = tmp_path_factory.mktemp("here")
    write_tiny(folder / "base", ["Hello world, what is 12 + 34? It is 46."], n_merges=40)
    with HubServer(folder / "hub") as hub:
        seed(hub, "me/models", cache=seed_cache)
        yield {**os.environ, **hub.env(folder / "home"), "NANOCHAT_BASE_DIR": str(folder / "base")}


def train(env: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "scripts/train_here.py", *words],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    "key, there, installs", [("w-01234567", False, 1), ("w-01234567", True, 0), ("", False, 0)]
)
def test_wandb_is_installed_once_its_key_is_set(key: str, there: bool, installs: int) -> None:
    asked: list[list[str]] = []
    s = settings(**({"wandb_api_key": key} if key else {}))
    install_wandb(s, lambda text: None, lambda name: there, asked.append)
    assert [words[-2:] for words in asked] == [[str(ROOT / "scripts/setup.sh"), "wandb"]] * installs


def test_mid_without_an_identity_file_is_refused_before_anything_is_downloaded(
    env: dict[str, str],
) -> None:
    done = train(env, "phase=mid", "--device=cpu")
    assert (
        done.returncode == 2 and "just identity" in done.stderr and "--no-identity" in done.stderr
    )
    assert "downloading" not in done.stderr


def test_conversations_that_are_not_valid_are_refused_before_anything_is_downloaded(
    env: dict[str, str],
) -> None:
    file = Path(env["NANOCHAT_BASE_DIR"]) / "identity_conversations.jsonl"
    refused = REFUSED["ends with the user"]
    file.write_bytes(refused.file)
    done = train(env, "phase=mid", "--device=cpu")
    file.unlink()
    assert done.returncode == 1 and f"line {refused.line}: {refused.why}" in done.stderr
    assert "downloading" not in done.stderr


@pytest.mark.slow  # two real trainings; a rehearsal trains them in the quick set
def test_phases_train_one_after_the_other_and_lie_where_nanochat_looks(env: dict[str, str]) -> None:
    base = Path(env["NANOCHAT_BASE_DIR"])
    (base / "identity_conversations.jsonl").write_text(
        '[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "I am it"}]\n'
    )
    done = train(env, "phase=mid+sft", "--device=cpu", f"--recipe={RECIPE}")
    assert done.returncode == 0, done.stdout + done.stderr
    for place, step in (("mid_checkpoints/d20", 3), ("chatsft_checkpoints/d20", 3)):
        assert load(base / place).step == step
        assert str(base / place) in done.stdout.splitlines()
    rows = [
        json.loads(line)
        for p in (base / "nanolan").glob("metrics-*.jsonl")
        for line in p.read_text().splitlines()
    ]
    assert {r["phase"] for r in rows} == {"mid", "sft"}
    assert not (base / "nanolan/mid-d20").exists()
    meta = load(base / "chatsft_checkpoints/d20").meta
    assert (
        meta["evaluation"]["scope"] == "quick"
        and meta["mmlu_acc"] == meta["evaluation"]["mmlu_acc"]
    )


def test_without_a_gpu_nothing_trains_on_the_cpu_by_accident(env: dict[str, str]) -> None:
    done = train(env, "phase=sft")
    assert done.returncode == 2 and "--device cpu" in done.stderr


def test_a_folder_without_a_checkpoint_says_how_to_get_one(
    env: dict[str, str], tmp_path: Path
) -> None:
    done = train(env | {"NANOCHAT_BASE_DIR": str(tmp_path)}, "phase=sft", "--device=cpu")
    assert done.returncode == 2 and "just pull" in done.stderr
