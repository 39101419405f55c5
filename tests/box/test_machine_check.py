"""A machine that is not what was paid for is found out before anything is downloaded."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from nanolan.box.machine_check import (
    already_here,
    busy_problem,
    disk_problem,
    inspect_machine,
    memory_problem,
)
from nanolan.plan import Pinned, PinnedFile
from nanolan.sim.nvidia_smi import Gpus, nvidia_smi
from tests.support.box_fixtures import make_plan

PLAN = replace(make_plan("", ""), processes=8)
H100 = Gpus(8, "NVIDIA H100 80GB HBM3", 81559, "9.0", "570.195.03")


def gb(n: float, path: str = "mid_checkpoints/d20/model_000010.pt") -> Pinned:
    return Pinned("me/it", "model", "e" * 40, (PinnedFile(path, int(n * 1e9), "a" * 64, "b"),))


@pytest.fixture
def box_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "usr/bin").mkdir(parents=True)
    monkeypatch.setenv("BOX_ROOT", str(tmp_path))
    return tmp_path


def install(root: Path, text: str) -> None:
    (root / "usr/bin/nvidia-smi").write_text(text)
    (root / "usr/bin/nvidia-smi").chmod(0o755)


@pytest.mark.parametrize(
    "rented_gb, told, says",
    [
        (80, ["81559 MiB"] * 8, ""),
        (
            80,
            ["81559 MiB"] * 7 + ["40960 MiB"],
            "GPUs of 80 GB were rented, nvidia-smi shows 40960 MiB",
        ),
        (141, ["143771 MiB"], ""),
        (192, ["183359 MiB"], ""),
        (40, ["40960 MiB"], ""),
        (80, ["[N/A]"], ""),
        (80, [], ""),
        (0, ["1 MiB"], ""),
    ],
)
def test_gpus_with_less_memory_than_rented_are_a_problem(
    rented_gb: int, told: list[str], says: str
) -> None:
    assert memory_problem(replace(PLAN, offer=replace(PLAN.offer, vram_gb=rented_gb)), told) == says


def test_somebody_elses_processes_on_the_gpus_are_a_problem() -> None:
    for nobody in ([], ["[N/A]"], ["[Not Supported]"], ["[Insufficient Permissions]"]):
        assert busy_problem(nobody) == ""
    assert busy_problem(
        ["1234"]
    ) == "1 other process compute on the GPUs" and "2 other processes" in busy_problem(["1", "2"])


def test_the_disk_must_hold_the_downloads_and_three_states() -> None:
    plan = replace(PLAN, inputs=(gb(2.0),), datasets=(gb(1.0, "main/train.parquet"),))
    need = 3.0 + 3 * 2.7 * 2.0
    assert disk_problem(plan, int((need + 0.1) * 1e9), 0) == ""
    assert disk_problem(plan, int(10e9), 0) == f"10.0 GB of disk are free, {need:.1f} GB are needed"
    assert disk_problem(plan, int((need - 2.9) * 1e9), int(3e9)) == "", (
        "what is downloaded already needs no room any more"
    )


def test_what_an_earlier_life_left_is_counted(tmp_path: Path) -> None:
    (tmp_path / "data/x").mkdir(parents=True)
    (tmp_path / "data/x/y").write_bytes(b"12345")
    assert already_here(tmp_path) == 5


def test_the_rented_machine_passes_at_once(box_root: Path) -> None:
    install(box_root, nvidia_smi(H100, "box"))
    assert inspect_machine(PLAN, box_root) == ""


@pytest.mark.parametrize("cents, most_s", [(200, 2.0), (1, 0.5)])
def test_a_wrong_one_is_looked_at_again_for_as_long_as_the_probation_may_cost(
    box_root: Path, cents: int, most_s: float
) -> None:
    install(
        box_root, nvidia_smi(Gpus(7, "NVIDIA H100 80GB HBM3", 81559, "9.0", "570.195.03"), "box")
    )
    waited: list[float] = []
    plan = replace(
        PLAN, probation_cents=cents, offer=replace(PLAN.offer, hourly_cents=7200)
    )  # two cents a second
    problem = inspect_machine(plan, box_root, clock=lambda: float(len(waited)), sleep=waited.append)
    assert "nvidia-smi shows 7" in problem and len(waited) == int(most_s) + 1


def test_one_whose_driver_comes_up_late_passes(box_root: Path) -> None:
    install(box_root, "#!/bin/sh\nexit 9\n")
    assert (
        inspect_machine(
            PLAN,
            box_root,
            clock=lambda: 0.0,
            sleep=lambda s: install(box_root, nvidia_smi(H100, "box")),
        )
        == ""
    )
