"""Uploads the states that the trainer saves, while it trains; the Hub keeps only the newest of a phase."""

from __future__ import annotations

from nanolan.box.context import BoxRun, optional_hub, say
from nanolan.box.upload.checkpoint import NOTE_PATIENCE_S, frozen_copy, mask_meta, save
from nanolan.checkpoint.manifest import (
    whole_steps,
)
from nanolan.errors import NanolanError


class StateUploads:
    """While a phase trains: uploads its newest state every `upload_minutes`."""

    def __init__(self, box: BoxRun, phase: str) -> None:
        self._box, self._phase = box, phase
        self._ticker = box.deps.ticker(self.send, 60 * box.plan.upload_minutes, self._trouble)

    def _trouble(self, e: Exception) -> None:
        """Note a failed upload; training goes on, and the next state follows."""
        say(f"state of {self._phase} not uploaded: {e}")
        if not self._ticker.closed:
            self._box.heartbeat.note_trouble(self._box.saved(self._phase), str(e))

    def __enter__(self) -> StateUploads:
        self._ticker.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Give up an upload under way: the phase's result, or its last state, follows."""
        self._ticker.close(None)
        self._box.heartbeat.note_trouble(self._box.saved(self._phase), "")

    def send(self) -> None:
        """Upload the newest state, unless the Hub has it."""
        box, phase = self._box, self._phase
        known = box.states.get(phase)
        for folder, manifest in whole_steps(box.out_dir(phase)):
            if (
                manifest.phase != phase
                or manifest.final
                or known
                and manifest.step <= known.manifest.step
            ):
                return
            with frozen_copy(box, phase, folder, manifest, in_training=True) as copy:
                proof = box.states[phase] = save(
                    box,
                    copy,
                    mask_meta(copy, manifest),
                    box.saved(phase),
                    lambda: self._ticker.closed,
                )
            say(f"phase {phase}: state of step {proof.manifest.step} proven in {box.saved(phase)}")
            box.heartbeat.set_state(box.heartbeat.state)
            return


def remove_states(box: BoxRun, phase: str) -> None:
    """Delete the states of a phase whose result is proven, best effort (the Hub's history keeps them)."""
    hub = optional_hub(box, NOTE_PATIENCE_S)
    try:
        if stale := sorted(hub.tree(box.plan.runs_repo).under(box.saved(phase))):
            hub.commit(
                box.plan.runs_repo,
                {},
                f"run {box.plan.run_id}: {phase} is done, its states go",
                delete=stale,
            )
        box.states.pop(phase, None)
    except NanolanError as e:
        say(f"the states of {phase} stay in {box.saved(phase)}: {e}")


def saved_states(box: BoxRun) -> list[str]:
    """The states on the Hub of phases without a result: "FOLDER step N". Only the newest state of a phase is kept there."""
    last = [p for p in box.proofs if not p.manifest.final]
    newer = {p.manifest.phase for p in last}
    earlier = [
        proof
        for phase, proof in box.states.items()
        if proof and phase not in newer and box.heartbeat.phases[phase].state != "proven"
    ]
    return [f"{p.folder} step {p.manifest.step}" for p in (*last, *earlier)]
