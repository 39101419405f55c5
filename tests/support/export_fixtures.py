"""An exported run and its machines: the job's own command, run on this computer as SkyPilot or Hugging Face would."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import yaml

from nanolan.sim.box import Machine
from nanolan.sim.nvidia_smi import Gpus
from nanolan.sim.world import REPO, World
from tests.support.box_fixtures import until
from tests.support.core_fixtures import script

GPUS = Gpus(8, "NVIDIA H100 80GB HBM3", 81559, "9.0", "570.195.03")
TASK_ID = "sky-managed-2026-11-27-12-00-00-000000_lanbot_1-0"


def export(world: World, *words: str) -> dict[str, Any]:
    """The task of `just export skypilot`."""
    done = script("export", "skypilot", "phase=sft", "gpu=H100:8", *words, env=world.env())
    assert done.returncode == 0, done.stderr
    task: dict[str, Any] = yaml.safe_load(done.stdout)
    return task


class JobMachines:
    """The machines of one job, in the order in which they are started."""

    def __init__(self, world: World, run: str, job_id: str = TASK_ID, **env: str) -> None:
        self.world, self.run, self.job_id = world, run, job_id
        self.secrets = {"HF_TOKEN": world.env()["HF_TOKEN"]} | env
        self.machines: list[Machine] = []

    def start(self, job_id: str = "") -> Machine:
        """Start the command on a new machine, with the secrets in its environment."""
        number = len(self.machines) + 1
        env = self.secrets | {"SKYPILOT_TASK_ID": job_id or self.job_id}
        exports = "".join(f"export {k}={shlex.quote(v)}\n" for k, v in env.items())
        folder = self.world.root / f"jobs/{number}"
        folder.mkdir(parents=True)
        machine = Machine(
            f"job-{self.world.root.name}-{number}",
            folder,
            (exports + self.run).encode(),
            GPUS,
            restarts=0,
        )
        self.machines.append(machine)
        machine.start()
        return machine

    def ended(self, machine: Machine, timeout_s: float = 90.0) -> int:
        """Wait for the command's end; its exit code."""
        until(lambda: machine.exit_codes, timeout_s, lambda: self.log(machine))
        return machine.exit_codes[0]

    def wait_for(self, machine: Machine, text: str, timeout_s: float = 90.0) -> None:
        """Until the machine's log holds `text`; at once an error when its command has ended without."""
        until(
            lambda: text in self.log(machine) or machine.exit_codes,
            timeout_s,
            lambda: self.log(machine),
        )
        assert text in self.log(machine), self.log(machine)

    @staticmethod
    def log(machine: Machine) -> str:
        path = machine.folder / "var/log/lanbot-training.log"
        console = machine.console.read_text(errors="replace") if machine.console.is_file() else ""
        return f"{console}\n---- log\n{path.read_text() if path.is_file() else ''}"

    def close(self) -> None:
        for machine in self.machines:
            machine.kill()


def record(world: World, run_id: str, name: str) -> dict[str, Any]:
    """A record of the run folder."""
    found: dict[str, Any] = json.loads(world.hub.read(REPO, f"runs/{run_id}/{name}"))
    return found


def run_id_of(task: dict[str, Any]) -> str:
    return str(task["name"].rpartition("-")[2])


def files(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.is_file() and ".venv" not in p.parts]
