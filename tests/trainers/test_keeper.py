"""A script of an unmodified checkout keeps its weights: at SIGTERM at any moment, from time to time, on a full disk."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from nanolan.settings.settings import ROOT
from tests.support.forked_python import TRAINER, Program, forked, free_port
from tests.trainers.standin_checkout import write_checkout

pytestmark = (
    pytest.mark.slow
)  # minutes of two busy cores; test_adapter.py has the promises in short

KEEPER = str(ROOT / "nanolan/trainers/inside/keeper.py")


def program(words: list[str], folder: Path, out: Path, **env: str) -> Program:
    """A program that needs torch, in its folder."""
    return forked(TRAINER).start(words, folder, {**os.environ, **env}, out)


@dataclass
class Run:
    """Ranks of one script in a folder of its own."""

    folder: Path
    ranks: list[Program] = field(default_factory=list)

    @property
    def kept(self) -> Path:
        return self.folder / "kept"

    def start(
        self, *options: str, ranks: int = 1, module: str = "scripts.chat_sft", **env: str
    ) -> Run:
        port = str(free_port())
        env = {"NANOLAN_KEEP": str(self.kept)} | env
        for rank in range(ranks):
            place = {
                "RANK": str(rank),
                "WORLD_SIZE": str(ranks),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
                "NANOLAN_CPU_RANKS": "1",
            }
            words = [KEEPER, module, "--", *options]
            out = self.folder / f"out{rank}"
            extra = place if ranks > 1 else {}
            self.ranks.append(program(words, self.folder, out, **env, **extra))
        return self

    def output(self, rank: int = 0) -> str:
        path = self.folder / f"out{rank}"
        return path.read_text() if path.exists() else ""

    def until(self, text: str, rank: int = 0, limit_s: float = 20) -> Run:
        """Wait until a rank has printed a text."""
        end = time.monotonic() + limit_s
        while text not in self.output(rank):
            assert time.monotonic() < end, self.output(rank)
            time.sleep(0.01)
        return self

    def signal(self, number: int = signal.SIGTERM) -> Run:
        for rank in self.ranks:
            os.kill(rank.pid, number)
        return self

    def codes(self, limit_s: float = 15) -> list[int | None]:
        return [rank.wait(limit_s) for rank in self.ranks]

    def metas(self) -> dict[int, dict[str, object]]:
        """By step; every model has its meta, and nothing else is left but beat.json and marks."""
        marks = re.compile(r"finished|not-finite|\.left-.*")
        names = [p.name for p in self.kept.iterdir() if not marks.fullmatch(p.name)]
        metas = {
            int(n[5:11]): json.loads((self.kept / n).read_text())
            for n in names
            if n.startswith("meta_")
        }
        models = {f"model_{step:06d}.pt" for step in metas}
        assert {n for n in names if not n.startswith("meta_")} == models | {"beat.json"}
        return metas

    def beat(self) -> dict[str, object]:
        return json.loads((self.kept / "beat.json").read_text())

    def finished(self) -> bool:
        return (self.kept / "finished").exists()

    def same_as_trained(self, step: int, *options: str) -> bool:
        """Whether the kept weights are those of a run of exactly so many steps, without the keeper."""
        words = [str(self.folder / "reference.py"), f"kept/model_{step:06d}.pt", f"--steps={step}"]
        words += ["--step-s=0", *options]
        return program(words, self.folder, self.folder / "reference").wait() == 0


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(write_checkout(tmp_path))


# (words, how the step is paused, steps kept): SIGTERM comes within the pause
MOMENTS = {
    "before load": (("--pause=load:20",), None),
    "before the first step": (("--pause=start:20",), None),
    "in the first step": (("--optimizers=Muon", "--pause=optimizer:0.3", "--pause-step=1"), 1),
    "in a step": (("--optimizers=Muon", "--pause=optimizer:0.3"), 5),
    "in a step of two": (("--optimizers=AdamW,Muon", "--pause=optimizer:0.3"), 5),
    "between two optimizers": (("--optimizers=AdamW,Muon", "--pause=between:0.3"), 5),
    "in a long evaluation": (("--optimizers=AdamW,Muon", "--pause=eval:60"), 5),
    "in an evaluation after the first step": (("--pause=eval:60", "--pause-step=1"), 1),
}


@pytest.mark.parametrize("options, step", MOMENTS.values(), ids=MOMENTS)
def test_sigterm_keeps_the_whole_steps(
    run: Run, options: tuple[str, ...], step: int | None
) -> None:
    run.start(*options).until("at ").signal()
    assert run.codes(limit_s=5) == [0], run.output()
    if step is None:
        assert run.metas() == {} and "before the first optimizer step" in run.output()
        assert run.beat()["stage"] == "load"
        return
    meta = {"step": step, "model_config": {"n_layer": 1}, "stopped_early": "SIGTERM"}
    assert run.metas() == {step: meta}
    assert (run.beat()["step"], run.beat()["stage"]) == (step, "save")
    assert run.same_as_trained(step, *(o for o in options if o.startswith("--opt")))


def test_sigterm_twice(run: Run) -> None:
    run.start().until("step 20").signal().signal()
    assert run.codes() == [0]
    (step,) = run.metas()
    assert step >= 20 and run.same_as_trained(step)
    assert 0.01 < run.beat()["dt_s"] < 1  # type: ignore[operator]


@pytest.mark.parametrize("place", ["save", "end", "exit"])
def test_sigterm_lets_the_script_finish_its_own_save(run: Run, place: str) -> None:
    run.start("--steps=5", f"--pause={place}:0.3", SAVE_S="0.5").until(f"at {place}").signal()
    assert run.codes() == [0]
    assert "done" in run.output() and run.metas() == {} and run.beat()["step"] == 5
    assert run.finished()
    assert (run.folder / "own/meta_000005.json").exists()


@pytest.mark.parametrize("kind", ["Unhooked", "AdamW,Unhooked", "Unhooked,AdamW", "Muon"])
def test_all_optimizers_of_torch_are_followed(run: Run, kind: str) -> None:
    run.start(f"--optimizers={kind}").until("step 20").signal()
    assert run.codes() == [0]
    (step,) = run.metas()
    assert 20 <= step < 100 and run.same_as_trained(step, f"--optimizers={kind}")


def test_an_optimizer_that_skips_steps(run: Run) -> None:
    options = ("--optimizers=AdamW,Muon", "--every-other")
    run.start(*options).until("step 20").signal()
    assert run.codes() == [0]
    (step,) = run.metas()
    assert run.same_as_trained(step, *options)


def test_an_optimizer_of_another_class_is_reported(run: Run) -> None:
    run.start("--optimizers=Plain").until("weights change without a step of a torch").signal()
    assert run.codes() == [0] and run.metas() == {}


def test_saves_from_time_to_time_and_keeps_two(run: Run) -> None:
    run.start("--steps=80", NANOLAN_SAVE_MINUTES="0.003")
    assert run.codes() == [0]
    metas = run.metas()
    assert len(metas) == 2 and run.output().count("saved in") > 2
    assert {m["stopped_early"] for m in metas.values()} == {None}
    assert run.same_as_trained(max(metas)) and run.beat()["step"] == 80


def test_weights_that_are_no_numbers_are_not_kept(run: Run) -> None:
    script = run.folder / "scripts/chat_sft.py"
    broken = "    if step == 40:\n        model.h.weight.data[0, 0] = float('nan')\n"
    script.write_text(
        script.read_text().replace("    model.zero_grad", f"{broken}    model.zero_grad")
    )
    run.start("--steps=60", "--fail=broken", NANOLAN_SAVE_MINUTES="0.001")
    assert run.codes() == [1] and (run.kept / "not-finite").exists()
    assert run.metas() and max(run.metas()) <= 40
    assert "a weight is not a number: nothing more is kept" in run.output()


def test_a_full_disk_does_not_end_the_training(run: Run) -> None:
    run.start("--steps=60", "--limit=4000", NANOLAN_SAVE_MINUTES="0.003")
    assert run.codes() == [0]
    assert "warning: weights after step" in run.output() and "done" in run.output()
    assert run.metas() == {} and (run.folder / "own/meta_000060.json").exists()


def test_a_folder_that_cannot_be_written_does_not_end_the_training(run: Run) -> None:
    run.kept.write_text("in the way")
    run.start("--steps=30", NANOLAN_SAVE_MINUTES="0.003")
    assert run.codes() == [0]
    assert "warning: cannot write to" in run.output() and "done" in run.output()


def test_weights_of_a_compiled_model_have_their_own_names(run: Run) -> None:
    run.start(COMPILED="1").until("step 10").signal()
    assert run.codes() == [0]
    (step,) = run.metas()
    assert run.same_as_trained(step)


def test_a_later_start_keeps_its_own_newest(run: Run) -> None:
    run.start("--step-s=0").until("step 200").signal().codes()
    run.ranks.clear()
    (run.folder / "out0").unlink()
    for left in (".model_000999.pt.tmp", "finished"):
        (run.kept / left).touch()
    run.start(NANOLAN_SAVE_MINUTES="0.003").until("step 60").signal()
    run.codes()
    assert len(run.metas()) == 2 and max(run.metas()) < 200 and not run.finished()


def test_exit_code_traceback_and_options_are_the_scripts(run: Run) -> None:
    for code, ending in ((3, "3"), (1, "broken"), (0, "0"), (0, "")):
        run.ranks.clear()
        run.start("--steps=2", f"--fail={ending}")
        assert run.codes() == [code]
        assert run.finished() == (code == 0)
    assert "scripts/chat_sft.py" in run.output() and "ValueError: broken" in run.output()
    assert "done ['--steps=2', '--fail=']" in run.output()


@pytest.mark.parametrize("steps", [0, 1, 5])
@pytest.mark.parametrize("ending", ["broken", "3"])
def test_a_script_that_fails_keeps_its_steps(run: Run, steps: int, ending: str) -> None:
    run.start(f"--steps={steps}", f"--fail={ending}", "--optimizers=AdamW,Muon")
    assert run.codes() == [3 if ending == "3" else 1] and not run.finished()
    metas = run.metas()
    assert list(metas) == ([steps] if steps else [])
    if steps:
        assert metas[steps]["stopped_early"] == "error"
        assert run.same_as_trained(steps, "--optimizers=AdamW,Muon")


def test_a_checkout_without_checkpoint_manager_runs(run: Run) -> None:
    (run.folder / "nanochat/checkpoint_manager.py").unlink()
    (run.folder / "scripts/other.py").write_text("print('ran')")
    run.start(module="scripts.other")
    assert run.codes() == [0]
    assert "nothing is kept: no load_model" in run.output() and "ran" in run.output()


def test_signals_of_children_and_of_the_script_are_left_alone(run: Run) -> None:
    run.start(module="scripts.own_handler").until("at own").signal()
    assert run.codes() == [0]
    assert run.output().split("\n")[-5:-1] == ["child -15", "at own", "own handler", "done"]


# --- two ranks --------------------------------------------------------------------------------------


def test_collectives_without_a_gpu(run: Run) -> None:
    run.start(module="scripts.collectives", ranks=2)
    assert run.codes() == [0, 0], run.output() + run.output(1)
    assert "right" in run.output() and "right" in run.output(1)


@pytest.mark.parametrize(
    "moment", [("step 20",), ("at hang", "--hang=15"), ("at start", "--pause=start:20")]
)
def test_ranks_stop_together(run: Run, moment: tuple[str, ...]) -> None:
    text, *options = moment
    run.start("--optimizers=AdamW,DistMuon", *options, ranks=2).until(text)
    run.signal()
    assert run.codes(limit_s=5) == [0, 0], run.output() + run.output(1)
    if text == "at start":
        assert run.metas() == {}
        return
    (step,) = run.metas()
    assert step == 14 or text == "step 20" and step >= 20
    assert run.same_as_trained(step, "--optimizers=AdamW,Muon")


def test_a_rank_that_is_told_first_waits_for_rank_0(run: Run) -> None:
    run.start("--optimizers=AdamW,DistMuon", ranks=2).until("step 10")
    os.kill(run.ranks[1].pid, signal.SIGTERM)
    run.until("step 40").signal()
    assert run.codes(limit_s=5) == [0, 0] and max(run.metas()) >= 40


def runs(p: psutil.Process) -> bool:
    """An orphan may stay a zombie for a while."""
    try:
        return p.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def torchrun(run: Run, *options: str) -> subprocess.Popen[bytes]:
    place = ["--standalone", "--local-addr=127.0.0.1", "--nproc-per-node=2"]
    env = {"NANOLAN_KEEP": str(run.kept), "NANOLAN_CPU_RANKS": "1", "OMP_NUM_THREADS": "1"}
    with open(run.folder / "out0", "wb") as out:
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                "torch.distributed.run",
                *place,
                KEEPER,
                "scripts.chat_sft",
                "--",
                *options,
            ],
            cwd=run.folder,
            env={**os.environ, **env, "TMPDIR": str(run.folder)},
            stdout=out,
            stderr=out,
        )


@pytest.fixture
def ranks(run: Run) -> Iterator[tuple[subprocess.Popen[bytes], list[psutil.Process]]]:
    child = torchrun(run, "--optimizers=AdamW,DistMuon")
    found: list[psutil.Process] = []
    try:
        run.until("step 20", limit_s=60)
        found += psutil.Process(child.pid).children()
        yield child, found
    finally:
        for p in (child, *found):
            try:
                p.kill()
            except psutil.NoSuchProcess:
                pass
        child.wait()


def test_torchrun_ends_with_0_after_sigterm_to_its_ranks(run: Run, ranks: tuple) -> None:
    child, found = ranks
    for p in found:
        p.terminate()
    assert child.wait(5) == 0, run.output()
    (step,) = run.metas()
    assert run.same_as_trained(step, "--optimizers=AdamW,Muon")


def test_stacks_and_the_death_of_torchrun(run: Run, ranks: tuple) -> None:
    child, found = ranks
    found[0].send_signal(signal.SIGUSR1)
    run.until("Current thread").until("chat_sft.py")
    child.kill()
    end = time.monotonic() + 2
    while any(runs(p) for p in found):
        assert time.monotonic() < end
        time.sleep(0.05)
