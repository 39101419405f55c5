"""Writes the scores of an evaluation into the meta of the checkpoint on the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from msgspec import structs

from nanolan.box.context import BoxRun, optional_hub, say
from nanolan.box.upload.checkpoint import NOTE_PATIENCE_S, upload
from nanolan.checkpoint.evaluation import meta_name, score_numbers, with_results
from nanolan.checkpoint.manifest import (
    MANIFEST,
    MOST_BYTES,
    Manifest,
    hash_bytes,
)
from nanolan.errors import BadAnswer, NanolanError
from nanolan.files import read_regular
from nanolan.hub.proof import prove
from nanolan.run.record import PhaseReport


def note_results(
    box: BoxRun, phase: str, folder: Path, manifest: Manifest, results: dict[str, Any]
) -> None:
    """Write the scores into the meta of the proven checkpoint on the Hub, and prove it again; best effort. If the Hub then holds
    something else, the checkpoint is uploaded again as it was saved; raises when that is not proven."""
    _measured(box, phase, results)
    target, name = box.target(phase), meta_name(manifest)
    before = read_regular(folder / name, MOST_BYTES)
    if hash_bytes(name, before) not in manifest.files:
        raise BadAnswer(f"{folder / name} has changed since it was found whole")
    new, meta = with_results(before, manifest, results)
    hub = optional_hub(box, NOTE_PATIENCE_S)
    changed = False
    try:
        prove(hub.tree(box.plan.hf_repo), target, manifest)  # nobody has written the folder since
        hub.commit(
            box.plan.hf_repo,
            {f"{target}/{name}": meta, f"{target}/{MANIFEST}": new.to_json().encode()},
            f"{phase} step {manifest.step} of run {box.plan.run_id}: evaluated",
        )
        changed = True
        proof = prove(
            hub.tree(box.plan.hf_repo), target, new, hash_bytes(MANIFEST, new.to_json().encode())
        )
        box.heartbeat.set_phase(
            phase, structs.replace(box.heartbeat.phases[phase], revision=proof.revision)
        )
    except NanolanError as e:
        say(f"the evaluation of {phase} is only in the receipt, not in {target}: {e}")
        if changed:
            upload(box, phase, folder, manifest)
            _measured(box, phase, results)


def _measured(box: BoxRun, phase: str, results: dict[str, Any]) -> None:
    before = box.heartbeat.phases.get(phase, PhaseReport("none"))
    box.heartbeat.set_phase(
        phase, structs.replace(before, measured=before.measured | score_numbers(results))
    )
