"""What remains of a run: the phases not proven on the Hub, and the saved state that the first of them resumes from.

Only proven files count: a manifest of this run and phase, and all its files on the Hub with their sizes and hashes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from msgspec import structs

from nanolan.checkpoint.architecture import MODEL_FILE
from nanolan.checkpoint.evaluation import evaluation_in, meta_name
from nanolan.checkpoint.manifest import MANIFEST, Manifest, parse_manifest
from nanolan.errors import BadAnswer, NotFound
from nanolan.hub.client import Hub, Tree
from nanolan.hub.proof import prove
from nanolan.plan import Pinned, Plan
from nanolan.run.record import PhaseReport, phase_report


@dataclass(frozen=True)
class SavedWork:
    """A phase's result or intermediate state, proven on the Hub and pinned."""

    phase: str
    step: int
    folder: str
    files: Pinned

    @property
    def processes(self) -> int:
        """Number of optimizer shards: the number of processes that can resume it."""
        return sum(bool(re.search(r"/optim_\d+_rank\d+\.pt$", f.path)) for f in self.files.files)


@dataclass(frozen=True)
class Remaining:
    """The phases that remain to be trained."""

    phases: tuple[str, ...]  # none: the run is complete
    # the result that the first phase starts from; None: the plan's input
    before: SavedWork | None = None
    saved: SavedWork | None = None  # the state that it can resume from


def remaining_of(hub: Hub, plan: Plan, reported: Mapping[str, PhaseReport]) -> Remaining:
    """The rest of a run; `reported` has the folders and revisions that the box reported. Raises if a read fails."""
    tree = hub.tree(plan.hf_repo)
    before = None
    for i, phase in enumerate(plan.phases):
        result = result_of(hub, tree, plan, phase, reported.get(phase))
        if result is None:
            runs = tree if plan.runs_repo == plan.hf_repo else hub.tree(plan.runs_repo)
            return Remaining(plan.phases[i:], before, saved_state(hub, runs, plan, phase))
        before = result
    return Remaining((), before)


def result_of(
    hub: Hub, tree: Tree, plan: Plan, phase: str, reported: PhaseReport | None
) -> SavedWork | None:
    """The proven result of a phase: its folder now, or at the reported revision if another run has replaced it since."""
    folder = plan.result_folder(phase)
    found = kept(hub, tree, folder, plan, phase, final=True)
    if found or reported is None or reported.revision in ("", tree.revision):
        return found
    try:
        return kept(
            hub, hub.tree(plan.hf_repo, revision=reported.revision), folder, plan, phase, final=True
        )
    except NotFound:  # the revision was deleted or never existed
        return None


def saved_state(hub: Hub, tree: Tree, plan: Plan, phase: str) -> SavedWork | None:
    """The state of `phase` in the run folder, if it is complete."""
    return kept(hub, tree, f"{plan.folder}/saved/{phase}", plan, phase, final=False)


def kept(
    hub: Hub, tree: Tree, folder: str, plan: Plan, phase: str, *, final: bool
) -> SavedWork | None:
    """This run's checkpoint of `phase`, if `folder` holds all its files."""
    if f"{folder}/{MANIFEST}" not in tree.files:
        return None
    try:
        manifest = parse_manifest(
            hub.read(tree.repo, f"{folder}/{MANIFEST}", revision=tree.revision)
        )
        prove(tree, folder, manifest)
    except BadAnswer:  # not a manifest, or its files do not match
        return None
    names = [f.path for f in manifest.files]
    mine = (manifest.run_id, manifest.phase, manifest.final) == (plan.run_id, phase, final)
    if not mine or not any(n.startswith("model_") for n in names):
        return None
    return SavedWork(
        phase,
        manifest.step,
        folder,
        tree.pin([f"{folder}/{n}" for n in (*names, MANIFEST)], proven=True),
    )


def measured_in(manifest: Manifest, meta: bytes) -> dict[str, float]:
    """What the trainer and the evaluation measured of a result, from its manifest and its meta. Pure."""
    return phase_report("proven", "", manifest).measured | evaluation_in(meta)


def measured_of(hub: Hub, work: SavedWork) -> dict[str, float]:
    """The same of a proven result on the Hub. Raises if a read fails."""

    def read(name: str) -> bytes:
        return hub.read(work.files.repo, f"{work.folder}/{name}", revision=work.files.revision)

    manifest = parse_manifest(read(MANIFEST))
    name = meta_name(manifest)
    there = f"{work.folder}/{name}" in {f.path for f in work.files.files}
    return measured_in(manifest, read(name) if there else b"{}")


def pinned_inputs(plan: Plan, remaining: Remaining) -> tuple[Pinned, ...]:
    """The pinned inputs; for a phase after the first, the result it starts from instead of the input checkpoint."""
    if remaining.before is None:
        return plan.inputs
    result = remaining.before.files
    without_optimizer = structs.replace(
        result, files=tuple(f for f in result.files if "/optim_" not in f.path)
    )
    return (without_optimizer, *(i for i in plan.inputs if not holds_model(i)))


def holds_model(pin: Pinned) -> bool:
    """Whether it is the pin of a checkpoint."""
    return any(MODEL_FILE.fullmatch(f.path.rpartition("/")[2]) for f in pin.files)
