"""A machine's inside whose plan has a foreign trainer: a bundle in its run folder, a meter and a control that a test sets."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from nanolan.box.context import BoxRun
from nanolan.box.phase_runner import kill_trainers
from nanolan.box.sandbox import trainer_folder
from nanolan.code.bundle import make_bundle
from nanolan.hub.transfer import Job
from nanolan.phases import Phase
from nanolan.plan import OWN_PYTHON, Code, Fork, new_run_id
from nanolan.run.record import StopReason
from tests.support.checkouts import Files
from tests.support.checkouts import start as repository
from tests.support.saver_fixtures import machine

SFT = Phase("sft", "SFT", "base_checkpoints", "chatsft_checkpoints", module="scripts.chat_sft")
LIMIT = StopReason("spend_limit", "the spend limit is reached")
TORCH = """
__version__ = "2.9.1+cu128"
def device(name): return name
class cuda:
    @staticmethod
    def device_count(): return 8
"""
MANAGER = """
class P:
    def numel(self): return 1000
class Model:
    def parameters(self): return [P(), P()]
def load_model(source, device, phase, model_tag=None, step=None):
    return Model(), None, {}
"""
# A checkout with an imitation of torch, which needs no time to be imported
WORKING: dict[str, str | bytes] = {
    "torch/__init__.py": TORCH,
    "nanochat/__init__.py": "",
    "nanochat/checkpoint_manager.py": MANAGER,
    "scripts/__init__.py": "",
    "scripts/chat_sft.py": "import json\nimport torch\nfrom nanochat import checkpoint_manager\n",
}


class ForkBox:
    """The machine, the files of its Hub, and what was downloaded, entered and stopped."""

    def __init__(self, root: Path, files: Files, **fork: Any) -> None:
        self.root = root
        self.hub: dict[str, bytes] = {}
        self.downloads: list[str] = []
        self.stages: dict[str, int] = {}
        self.stop: StopReason | None = None
        code = self._bundle(root, files)
        self.fork = Fork(
            **{
                "row": "nanochat-2026",
                "source": "my-nanochat",
                "commit": "a" * 40,
                "code": code,
                "phases": {"sft": SFT},
                "data": "task_data",
                "python": OWN_PYTHON,
            }
            | fork
        )
        self.box = self._machine(root)

    def _bundle(self, root: Path, files: Files) -> Code:
        place = root / "fork.bundle"
        code = make_bundle(repository(root / "checkout", files), place, "fork")
        self.bundle = place.read_bytes()
        return code

    def _machine(self, root: Path) -> BoxRun:
        box = machine(
            root / "machine",
            deps={"transfer": self._transfer, "kill": kill_trainers},
            run_id=new_run_id(),
            fork=self.fork,
            phases=tuple(self.fork.phases),
            device="cuda",
        )
        self.hub[f"{box.plan.folder}/fork.bundle"] = self.bundle
        box.meter.should_stop = lambda: self.stop  # type: ignore[method-assign]
        box.control = SimpleNamespace(asked=lambda: None)  # type: ignore[assignment]
        box.timeline = SimpleNamespace(  # type: ignore[assignment]
            enter=lambda stage: self.stages.setdefault(stage, 0), stages=lambda: self.stages
        )
        inputs = box.work / "model" / box.plan.input_folder
        inputs.mkdir(parents=True)
        (inputs / "model_000010.pt").touch()
        (inputs / "meta_000010.json").write_text("{}")
        trainer_folder(box.work).mkdir()
        return box

    def _transfer(self, job: Job, token: object, **how: Any) -> None:
        for name in job.files:
            self.downloads.append(name)
            path = Path(job.folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.hub[name])

    def change_code(self, data: bytes) -> None:
        """Let the plan pin other bytes as bundle."""
        code = Code("a" * 40, hashlib.sha256(data).hexdigest(), len(data), False)
        self.fork = Fork(
            **{f: getattr(self.fork, f) for f in Fork.__struct_fields__} | {"code": code}
        )
        self.hub[f"{self.box.plan.folder}/fork.bundle"] = data

    @property
    def place(self) -> Path:
        """Where the fork lies on the machine."""
        return trainer_folder(self.box.work) / "fork"
