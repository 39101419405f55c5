"""The table of trainers: how a checkout is recognised, its phases, how it gets its data, what it keeps when it is stopped.

A new generation of nanochat is a new row. What differs within a row, such as the style of the options, is read from the
checkout's own files (options.py).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nanolan.errors import UsageProblem
from nanolan.phases import Phase
from nanolan.trainers.custom import Declared, read_declared
from nanolan.trainers.source import source_of

CUSTOM = "custom"
CHAT_EVAL = "scripts.chat_eval"
SFT = "scripts/chat_sft.py"
MID = "scripts/mid_train.py"
LOADER = "nanochat/checkpoint_manager.py"
# What reads the Hub, and nothing where it may not
DOWNLOADERS = re.compile(r"^\s*(?:from|import) (?:datasets|huggingface_hub)\b", re.MULTILINE)
BASE_DIR = "NANOCHAT_BASE_DIR"
AS_COMMANDS = "Declare its phases as commands, see docs/fork.md. Nothing was rented"


@dataclass(frozen=True)
class Defect:
    """A known defect of a span of commits: `found` tells it by the sources (path -> text)."""

    found: Callable[[Mapping[str, str]], bool]
    text: str  # what is wrong, and what to do


@dataclass(frozen=True)
class TrainerRow:
    """One kind of checkout."""

    name: str
    marks: tuple[str, ...]  # files that it has
    lacks: tuple[str, ...]  # files that it does not have
    phases: Mapping[str, Phase]
    evaluation: str = ""  # the module that evaluates
    missing: Mapping[str, str] = field(default_factory=dict)  # a phase that it lacks -> why
    defects: tuple[Defect, ...] = ()


def _sft_writes_where_nothing_reads(sources: Mapping[str, str]) -> bool:
    written = set(re.findall(r"[\"'](\w+_checkpoints)[\"']", sources.get(SFT, "")))
    return "sft_checkpoints" in written and "chatsft_checkpoints" not in written


TITLES = {"mid": "Midtraining", "sft": "Supervised fine-tuning", "rl": "Reinforcement learning"}
ALL_DATA = ("smol-smoltalk", "mmlu-all", "gsm8k")

NANOCHAT_2025 = TrainerRow(
    name="nanochat-2025",
    marks=(MID, SFT),
    lacks=(),
    phases={
        "mid": Phase(
            "mid",
            TITLES["mid"],
            "base_checkpoints",
            "mid_checkpoints",
            module="scripts.mid_train",
        ),
        "sft": Phase(
            "sft",
            TITLES["sft"],
            "mid_checkpoints",
            "chatsft_checkpoints",
            module="scripts.chat_sft",
        ),
        "rl": Phase(
            "rl",
            TITLES["rl"],
            "chatsft_checkpoints",
            "chatrl_checkpoints",
            module="scripts.chat_rl",
        ),
    },
    evaluation=CHAT_EVAL,
)
NANOCHAT_2026 = TrainerRow(
    name="nanochat-2026",
    marks=(SFT,),
    lacks=(MID,),
    phases={
        "sft": Phase(
            "sft",
            TITLES["sft"],
            "base_checkpoints",
            "chatsft_checkpoints",
            ALL_DATA,
            module="scripts.chat_sft",
        ),
        "rl": Phase(
            "rl",
            TITLES["rl"],
            "chatsft_checkpoints",
            "chatrl_checkpoints",
            ("gsm8k",),
            module="scripts.chat_rl",
        ),
    },
    evaluation=CHAT_EVAL,
    missing={"mid": "nanochat removed it on 2026-01-31: its sft starts from base. Use phase=sft"},
    defects=(
        Defect(
            _sft_writes_where_nothing_reads,
            "its sft writes sft_checkpoints, where neither its rl nor its evaluation look (nanochat of "
            "2026-01-31 and 02-01). Take a newer commit: git pull",
        ),
    ),
)
ROWS = (NANOCHAT_2025, NANOCHAT_2026)


def recognise(root: Path) -> TrainerRow:
    """The row of the checkout at `root`; UsageProblem when it is none, or has a known defect."""
    if own := declared(root):
        return own
    for row in ROWS:
        if all((root / p).is_file() for p in row.marks) and not any(
            (root / p).exists() for p in row.lacks
        ):
            sources = {p: source_of(root, p) for p in row.marks}
            for defect in row.defects:
                if defect.found(sources):
                    raise UsageProblem(
                        f"the checkout of trainer=: {defect.text}. Nothing was rented"
                    )
            return row
    raise UsageProblem(
        f"trainer= is no nanochat checkout that nanolan knows: it has neither {MID} nor {SFT}, and its "
        "pyproject.toml has no [tool.nanolan]. docs/fork.md shows how to declare your phases. Nothing was rented"
    )


def declared(root: Path) -> TrainerRow | None:
    """The row that the checkout declares itself, in [tool.nanolan] of its pyproject.toml."""
    found: Declared | None = read_declared(root)
    if found is None:
        return None
    return TrainerRow(CUSTOM, (), (), found.phases, found.evaluation)


def check_hooks(root: Path, row: TrainerRow, names: Iterable[str]) -> None:
    """UsageProblem if the checkout lacks what nanolan needs to run a module: a loader to follow, and a base folder to set."""
    if not any(row.phases[name].module for name in names):
        return
    if not (root / LOADER).is_file() or "load_model" not in source_of(root, LOADER):
        raise UsageProblem(
            f"the checkout of trainer= has no load_model in {LOADER}, with which nanolan loads a checkpoint and keeps "
            f"the weights. {AS_COMMANDS}"
        )
    if row.name != CUSTOM and not _reads_base_dir(root):
        raise UsageProblem(
            f"nanochat/ of the checkout of trainer= does not read {BASE_DIR}, so it would not find the checkpoint. "
            f"{AS_COMMANDS}"
        )


def _reads_base_dir(root: Path) -> bool:
    """Whether the folder of the checkpoints can be set; the report of nanochat names it, too."""
    paths = (p for p in _modules(root, "nanochat") if Path(p).name != "report.py")
    return any(BASE_DIR in source_of(root, p) for p in paths)


def _modules(root: Path, *folders: str) -> Iterator[str]:
    """The paths of all modules below these folders of the checkout."""
    for folder in folders:
        for place, _, names in os.walk(root / folder):
            yield from (
                str(Path(place, name).relative_to(root)) for name in names if name.endswith(".py")
            )


def script_of(module: str) -> str:
    """The path of a module: scripts.chat_sft -> scripts/chat_sft.py."""
    return f"{module.replace('.', '/')}.py"


def data_of(root: Path) -> str:
    """Fork.data: "task_data" if nanolan can lay out all that it reads, "online" if nothing, "task_data+online" if a part."""
    if not uses_task_data(root):
        return "online"
    modules = _modules(root, "nanochat", "scripts", "tasks")
    downloads = any(DOWNLOADERS.search(source_of(root, p)) for p in modules)
    return "task_data+online" if downloads else "task_data"


def uses_task_data(root: Path) -> bool:
    """Whether the checkout reads its data from task_data/ in its base folder, where nanolan can put it."""
    return any(
        "task_data" in source_of(root, p) for p in ("tasks/common.py",) if (root / p).is_file()
    )
