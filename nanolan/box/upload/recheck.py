"""Looks again, before the deletion, at what was proven hours ago: the Hub may have lost it since."""

from __future__ import annotations

from nanolan.box.context import BoxRun, RunStopped, optional_hub, say
from nanolan.box.upload.checkpoint import NOTE_PATIENCE_S, held, upload
from nanolan.checkpoint.manifest import newest_whole
from nanolan.errors import NanolanError
from nanolan.hub.proof import Proof


def prove_again(box: BoxRun) -> None:
    """Upload each result again that the Hub has lost since its proof: a branch that was moved back, a folder or a repo that was
    deleted. Raises when one cannot be proven; a Hub that does not answer proves nothing against the old proof."""
    for proof in [p for p in box.proofs if p.manifest.final]:
        try:
            there = held(box, proof.repo, proof.folder, optional_hub(box, NOTE_PATIENCE_S))
        except NanolanError as e:
            say(f"{proof.folder} was proven and could not be looked at again: {e}")
            continue
        if there is None or there.manifest.step < proof.manifest.step:
            _upload_again(box, proof)


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
    else:
        box.unsaved.append(f"{phase} step {proof.manifest.step} (it left the Hub)")
        raise RunStopped("upload_failed", f"{proof.folder} left the Hub, and is not whole here")
