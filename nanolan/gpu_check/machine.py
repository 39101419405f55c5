"""What is checked: the machine, the sizes to train at, and where files go. Each part's process reads it as JSON."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from nanolan.box.sandbox import TrainerUser
from nanolan.plan import Plan
from nanolan.settings.load import load_settings
from nanolan.train_here import LocalRun
from nanolan.train_here import make_plan as plan_here

Sizes = dict[str, Any]

# On a GPU the parts train nanochat's d20; on the CPU a toy goes through the same code
SIZES: dict[str, Sizes] = {
    "d20": {
        "model": {
            "sequence_len": 2048,
            "vocab_size": 65_536,
            "n_layer": 20,
            "n_head": 10,
            "n_embd": 1280,
        },
        "mid_tokens": 524_288,  # of a step: the recipe's
        "sft_tokens": 16_384,  # 8 rows, as 32 conversations of the real data fill
        "steps": 12,
        "elements": 131_072_000,  # fp32, 524 MB
        "attention": {"batch": 4, "heads": 10, "head_dim": 128, "length": 2048, "rows": 32},
        "decode": {"rows": [8, 32, 64, 256], "prompt": 200, "new": 128},
        "rl": {"questions": 16, "samples": 16, "prompt": 150, "new": 256},
        "memory_rows": 4,
    },
    "toy": {
        "model": {
            "sequence_len": 128,
            "vocab_size": 520,
            "n_layer": 2,
            "n_head": 2,
            "n_embd": 64,
        },
        "mid_tokens": 1024,
        "sft_tokens": 512,
        "steps": 4,
        "elements": 100_000,
        "attention": {"batch": 1, "heads": 2, "head_dim": 32, "length": 64, "rows": 2},
        "decode": {"rows": [2, 4], "prompt": 10, "new": 8},
        "rl": {"questions": 2, "samples": 4, "prompt": 10, "new": 8},
        "memory_rows": 4,
    },
}
# The model whose first losses are known from a CPU (agreement.py), and whose greedy tokens are compared
SMALL = {"sequence_len": 128, "vocab_size": 2048, "n_layer": 4, "n_head": 2, "n_embd": 256}


class Machine(msgspec.Struct, frozen=True):
    """A part's setup."""

    device: str  # cuda or cpu
    processes: int  # ranks: one per GPU
    size: str  # of SIZES
    work: str  # folder for all files
    run_id: str  # marks the processes of a part
    limit_s: float = 600.0  # of this part
    account: int | None = None  # uid of the trainer's user; None: this program's
    groups: tuple[int, ...] = ()  # its groups: those of the GPUs' device nodes

    @property
    def folder(self) -> Path:
        return Path(self.work)

    @property
    def sizes(self) -> Sizes:
        return SIZES[self.size]

    @property
    def user(self) -> TrainerUser | None:
        """The user of the trainer, if it is another one."""
        home = self.folder / "trainer"
        return None if self.account is None else TrainerUser(self.account, home, self.groups)

    def plan(self, phase: str = "mid") -> Plan:
        """A plan of this machine, as `just train-here` makes one."""
        local = LocalRun(
            self.folder, self.device, self.processes, os.environ, lambda: None, print, {}
        )
        return plan_here(load_settings({"phase": phase}, {}), local, self.run_id)


def read_machine(path: Path) -> Machine:
    """The Machine in a JSON file."""
    return msgspec.json.decode(path.read_bytes(), type=Machine)
