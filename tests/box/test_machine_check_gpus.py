"""A machine without the GPUs that were rented is found out before anything trains."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from nanolan.box.machine_check import gpu_problem, query_gpus
from nanolan.sim.nvidia_smi import Gpus, nvidia_smi
from tests.support.box_fixtures import make_plan

PLAN = replace(make_plan("", ""), processes=8)
NAME = "NVIDIA H100 80GB HBM3"


def put_nvidia_smi(root: Path, text: str) -> None:
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/bin/nvidia-smi").write_text(text)
    (root / "usr/bin/nvidia-smi").chmod(0o755)


@pytest.mark.parametrize(
    "seen, usable, says",
    [
        (8, None, ""),
        (8, 8, ""),
        (7, 8, "8 GPUs were rented, nvidia-smi shows 7"),
        (16, 8, "shows 16"),
        (0, 0, "shows 0"),
        (8, 7, "8 CUDA devices are needed, torch can use 7"),
        (8, 0, "torch can use 0"),
        (8, 9, "torch can use 9"),
    ],
)
def test_anything_but_the_rented_number_of_usable_gpus_is_a_problem(
    seen: int, usable: int | None, says: str
) -> None:
    problem = gpu_problem(PLAN, [NAME] * seen, usable)
    assert says in problem and bool(problem) == bool(says)


@pytest.mark.parametrize(
    "text, names",
    [
        (nvidia_smi(Gpus(2, NAME, 81559, "9.0", "570.195.03"), "box"), [NAME, NAME]),
        (nvidia_smi(Gpus(0, NAME, 81559, "9.0", "570.195.03"), "box"), []),
        ("#!/bin/sh\necho NVIDIA-SMI has failed\nexit 9\n", []),
        ("not a program", []),
    ],
)
def test_the_names_come_from_the_machines_own_nvidia_smi_and_a_broken_one_shows_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, names: list[str]
) -> None:
    put_nvidia_smi(tmp_path, text)
    monkeypatch.setenv("BOX_ROOT", str(tmp_path))
    assert query_gpus("name") == names


# What nvidia-smi prints beside its rows, on machines that compute well
INFOROM = "WARNING: infoROM is corrupted at gpu 0000:1B:00.0"
ROWS = f"GPU-5f1b3c1e-aaaa-bbbb-cccc-0123456789ab, {NAME}\nGPU-6f1b3c1e-aaaa-bbbb-cccc-0123456789ab, {NAME}\n"
HEALTHY = {
    "plain": (ROWS, 0),
    "a warning below": (f"{ROWS}{INFOROM}\n", 14),
    "a warning above": (f"{INFOROM}\n{ROWS}", 14),
    "an empty line": (f"\n{ROWS}\n", 0),
    "a header": (f"uuid, name\n{ROWS}", 0),
    "carriage returns": (ROWS.replace("\n", "\r\n"), 0),
    "persistence mode": (
        f"Warning: persistence mode is disabled on device 0000:1B:00.0. See the Known Issues section\n{ROWS}",
        0,
    ),
    "a locale": (f"/bin/bash: warning: setlocale: LC_ALL: cannot change locale\n{ROWS}", 0),
    "no newline at the end": (ROWS.rstrip(), 0),
    "bytes that are no text": (f"{ROWS}\udcff\n", 14),
    "NVML is newer": (f"{ROWS}WARNING: NVML version mismatch\n", 0),
}


@pytest.mark.parametrize("said, code", HEALTHY.values(), ids=HEALTHY)
def test_a_gpu_is_counted_by_its_row_whatever_else_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, code: int
) -> None:
    (tmp_path / "said").write_bytes(said.encode(errors="surrogateescape"))
    put_nvidia_smi(tmp_path, f"#!/bin/sh\ncat {tmp_path}/said\necho a warning >&2\nexit {code}\n")
    monkeypatch.setenv("BOX_ROOT", str(tmp_path))
    assert query_gpus("name") == [NAME, NAME]


@pytest.mark.parametrize(
    "said, found",
    [
        ("No running processes found\n", []),
        ("", []),
        ("No devices were found\n", []),
        ("[Not Supported]\n", []),
        ("[N/A], [N/A]\n", []),
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n", []),
        (
            "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 570.195\n",
            [],
        ),
        (
            "Unable to determine the device handle for GPU0: 0000:1B:00.0: Unknown Error\n"
            + ROWS.splitlines()[0],
            [NAME],
        ),
        ("GPU-1, [Insufficient Permissions]\n", ["[Insufficient Permissions]"]),
        ("GPU-1, 4242\n", ["4242"]),
    ],
)
def test_what_is_no_row_of_a_gpu_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, found: list[str]
) -> None:
    (tmp_path / "said").write_text(said)
    put_nvidia_smi(tmp_path, f"#!/bin/sh\ncat {tmp_path}/said\n")
    monkeypatch.setenv("BOX_ROOT", str(tmp_path))
    assert query_gpus("name") == found
