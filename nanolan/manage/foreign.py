"""Checks before the next attempt of a run with a foreign trainer: its code is still there, and its batch fits the new instance."""

from __future__ import annotations

from nanolan.checklist import Check
from nanolan.checkpoint.manifest import hash_bytes
from nanolan.errors import NanolanError
from nanolan.hub.client import Hub
from nanolan.plan import Plan
from nanolan.trainers.fork_job import FORK_BUNDLE


def bundle_checks(hub: Hub, plan: Plan) -> tuple[Check, ...]:
    """Whether the run folder still has the bundle of the run's trainer; nothing for nanolan's own."""
    code = plan.fork.code if plan.fork else None
    if code is None:
        return ()
    try:
        data = hub.read(plan.runs_repo, f"{plan.folder}/{FORK_BUNDLE}")
    except NanolanError as e:
        return (Check("trainer", False, f"{e}; launch again"),)
    if hash_bytes(FORK_BUNDLE, data).sha256 != code.sha256:
        where = f"{plan.runs_repo}/{plan.folder}"
        return (
            Check("trainer", False, f"{FORK_BUNDLE} in {where} is not the run's; launch again"),
        )
    return (Check("trainer", True, f"the run's own, of commit {code.commit[:8]}"),)


def gpu_checks(old: Plan, new: Plan) -> tuple[Check, ...]:
    """A foreign trainer's batch was checked for the number of GPUs of its launch, which its options do not show any more."""
    if old.fork is None or old.processes == new.processes:
        return ()
    text = f"its batch was checked for {old.processes} GPUs, this offer has {new.processes}: num-gpus={old.processes}"
    return (Check("trainer, batch", False, f"{text}, or launch again"),)
