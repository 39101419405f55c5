"""A machine without the GPUs that were rented is found out before anything trains."""
from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from nanolan.gpus import gpu_problem, query_gpus
from nanolan.sim.nvidia_smi import Gpus, nvidia_smi

from .box_fixtures import make_plan

PLAN = replace(make_plan("", ""), processes=8)
NAME = "NVIDIA H100 80GB HBM3"


def put_nvidia_smi(root: Path, text: str) -> None:
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/bin/nvidia-smi").write_text(text)
    (root / "usr/bin/nvidia-smi").chmod(0o755)


@pytest.mark.parametrize("seen, usable, says", [
    (8, None, ""), (8, 8, ""), (7, 8, "8 GPUs were rented, nvidia-smi shows 7"), (16, 8, "shows 16"), (0, 0, "shows 0"),
    (8, 7, "8 CUDA devices are needed, torch can use 7"), (8, 0, "torch can use 0"), (8, 9, "torch can use 9")])
def test_anything_but_the_rented_number_of_usable_gpus_is_a_problem(seen: int, usable: int | None, says: str) -> None:
    problem = gpu_problem(PLAN, [NAME] * seen, usable)
    assert says in problem and bool(problem) == bool(says)


@pytest.mark.parametrize("text, names", [
    (nvidia_smi(Gpus(2, NAME, 81559, "9.0", "570.195.03"), "box"), [NAME, NAME]),
    (nvidia_smi(Gpus(0, NAME, 81559, "9.0", "570.195.03"), "box"), []),
    ("#!/bin/sh\necho NVIDIA-SMI has failed\nexit 9\n", []), ("not a program", [])])
def test_the_names_come_from_the_machines_own_nvidia_smi_and_a_broken_one_shows_none(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, names: list[str]) -> None:
    put_nvidia_smi(tmp_path, text)
    monkeypatch.setenv("BOX_ROOT", str(tmp_path))
    assert query_gpus("name") == names
