"""A trainer that trains nothing, as a program of its own on a machine of tests/support/life_box.py: it lives on when the box program dies."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanolan.box.phase_runner import GRACE_S, HUNG_GRACE_S
from nanolan.checkpoint.manifest import newest_whole, save_whole
from nanolan.run.record import StopReason
from tests.support.life_clock import Actor

if TYPE_CHECKING:
    from tests.support.life_box import Box

FATES = ("hang", "nan", "exit 0 and nothing saved", "exit 1 after all is saved")
POLL_S, KEPT = 10.0, 2
SAVING_S, LOADING_S, EXAM_S = 15.0, 60.0, 90.0


class Trainer:
    """Goes on from its newest state. `fate` is "", or what happens at its next step: FATES."""

    def __init__(self, box: Box, job: dict[str, Any]) -> None:
        self.box, self.job, self.clock = box, job, box.clock
        self.phase, self.recipe, self.out = str(job["phase"]), job["recipe"], Path(job["out_dir"])
        self.code, self.fate = -9, ""  # the exit code of one that is killed
        self.saved: list[tuple[float, int]] = []  # when, which step
        self.term = box.clock.event()
        self.actor: Actor = box.clock.spawn(self._live, box, "trainer")

    @property
    def alive(self) -> bool:
        return not self.actor.done

    def _live(self) -> None:
        try:
            self.code = self._evaluate() if self.job.get("evaluate") else self._train()
        except OSError as e:  # its disk is full
            print(f"nanolan.train: {e}")
            self.code = 1

    def _train(self) -> int:
        if not list(Path(self.job["init_dir"]).glob("model_*.pt")):
            print("nanolan.train: no checkpoint to start from")
            return 3
        steps, state = int(self.recipe["steps"]), newest_whole(self.out, self.phase, final=False)
        if state and not self.box.world.is_whole(state[0]):
            self.box.world.broken(
                f"I6: {self.phase} goes on from {state[0].name}, which is damaged"
            )
        self._beat(0, "load")
        self.clock.sleep(LOADING_S)
        for step in range(state[1].step + 1 if state else 1, steps + 1):
            self._beat(step, "train")
            print(
                f"{self.phase} step {step}/{steps}, and a library that prints {self.box.secrets['HF_TOKEN']}"
            )
            self.term.wait(float(self.recipe["step_s"]))
            while self.fate == "hang":
                self.clock.sleep(3600)
            if self.fate == FATES[2]:
                return 0
            if self.fate == "nan":
                print(
                    f"nanolan.train: the loss is nan at step {step} of {steps}: stopped, the state is kept"
                )
                return 1
            if self.term.is_set():
                self._save(step, final=False)
                return 1  # as torchrun after a clean save
            if step < steps and step % int(self.recipe["save_every"]) == 0:
                self._beat(step, "save")
                self._save(step, final=False)
        self._save(steps, final=True)
        return int(self.fate == FATES[3])

    def _evaluate(self) -> int:
        self._beat(0, "evaluate")
        if not self.term.wait(EXAM_S):
            Path(self.job["results"]).write_text(
                json.dumps({"step": 5, "mmlu_acc": 0.5, "chatcore": 0.25})
            )
        return 0

    def _save(self, step: int, final: bool) -> None:
        self.clock.sleep(SAVING_S)

        def write(folder: Path) -> None:
            for name, data in files_of(self.job["run_id"], self.phase, step).items():
                (folder / name).write_bytes(data)

        save_whole(
            self.out,
            step,
            write,
            run_id=self.job["run_id"],
            phase=self.phase,
            final=final,
            extra={"loss_start": 2.8, "loss_end": 2.0, "val_bpb": 0.4},
        )
        self.saved.append((self.clock.now, step))
        if final:
            self.box.finished.add(self.phase)
        for old in sorted(self.out.glob("step-*"))[:-KEPT]:
            shutil.rmtree(old)

    def _beat(self, step: int, stage: str) -> None:
        temp = Path(self.job["heartbeat"] + ".tmp")
        temp.write_text(
            json.dumps(
                {
                    "phase": self.phase,
                    "step": step,
                    "steps": self.recipe["steps"],
                    "stage": stage,
                    "t": self.clock.now,
                }
            )
        )
        temp.replace(self.job["heartbeat"])


def files_of(run_id: str, phase: str, step: int) -> Mapping[str, bytes]:
    """What a trainer saves at a step: always the same bytes, so that anybody can tell them from others."""
    model = hashlib.sha256(f"{run_id} {phase} {step}".encode()).digest() * 8
    return {
        f"model_{step:06d}.pt": model,
        f"meta_{step:06d}.json": json.dumps({"step": step, "mmlu_acc": None}).encode(),
    }


def run_trainer(
    box: Box,
    plan: Any,
    job: dict[str, Any],
    job_file: Path,
    cwd: Path,
    *,
    host: object,
    wandb_key: str | None,
    stop: Callable[[], StopReason | None],
    account: object = None,
    grace_s: Callable[[], float] = lambda: GRACE_S,
) -> tuple[int, StopReason | None]:
    """nanolan.box.phase_runner.run_trainer, on `box`."""
    job_file.write_text(json.dumps(job))
    trainer, reason = box.train(job), None
    try:
        while trainer.alive and not reason:
            reason = stop()
            trainer.actor.ended.wait(POLL_S)
        if trainer.alive and reason:
            trainer.term.set()
            trainer.actor.ended.wait(HUNG_GRACE_S if reason.reason == "hang" else grace_s())
    finally:
        box.kill_trainers(plan.run_id)
    return trainer.code, reason
