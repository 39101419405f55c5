"""One phase on the machine: train it, once more if it dies, judge it by the checkpoint it left; then evaluate that.

A phase whose checkpoint is whole is never trained again, whatever was killed in between.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from nanolan.box.context import BoxRun, RunStopped, say
from nanolan.box.phase_runner import GRACE_S, evaluation_of, make_job
from nanolan.box.sandbox import trainer_folder
from nanolan.box.speed_check import first_pace, should_replace, slow_reason
from nanolan.box.upload.checkpoint import StateUploads
from nanolan.box.watch.progress import Watchdog
from nanolan.checkpoint.evaluation import read_results
from nanolan.checkpoint.manifest import MANIFEST, Manifest, newest_whole, read_whole
from nanolan.cost.budget import SAFETY
from nanolan.errors import BadAnswer
from nanolan.files import write_plain
from nanolan.hub.download import fetch
from nanolan.money import dollars
from nanolan.notify import WARNING
from nanolan.phases import PHASES, closed
from nanolan.run.causes import cause_of, explain, sentence
from nanolan.run.record import TRAINING, PhaseReport, StopReason

MOST_ATTEMPTS = 3  # box programs that died over one phase
MOST_RESTARTS = 1  # of a trainer that died, hung or lost its numbers


def train(m: BoxRun, phase: str) -> tuple[Path, Manifest]:
    """The whole, final checkpoint of `phase`: the one that is here already, or a newly trained one; RunStopped if there is none."""
    if found := newest_whole(m.out_dir(phase), phase, final=True):
        say(f"phase {phase}: step {found[1].step} is here already")
        return found
    m.timeline.enter(f"{phase}.train")
    while True:
        attempt = _next_attempt(m, phase)
        say(f"phase {phase}: training (attempt {attempt})")
        m.herald.phase(phase, PhaseReport("training"))
        if phase != m.plan.phases[0]:
            m.herald.tell(TRAINING)
        dog = Watchdog(trainer_folder(m.work) / "heartbeat.json", m.plan, m.tools.clock)
        with StateUploads(m, phase):
            code, stop = _run(m, phase, dog)
        if found := newest_whole(m.out_dir(phase), phase, final=True):
            say(f"phase {phase}: done at step {found[1].step}")
            return found
        reason, why = _failure(m, code, stop)
        if reason == "bad_data" or not _try_again(m, phase, code, stop, dog):
            m.herald.phase(phase, PhaseReport("failed"))
            raise RunStopped(reason, f"phase {phase}: {why}")
        say(f"phase {phase}: {why}; starting it once more, from the last state")
        m.notify.tell(
            f"{phase} starts once more", f"{why}; it goes on from the last state", WARNING
        )


def _run(m: BoxRun, phase: str, dog: Watchdog) -> tuple[int, StopReason | None]:
    key = m.secrets.get("WANDB_API_KEY")
    job = make_job(
        m.plan, phase, m.work, init_dir(m, phase), m.out_dir(phase), wandb=key is not None
    )

    def stop() -> StopReason | None:
        stuck = dog.stuck()
        if dog.save_s is not None:
            m.meter.note_save(dog.save_s)
        return m.stop() or stuck or _slow(m, phase)

    return m.tools.trainer(
        m.plan,
        job,
        m.work / f"job-{phase}.json",
        Path.cwd(),
        host=os.environ,
        stop=stop,
        wandb_key=key.reveal() if key else None,
        account=m.account,
        grace_s=lambda: save_s(m),
    )


def save_s(m: BoxRun) -> float:
    """Seconds that a stopped trainer gets for its save: what the meter keeps back for that, by what saving took so far."""
    return max(GRACE_S, SAFETY * m.meter.margin.checkpoint_s)


def _slow(m: BoxRun, phase: str) -> StopReason | None:
    """The first steps of a run end its probation: only then it says that it trains. A machine that is too slow is given back."""
    if (
        m.herald.state == TRAINING
        or (pace := first_pace(trainer_folder(m.work) / "metrics.jsonl", phase)) is None
    ):
        return None
    text = slow_reason(m.plan, phase, "tok/s", pace)
    if text and should_replace(m.plan, m.meter.spent_cents - m.spent_before_cents):
        return StopReason("boot_failed", text)
    if text:
        say(f"warning: {text}")
    m.herald.tell(TRAINING)
    return None


def _failure(m: BoxRun, code: int, stop: StopReason | None) -> tuple[str, str]:
    """(reason, text) of a phase that left no result."""
    if stop:
        return stop.reason, stop.text
    reason, said = cause_of(m.herald.log_tail())
    signal = f"torchrun was killed by signal {-code}" if code < 0 else ""
    return (
        reason,
        said or signal or f"the trainer ended with exit code {code} and saved no final checkpoint",
    )


def _try_again(m: BoxRun, phase: str, code: int, stop: StopReason | None, dog: Watchdog) -> bool:
    """Whether another try is worth its money: the first time that it died or hung after it had got somewhere."""
    if stop and stop.reason != "hang" or m.stop():
        return False
    progressed = dog.step > 0 or code < 0 or stop is not None
    return progressed and _count(m.state / f"restarts-{phase}") <= MOST_RESTARTS


def init_dir(m: BoxRun, phase: str) -> Path:
    """Where `phase` starts from: the phase before it in this run, or the plan's input."""
    i = m.plan.phases.index(phase)
    if i == 0:
        return m.work / "model" / PHASES[phase].input_dir / m.plan.model_tag
    before = newest_whole(m.out_dir(m.plan.phases[i - 1]), m.plan.phases[i - 1], final=True)
    if before is None:
        raise BadAnswer(
            f"phase {phase} needs the checkpoint of {m.plan.phases[i - 1]}, which is not whole here"
        )
    return before[0]


def fetch_state(m: BoxRun) -> None:
    """The saved state that the plan goes on from, to where the trainer looks for it; BadAnswer when it arrives damaged."""
    pinned, phase = m.plan.resume, m.plan.phases[0]
    if pinned is None or newest_whole(m.out_dir(phase), phase):
        return
    fetch(
        pinned,
        m.work / "resume",
        m.plan.hf_endpoint,
        m.token,
        give_up=m.meter.give_up,
        say=say,
        transfer=m.tools.transfer,
    )
    manifest = next(f.path for f in pinned.files if f.path.endswith(f"/{MANIFEST}"))
    folder = (m.work / "resume" / manifest).parent
    state = read_whole(folder)
    m.out_dir(phase).mkdir(parents=True, exist_ok=True)
    folder.replace(m.out_dir(phase) / f"step-{state.step:06d}")
    say(f"phase {phase}: goes on from the state saved at step {state.step}")


# ------------------------------------------------------------------ after a phase
def evaluate(m: BoxRun, phase: str) -> dict[str, Any]:
    """The evaluation of the phase's checkpoint, {} where there is none; it never fails a run, what was trained is saved anyway."""
    results = m.evaluation(phase)
    if m.plan.evaluate == "none" or m.stop():
        return {}
    if not results.is_file():
        m.timeline.enter(f"{phase}.evaluate")
        say(f"phase {phase}: evaluation ({m.plan.evaluate})")
        dog = Watchdog(trainer_folder(m.work) / "heartbeat.json", m.plan, m.tools.clock)
        job = evaluation_of(
            make_job(m.plan, phase, m.work, init_dir(m, phase), m.out_dir(phase), wandb=False),
            m.plan,
            results,
        )
        code, stop = m.tools.trainer(
            m.plan,
            job,
            m.work / f"job-{phase}-evaluate.json",
            Path.cwd(),
            host=os.environ,
            wandb_key=None,
            account=m.account,
            stop=lambda: m.stop() or dog.stuck(),
        )
        if not results.is_file():
            say(f"phase {phase}: not evaluated: {stop.text if stop else _cause(m, code, dog.step)}")
    return read_results(results)


def _cause(m: BoxRun, code: int, step: int) -> str:
    """Why there are no results: "CUDA out of memory in evaluation at step 900"."""
    reason, said = cause_of(m.herald.log_tail())
    return (
        said or f"exit code {code}"
        if reason == "trainer_failed"
        else sentence(explain(reason, said), said, "evaluate", step)
    )


def pass_gate(m: BoxRun, phase: str, measured: dict[str, float]) -> None:
    """RunStopped unless the next phase may begin: nobody wants to stop, its upper estimate is affordable, the gate is open."""
    i = m.plan.phases.index(phase) + 1
    if i == len(m.plan.phases):
        return
    following = m.plan.phases[i]
    high = m.plan.predicted.phase_high_cents.get(following, 0) if m.plan.predicted else 0
    if stop := m.stop():
        raise RunStopped(stop.reason, f"{stop.text}: {following} was not begun")
    if m.meter.spent_cents + high > m.meter.soft_cents:
        raise RunStopped(
            "spend_limit",
            f"{following} was not begun: {dollars(m.meter.spent_cents)} are spent, it may cost "
            f"{dollars(high)}, and {dollars(m.meter.limit_cents)} is the limit",
        )
    if m.plan.gate and (why := closed(m.plan.gate, measured)):
        raise RunStopped("gate", f"{following} was not begun: {why}")


def _count(path: Path) -> int:
    """Count one more in a file; the number so far. RunStopped where the disk does not take it: nothing can be trained there."""
    try:
        number = int(path.read_text() or 0) + 1
    except (OSError, ValueError):  # the first one, or cut off by a crash
        number = 1
    try:
        write_plain(path, str(number).encode())
    except OSError as e:
        raise RunStopped("disk_full", f"{path} cannot be written: {e.strerror}") from None
    return number


def _next_attempt(m: BoxRun, phase: str) -> int:
    """Count this attempt at a phase; RunStopped when the box program died over it too often."""
    attempt = _count(m.state / f"attempts-{phase}")
    if attempt > MOST_ATTEMPTS:
        raise RunStopped(
            "trainer_failed", f"phase {phase}: {MOST_ATTEMPTS} attempts ended without a checkpoint"
        )
    return attempt
