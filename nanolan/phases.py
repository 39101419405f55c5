"""The training phases and their data sets. To add a phase, add a row to `PHASES` here, and one to `SEQUENCES`, which are the
values of phase=.

Its recipe goes into nanolan/train/recipe.py, its data into nanolan/train/data/mixtures.py.
"""

from __future__ import annotations

import difflib
import math
import operator
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

from nanolan.errors import BadAnswer, UsageProblem, quoted


@dataclass(frozen=True)
class Phase:
    """One phase: what it reads and writes in HF_REPO, and the data sets it trains on.

    A foreign trainer's phase has a module or a command, too (nanolan/trainers/).
    """

    name: str
    title: str
    input_dir: str
    output_dir: str
    datasets: tuple[str, ...] = ()
    module: str = ""  # such as scripts.chat_sft
    command: str = ""  # a shell command in place of a module
    arguments: tuple[str, ...] = ()  # of the module

    @property
    def keeps(self) -> str:
        """What a stopped phase saves: "state" to go on from, "weights" to start from, or "nothing"."""
        if self.command:
            return "nothing"
        return "weights" if self.module else "state"


PHASES = {
    "mid": Phase(
        "mid",
        "Personality injection",
        "base_checkpoints",
        "mid_checkpoints",
        ("smol-smoltalk", "mmlu", "gsm8k"),
    ),
    "sft": Phase(
        "sft",
        "Task completion",
        "mid_checkpoints",
        "chatsft_checkpoints",
        ("arc-easy", "arc-challenge", "gsm8k", "smol-smoltalk"),
    ),
    "rl": Phase(
        "rl", "Math reinforcement", "chatsft_checkpoints", "chatrl_checkpoints", ("gsm8k",)
    ),
}

# Checkpoint folder in HF_REPO -> the phase that writes it
FOLDERS = {"base_checkpoints": "base", **{p.output_dir: p.name for p in PHASES.values()}}


def kind_of(folder: str) -> str:
    """What `just upload` calls the checkpoint in a folder of HF_REPO."""
    top = folder.split("/")[0]
    return FOLDERS.get(top, top if top.endswith("_checkpoints") else "base")


SEQUENCES = {
    "mid": ("mid",),
    "sft": ("sft",),
    "rl": ("rl",),
    "mid+sft": ("mid", "sft"),
    "sft+rl": ("sft", "rl"),
    "all": ("mid", "sft", "rl"),
}

# Data sets of the evaluation (nanolan/train/evaluation/tasks.py); only their test split is read
EXAM_DATASETS = ("arc-easy", "arc-challenge", "mmlu", "gsm8k")


def phase_sequence(text: str) -> tuple[str, ...]:
    """The phases of a --phase value, in order; UsageProblem lists the known values."""
    if text == "agent_rl":
        raise UsageProblem(
            "agent_rl is not a phase of nanolan's trainer: it needs a nanochat fork that has it, see docs/fork.md"
        )
    if text not in SEQUENCES:
        near = nearest_phase(text)
        raise UsageProblem(
            f"unknown phase {quoted(text, 40)}; the phases are {', '.join(SEQUENCES)}"
            + (f". Did you mean phase={near}?" if near else "")
        )
    return SEQUENCES[text]


def nearest_phase(text: str) -> str:
    """The phases that a misspelt or unordered --phase value means, or ""."""
    parts = re.split(r"[+, ]+", text.lower())
    near = [difflib.get_close_matches(part, (*PHASES, "all"), 1, 0.65) for part in parts]
    meant = {name for names in near for name in names}
    if not all(near) or len(meant) < len(parts):
        return ""
    return next((name for name, phases in SEQUENCES.items() if meant in ({name}, set(phases))), "")


def data_files(
    phases: Iterable[Phase], exams: bool, humaneval: bool = False
) -> dict[str, list[str]]:
    """Data set repo -> globs of the files that these phases and their evaluation read."""
    trained = {d for p in phases for d in p.datasets}
    judged = {*EXAM_DATASETS, *(("humaneval",) if humaneval else ())} if exams else set()
    found: dict[str, list[str]] = {}
    for name in sorted(trained | judged):
        data = DATASETS[name]
        found.setdefault(data.repo, []).extend(
            [data.train, data.test] if name in trained else [data.test]
        )
    return found


# What the trainer validates at the end of a phase
VALIDATED = {"mid": "val_bpb", "sft": "val_loss"}
# What the evaluation measures of every phase's checkpoint (nanolan/train/evaluation/tasks.py)
SCORES = (
    "chatcore",
    "arc_easy_acc",
    "arc_challenge_acc",
    "mmlu_acc",
    "gsm8k_acc",
    "spellingbee_acc",
)
HUMANEVAL_SCORE = "humaneval_acc"  # only with humaneval=yes

GATE = "gate"  # the name of the check, and of the reason of a run that stopped there
COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


@dataclass(frozen=True)
class Gate:
    """A condition for the next phase: the measurement `name`, compared with `value`."""

    name: str
    sign: str
    value: float


def parse_gate(text: str) -> Gate:
    """Parse a gate such as "val_bpb<0.5"; UsageProblem if it is invalid."""
    m = re.fullmatch(
        r"\s*([A-Za-z][A-Za-z0-9_]{0,39})\s*(<=|>=|<|>)\s*(-?[0-9]{1,6}(?:\.[0-9]{1,6})?)\s*", text
    )
    if not m:
        raise UsageProblem(
            f"gate {quoted(text, 60)}: write it as name<number or name>number, such as gsm8k_acc>0.05"
        )
    return Gate(m[1], m[2], float(m[3]))


def gate_problem(text: str, measured: Mapping[str, float | None]) -> str:
    """Why the measurements do not pass the gate, or "" if they do; a missing measurement never passes."""
    gate = parse_gate(text)
    have = measured.get(gate.name)
    if have is None:
        known = ", ".join(sorted(k for k, v in measured.items() if v is not None)) or "nothing"
        return f"the gate {text!r} needs {gate.name}, which was not measured (measured: {known})"
    return (
        ""
        if COMPARE[gate.sign](have, gate.value)
        else f"{gate.name} is {have:.6g}, the gate is {text!r}"
    )


def gate_that_opens(text: str, measured: Mapping[str, float | None]) -> str:
    """A gate= option like this one that the measurements pass; gate=none if its name was not measured."""
    gate = parse_gate(text)
    if (have := measured.get(gate.name)) is None:
        return "gate=none"
    up = gate.sign.startswith("<")
    near = (math.ceil(have * 1000 + 1) if up else math.floor(have * 1000 - 1)) / 1000
    number = f"{near:.3f}".rstrip("0").rstrip(".")
    return shlex.quote(f"gate={gate.name}{gate.sign}{number}")


def measured_after(phase: str, evaluate: str, humaneval: bool) -> tuple[str, ...]:
    """What a phase of nanolan's own trainer and its evaluation measure."""
    validated = (VALIDATED[phase],) if phase in VALIDATED else ()
    if evaluate == "none":
        return validated
    return (*validated, *SCORES, *((HUMANEVAL_SCORE,) if humaneval else ()))


def never_measured(text: str, before: Sequence[str], evaluate: str, humaneval: bool) -> str:
    """Why a gate that is tested after each of the phases `before` can never open, or "". Of nanolan's own trainer."""
    name = parse_gate(text).name
    known = {phase: measured_after(phase, evaluate, humaneval) for phase in before}
    without = [phase for phase, names in known.items() if name not in names]
    if not without:
        return ""
    common = [n for n in known[before[0]] if all(n in names for names in known.values())]
    if evaluate == "none" and name in (*SCORES, HUMANEVAL_SCORE):
        hint = "eval=quick measures it" + " with humaneval=yes" * (name == HUMANEVAL_SCORE)
    elif name == HUMANEVAL_SCORE:
        hint = "humaneval=yes measures it"
    else:
        near = difflib.get_close_matches(name.lower(), common, 3)
        hint = f"did you mean {' or '.join(near)}?" if near else ""
    return "; ".join(
        filter(
            None,
            (
                f"gate {text!r} can never open: {name} is not measured after {' and '.join(without)}",
                hint,
                f"measured after {' and '.join(before)}: {', '.join(common) or 'nothing'}",
            ),
        )
    )


@dataclass(frozen=True)
class DataSet:
    """One data set repo on the Hub; `train` and `test` are globs of its parquet files, "" if it has no such split.

    `columns` are the columns that nanolan reads, with their kind: text or whole number.
    """

    repo: str
    train: str
    test: str
    columns: Mapping[str, str]


TEXT, NUMBER = "text", "number"
KINDS = {TEXT: ("BYTE_ARRAY",), NUMBER: ("INT32", "INT64")}  # parquet types
WRAPPED = "train."  # rows of cais/mmlu's auxiliary_train are wrapped in a field of this name
ARC = {"question": TEXT, "choices.text": TEXT, "choices.label": TEXT, "answerKey": TEXT}


DATASETS = {
    "smol-smoltalk": DataSet(
        "HuggingFaceTB/smol-smoltalk",
        "data/train-*.parquet",
        "data/test-*.parquet",
        {"messages.role": TEXT, "messages.content": TEXT},
    ),
    "mmlu": DataSet(
        "cais/mmlu",
        "auxiliary_train/train-*.parquet",
        "all/test-*.parquet",
        {"question": TEXT, "choices": TEXT, "answer": NUMBER},
    ),
    "gsm8k": DataSet(
        "openai/gsm8k",
        "main/train-*.parquet",
        "main/test-*.parquet",
        {"question": TEXT, "answer": TEXT},
    ),
    "arc-easy": DataSet(
        "allenai/ai2_arc", "ARC-Easy/train-*.parquet", "ARC-Easy/test-*.parquet", ARC
    ),
    "arc-challenge": DataSet(
        "allenai/ai2_arc", "ARC-Challenge/train-*.parquet", "ARC-Challenge/test-*.parquet", ARC
    ),
    "humaneval": DataSet(
        "openai/openai_humaneval",
        "",
        "openai_humaneval/test-*.parquet",
        {"prompt": TEXT, "test": TEXT, "entry_point": TEXT},
    ),
    # for foreign trainers of 2026, which read this copy of mmlu's training questions
    "mmlu-all": DataSet(
        "cais/mmlu",
        "all/auxiliary_train-*.parquet",
        "all/test-*.parquet",
        {"question": TEXT, "choices": TEXT, "answer": NUMBER},
    ),
}


# Revisions with the layout that the trainer reads; if the Hub no longer has one, its newest revision is used
REVISIONS = {
    "HuggingFaceTB/smol-smoltalk": "f73fe857d519ff6ac5af2ea67c4d3834da7b8bcc",
    "cais/mmlu": "c30699e8356da336a370243923dbaf21066bb9fe",
    "openai/gsm8k": "740312add88f781978c0658806c59bc2815b9866",
    "allenai/ai2_arc": "210d026faf9955653af8916fad021475a3f00453",
    "openai/openai_humaneval": "7dce6050a7d6d172f3cc5c32aa97f52fa1a2e544",
}


IDENTITY_FILE = "identity_conversations.jsonl"  # in HF_REPO, optional
MOST_DATA_BYTES = 256 << 20  # of the identity file; one conversation takes about 300 bytes


def check_data(name: str, found: Mapping[str, str], rows: int, where: str) -> None:
    """BadAnswer unless a file of the data set `name` has rows and the columns nanolan reads. `found`: column -> parquet type."""
    if rows < 1:
        raise BadAnswer(f"{where}: has no rows")
    unwrapped = {path.removeprefix(WRAPPED): kind for path, kind in found.items()}
    for path, kind in DATASETS[name].columns.items():
        if path not in unwrapped:
            raise BadAnswer(
                f"{where}: lacks the column {path} of {name} (it has {', '.join(sorted(found))[:200]}): its "
                "layout changed"
            )
        if unwrapped[path] not in KINDS[kind]:
            raise BadAnswer(
                f"{where}: the column {path} of {name} holds {unwrapped[path]} instead of {kind}: its layout changed"
            )


def data_of(repo: str, path: str) -> str:
    """The name of the data set that a file of a repo belongs to."""
    return next(
        name
        for name, d in DATASETS.items()
        if d.repo == repo and any(glob and fnmatch(path, glob) for glob in (d.train, d.test))
    )
