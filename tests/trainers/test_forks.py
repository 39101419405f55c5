"""The miniature forks in tests/forks behave as the facts say: phases, files, lines on stdout, and what makes them fail."""

from __future__ import annotations

import ast
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from nanolan.phases import DATASETS, IDENTITY_FILE
from nanolan.sim.hub.server import HubServer
from tests.support.forks import REPO, copy_fork, lay_task_data, run_forked, run_script

pytestmark = (
    pytest.mark.slow
)  # minutes of two busy cores; test_adapter.py has the promises in short

CPU_25, CPU_26 = "--device_type=cpu", "--device-type=cpu"
F = r"-?\d+\.\d+"
STEP = (
    rf"step \d{{5}} \({F}%\) \| loss: {F} \| lrm: {F} \| dt: {F}ms \| tok/sec: [\d,]+ \| mfu: {F}"
)
TOTAL = rf" \| total time: {F}m"


class Fork:
    """A copy of a fork, its base folder and a way to run its scripts."""

    def __init__(self, place: Path, base: Path, env: dict[str, str]) -> None:
        self.place, self.base, self.env = place, base, env

    def run(
        self, script: str, *options: str, ranks: int | None = None, **env: str
    ) -> CompletedProcess[str]:
        given = self.env | env
        return run_forked(
            self.place, self.base, f"scripts.{script}", *options, ranks=ranks, **given
        )

    def files(self, folder: str) -> list[str]:
        return sorted(p.name for p in (self.base / folder).iterdir())


@pytest.fixture(scope="module")
def tiny_seed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Base checkpoint of 2025 (tag d20), tokenizer and data sets."""
    folder = tmp_path_factory.mktemp("seed")
    done = run_forked(REPO, folder, "tests.support.tiny_world", str(folder))
    assert done.returncode == 0, done.stdout
    return folder


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, tiny_seed: Path) -> Iterator[HubServer]:
    """A local Hub with the data sets."""
    with HubServer(tmp_path_factory.mktemp("hub")) as hub:
        for repo in {d.repo for name, d in DATASETS.items() if name != "humaneval"}:
            data = tiny_seed / "data" / repo
            files = {p.relative_to(data).as_posix(): p for p in data.rglob("*.parquet")}
            hub.put(repo, files, typ="dataset", private=False)
        yield hub


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory, tiny_seed: Path, hub: HubServer) -> Fork:
    """2025, with the seed's base, mid and identity conversations."""
    place = copy_fork("2025", tmp_path_factory.mktemp("checkout") / "nanochat")
    base = tmp_path_factory.mktemp("base2025")
    shutil.copytree(tiny_seed / "tokenizer", base / "tokenizer")
    shutil.copytree(tiny_seed / "base_checkpoints", base / "base_checkpoints")
    shutil.copytree(tiny_seed / "base_checkpoints", base / "mid_checkpoints")
    shutil.copy(tiny_seed / "data" / IDENTITY_FILE, base)
    return Fork(place, base, hub.env(tmp_path_factory.mktemp("home")))


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory, tiny_seed: Path) -> Fork:
    """2026, with a base d2 of its own whose optimizer was saved by two ranks."""
    place = copy_fork("2026", tmp_path_factory.mktemp("checkout") / "nanochat")
    base = tmp_path_factory.mktemp("base2026")
    shutil.copytree(tiny_seed / "tokenizer", base / "tokenizer")
    lay_task_data(tiny_seed / "data", base)
    fork = Fork(place, base, {})
    done = fork.run("tiny_base", "--save-optimizer=1", ranks=2)
    assert done.returncode == 0, done.stdout
    return fork


def lines(done: CompletedProcess[str], pattern: str) -> list[str]:
    """The lines that are exactly of this shape, of a run that went well."""
    assert done.returncode == 0, done.stdout
    return [line for line in done.stdout.splitlines() if re.fullmatch(pattern, line)]


def fails(done: CompletedProcess[str], *words: str) -> None:
    """It ended with a traceback that has these words."""
    assert done.returncode == 1 and "Traceback" in done.stdout, done.stdout
    assert all(word in done.stdout for word in words), done.stdout


# ---- 2025


def test_mid_goes_to_the_end_of_the_data_and_writes_the_folder_of_its_depth(old: Fork) -> None:
    done = old.run("mid_train", CPU_25, "--eval_every=2", "--model_tag=d20")
    steps = lines(done, STEP + TOTAL)
    assert len(steps) == 4 and "(100.00%)" in steps[-1]
    assert len(lines(done, rf"Step \d{{5}} \| Validation bpb: {F}")) == 3
    assert lines(done, rf"Total training time: {F}m") and lines(done, rf"Peak memory usage: {F}MiB")
    assert "\x1b[32m" in done.stdout and "HTTP Request: GET http://127.0.0.1" in done.stdout
    made = {"meta_000004.json", "model_000004.pt", "optim_000004_rank0.pt"}
    assert made <= set(old.files("mid_checkpoints/d2"))
    meta = json.loads((old.base / "mid_checkpoints/d2/meta_000004.json").read_text())
    assert meta.keys() == {"step", "val_bpb", "model_config", "user_config"}
    assert "window_pattern" not in meta["model_config"]


def test_iterations_of_mid_are_micro_batches_and_only_rank_0_saves_its_shard(old: Fork) -> None:
    done = old.run("mid_train", CPU_25, "--max_seq_len=64", "--num_iterations=4", ranks=2)
    steps = lines(done, STEP + TOTAL)
    assert len(steps) == 1 and "(125.00%)" in steps[0] and "lrm: -1.25" in steps[0]
    made = old.files("mid_checkpoints/d2")
    assert "optim_000001_rank0.pt" in made and "optim_000001_rank1.pt" not in made


def test_sft_of_2025_has_no_time_in_its_lines_and_saves_its_last_index(old: Fork) -> None:
    done = old.run("chat_sft", CPU_25, "--model_tag=d20", "--eval_metrics_max_problems=4")
    shape = rf"Step \d{{5}}/00005 \| Training loss: {F}\| lrm: {F}\| num_tokens: [\d,]+"
    assert len(lines(done, shape)) == 4
    assert len(lines(done, rf"Step \d{{5}} \| Validation loss: {F}")) == 2
    assert lines(done, rf"Step 00004 \| mmlu_acc: {F}, arc_easy_acc: {F}")
    assert lines(done, "Saved model checkpoint to .*")
    assert old.files("chatsft_checkpoints/d2") == ["meta_000004.json", "model_000004.pt"]

    evaluated = old.run("chat_eval", "-i", "sft", "-x", "3", CPU_26)
    assert len(lines(evaluated, rf"\S+ accuracy: {F}%")) == 4
    assert lines(evaluated, rf"ChatCORE metric: {F}")
    assert "\r\x1b[KRank 0 | " in evaluated.stdout


def test_rl_of_2025_demands_cuda(old: Fork) -> None:
    fails(old.run("chat_rl"), "AssertionError: CUDA")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--init_lr_frac=1"], "AssertionError"),
        (["--device_batch_size=2.0"], "AssertionError"),
        (["--run=123"], "AssertionError"),
        (["--device-batch-size=2"], "ValueError: Unknown config key"),
        (["--run=a=b"], "ValueError: too many values"),
        ([CPU_25, "--device_batch_size=3"], "no multiple of a pass"),
        ([CPU_25, "--eval_every=-1", "--num_iterations=1"], "'val_bpb'"),
    ],
)
def test_options_that_mid_fails_at(old: Fork, options: list[str], words: str) -> None:
    fails(old.run("mid_train", *options), words)


def test_data_of_2025_is_not_to_be_had_offline_without_a_cache(old: Fork, tmp_path: Path) -> None:
    empty = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path)}
    fails(old.run("mid_train", CPU_25, **empty), "Building a model", "LocalEntryNotFoundError")


# ---- 2026


def test_sft_of_2026_under_torchrun_says_each_step_and_saves_every_shard(new: Fork) -> None:
    """Two ranks, from the shards of two ranks."""
    options = [CPU_26, "--model-tag=d2", "--num-iterations=8", "--chatcore-max-cat=2"]
    done = run_script(new.place, new.base, "scripts.chat_sft", *options, ranks=2)
    steps = lines(done, STEP + r" \| epoch: \d+" + TOTAL)
    assert len(steps) == 4 and "(112.50%)" in steps[-1] and "lrm: -0.25" in steps[-1]
    assert len(lines(done, rf"Step \d{{5}} \| Validation bpb: {F}")) == 2
    assert lines(done, rf"Step 00004 \| ChatCORE: {F} \| ChatCORE_cat: {F}")
    assert len(lines(done, rf"  \S+: {F}%")) == 4
    assert "starts from the base's state" in done.stdout
    shards = {"optim_000004_rank0.pt", "optim_000004_rank1.pt"}
    made = {"meta_000004.json", "model_000004.pt", *shards}
    assert made <= set(new.files("chatsft_checkpoints/d2"))
    meta = json.loads((new.base / "chatsft_checkpoints/d2/meta_000004.json").read_text())
    assert meta["model_config"]["window_pattern"] == "SL"


def test_shards_of_two_ranks_fail_in_one_process_at_the_first_step(new: Fork) -> None:
    done = new.run("chat_sft", CPU_26, "--chatcore-every=-1")
    fails(done, "Step 00000 | Validation bpb", "RuntimeError: The size of tensor")
    assert not re.search("^step ", done.stdout, re.M)


def test_a_bad_batch_fails_after_the_model_is_loaded(new: Fork) -> None:
    done = new.run("chat_sft", CPU_26, "--device-batch-size=3")
    fails(done, "Building a model", "AssertionError: the total batch size")


def test_rl_of_2026_trains_on_the_cpu_and_saves_the_model_alone(new: Fork) -> None:
    alone = ("--load-optimizer=0", "--chatcore-every=-1", "--num-iterations=4")
    assert new.run("chat_sft", CPU_26, *alone).returncode == 0
    small = ("--max-new-tokens=4", "--num-samples=2", "--device-batch-size=2", "--eval-examples=2")
    done = new.run("chat_rl", CPU_26, *small)
    assert (
        len(lines(done, rf"Step \d/2 \| Average reward: {F} \| Average sequence length: {F}")) == 2
    )
    shape = rf"Step \d/2 \| Example step \d+ \| Pass 0 \| loss: {F} \| Average reward: {F}"
    assert len(lines(done, shape)) == 32
    assert lines(done, rf"Step 0 \| Pass@1: {F}, Pass@2: {F}")
    assert new.files("chatrl_checkpoints/d2") == ["meta_000001.json", "model_000001.pt"]
    meta = json.loads((new.base / "chatrl_checkpoints/d2/meta_000001.json").read_text())
    assert meta.keys() == {"model_config"}

    few = ("-a", "ARC-Easy|GSM8K", "-x", "2", "-m", "4", CPU_26)
    evaluated = new.run("chat_eval", "-i", "rl", *few)
    assert len(lines(evaluated, rf"\S+ accuracy: {F}%")) == 2
    assert not lines(evaluated, "ChatCORE.*")


def test_data_of_2026_comes_from_one_host_whatever_the_endpoint(new: Fork, tmp_path: Path) -> None:
    base = tmp_path / "base"
    for name in ("tokenizer", "base_checkpoints"):
        shutil.copytree(new.base / name, base / name)
    bare = Fork(new.place, base, {"HF_ENDPOINT": "http://127.0.0.1:9"})
    done = bare.run("chat_sft", CPU_26, "--load-optimizer=0")
    fails(done, "RuntimeError: could not download HuggingFaceTB/smol-smoltalk")


# ---- both


def test_neither_loads_the_checkpoint_of_the_other(old: Fork, new: Fork, tmp_path: Path) -> None:
    for name in ("tokenizer", "base_checkpoints"):
        shutil.copytree(old.base / name, tmp_path / "old" / name)
        shutil.copytree(new.base / name, tmp_path / "new" / name)
    crossed = Fork(new.place, tmp_path / "old", {})
    fails(crossed.run("chat_sft", CPU_26), "RuntimeError", "Missing key(s)", "backout_lambda")
    crossed = Fork(old.place, tmp_path / "new", old.env)
    fails(crossed.run("mid_train", CPU_25), "TypeError", "window_pattern")


def test_the_forks_are_plain_python_310_that_handles_no_signal() -> None:
    files = sorted((REPO / "tests" / "forks").glob("*/*/*.py"))
    assert len(files) > 30
    for path in files:
        tree = ast.parse(path.read_text(), feature_version=(3, 10))
        assert ast.get_docstring(tree), path
        imported = {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        imported |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        assert not {name.split(".")[0] for name in imported} & {"nanolan", "signal"}, path
