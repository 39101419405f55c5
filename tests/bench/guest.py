"""A script of a nanochat checkout, one optimizer step at a time, in its own folder:

    python guest.py JOB.json

Waits for a line on standard input, runs to the end of the next step, prints its figures as JSON, and so on. The script is
unchanged; around it: the CPU for scripts that demand CUDA, data sets from a folder in place of the Hub's, empty modules for
packages that training does not use, and, if the job says so, Newton-Schulz in fp32. Imports nothing of nanolan but the
file that follows optimizers, which stands alone.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import os
import random
import resource
import runpy
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

UNUSED = (
    "rustbpe",
    "wandb",
)  # imported by the scripts, and not used with run=dummy and a tokenizer that is there
NEWTON_SCHULZ = ("nanochat.muon", "zeropower_via_newtonschulz5")


class Counts:
    """Tokens since the last step."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.rendered = self.trained = self.generated = 0


class Turns:
    """Answers each line of standard input with the figures of one step."""

    def __init__(self, counts: Counts, facts: dict[str, Any]) -> None:
        self.out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # what the script prints is no answer
        self.counts, self.facts = counts, facts
        self.wait()

    def wait(self) -> None:
        """Until the next step is asked for; the end of the input ends this process."""
        if not sys.stdin.readline():
            os._exit(0)
        self.counts.clear()
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def step_done(self) -> None:
        unit = 1 if sys.platform == "darwin" else 1024
        said = {
            "wall_s": time.perf_counter() - self.wall,
            "cpu_s": time.process_time() - self.cpu,
            "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30,
            **vars(self.counts),
            **self.facts,
        }
        print(json.dumps(said), file=self.out, flush=True)
        self.wait()


class Rows(Sequence[Any]):
    """The part of a data set of the `datasets` library that nanochat uses."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, at: Any) -> Any:
        return self.rows[at]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.rows)

    def shuffle(self, seed: int = 0) -> Rows:
        rows = list(self.rows)
        random.Random(seed).shuffle(rows)
        return Rows(rows)

    def map(
        self, change: Callable[[Any], Any], remove_columns: Sequence[str] = (), **how: Any
    ) -> Rows:
        kept = ({k: v for k, v in row.items() if k not in remove_columns} for row in self.rows)
        return Rows([{**left, **change(row)} for left, row in zip(kept, self.rows, strict=True)])


def read_split(data: Path, repo: str, subset: str | None, split: str) -> Rows:
    """The parquet files of a split, laid as on the Hub; a data set without subsets has them in data/."""
    import pyarrow.parquet as pq

    for folder in (subset or "data", "data"):
        if files := sorted((data / repo / folder).glob(f"{split}-*.parquet")):
            return Rows([row for path in files for row in pq.read_table(path).to_pylist()])
    raise FileNotFoundError(f"the bench has no data for {repo} {subset or ''} {split}")


def serve_data(data: Path) -> None:
    """Let the script's data sets come from a folder."""
    stand_in: Any = types.ModuleType("datasets")
    stand_in.load_dataset = lambda repo, name=None, *args, split, **how: read_split(
        data, repo, name, split
    )
    sys.modules["datasets"] = stand_in
    try:
        hub: Any = importlib.import_module("huggingface_hub")
    except ImportError:
        return
    hub.snapshot_download = lambda repo, **how: str(data / repo)


def fill_in_unused() -> None:
    for name in UNUSED:
        if importlib.util.find_spec(name) is None:
            sys.modules[name] = types.ModuleType(name)


def use_cpu() -> None:
    """The scripts of rl ask for CUDA and nothing else."""
    common: Any = importlib.import_module("nanochat.common")
    start = common.compute_init
    common.compute_init = lambda device_type="cpu": start("cpu")


def newton_schulz_in_fp32(place: tuple[str, str] = NEWTON_SCHULZ) -> bool:
    """As nanolan computes it on CPUs, most of which have no bf16 units; False where the checkout has no such function."""
    try:
        module = importlib.import_module(place[0])
        function = getattr(module, place[1])
    except (ImportError, AttributeError):
        return False
    plain = getattr(function, "_torchdynamo_orig_callable", function)
    source = inspect.getsource(plain)
    exec(compile(source.replace(".bfloat16()", ".float()"), "<fp32>", "exec"), vars(module))
    return ".bfloat16()" in source


def count_tokens(counts: Counts) -> None:
    """Count the tokens of rendered conversations, and those of completions."""

    def render(args: Any, found: Any) -> None:
        ids, mask = found
        counts.rendered += len(ids) - 1
        counts.trained += sum(mask[1:])

    def complete(args: Any, found: Any) -> None:  # rows with their prompt, and masks
        counts.generated += sum(len(row) - len(args[1]) for row in found[0])

    def generate(args: Any, found: Any) -> None:
        counts.generated += sum(map(len, found))

    for cls in vars(importlib.import_module("nanochat.tokenizer")).values():
        if inspect.isclass(cls) and "render_conversation" in vars(cls):
            follow(cls, "render_conversation", render)
    engine: Any = importlib.import_module("nanochat.engine")
    if hasattr(engine, "Engine"):
        follow(engine.Engine, "generate_batch", complete)
    else:
        follow(engine, "generate", generate)


def follow(place: Any, name: str, see: Callable[[Any, Any], None]) -> None:
    """Let `see` have the arguments and the result of every call."""
    function = getattr(place, name)

    def followed(*args: Any, **kwargs: Any) -> Any:
        found = function(*args, **kwargs)
        see(args, found)
        return found

    setattr(place, name, followed)


def module_at(path: str) -> Any:
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec and spec.loader  # noqa: S101  # for the type checker
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main(path: str) -> None:
    job = json.loads(Path(path).read_text())
    sys.path[:] = [str(Path.cwd()), *(p for p in sys.path if p != str(Path(__file__).parent))]
    counts = Counts()
    fill_in_unused()
    serve_data(Path(job["data"]))
    optimizers = module_at(job["optimizer_steps"])
    turns: Any = None
    optimizers.follow_optimizers(optimizers.Steps(threading.RLock(), lambda: turns.step_done()))
    use_cpu()
    fp32 = bool(job["fp32"]) and newton_schulz_in_fp32()
    count_tokens(counts)
    turns = Turns(counts, {"fp32": fp32})
    sys.argv = [job["module"], *job["arguments"]]
    runpy.run_module(job["module"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    torch.manual_seed(42)
    main(sys.argv[1])
