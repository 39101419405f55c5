"""One phase: train it, once more if the trainer dies, evaluate the checkpoint, decide whether the next phase may begin.

The checkpoint that it left decides, not an exit code: a phase whose checkpoint is whole is never trained again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nanolan.box.context import BoxRun, RunStopped, say
from nanolan.box.phase_runner import GRACE_S, evaluation_of, make_job
from nanolan.box.sandbox import trainer_folder
from nanolan.box.speed_check import first_pace, should_replace, slow_reason
from nanolan.box.upload.states import StateUploads
from nanolan.box.watch.progress import Watchdog
from nanolan.checkpoint.evaluation import meta_name, read_results
from nanolan.checkpoint.manifest import (
    MANIFEST,
    MOST_BYTES,
    Manifest,
    newest_whole,
    parse_manifest,
    read_whole,
)
from nanolan.cost.budget import SAFETY
from nanolan.errors import BadAnswer
from nanolan.files import read_regular, write_atomic
from nanolan.hub.download import fetch
from nanolan.money import dollars
from nanolan.notify import WARNING
from nanolan.phases import GATE, gate_problem, gate_that_opens
from nanolan.run.causes import cause_of, describe, explain
from nanolan.run.record import TRAINING, PhaseReport, StopReason
from nanolan.run.remaining import measured_in

LOG_CHARS = 1_000_000  # of the log's end that is searched for the cause of a failure
MOST_ATTEMPTS = 3  # starts of the box program per phase
MOST_RESTARTS = 1  # of a trainer that died, hung or whose loss became NaN


def train(box: BoxRun, phase: str) -> tuple[Path, Manifest]:
    """The final checkpoint of `phase`, trained now unless it is on this disk already; RunStopped when training left none."""
    if found := newest_whole(box.out_dir(phase), phase, final=True):
        say(f"phase {phase}: step {found[1].step} is here already")
        return found
    box.timeline.enter(f"{phase}.train")
    while True:
        attempt = _next_attempt(box, phase)
        say(f"phase {phase}: training (attempt {attempt})")
        box.heartbeat.set_phase(phase, PhaseReport("training"))
        if phase != box.plan.phases[0]:
            box.heartbeat.set_state(TRAINING)
        dog = Watchdog(trainer_folder(box.work) / "heartbeat.json", box.plan, box.deps.clock)
        with StateUploads(box, phase):
            code, stop = _run(box, phase, dog)
        if found := newest_whole(box.out_dir(phase), phase, final=True):
            say(f"phase {phase}: done at step {found[1].step}")
            return found
        reason, why = _failure(box, code, stop)
        hopeless = reason == "bad_data" or box.plan.fork is not None and would_repeat(reason, why)
        if hopeless or not _try_again(box, phase, code, stop, dog):
            box.heartbeat.set_phase(phase, PhaseReport("failed"))
            raise RunStopped(reason, f"phase {phase}: {why}")
        start = _restart_point(box, phase)
        say(f"phase {phase}: {why}; training again {start}")
        box.notify.send(f"{phase} is trained again", f"{why}; {start}", WARNING)


def _run(box: BoxRun, phase: str, dog: Watchdog) -> tuple[int, StopReason | None]:
    key = box.secrets.get("WANDB_API_KEY")
    job = make_job(
        box.plan, phase, box.work, init_dir(box, phase), box.out_dir(phase), wandb=key is not None
    )

    def stop() -> StopReason | None:
        stuck = dog.stuck()
        if dog.save_s is not None:
            box.meter.note_save(dog.save_s)
        return box.stop() or stuck or _slow(box, phase, dog)

    return box.deps.trainer(
        box.plan,
        job,
        box.work / f"job-{phase}.json",
        Path.cwd(),
        host=os.environ,
        stop=stop,
        wandb_key=key.reveal() if key else None,
        account=box.account,
        grace_s=lambda: save_s(box),
    )


def save_s(box: BoxRun) -> float:
    """Seconds that a stopped trainer gets for its save: the meter's reserve, which follows the longest save so far."""
    return max(GRACE_S, SAFETY * box.meter.margin.checkpoint_s)


def _slow(box: BoxRun, phase: str, dog: Watchdog) -> StopReason | None:
    """After the first steps: set the state to TRAINING, which ends the probation, or stop a machine that is too slow."""
    if box.heartbeat.state == TRAINING:
        return None
    if box.plan.fork:  # no figures to compare with
        if dog.step > 0 or dog.stage == "command":
            box.heartbeat.set_state(TRAINING)
        return None
    if (pace := first_pace(trainer_folder(box.work) / "metrics.jsonl", phase)) is None:
        return None
    text = slow_reason(box.plan, phase, "tok/s", pace)
    if text and should_replace(box.plan, box.meter.spent_cents - box.spent_before_cents):
        return StopReason("boot_failed", text)
    if text:
        say(f"warning: {text}")
    box.heartbeat.set_state(TRAINING)
    return None


def _failure(box: BoxRun, code: int, stop: StopReason | None) -> tuple[str, str]:
    """(reason, text) of a phase that left no result."""
    if stop:
        return stop.reason, stop.text
    reason, said = cause_of(box.heartbeat.log_tail(LOG_CHARS))
    signal = f"torchrun was killed by signal {-code}" if code < 0 else ""
    return (
        reason,
        said or signal or f"the trainer ended with exit code {code} and saved no final checkpoint",
    )


def _try_again(box: BoxRun, phase: str, code: int, stop: StopReason | None, dog: Watchdog) -> bool:
    """Whether to train again: only once, and only if the trainer made progress before it died or hung."""
    if stop and stop.reason != "hang" or box.stop():
        return False
    progressed = dog.step > 0 or code < 0 or stop is not None
    if box.plan.fork and not _affordable(box, phase, dog):
        say(f"phase {phase}: the rest of the money does not cover it once more")
        return False
    return progressed and _count(box.state / f"restarts-{phase}") <= MOST_RESTARTS


def would_repeat(reason: str, why: str) -> bool:
    """Whether a fork, which has fixed seeds and begins again, fails in the same way: NaN, memory, an exception."""
    raised = re.search(r"\b[A-Z]\w*(Error|Exception)\b", why)
    return reason in ("nan", "oom") or reason == "trainer_failed" and raised is not None


def _affordable(box: BoxRun, phase: str, dog: Watchdog) -> bool:
    """Whether the money covers a fork's phase from its beginning: it has no place to go on from. An unknown length counts as
    twice of what was done."""
    beat = dog.beat
    share = min(1.0, beat.step / beat.steps) if beat and beat.steps and beat.step else 0.5
    seconds = box.timeline.stages().get(f"{phase}.train", 0) / share
    return box.meter.spent_cents + box.meter.cost_of(seconds) <= box.meter.soft_cents


def _restart_point(box: BoxRun, phase: str) -> str:
    """Where a trainer that is started again begins."""
    state = newest_whole(box.out_dir(phase), phase, final=False)
    if state is None:
        return "from zero: it had saved no state"
    if box.plan.fork:
        return f"from the beginning, with the weights of step {state[1].step}"
    return f"from the state of step {state[1].step}"


def init_dir(box: BoxRun, phase: str) -> Path:
    """Where `phase` starts from: the phase before it in this run, or the plan's input."""
    i = box.plan.phases.index(phase)
    if i == 0:
        return box.work / "model" / box.plan.input_folder
    before = newest_whole(box.out_dir(box.plan.phases[i - 1]), box.plan.phases[i - 1], final=True)
    if before is None:
        raise BadAnswer(
            f"phase {phase} needs the checkpoint of {box.plan.phases[i - 1]}, which is not whole here"
        )
    return before[0]


def fetch_state(box: BoxRun) -> None:
    """Download the state that the plan resumes from to where the trainer looks for it; BadAnswer when it is damaged."""
    pinned, phase = box.plan.resume, box.plan.phases[0]
    if pinned is None or newest_whole(box.out_dir(phase), phase):
        return
    fetch(
        pinned,
        box.work / "resume",
        box.plan.hf_endpoint,
        box.token,
        give_up=box.meter.give_up,
        say=say,
        transfer=box.deps.transfer,
    )
    manifest = next(f.path for f in pinned.files if f.path.endswith(f"/{MANIFEST}"))
    folder = (box.work / "resume" / manifest).parent
    state = read_whole(folder)
    box.out_dir(phase).mkdir(parents=True, exist_ok=True)
    folder.replace(box.out_dir(phase) / f"step-{state.step:06d}")
    say(f"phase {phase}: continues from the state saved at step {state.step}")


# ------------------------------------------------------------------ after a phase
def evaluate(box: BoxRun, phase: str) -> dict[str, Any]:
    """The scores of the phase's checkpoint, {} where there are none. A failed evaluation never fails the run."""
    results = box.evaluation(phase)
    if box.plan.evaluate == "none" or box.stop():
        return {}
    if not results.is_file():
        box.timeline.enter(f"{phase}.evaluate")
        say(f"phase {phase}: evaluation ({box.plan.evaluate})")
        dog = Watchdog(trainer_folder(box.work) / "heartbeat.json", box.plan, box.deps.clock)
        job = evaluation_of(
            make_job(
                box.plan, phase, box.work, init_dir(box, phase), box.out_dir(phase), wandb=False
            ),
            box.plan,
            results,
        )
        code, stop = box.deps.trainer(
            box.plan,
            job,
            box.work / f"job-{phase}-evaluate.json",
            Path.cwd(),
            host=os.environ,
            wandb_key=None,
            account=box.account,
            stop=lambda: box.stop() or dog.stuck(),
        )
        if not results.is_file():
            say(
                f"phase {phase}: not evaluated: {stop.text if stop else _cause(box, code, dog.step)}"
            )
    return read_results(results)


def _cause(box: BoxRun, code: int, step: int) -> str:
    """Why there are no results: "CUDA out of memory in evaluation at step 900"."""
    reason, said = cause_of(box.heartbeat.log_tail(LOG_CHARS))
    return (
        said or f"exit code {code}"
        if reason == "trainer_failed"
        else describe(explain(reason, said), said, "evaluate", step)
    )


def pass_gate(box: BoxRun, phase: str, measured: dict[str, float]) -> None:
    """RunStopped unless the next phase may begin: no stop request, money for its upper estimate, gate passed."""
    i = box.plan.phases.index(phase) + 1
    if i == len(box.plan.phases):
        return
    following = box.plan.phases[i]
    high = box.plan.predicted.phase_high_cents.get(following, 0) if box.plan.predicted else 0
    if stop := box.stop():
        raise RunStopped(stop.reason, f"{stop.text}: {following} was not started")
    if box.meter.spent_cents + high > box.meter.soft_cents:
        raise RunStopped(
            "spend_limit",
            f"{following} was not started: {dollars(box.meter.spent_cents)} are spent, it may cost "
            f"{dollars(high)}, and {dollars(box.meter.limit_cents)} is the limit",
        )
    _test_gate(box, following, measured)


def pass_first_gate(box: BoxRun) -> None:
    """The gate before the first phase of this attempt, if the run has a phase before it: an earlier attempt may have stopped
    there. RunStopped unless it opens."""
    folder = box.work / "model" / box.plan.input_folder
    begun = box.plan.resume is not None  # it had opened before the first phase began
    if box.plan.gate is None or begun or not (folder / MANIFEST).is_file():
        return
    manifest = parse_manifest(read_regular(folder / MANIFEST, MOST_BYTES))
    if manifest.run_id != box.plan.run_id:  # the input of the run
        return
    meta = folder / meta_name(manifest)
    data = read_regular(meta, MOST_BYTES) if meta.is_file() else b"{}"
    _test_gate(box, box.plan.phases[0], measured_in(manifest, data))


def _test_gate(box: BoxRun, following: str, measured: Mapping[str, float]) -> None:
    gate = box.plan.gate
    if gate and (why := gate_problem(gate, measured)):
        again = f"just resume {box.plan.run_id} {gate_that_opens(gate, measured)}"
        raise RunStopped(GATE, f"{following} was not started: {why}. Go on: {again}")


def _count(path: Path) -> int:
    """Add one to the number in a file and return it. RunStopped when the disk does not take it: nothing can be trained there."""
    try:
        number = int(path.read_text() or 0) + 1
    except (OSError, ValueError):  # the first one, or cut off by a crash
        number = 1
    try:
        write_atomic(path, str(number).encode())
    except OSError as e:
        raise RunStopped("disk_full", f"{path} cannot be written: {e.strerror}") from None
    return number


def _next_attempt(box: BoxRun, phase: str) -> int:
    """The number of this attempt at a phase; RunStopped when the box program died in it too often."""
    attempt = _count(box.state / f"attempts-{phase}")
    if attempt > MOST_ATTEMPTS:
        raise RunStopped(
            "trainer_failed", f"phase {phase}: {MOST_ATTEMPTS} attempts ended without a checkpoint"
        )
    return attempt
