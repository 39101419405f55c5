"""Makes of the setting `trainer` what the plan carries: the checkout's bundle, its phases with their options, and checklist lines.

Nothing of the checkout is run on the laptop: scripts are only read.
"""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from msgspec import structs

from nanolan.checklist import Check
from nanolan.code.bundle import make_bundle
from nanolan.code.check import by_reason, named
from nanolan.errors import UsageProblem
from nanolan.phases import Phase
from nanolan.plan import Code, Fork
from nanolan.settings.settings import OWN_TRAINER, Settings
from nanolan.trainers.arguments import (
    check_no_secret,
    check_used,
    options_for,
    phase_arguments,
    values_of,
)
from nanolan.trainers.batch import batch_problem
from nanolan.trainers.checkout import Copy, copy_of, files_of
from nanolan.trainers.rows import (
    CUSTOM,
    TrainerRow,
    check_hooks,
    data_of,
    recognise,
    script_of,
)
from nanolan.trainers.scripts.options import Script, apply, read_script
from nanolan.trainers.source import check_path_dependencies, python_version, source_of

TASKS = "ARC-Easy|ARC-Challenge|MMLU|GSM8K"
QUICK = 256  # problems of each task in a quick evaluation
BUNDLE_ID = "fork"  # in the name of the bundle's ref
ADAPTER = "nanolan.trainers.adapter"
KEEPS = {
    "weights": "the weights at a stop and every save-minutes, not the place: resume starts the phase again from them",
    "nothing": "NOTHING when it is stopped early: nanolan cannot reach into a command",
}

DATA = {
    "task_data": "",
    "online": "it downloads its own data: the machine stays online, nothing is pinned",
    "task_data+online": "the public data sets are pinned; what else it reads it downloads itself: the machine stays online",
}

OF_REHEARSAL = (
    ". A rehearsal has made-up rows of ARC, MMLU, GSM8K and smol-smoltalk, and no other data set"
)


@dataclass(frozen=True)
class Chosen:
    """A foreign trainer that is ready to be sent."""

    fork: Fork
    bundle: bytes
    checks: tuple[Check, ...]
    values: Mapping[str, Mapping[str, Any]]  # phase -> its options by name, for the batch rules

    def batch_check(self, processes: int) -> Check:
        """Whether the batch settings of every phase work on so many GPUs."""
        for phase, values in self.values.items():
            if problem := batch_problem(values, processes):
                hint = "Another number of GPUs, or your own batch: train.device-batch-size=N"
                return Check("trainer, batch", False, f"{phase}: {problem}. {hint}")
        return Check("trainer, batch", True, f"fits {processes} GPU{'s' * (processes > 1)}")


def with_trainer(
    s: Settings,
    folder: Path,
    *,
    rehearsed: Mapping[str, Any] | None = None,
    python: str = "",
) -> tuple[Settings, Chosen | None]:
    """The settings with the phases of their trainer, and the trainer if it is not nanolan's own.

    `folder` is where a relative path starts; `rehearsed` are the small options of a rehearsal on the CPU, with its `python`.
    """
    if s.trainer == OWN_TRAINER:
        if s.train_options:
            raise UsageProblem("train.NAME=VALUE is for a checkout of yours: give trainer=, too")
        return s, None
    with copy_of(s.trainer, folder) as copy:
        row = recognise(copy.root)
        check_path_dependencies(copy.root)
        names = phase_names(s.phase, row)
        check_hooks(copy.root, row, names)
        chosen = _choose(s, copy, row, names, rehearsed, python)
    return replace(s, phase="+".join(names), fork=chosen.fork), chosen


def layout_of(s: Settings, folder: Path) -> Fork | None:
    """The phases of the settings' trainer with their folders, and nothing else of it; None if it is nanolan's own."""
    if s.trainer == OWN_TRAINER:
        return None
    with files_of(s.trainer, folder) as root:
        row = recognise(root)
        return Fork(row.name, root.name, "", None, dict(row.phases), data_of(root))


def phase_names(text: str, row: TrainerRow) -> tuple[str, ...]:
    """The phases of a --phase value that this trainer has, in its order; UsageProblem says why it has not."""
    known = tuple(row.phases)
    names = known if text == "all" else tuple(text.split("+"))
    for name in names:
        if name not in row.phases:
            why = row.missing.get(name, f"its phases are {', '.join(known)}")
            raise UsageProblem(
                f"the checkout of trainer= ({row.name}) has no phase {name}: {why}. Nothing was rented"
            )
    if list(names) != sorted(set(names), key=known.index):
        raise UsageProblem(f"phases of {row.name} run in this order, each once: {', '.join(known)}")
    for before, after in pairwise(row.phases[n] for n in names):
        if after.input_dir != before.output_dir:
            raise UsageProblem(
                f"{after.name} starts from {after.input_dir}, but {before.name} before it writes "
                f"{before.output_dir}. Run them one by one. Nothing was rented"
            )
    return names


def _choose(
    s: Settings,
    copy: Copy,
    row: TrainerRow,
    names: tuple[str, ...],
    rehearsed: Mapping[str, Any] | None,
    python: str,
) -> Chosen:
    given = s.train_options or ()
    defaults = {"run": s.run_name if s.wandb_api_key else "dummy", "load_optimizer": 0}
    wanted = {"device_batch_size": s.batch} if s.batch else {}
    scripts = {n: _script(copy.root, row.phases[n]) for n in names}
    check_used(given, names, scripts)
    phases, values = dict(row.phases), dict[str, Mapping[str, Any]]()
    for name, script in scripts.items():
        if script is None:
            continue
        declared, user = row.phases[name].arguments, options_for(name, given)
        arguments = phase_arguments(
            script, declared, defaults, wanted | dict(rehearsed or {}), user
        )
        check_no_secret(arguments)
        phases[name] = replace(row.phases[name], arguments=arguments)
        values[name] = values_of(script, arguments)
    code, bundle = _bundle(copy)
    data = "online" if row.name == CUSTOM else data_of(copy.root)
    if data == "online":  # then nothing is pinned
        phases = {n: replace(p, datasets=()) for n, p in phases.items()}
    evaluation = _evaluation(copy.root, row)
    quick = _evaluation_arguments(copy.root, evaluation, s.eval, rehearsed)
    fork = Fork(
        row.name,
        copy.source,
        copy.commit,
        code,
        phases,
        data,
        evaluation,
        quick,
        python,
    )
    checks = [*_checks(copy, fork, names), *_notes(fork, s, rehearsed is not None)]
    return Chosen(fork, bundle, tuple(checks), values)


def _script(root: Path, phase: Phase) -> Script | None:
    """The options of a phase's module; None for a command."""
    if not phase.module:
        return None
    path = script_of(phase.module)
    if not (root / path).is_file():
        raise UsageProblem(f"the checkout of trainer= has no {path}: its {phase.name} cannot run")
    return read_script(source_of(root, path), path, python_version(root))


def _evaluation(root: Path, row: TrainerRow) -> str:
    """The module that evaluates, "" if the checkout has none."""
    if not row.evaluation or (root / script_of(row.evaluation)).is_file():
        return row.evaluation
    if row.name == CUSTOM:
        raise UsageProblem(
            f"the checkout of trainer= has no {script_of(row.evaluation)}, which its evaluation names"
        )
    return ""


def _evaluation_arguments(
    root: Path, module: str, scope: str, rehearsed: Mapping[str, Any] | None
) -> tuple[str, ...]:
    """The options of the fork's evaluation that nanolan sets where it has them: the tasks that the report knows."""
    if not module or scope == "none":
        return ()
    path = script_of(module)
    script = read_script(source_of(root, path), path, python_version(root))
    few = {"max_problems": QUICK} if scope == "quick" else {}
    return tuple(apply(script, {"task_name": TASKS, **few, **(rehearsed or {})}, {}))


def _bundle(copy: Copy) -> tuple[Code, bytes]:
    with tempfile.TemporaryDirectory(prefix="nanolan-fork-") as temp:
        path = Path(temp) / "fork.bundle"
        made = make_bundle(copy.root, path, BUNDLE_ID)
        return structs.replace(made, commit=copy.commit, dirty=copy.dirty), path.read_bytes()


def _checks(copy: Copy, fork: Fork, names: tuple[str, ...]) -> list[Check]:
    assert fork.code  # noqa: S101  # made by _bundle
    changed = ", with uncommitted changes" if copy.dirty else ""
    text = f"{fork.row}: {copy.source} at {copy.commit[:8]}{changed}, a bundle of {fork.code.size // 1000:,} kB"
    checks = [Check("trainer", True, text)]
    if copy.new:
        checks.append(
            Check(
                "trainer, untracked",
                None,
                f"sent too, although git does not track them: {named(copy.new)}",
            )
        )
    if copy.left:
        checks.append(Check("trainer, left out", None, by_reason(copy.left)))
    for name in names:
        phase = fork.phases[name]
        checks.append(Check(f"{name} runs", None, " ".join(phase.command.split()) or _shown(phase)))
        checks.append(Check(f"{name} saves", None, KEEPS[phase.keeps]))
    return checks


def _shown(phase: Phase) -> str:
    return shlex.join((phase.module, *phase.arguments))


def _notes(fork: Fork, s: Settings, rehearsed: bool) -> list[Check]:
    """What a fork does otherwise than nanolan's own trainer."""
    notes = {
        "trainer, data": DATA[fork.data] + (OF_REHEARSAL if rehearsed and DATA[fork.data] else ""),
        "trainer, evaluation": "none: the checkout names no module that evaluates"
        if s.eval != "none" and not fork.evaluation
        else "",
        "humaneval": "left out: only nanolan's own evaluation asks it" if s.humaneval else "",
    }
    return [Check(name, None, text) for name, text in notes.items() if text]
