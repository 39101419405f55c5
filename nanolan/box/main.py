"""The box program: what a rented machine does from its set-up to its own deletion.

    find myself -> probation -> download -> per phase: train, judge by the checkpoint, upload, evaluate, prove, gate
    -> log, receipt -> delete and confirm

Run again after a crash or a reboot it takes up where it was: a phase whose checkpoint is whole is not trained
twice, and a second copy of this program ends at once. Deleting takes a Warrant (nanolan/hub/proof.py).
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import sys
import traceback
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from nanolan.box.context import BoxDeps, BoxRun, RunStopped, say
from nanolan.box.machine_check import already_here
from nanolan.box.phase import evaluate, fetch_state, pass_gate, train
from nanolan.box.sandbox import block_metadata_service
from nanolan.box.self_delete import delete, wait_to_be_deleted, warrant_of
from nanolan.box.speed_check import should_replace, slow_reason
from nanolan.box.upload.checkpoint import note_results, remove_states, save_the_rest, upload
from nanolan.box.upload.final_files import public_leak_warning, publish_final_files
from nanolan.box.watch.control import Control
from nanolan.box.watch.heartbeat import Heartbeat
from nanolan.box.watch.spend import SpendMeter
from nanolan.box.watch.timeline import Timeline, phase_seconds
from nanolan.errors import ApiProblem, BadAnswer, NanolanError
from nanolan.files import note_plain
from nanolan.hub.client import Hub
from nanolan.hub.download import fetch_inputs, patience_of
from nanolan.money import dollars
from nanolan.notify import WARNING, started
from nanolan.plan import UNREADABLE, Plan, read_plan
from nanolan.redact import Secret, hide
from nanolan.run.record import (
    FAILED,
    PREPARING,
    STOPPED,
    STOPPING,
    SUCCEEDED,
    UPLOADING,
    Receipt,
    log_path,
    read_receipt,
    to_json,
)
from nanolan.run.requests import LIMIT_FILE, LimitRequest
from nanolan.shadeform.client import Shadeform
from nanolan.shadeform.keyless import KeylessClient
from nanolan.shadeform.lifecycle import find_run
from nanolan.shadeform.models import Instance
from nanolan.times import SERVICE_CLOCK, ServiceClock, iso, parse_time

FIND_LOOKS = 18  # about 5 minutes
REHEARSAL = {"cuda": "", "cpu": " (a rehearsal: training on the CPU)"}
LIMITS = ("spend_limit", "max_duration")
ENDS = {
    **dict.fromkeys(LIMITS, STOPPED),
    "user": STOPPED,
    "gate": STOPPED,
}  # reason -> verdict; all others failed
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
TOOLS = BoxDeps()


def main(state: Path, work: Path, tools: BoxDeps = TOOLS) -> None:
    """Run the plan in `state`; returns when this machine is seen to be deleted (or another copy is running, or, on a machine
    without a key, when it is powered off)."""
    with _only_one(work) as mine:
        if mine:
            SERVICE_CLOCK.tell = say
            live(start(state, work, tools))
        else:
            say("another copy of the box program is running; nothing to do")


def live(m: BoxRun) -> None:
    """The run, its last words, and the end of its machine."""
    receipt = run_once(m)
    say(f"verdict: {receipt.verdict} {receipt.reason} {receipt.message}".rstrip())
    say(
        f"spent {dollars(receipt.spent_cents)} in {receipt.seconds} s; {'deleting' if m.plan.self_delete else 'done with'} "
        "this machine"
    )
    publish_final_files(m, receipt)
    (delete if m.plan.self_delete else wait_to_be_deleted)(m, warrant_of(m, receipt))


def start(state: Path, work: Path, tools: BoxDeps) -> BoxRun:
    """Everything this run knows, with its clocks running."""
    plan = read_plan((state / "plan.json").read_bytes())
    secrets = {k: Secret(v) for k, v in json.loads((state / "secrets.json").read_bytes()).items()}
    os.environ["HF_HOME"] = str(work / "hf")
    timeline = Timeline(state / "timeline.json", lambda: tools.now().timestamp())
    api = (
        tools.api(secrets["SHADEFORM_API_KEY"], plan.shadeform_api)
        if plan.self_delete
        else KeylessClient(plan)
    )
    me = find_me(api, plan, state / "instance.json")
    hub = tools.hub(plan.hf_endpoint, secrets["HF_TOKEN"], patience_s=0)
    ask_the_time(api, hub, me, plan)
    say(
        f"this is instance {me.id} ({me.name}), {dollars(plan.offer.hourly_cents)}/h, limit {dollars(plan.limit_cents)}"
    )
    _note_boot(timeline, me, plan, state, tools.now().timestamp())
    notify = tools.notifier(
        secrets.get("NOTIFY_URL"),
        f"{plan.run_name} {'+'.join(plan.phases)}",
        state / "notified.json",
        say,
    )
    meter = SpendMeter(
        plan,
        me,
        api,
        tools.clock,
        say=say,
        now=tools.now,
        ticker=tools.ticker,
        alarm=lambda event, text: notify.tell(event, text, WARNING),
    ).start()
    control = Control(
        plan, hub, say, ticker=tools.ticker, on_limit=lambda limit: _obey(limit, meter, state)
    ).start()
    if limit := _kept_limit(state):
        meter.change(limit.limit_cents, limit.deadline)
    notify.tell("started", started(plan))
    herald = Heartbeat(
        plan,
        secrets,
        work,
        meter,
        timeline,
        notify,
        hub=tools.hub,
        ticker=tools.ticker,
        clock=tools.clock,
    )
    return BoxRun(
        plan,
        secrets,
        state,
        work,
        api,
        me,
        meter,
        herald,
        timeline,
        control,
        notify,
        tools,
        spent_before_cents=meter.spent_cents,
    )


def _obey(limit: LimitRequest, meter: SpendMeter, state: Path) -> None:
    """Take a new limit, and keep it for the next life of this program and for the dead man's timer."""
    parse_time(limit.deadline)  # BadAnswer: then the old one holds
    _write(state / LIMIT_FILE, to_json(limit))
    meter.change(limit.limit_cents, limit.deadline)
    say(f"the limit is {dollars(limit.limit_cents)} and {limit.deadline} now, by just limit")


def _kept_limit(state: Path) -> LimitRequest | None:
    try:
        return msgspec.json.decode((state / LIMIT_FILE).read_bytes(), type=LimitRequest)
    except (OSError, *UNREADABLE):
        return None


def find_me(api: Shadeform, plan: Plan, note: Path) -> Instance:
    """This machine; ApiProblem when Shadeform does not know it. An earlier life's note will do: work on this disk must
    not wait for an API that is down."""
    try:
        return msgspec.json.decode(note.read_bytes(), type=Instance)
    except (OSError, *UNREADABLE):
        me = find_run(api, plan.run_id, FIND_LOOKS, attempt=plan.attempt)
    if me is None:
        raise ApiProblem(
            f"Shadeform lists no instance of run {plan.run_id}; the provider's limit stays in force"
        )
    _write(note, msgspec.json.encode(me))
    return me


def ask_the_time(
    api: Shadeform, hub: Hub, me: Instance, plan: Plan, clock: ServiceClock = SERVICE_CLOCK
) -> None:
    """Before anything is counted: after a restart no service has told the time yet, and this machine's clock may have jumped."""
    for ask in (
        lambda: api.info(me.id),
        lambda: hub.read(plan.runs_repo, f"{plan.folder}/plan.json"),
    ):
        if clock.told:
            return
        with suppress(NanolanError):  # a refusal tells the time, too
            ask()


def _note_boot(timeline: Timeline, me: Instance, plan: Plan, state: Path, now: float) -> None:
    """How long it took from the create to boot.sh (whose first act is to write `booted`), and from there to here."""
    born = (me.created_at or parse_time(plan.created_at)).timestamp()
    try:
        booted = float((state / "booted").read_text())
    except (OSError, ValueError):
        booted = now
    timeline.add("boot", booted - born)
    timeline.add("setup", now - booted)


def run_once(m: BoxRun) -> Receipt:
    """The receipt of this run. A failure stands, also after a restart: nothing is trained again after it."""
    path = m.state / "verdict.json"
    if (earlier := _earlier(path)) and earlier.verdict != SUCCEEDED:
        return earlier
    with m.tools.pool() as pool:  # leaving it waits for all uploads
        receipt = run(m, pool)
    _write(path, to_json(receipt))
    return receipt


def _earlier(path: Path) -> Receipt | None:
    """The verdict of an earlier life; None when there is none, or a crash has cut it off."""
    try:
        return read_receipt(path.read_bytes())
    except (OSError, BadAnswer):
        return None


def run(m: BoxRun, pool: Executor) -> Receipt:
    """Everything between waking up and the receipt; whatever goes wrong becomes a verdict."""
    verdict, reason, message = SUCCEEDED, "", ""
    uploads: dict[str, Future[None]] = {}
    try:
        prepare(m)
        for phase in m.plan.phases:
            run_phase(m, phase, pool, uploads)
    except RunStopped as e:
        verdict, reason, message = ENDS.get(e.reason, FAILED), e.reason, str(e)
    except NanolanError as e:
        verdict, reason, message = FAILED, "error", str(e)
    except Exception as e:
        traceback.print_exc(file=sys.stdout)
        full = isinstance(e, OSError) and e.errno in DISK_FULL
        verdict, reason, message = (
            FAILED,
            "disk_full" if full else "error",
            f"{type(e).__name__}: {e}",
        )
    if verdict != SUCCEEDED:
        say(f"{verdict}: {message}")
        m.timeline.enter("save")
        m.herald.tell(STOPPING, message)  # and save what there is
        done = {
            p for p, u in uploads.items() if not isinstance(u.exception(), BadAnswer)
        }  # else damaged: the state before it
        save_the_rest(m, done)  # here, not in the pool: there may be no memory for another thread
    for error in filter(None, (u.exception() for u in uploads.values())):
        if verdict == SUCCEEDED:
            verdict, reason, message = FAILED, "upload_failed", str(error)
        say(f"upload: {error}")
    return _receipt(m, verdict, reason, message)


def prepare(m: BoxRun) -> None:
    """The machine proves itself, and gets what it needs; RunStopped when it is not what was rented."""
    m.timeline.enter("probation")
    m.tools.kill(m.plan.run_id)  # left over by a box program that was killed
    m.herald.tell(PREPARING)
    if problem := m.tools.inspect(m.plan, m.work, clock=m.tools.clock, sleep=m.tools.sleep):
        raise RunStopped("boot_failed", problem)
    say(f"GPUs: {m.plan.offer.num_gpus}x {m.plan.offer.gpu}, as rented{REHEARSAL[m.plan.device]}")
    m.timeline.enter("download")

    def give_up() -> str:
        stop = m.stop()
        return stop.text if stop else ""

    started, before = m.tools.clock(), already_here(m.work)
    try:
        fetch_inputs(
            m.plan,
            m.token,
            m.work,
            give_up=give_up,
            say=say,
            transfer=m.tools.transfer,
            patience_s=patience_of(m.meter.hourly_cents),
        )
        _judge_hub(m, already_here(m.work) - before, m.tools.clock() - started)
        fetch_state(m)
    except NanolanError as e:
        if stop := m.stop():
            raise RunStopped(stop.reason, f"{stop.text}, before anything was trained") from e
        raise
    m.account, why = m.tools.confine(m.work)
    say(
        f"the trainer runs as user {m.account.uid}"
        if m.account
        else f"the trainer runs as the box program does: {why}"
    )
    if (
        m.account
        and not os.environ.get("BOX_ROOT")
        and (why := block_metadata_service(m.account.uid))
    ):  # no rehearsal touches a firewall
        say(
            f"warning: the trainer can ask the cloud's metadata service, which may show it the startup script: {why}"
        )


def _judge_hub(m: BoxRun, size: int, seconds: float) -> None:
    """A machine with a poor way to the Hub is given back, if there are figures enough to say so."""
    text = (
        slow_reason(m.plan, "download", "bytes/s of the Hub", size / max(seconds, 0.001))
        if size
        else ""
    )
    if text and should_replace(m.plan, m.meter.spent_cents - m.spent_before_cents):
        raise RunStopped("boot_failed", text)
    if text:
        say(f"warning: {text}")


def run_phase(m: BoxRun, phase: str, pool: Executor, uploads: dict[str, Future[None]]) -> None:
    """Train, upload while the model is evaluated, prove, and see whether the next phase may begin."""
    folder, manifest = train(m, phase)
    uploads[phase] = pool.submit(upload, m, phase, folder, manifest)
    results = evaluate(m, phase)
    m.timeline.enter(f"{phase}.upload")
    m.herald.tell(UPLOADING)
    if error := uploads[phase].exception():  # the next phase begins when this one is proven
        raise RunStopped("upload_failed", str(error))
    if results:
        note_results(m, phase, folder, manifest, results)
    m.notify.tell(
        f"{phase} proven",
        f"{m.target(phase)} step {manifest.step} is on the Hub, {dollars(m.meter.spent_cents)} spent. "
        + ", ".join(
            f"{name} {value:.3g}" for name, value in m.herald.phases[phase].measured.items()
        ),
    )
    remove_states(m, phase)
    pass_gate(m, phase, m.herald.phases[phase].measured)


def _receipt(m: BoxRun, verdict: str, reason: str, message: str) -> Receipt:
    """What became of it all, in words and cents."""
    rescued = [f"{p.folder} step {p.manifest.step}" for p in m.proofs if not p.manifest.final]
    newer = {
        p.manifest.phase for p in m.proofs if not p.manifest.final
    }  # only the newest state of a phase is kept
    rescued += [
        f"{p.folder} step {p.manifest.step}"
        for phase, p in m.states.items()
        if p and phase not in newer and m.herald.phases[phase].state != "proven"
    ]
    for what, names in (("Saved", rescued), ("NOT saved", m.unsaved)):
        message += f". {what}: {', '.join(names)}" if names else ""
    if reason in LIMITS and _lost(m, rescued) or m.unsaved and m.meter.soft():
        reason = "limit_lost"
    if verdict != SUCCEEDED and (m.proofs or rescued):
        message += f". Go on: just resume {m.plan.run_id}"
    stages = m.timeline.stages()
    plan, meter, warning = m.plan, m.meter, public_leak_warning(m)
    message = ". ".join(filter(None, (message.strip(), warning)))
    return Receipt(
        plan.run_id,
        verdict,
        reason,
        hide(message),
        m.herald.phases,
        log_path(plan, verdict),
        meter.spent_cents,
        int(meter.age_s),
        iso(m.tools.now()),
        plan.attempt,
        meter.metered_cents,
        meter.provider_cents,
        stages,
        {p: meter.cost_of(phase_seconds(stages, p)) for p in plan.phases},
        plan.predicted,
        warning,
    )


def _lost(m: BoxRun, rescued: list[str]) -> bool:
    """Whether something that was trained is on no disk but this one."""
    nowhere = any(r.state == "failed" and not r.folder for r in m.herald.phases.values())
    return bool(m.unsaved) or nowhere and not rescued or not (rescued or m.proofs)


def _write(path: Path, data: bytes) -> None:
    """For the next life of this program, if the disk takes it."""
    if not note_plain(path, data):
        say(f"warning: {path} cannot be written; going on without")


@contextmanager
def _only_one(folder: Path) -> Iterator[bool]:
    """Whether no other process holds the lock on this folder; it takes no room on the disk."""
    lock = os.open(folder, os.O_RDONLY)
    mine = True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        mine = False
    try:
        yield mine
    finally:
        os.close(lock)
