"""What a run leaves on the Hub: the result of a phase, and a state on its way."""

from __future__ import annotations

from typing import Any
from zlib import crc32

import torch

from nanolan.checkpoint.manifest import Manifest, hash_bytes
from nanolan.phases import PHASES
from nanolan.plan import Plan
from nanolan.sim.hub.server import HubServer
from tests.support.checkpoint_fixtures import meta, saved, weights

OF_THE_SEED = 456  # tokens


def put(hub: HubServer, repo: str, folder: str, manifest: Manifest, files: dict[str, bytes]) -> str:
    """Commit the files and their manifest; the revision."""
    return hub.put(
        repo,
        {f"{folder}/{name}": data for name, data in files.items()}
        | {f"{folder}/manifest.json": manifest.to_json().encode()},
    )


def _model(name: str, step: int) -> dict[str, bytes]:
    """A small model that fits the tokenizer of nanolan.sim.seed, with weights of its own, and its meta."""
    state = weights(vocab_size=OF_THE_SEED)
    state["lm_head.weight"][0, 0] = crc32(name.encode())
    return {
        f"model_{step:06d}.pt": saved(state),
        f"meta_{step:06d}.json": meta(step, vocab_size=OF_THE_SEED),
    }


def result(hub: HubServer, plan: Plan, phase: str, /, step: int = 90, **changes: Any) -> str:
    """The result of a phase in its output folder, as a run's machine leaves it; the revision."""
    files = _model(f"{plan.run_id} {phase} {step}", step)
    fields: dict[str, Any] = {"run_id": plan.run_id, "phase": phase, "final": True} | changes
    manifest = Manifest(
        step=step, files=tuple(hash_bytes(n, d) for n, d in sorted(files.items())), **fields
    )
    return put(hub, plan.hf_repo, f"{PHASES[phase].output_dir}/{plan.output_tag}", manifest, files)


def state(
    hub: HubServer, plan: Plan, phase: str, /, step: int = 40, processes: int = 2, **changes: Any
) -> str:
    """A state of a phase in the run folder, with a shard of the optimizer for each process; the revision."""
    files = {
        **_model(f"{plan.run_id} {phase} state {step}", step),
        **{
            f"optim_{step:06d}_rank{n}.pt": saved({"rank": torch.tensor(n)})
            for n in range(processes)
        },
    }
    fields: dict[str, Any] = {"run_id": plan.run_id, "phase": phase, "final": False} | changes
    manifest = Manifest(
        step=step, files=tuple(hash_bytes(n, d) for n, d in sorted(files.items())), **fields
    )
    return put(hub, plan.runs_repo, f"{plan.folder}/saved/{phase}", manifest, files)
