"""Jobs of the adapter with the miniature forks, and the adapter as a process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from nanolan.checkpoint.manifest import Manifest, newest_whole
from nanolan.phases import DATASETS, Phase
from nanolan.sim.hub.server import HubServer
from nanolan.trainers.fork_job import ForkFacts, ForkJob
from nanolan.trainers.rows import ROWS
from tests.support.forks import REPO, copy_fork

TAGS = {"2025": "d20", "2026": "d2"}
CPU = {"2025": "--device_type=cpu", "2026": "--device-type=cpu"}
OPTIONS = {
    ("2025", "sft"): ("--eval_metrics_max_problems=2", "--eval_every=50", "--eval_steps=1"),
    ("2026", "sft"): ("--load-optimizer=0", "--chatcore-every=-1", "--eval-tokens=512"),
    ("2026", "rl"): ("--max-new-tokens=4", "--num-samples=2", "--device-batch-size=2"),
}
LONG = {"2025": "--num_epochs=1000", "2026": "--gsm8k-epochs=4000"}  # some minutes
FEW = ("-x", "2", "-m", "4")


class Worlds:
    """Checkouts, base checkpoints, tokenizer and data of both generations; read only."""

    def __init__(self, folder: Path, python: Path) -> None:
        self.folder, self.python = folder, python
        self._run("tests.support.tiny_world", str(folder), cwd=REPO)
        mmlu = folder / "data" / DATASETS["mmlu-all"].repo
        shutil.copy(
            next(mmlu.glob(DATASETS["mmlu"].test)),
            mmlu / DATASETS["mmlu-all"].train.replace("*", "00000-of-00001"),
        )
        for name in TAGS:
            copy_fork(name, folder / name)
        env = {"NANOCHAT_BASE_DIR": str(folder)}
        self._run("scripts.tiny_base", "--model-tag=d2", cwd=folder / "2026", **env)
        self.hub = HubServer(folder / "hub")

    def _run(self, *words: str, cwd: Path, **env: str) -> None:
        subprocess.run([self.python, "-m", *words], cwd=cwd, env=os.environ | env, check=True)

    def __enter__(self) -> Worlds:
        self.hub.__enter__()
        for repo in {d.repo for name, d in DATASETS.items() if name != "humaneval"}:
            data = self.folder / "data" / repo
            files = {p.relative_to(data).as_posix(): p for p in data.rglob("*.parquet")}
            self.hub.put(repo, files, typ="dataset", private=False)
        return self

    def __exit__(self, *problem: object) -> None:
        self.hub.__exit__(*problem)

    def base(self, generation: str) -> Path:
        """A base checkpoint of a generation."""
        return self.folder / "base_checkpoints" / TAGS[generation]

    def run(self, folder: Path, generation: str, phase: str = "sft", *options: str) -> Run:
        """A job of a phase, in `folder`."""
        row = next(r for r in ROWS if r.name.endswith(generation))
        arguments = (CPU[generation], *OPTIONS.get((generation, phase), ()), *options)
        facts = ForkFacts(
            checkout=str(self.folder / generation),
            python=str(self.python),
            phase=replace(row.phases[phase], arguments=arguments),
            processes=1,
            task_data=generation == "2026",
            evaluation="scripts.chat_eval",
            evaluation_arguments=(*FEW, "--device-type=cpu"),
            endpoint=self.hub.url,
            rehearsal=True,
        )
        folder.mkdir(parents=True, exist_ok=True)
        job = ForkJob(
            phase=phase,
            run_id="ab12cd34",
            model_tag="d20",
            init_dir=str(self.base(generation)),
            tokenizer_dir=str(self.folder / "tokenizer"),
            data_dir=str(self.folder / "data"),
            out_dir=str(folder / "out"),
            metrics=str(folder / "metrics.jsonl"),
            heartbeat=str(folder / "heartbeat.json"),
            fork=facts,
        )
        return Run(folder, job)


@dataclass
class Run:
    """One job in a folder, and the adapter that runs it."""

    folder: Path
    job: ForkJob
    beats: list[dict[str, Any]] = field(default_factory=list)  # each heartbeat that was seen
    process: subprocess.Popen[bytes] | None = None
    program: tuple[str, ...] = (sys.executable, "-m", "nanolan.trainers.adapter")

    def values(self) -> dict[str, Any]:
        """JOB.json."""
        return dict(msgspec.to_builtins(self.job))

    def change(self, *, phase: Phase | None = None, **values: Any) -> Run:
        """Other values of the job, or of its fork."""
        known = {f.name for f in msgspec.structs.fields(ForkFacts)} - {"phase"}
        fork = {k: v for k, v in values.items() if k in known}
        fork |= {"phase": phase} if phase else {}
        rest = {k: v for k, v in values.items() if k not in known}
        self.job = msgspec.structs.replace(
            self.job, fork=msgspec.structs.replace(self.job.fork, **fork), **rest
        )
        return self

    def start(self, **environment: str) -> Run:
        """Start the adapter."""
        self.beats.clear()
        (self.folder / "heartbeat.json").unlink(missing_ok=True)
        path = self.folder / "job.json"
        path.write_bytes(json.dumps(self.values()).encode())
        env = {k: v for k, v in os.environ.items() if "TOKEN" not in k} | {
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "NANOLAN_TEST": str(self.folder),
        }
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                [*self.program, str(path)],
                cwd=REPO,
                env=env | environment,
                stdout=log,
                stderr=log,
            )
        return self

    def log(self) -> str:
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def last_line(self) -> str:
        return self.log().splitlines()[-1]

    def look(self) -> None:
        """Take the newest heartbeat."""
        try:
            beat = json.loads((self.folder / "heartbeat.json").read_bytes())
        except OSError:
            return
        if not self.beats or beat != self.beats[-1]:
            self.beats.append(beat)

    def until(self, condition: Callable[[Run], object], limit_s: float = 60) -> Run:
        end = time.monotonic() + limit_s
        while not condition(self):
            assert time.monotonic() < end, self.log()
            self.look()
            time.sleep(0.02)
        return self

    def step(self) -> int:
        return self.beats[-1]["step"] if self.beats else 0

    def end(self, limit_s: float = 90) -> int:
        """The exit code of the adapter, when it ends."""
        assert self.process
        self.until(lambda run: run.process and run.process.poll() is not None, limit_s)
        self.look()
        return self.process.returncode

    def stages(self) -> list[str]:
        """The stages of the heartbeats, each once in a row."""
        names = [b["stage"] for b in self.beats]
        return [n for i, n in enumerate(names) if not i or n != names[i - 1]]

    def rows(self) -> list[dict[str, Any]]:
        path = Path(self.job.metrics)
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def saved(self, *, final: bool) -> Manifest | None:
        """The newest whole checkpoint of that kind."""
        found = newest_whole(Path(self.job.out_dir), self.job.phase, final=final)
        return found[1] if found else None

    def stop(self) -> Run:
        """Ask it to stop, as the box does."""
        assert self.process
        self.process.send_signal(signal.SIGTERM)
        return self

    def edit(self, script: str, text: str) -> Run:
        """Run a copy of the checkout, in which a script begins with `text`."""
        copy = self.folder / "fork"
        shutil.copytree(self.job.fork.checkout, copy)
        path = copy / script
        path.write_text(f"{text}\n{path.read_text()}")
        return self.change(checkout=str(copy))

    def kill(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


NewRun = Callable[..., Run]
