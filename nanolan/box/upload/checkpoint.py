"""From the machine's disk to the Hub, proven: a phase's result, its evaluation, and the states saved on the way.

One commit, then every size and hash is read back: that is the Proof. Only the newest state of a phase is kept on the Hub.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from msgspec import structs

from nanolan.box.context import BoxRun, say
from nanolan.box.machine_check import STATE_SIZE
from nanolan.checkpoint.evaluation import hide_secrets, meta_name, score_numbers, with_results
from nanolan.checkpoint.manifest import (
    MANIFEST,
    MOST_BYTES,
    FileEntry,
    Manifest,
    borrow,
    hash_bytes,
    newest_whole,
    parse_manifest,
    read_whole,
    whole_steps,
)
from nanolan.errors import ApiProblem, AuthProblem, BadAnswer, NanolanError, NotFound, Unreachable
from nanolan.files import SHORT, read_plain
from nanolan.hub.client import Hub
from nanolan.hub.proof import Proof, prove
from nanolan.hub.transfer import Job
from nanolan.redact import hide
from nanolan.run.record import PhaseReport, phase_report

MOST_META_BYTES = 64 << 20  # of a meta that is looked through; one of a d20 takes 1 kB
STATE_PATIENCE_S = 600.0  # for a state while training goes on: newer ones follow
AGAIN_S = 2.0
NOTE_PATIENCE_S = 120.0  # for what is good to have
SHORT_PATIENCE_S, SHORT_WAIT_S = 300.0, 5.0  # with this machine, where it lacks something

T = TypeVar("T")


def upload(m: BoxRun, phase: str, folder: Path, manifest: Manifest) -> None:
    """The result of a phase, or the last state of one that was stopped, to its place; raises when it is not proven."""
    place = m.target(phase) if manifest.final else m.saved(phase)
    report = phase_report("uploading", place, manifest)
    m.herald.phase(phase, report)
    try:
        proof = when_short(m, lambda: _held_and_saved(m, phase, folder, manifest, place))
    except Exception:
        why = m.herald.troubled(place)
        m.unsaved.append(f"{phase} step {manifest.step}{why and f' ({why})'}")
        m.herald.phase(phase, structs.replace(report, state="failed"))
        raise
    m.proofs.append(proof)
    m.herald.phase(
        phase,
        structs.replace(
            report, state="proven" if manifest.final else "failed", revision=proof.revision
        ),
    )
    m.herald.tell(m.herald.state)
    say(
        f"phase {phase}: proven on the Hub: {place} step {manifest.step}, revision {proof.revision[:8]}"
    )


def _held_and_saved(m: BoxRun, phase: str, folder: Path, manifest: Manifest, place: str) -> Proof:
    with frozen_copy(m, phase, folder, manifest) as copy:
        return save(m, copy, mask_meta(copy, manifest), place)


def when_short(m: BoxRun, act: Callable[[], T]) -> T:
    """`act()`, again for some minutes where this machine lacks memory or file numbers: that may pass, and damages nothing."""
    end = m.tools.clock() + SHORT_PATIENCE_S
    while True:
        try:
            return act()
        except (OSError, MemoryError) as e:
            lasting = isinstance(e, OSError) and e.errno not in SHORT
            if lasting or m.tools.clock() > end or m.meter.give_up():
                raise
            say(f"{type(e).__name__}: {e}; trying again")
            m.tools.sleep(SHORT_WAIT_S)


@contextmanager
def frozen_copy(
    m: BoxRun, phase: str, folder: Path, manifest: Manifest, *, in_training: bool = False
) -> Iterator[Path]:
    """The files of a saved step where the trainer can neither remove them nor put a link to others in their place."""
    with ExitStack() as stack:
        try:
            copy = stack.enter_context(borrow(folder, m.work / f".sending-{phase}-{manifest.step}"))
        except OSError as e:  # a disk that has no room for a name, or takes none
            if in_training:
                raise
            say(f"{folder} goes up from its own place ({e.strerror})")
            m.tools.kill(
                m.plan.run_id
            )  # an evaluation ends here: nobody may change the files meanwhile
            copy = folder
        if read_whole(copy).files != manifest.files:
            raise BadAnswer(f"{folder} has changed since it was found whole")
        yield copy


def mask_meta(folder: Path, manifest: Manifest) -> Manifest:
    """Take any secret of this process out of the step's meta, which the trainer wrote; its other files are numbers."""
    path = folder / meta_name(manifest)
    if not path.is_file() or path.stat().st_size > MOST_META_BYTES:
        return manifest
    masked, data = hide_secrets(path.read_bytes(), manifest, hide)
    if masked == manifest:
        return manifest
    say(f"WARNING: {path.name} held a secret, which was masked before the upload")
    for name, content in ((path.name, data), (MANIFEST, masked.to_json().encode())):
        (folder / name).unlink()  # the trainer's own files stay as they are
        (folder / name).write_bytes(content)
    return masked


def save(
    m: BoxRun,
    folder: Path,
    manifest: Manifest,
    target: str,
    superseded: Callable[[], bool] | None = None,
) -> Proof:
    """Upload a whole step to `target` and prove it, unless one as new is proven there.

    Only damage ends this (BadAnswer); all else is tried again until the money or the time for it ends: then Unreachable. A state
    that may be `superseded` gets a few minutes: a newer one follows.
    """
    plan = m.plan

    def give_up() -> str:
        return "a newer one follows" if superseded and superseded() else m.meter.give_up()

    def tell(error: str) -> None:
        m.herald.trouble(target, error)

    hub = m.tools.hub(
        plan.hf_endpoint,
        m.token,
        patience_s=5 if superseded else math.inf,
        insist=True,
        on_trouble=tell,
        clock=lambda: math.inf if give_up() else m.tools.clock(),
    )
    repo, names = (
        (plan.hf_repo if manifest.final else plan.runs_repo),
        (*(f.path for f in manifest.files), MANIFEST),
    )
    job = Job(
        "upload",
        plan.hf_endpoint,
        repo,
        "model",
        "main",
        str(folder),
        names,
        target,
        f"{manifest.phase} step {manifest.step} of run {plan.run_id}",
        plan.keep_old and manifest.final,
    )
    while True:
        started = m.tools.clock()
        try:
            there = (
                held(m, repo, target, hub)
                if manifest.final
                else known_state(m, manifest.phase, hub)
            )
            if (
                there and there.manifest.step >= manifest.step
            ):  # of an earlier life or try; or newer, when the newest is damaged
                tell("")
                return there
            say(f"uploading {target}: step {manifest.step}, {manifest.size / 1e6:.1f} MB")
            entry = _mend(folder, manifest)
            m.tools.transfer(
                job,
                m.token,
                give_up=give_up,
                say=say,
                on_trouble=tell,
                patience_s=STATE_PATIENCE_S if superseded else math.inf,
            )
            proof = prove(hub.tree(repo), target, manifest, entry)
        except (
            ApiProblem,
            AuthProblem,
        ) as e:  # the Hub said no, or yes and holds something else, or cannot be read
            if (reason := give_up()) or superseded:
                raise Unreachable(
                    f"{target} is not proven ({reason or 'the next state is tried'}): {e}"
                ) from e
            say(f"not proven yet: {e}")
            tell(str(e))
            _mend(folder, manifest)
            read_whole(
                folder
            )  # BadAnswer: damaged here meanwhile, and no further try would be proven either
            m.tools.sleep(AGAIN_S)
            continue
        m.meter.note_upload((m.tools.clock() - started) * (STATE_SIZE if manifest.final else 1))
        tell("")
        return proof


def _mend(folder: Path, manifest: Manifest) -> FileEntry:
    """Size and hashes of the manifest's file, which is written anew when a disk has changed it: it was read whole before."""
    data, path = manifest.to_json().encode(), folder / MANIFEST
    if path.read_bytes() != data:
        say(f"{path} was damaged; written anew")
        path.unlink()  # not under a second name, too
        path.write_bytes(data)
    return hash_bytes(MANIFEST, data)


def save_the_rest(m: BoxRun, done: set[str]) -> None:
    """After a failure: the newest whole step of each phase that is not uploaded, as far as the Hub takes it."""
    for phase in [p for p in m.plan.phases if p not in done]:
        try:
            found = when_short(m, partial(_newest, m, phase))
            if found:
                upload(m, phase, *found)
            elif (m.state / f"attempts-{phase}").is_file():
                known_state(
                    m, phase, m.tools.hub(m.plan.hf_endpoint, m.token, patience_s=NOTE_PATIENCE_S)
                )  # for the receipt
        except Exception as e:  # the others are still to be saved
            say(f"{e}")


def _newest(m: BoxRun, phase: str) -> tuple[Path, Manifest] | None:
    """The result of a phase, else its newest state."""
    return newest_whole(m.out_dir(phase), phase, final=True) or newest_whole(
        m.out_dir(phase), phase
    )


def remove_states(m: BoxRun, phase: str) -> None:
    """Take the states of a phase whose result is proven off the tree (the Hub's history has them). Good to have, no more."""
    hub = m.tools.hub(m.plan.hf_endpoint, m.token, patience_s=NOTE_PATIENCE_S)
    try:
        if stale := sorted(hub.tree(m.plan.runs_repo).under(m.saved(phase))):
            hub.commit(
                m.plan.runs_repo,
                {},
                f"run {m.plan.run_id}: {phase} is done, its states go",
                delete=stale,
            )
        m.states.pop(phase, None)
    except NanolanError as e:
        say(f"the states of {phase} stay in {m.saved(phase)}: {e}")


# ------------------------------------------------------------------ what was measured
def note_results(
    m: BoxRun, phase: str, folder: Path, manifest: Manifest, results: dict[str, Any]
) -> None:
    """Write the evaluation into the meta of the proven checkpoint on the Hub, and prove it anew. Good to have, no more: where
    the Hub then holds something else, the checkpoint goes up once more as it was saved; raises when that is not proven."""
    _measured(m, phase, results)
    target, name = m.target(phase), meta_name(manifest)
    before = read_plain(folder / name, MOST_BYTES)
    if hash_bytes(name, before) not in manifest.files:
        raise BadAnswer(f"{folder / name} has changed since it was found whole")
    new, meta = with_results(before, manifest, results)
    hub, changed = m.tools.hub(m.plan.hf_endpoint, m.token, patience_s=NOTE_PATIENCE_S), False
    try:
        prove(hub.tree(m.plan.hf_repo), target, manifest)  # nobody has written the folder since
        hub.commit(
            m.plan.hf_repo,
            {f"{target}/{name}": meta, f"{target}/{MANIFEST}": new.to_json().encode()},
            f"{phase} step {manifest.step} of run {m.plan.run_id}: evaluated",
        )
        changed = True
        proof = prove(
            hub.tree(m.plan.hf_repo), target, new, hash_bytes(MANIFEST, new.to_json().encode())
        )
        m.herald.phase(phase, structs.replace(m.herald.phases[phase], revision=proof.revision))
    except NanolanError as e:
        say(f"the evaluation of {phase} is in the receipt alone, not in {target}: {e}")
        if changed:
            upload(m, phase, folder, manifest)
            _measured(m, phase, results)


def _measured(m: BoxRun, phase: str, results: dict[str, Any]) -> None:
    before = m.herald.phases.get(phase, PhaseReport("none"))
    m.herald.phase(
        phase, structs.replace(before, measured=before.measured | score_numbers(results))
    )


# ------------------------------------------------------------------ states, in the background
class StateUploads:
    """While a phase trains: its newest state to the Hub every `upload_minutes`, the newest wins."""

    def __init__(self, m: BoxRun, phase: str) -> None:
        self._m, self._phase = m, phase
        self._ticker = m.tools.ticker(self.send, 60 * m.plan.upload_minutes, self._trouble)

    def _trouble(self, e: Exception) -> None:
        """Training goes on, the next state follows."""
        say(f"state of {self._phase} not uploaded: {e}")
        if not self._ticker.closed:
            self._m.herald.trouble(self._m.saved(self._phase), str(e))

    def __enter__(self) -> StateUploads:
        self._ticker.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Give up what is under way: the phase's result, or its last state, follows."""
        self._ticker.close(None)
        self._m.herald.trouble(self._m.saved(self._phase), "")

    def send(self) -> None:
        """Upload the newest state if the Hub has not got it yet."""
        m, phase = self._m, self._phase
        known = m.states.get(phase)
        for folder, manifest in whole_steps(m.out_dir(phase)):
            if (
                manifest.phase != phase
                or manifest.final
                or known
                and manifest.step <= known.manifest.step
            ):
                return
            with frozen_copy(m, phase, folder, manifest, in_training=True) as copy:
                proof = m.states[phase] = save(
                    m, copy, mask_meta(copy, manifest), m.saved(phase), lambda: self._ticker.closed
                )
            say(f"phase {phase}: state of step {proof.manifest.step} proven in {m.saved(phase)}")
            m.herald.tell(m.herald.state)
            return


def known_state(m: BoxRun, phase: str, hub: Hub) -> Proof | None:
    """The newest state of this phase on the Hub, looked up once; NanolanError when that cannot be seen."""
    if phase not in m.states:
        m.states[phase] = held(m, m.plan.runs_repo, m.saved(phase), hub)
    return m.states[phase]


def held(m: BoxRun, repo: str, folder: str, hub: Hub) -> Proof | None:
    """What this run, in whatever life, has put into `folder` of the Hub, if it is whole; NanolanError when that cannot be seen."""
    try:
        manifest = parse_manifest(hub.read(repo, f"{folder}/{MANIFEST}"))
        return prove(hub.tree(repo), folder, manifest) if manifest.run_id == m.plan.run_id else None
    except (NotFound, BadAnswer):
        return None
