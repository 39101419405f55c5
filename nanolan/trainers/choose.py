"""Makes of the setting `trainer` what the plan carries: the checkout's bundle, its phases with their options, and checklist lines.

Nothing of the checkout is run on the laptop: scripts are only read.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
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
from nanolan.trainers.batch import batch_problem
from nanolan.trainers.checkout import Copy, copy_of
from nanolan.trainers.rows import CUSTOM, TrainerRow, recognise, script_of, uses_task_data
from nanolan.trainers.scripts.options import Script, apply, read_script
from nanolan.trainers.source import source_of

TASKS = "ARC-Easy|ARC-Challenge|MMLU|GSM8K"
QUICK = 256  # problems of each task in a quick evaluation
LOADER = "nanochat/checkpoint_manager.py"
BUNDLE_ID = "fork"  # in the name of the bundle's ref
ADAPTER = "nanolan.trainers.adapter"
KEEPS = {
    "weights": "the weights at a stop and every save-minutes, not the place: resume starts the phase again from them",
    "nothing": "NOTHING when it is stopped early: nanolan cannot reach into a command",
}


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
        names = phase_names(s.phase, row)
        chosen = _choose(s, copy, row, names, rehearsed, python)
    return replace(s, phase="+".join(names), fork=chosen.fork), chosen


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
    return names


def _choose(
    s: Settings,
    copy: Copy,
    row: TrainerRow,
    names: tuple[str, ...],
    rehearsed: Mapping[str, Any] | None,
    python: str,
) -> Chosen:
    wanted = _wanted(s, rehearsed)
    scripts = {n: _script(copy.root, row.phases[n]) for n in names}
    phases, values = dict(row.phases), dict[str, Mapping[str, Any]]()
    for name, script in scripts.items():
        if script is None:
            continue
        user = options_for(name, s.train_options or ())
        arguments = (*row.phases[name].arguments, *apply(script, wanted, user))
        phases[name] = replace(row.phases[name], arguments=arguments)
        values[name] = {n: o.default for n, o in script.options.items()} | _numbers(
            script, arguments
        )
    _check_used(s.train_options or (), names, scripts)
    code, bundle = _bundle(copy)
    task_data = row.name != CUSTOM and uses_task_data(copy.root)
    if not task_data:  # then nothing is pinned: the fork downloads its own data
        phases = {n: replace(p, datasets=()) for n, p in phases.items()}
    evaluation = (
        row.evaluation
        if row.evaluation and (copy.root / script_of(row.evaluation)).is_file()
        else ""
    )
    fork = Fork(
        row.name,
        copy.source,
        copy.commit,
        code,
        phases,
        "task_data" if task_data else "online",
        evaluation,
        _evaluation_arguments(copy.root, evaluation, s.eval, rehearsed),
        python,
    )
    return Chosen(fork, bundle, tuple(_checks(copy, fork, names)), values)


def _wanted(s: Settings, rehearsed: Mapping[str, Any] | None) -> dict[str, Any]:
    """The options that nanolan sets where a script has them. Without shards of the optimizer at hand, none is loaded."""
    own: dict[str, Any] = {
        "run": s.run_name if s.wandb_api_key else "dummy",
        "load_optimizer": 0,
        **({"device_batch_size": s.batch} if s.batch else {}),
    }
    return own | dict(rehearsed or {})


def _script(root: Path, phase: Phase) -> Script | None:
    """The options of a phase's module; None for a command."""
    if not phase.module:
        return None
    path = script_of(phase.module)
    if not (root / path).is_file():
        raise UsageProblem(f"the checkout of trainer= has no {path}: its {phase.name} cannot run")
    return read_script(source_of(root, path), path)


def _evaluation_arguments(
    root: Path, module: str, scope: str, rehearsed: Mapping[str, Any] | None
) -> tuple[str, ...]:
    """The options of the fork's evaluation that nanolan sets where it has them: the tasks that the report knows."""
    if not module:
        return ()
    path = script_of(module)
    script = read_script(source_of(root, path), path)
    few = {"max_problems": QUICK} if scope == "quick" else {}
    return tuple(apply(script, {"task_name": TASKS, **few, **(rehearsed or {})}, {}))


def options_for(phase: str, given: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """The user's own options of one phase: train.NAME is for every phase, train.PHASE.NAME for one."""
    general = {n: v for n, v in given if "." not in n}
    special = {
        n.partition(".")[2]: v for n, v in given if n.partition(".")[0] == phase and "." in n
    }
    return general | special


def _check_used(
    given: tuple[tuple[str, str], ...], names: tuple[str, ...], scripts: Mapping[str, Script | None]
) -> None:
    """UsageProblem for an option of a phase that does not run, or that has no options."""
    for name, _ in given:
        phase = name.partition(".")[0] if "." in name else None
        if phase and phase not in names:
            raise UsageProblem(f"train.{name}: {phase} is not among the phases of this run")
        if all(scripts[p] is None for p in ([phase] if phase else names)):
            raise UsageProblem(
                f"train.{name}: a command has no options; write them into the command"
            )


def _numbers(script: Script, arguments: tuple[str, ...]) -> dict[str, Any]:
    """The whole numbers among the arguments, by the option's name."""
    found: dict[str, Any] = {}
    by_flag = {o.flag: name for name, o in script.options.items()}
    for argument in arguments:
        flag, _, value = argument.partition("=")
        if flag in by_flag and value.lstrip("-").isdigit():
            found[by_flag[flag]] = int(value)
    return found


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
        checks.append(
            Check(f"{name} runs", None, phase.command or " ".join((phase.module, *phase.arguments)))
        )
        checks.append(Check(f"{name} saves", None, KEEPS[phase.keeps]))
    if fork.data == "online":
        checks.append(
            Check(
                "trainer, data",
                None,
                "it downloads its own data: the machine stays online, nothing is pinned",
            )
        )
    return checks
