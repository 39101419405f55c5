"""Looks again, before the deletion, at what was proven hours ago: the Hub may have lost it since."""

from __future__ import annotations

from nanolan.box.context import BoxRun, RunStopped, optional_hub, say
from nanolan.box.upload.checkpoint import NOTE_PATIENCE_S, held, upload
from nanolan.box.upload.scores import note_results
from nanolan.checkpoint.evaluation import read_results
from nanolan.checkpoint.manifest import MANIFEST, newest_whole, parse_manifest
from nanolan.errors import BadAnswer, NanolanError, NotFound
from nanolan.hub.client import Hub
from nanolan.hub.proof import Proof, prove


def prove_again(box: BoxRun) -> None:
    """Upload each result again that the Hub has lost since its proof: a branch that was moved back, a folder or a repo that was
    deleted. Raises when one cannot be proven; a Hub that does not answer proves nothing against the old proof."""
    for proof in [p for p in box.proofs if p.manifest.final]:
        try:
            lost = _is_lost(box, optional_hub(box, NOTE_PATIENCE_S), proof)
        except NanolanError as e:
            say(f"{proof.folder} was proven and could not be looked at again: {e}")
            continue
        if lost:
            _upload_again(box, proof)


def _is_lost(box: BoxRun, hub: Hub, proof: Proof) -> bool:
    """Whether the Hub holds this result no more; one that another run or the user has replaced since is at its revision."""
    there = held(box, proof.repo, proof.folder, hub)
    if there and there.manifest.step >= proof.manifest.step:
        return False
    try:
        manifest = parse_manifest(hub.read(proof.repo, f"{proof.folder}/{MANIFEST}"))
        if manifest.run_id == proof.manifest.run_id:
            return True
        prove(hub.tree(proof.repo, revision=proof.revision), proof.folder, proof.manifest)
    except (NotFound, BadAnswer):
        return True
    say(f"{proof.folder} is that of run {manifest.run_id} now; ours is at {proof.revision[:8]}")
    return False


def prove_the_rest_again(box: BoxRun) -> None:
    """The same after a failure: what cannot be proven is named as not saved by then."""
    try:
        prove_again(box)
    except Exception as e:  # the instance must be deleted all the same
        say(f"{type(e).__name__}: {e}")


def _upload_again(box: BoxRun, proof: Proof) -> None:
    phase = proof.manifest.phase
    say(f"{proof.folder} is not on the Hub any more: uploading it again")
    box.proofs.remove(proof)
    if found := newest_whole(box.out_dir(phase), phase, final=True):
        upload(box, phase, *found)
        if results := read_results(box.evaluation(phase)):
            note_results(box, phase, *found, results)
    else:
        box.unsaved.append(f"{phase} step {proof.manifest.step} (it left the Hub)")
        raise RunStopped("upload_failed", f"{proof.folder} left the Hub, and is not whole here")
