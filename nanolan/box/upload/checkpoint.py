"""Uploads a checkpoint or a saved state to the Hub and proves it: one commit, then every size and hash is read back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

from msgspec import structs

from nanolan.box.context import BoxRun, optional_hub, say
from nanolan.box.machine_check import STATE_SIZE
from nanolan.checkpoint.evaluation import hide_secrets, meta_name
from nanolan.checkpoint.manifest import (
    MANIFEST,
    FileEntry,
    Manifest,
    borrow,
    hash_bytes,
    newest_whole,
    parse_manifest,
    read_whole,
)
from nanolan.errors import (
    ApiProblem,
    AuthProblem,
    BadAnswer,
    NanolanError,
    NotFound,
    Unreachable,
)
from nanolan.files import SHORT
from nanolan.hub.client import Hub, Tree
from nanolan.hub.proof import Proof, check_served, prove
from nanolan.hub.transfer import Job
from nanolan.redact import hide
from nanolan.run.record import phase_report

MOST_META_BYTES = 64 << 20  # of a meta that is searched for secrets; that of a d20 has 1 kB
STATE_PATIENCE_S = 600.0  # for a state while training goes on
AGAIN_S = 2.0
SERVED_PATIENCE_S = 60.0  # for reading back the end of each file
NOTE_PATIENCE_S = 120.0  # for optional commits
# Where this machine is short of memory or file descriptors
SHORT_PATIENCE_S = 300.0
SHORT_WAIT_S = 5.0

T = TypeVar("T")


def upload(box: BoxRun, phase: str, folder: Path, manifest: Manifest) -> None:
    """Upload the result of a phase, or the last state of one that was stopped; raises when it is not proven."""
    place = box.target(phase) if manifest.final else box.saved(phase)
    report = phase_report("uploading", place, manifest)
    box.heartbeat.set_phase(phase, report)
    try:
        proof = retry_when_short(box, lambda: _save_a_copy(box, phase, folder, manifest, place))
    except Exception:
        why = box.heartbeat.trouble_of(place)
        box.unsaved.append(f"{phase} step {manifest.step}{why and f' ({why})'}")
        box.heartbeat.set_phase(phase, structs.replace(report, state="failed"))
        raise
    box.proofs.append(proof)
    box.heartbeat.set_phase(
        phase,
        structs.replace(
            report, state="proven" if manifest.final else "failed", revision=proof.revision
        ),
    )
    box.heartbeat.set_state(box.heartbeat.state)
    say(
        f"phase {phase}: proven on the Hub: {place} step {manifest.step}, revision {proof.revision[:8]}"
    )


def _save_a_copy(box: BoxRun, phase: str, folder: Path, manifest: Manifest, place: str) -> Proof:
    with frozen_copy(box, phase, folder, manifest) as copy:
        return save(box, copy, mask_meta(copy, manifest), place)


def retry_when_short(box: BoxRun, act: Callable[[], T]) -> T:
    """Call `act()`, again for some minutes while this machine is short of memory or file descriptors."""
    end = box.deps.clock() + SHORT_PATIENCE_S
    while True:
        try:
            return act()
        except (OSError, MemoryError) as e:
            lasting = isinstance(e, OSError) and e.errno not in SHORT
            if lasting or box.deps.clock() > end or box.meter.give_up():
                raise
            say(f"{type(e).__name__}: {e}; trying again")
            box.deps.sleep(SHORT_WAIT_S)


@contextmanager
def frozen_copy(
    box: BoxRun, phase: str, folder: Path, manifest: Manifest, *, in_training: bool = False
) -> Iterator[Path]:
    """The files of a saved step in a folder where the trainer can neither remove nor replace them."""
    with ExitStack() as stack:
        try:
            copy = stack.enter_context(
                borrow(folder, box.work / f".sending-{phase}-{manifest.step}")
            )
        except OSError as e:  # the disk is full or read-only
            if in_training:
                raise
            say(f"{folder} is uploaded without a copy ({e.strerror})")
            box.deps.kill(
                box.plan.run_id
            )  # ends an evaluation: no process may change the files now
            copy = folder
        if read_whole(copy).files != manifest.files:
            raise BadAnswer(f"{folder} has changed since it was found whole")
        yield copy


def mask_meta(folder: Path, manifest: Manifest) -> Manifest:
    """Mask the secrets of this process in the step's meta, which the trainer wrote; its other files hold numbers."""
    path = folder / meta_name(manifest)
    if not path.is_file() or path.stat().st_size > MOST_META_BYTES:
        return manifest
    masked, data = hide_secrets(path.read_bytes(), manifest, hide)
    if masked == manifest:
        return manifest
    say(f"WARNING: {path.name} held a secret, which was masked before the upload")
    for name, content in ((path.name, data), (MANIFEST, masked.to_json().encode())):
        (folder / name).unlink()  # the copy only: the trainer's files stay as they are
        (folder / name).write_bytes(content)
    return masked


def save(
    box: BoxRun,
    folder: Path,
    manifest: Manifest,
    target: str,
    superseded: Callable[[], bool] | None = None,
) -> Proof:
    """Upload a whole step to `target` and prove it, unless one as new is proven there.

    Only damage ends this at once (BadAnswer). Everything else is tried again until the money or the time for it ends: then
    Unreachable. With `superseded` it is a state saved on the way: it gets a few minutes, because a newer one follows.
    """

    def give_up() -> str:
        return "a newer one follows" if superseded and superseded() else box.meter.give_up()

    def report(error: str) -> None:
        box.heartbeat.note_trouble(target, error)

    attempt = Attempt(box, folder, manifest, target, give_up, report, brief=superseded is not None)
    while True:
        try:
            proof = attempt.run()
        except (ApiProblem, AuthProblem) as e:  # also: the Hub said yes and holds something else
            if (reason := give_up()) or superseded:
                raise Unreachable(
                    f"{target} is not proven ({reason or 'the next state is tried'}): {e}"
                ) from e
            say(f"not proven yet: {e}")
            report(str(e))
            _repair_manifest(folder, manifest)
            read_whole(folder)  # BadAnswer: damaged on this disk, so no further try would be proven
            box.deps.sleep(AGAIN_S)
        else:
            report("")
            return proof


@dataclass(frozen=True)
class Attempt:
    """One upload of a whole step, its transfer and its proof, as often as it is `run`."""

    box: BoxRun
    folder: Path
    manifest: Manifest
    target: str
    give_up: Callable[[], str]
    report: Callable[[str], None]
    brief: bool  # a state while training goes on

    @property
    def repo(self) -> str:
        return self.box.plan.hf_repo if self.manifest.final else self.box.plan.runs_repo

    @cached_property
    def hub(self) -> Hub:
        """A client that has no patience left once `give_up` says so."""
        return self.box.deps.hub(
            self.box.plan.hf_endpoint,
            self.box.token,
            patience_s=5 if self.brief else math.inf,
            insist=True,
            on_trouble=self.report,
            clock=lambda: math.inf if self.give_up() else self.box.deps.clock(),
        )

    def run(self) -> Proof:
        """The proof of this upload, or of what is proven there already; ApiProblem or AuthProblem when there is none."""
        started = self.box.deps.clock()
        if (proven := self._proven_already()) is not None:
            return proven
        say(
            f"uploading {self.target}: step {self.manifest.step}, {self.manifest.size / 1e6:.1f} MB"
        )
        entry = _repair_manifest(self.folder, self.manifest)
        self.box.deps.transfer(
            self._job(),
            self.box.token,
            give_up=self.give_up,
            say=say,
            on_trouble=self.report,
            patience_s=STATE_PATIENCE_S if self.brief else math.inf,
        )
        tree = self.hub.tree(self.repo)
        proof = prove(tree, self.target, self.manifest, entry)
        self._check_served(proof, tree)
        seconds = self.box.deps.clock() - started
        self.box.meter.note_upload(seconds * (STATE_SIZE if self.manifest.final else 1))
        return proof

    def _check_served(self, proof: Proof, tree: Tree) -> None:
        """BadAnswer if the Hub sends something else. A Hub that does not answer for a minute is believed: it holds the hashes."""
        try:
            check_served(optional_hub(self.box, SERVED_PATIENCE_S), proof, self.folder, tree)
        except BadAnswer:
            raise
        except (NanolanError, OSError) as e:
            say(f"{self.target} is proven; its content could not be read back: {e}")

    def _proven_already(self) -> Proof | None:
        """What an earlier start or attempt proved there, if it is not older; it is newer when the newest step here is damaged."""
        if self.manifest.final:
            there = held(self.box, self.repo, self.target, self.hub)
        else:
            there = known_state(self.box, self.manifest.phase, self.hub)
        if there is None or there.manifest.step < self.manifest.step:
            return None
        try:
            if there.manifest == self.manifest:
                self._check_served(there, self.hub.tree(self.repo))
        except BadAnswer:  # listed, but its content is not there
            return None
        return there

    def _job(self) -> Job:
        plan, manifest = self.box.plan, self.manifest
        return Job(
            "upload",
            plan.hf_endpoint,
            self.repo,
            "model",
            "main",
            str(self.folder),
            (*(f.path for f in manifest.files), MANIFEST),
            self.target,
            f"{manifest.phase} step {manifest.step} of run {plan.run_id}",
            plan.keep_old and manifest.final,
        )


def _repair_manifest(folder: Path, manifest: Manifest) -> FileEntry:
    """Size and hashes of the manifest's file, which is written again when it was damaged on this disk."""
    data, path = manifest.to_json().encode(), folder / MANIFEST
    if path.read_bytes() != data:
        say(f"{path} was damaged; written again")
        path.unlink()  # its second name, in the trainer's folder, keeps the old content
        path.write_bytes(data)
    return hash_bytes(MANIFEST, data)


def save_the_rest(box: BoxRun, done: set[str]) -> None:
    """After a failure: upload the newest whole step of each phase that is not in `done`."""
    for phase in [p for p in box.plan.phases if p not in done]:
        try:
            found = retry_when_short(box, partial(_newest, box, phase))
            if found:
                upload(box, phase, *found)
            elif (box.state / f"attempts-{phase}").is_file() or goes_on(box, phase):
                known_state(box, phase, optional_hub(box, NOTE_PATIENCE_S))  # for the receipt
        except Exception as e:  # the other phases follow
            say(f"{e}")


def goes_on(box: BoxRun, phase: str) -> bool:
    """Whether an earlier machine left a state of this phase."""
    return box.plan.resume is not None and phase == box.plan.phases[0]


def _newest(box: BoxRun, phase: str) -> tuple[Path, Manifest] | None:
    """The result of a phase, else its newest state."""
    return newest_whole(box.out_dir(phase), phase, final=True) or newest_whole(
        box.out_dir(phase), phase
    )


def known_state(box: BoxRun, phase: str, hub: Hub) -> Proof | None:
    """The newest state of this phase on the Hub, looked up once; NanolanError when the Hub does not answer."""
    if phase not in box.states:
        box.states[phase] = held(box, box.plan.runs_repo, box.saved(phase), hub)
    return box.states[phase]


def held(box: BoxRun, repo: str, folder: str, hub: Hub) -> Proof | None:
    """The proof of what this run, also before a restart, put into `folder` on the Hub; None when there is nothing or it is damaged,
    NanolanError when the Hub does not answer."""
    try:
        manifest = parse_manifest(hub.read(repo, f"{folder}/{MANIFEST}"))
        return (
            prove(hub.tree(repo), folder, manifest) if manifest.run_id == box.plan.run_id else None
        )
    except (NotFound, BadAnswer):
        return None
