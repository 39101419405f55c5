"""environment.json: the software and hardware of an instance."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from nanolan.box.machine_check import environment_here
from nanolan.run.environment import read_environment
from nanolan.run.record import to_json
from nanolan.sim.nvidia_smi import Gpus, nvidia_smi


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    smi = tmp_path / "usr/bin/nvidia-smi"
    smi.parent.mkdir(parents=True)
    smi.write_text(nvidia_smi(Gpus(2, "NVIDIA B200", 183359, "10.0", "580.95.05"), "x"))
    smi.chmod(0o755)
    monkeypatch.setenv("BOX_ROOT", str(tmp_path))
    environment_here.cache_clear()
    return tmp_path


def test_environment_has_python_packages_driver_and_gpus_and_reads_back(box: Path) -> None:
    e = environment_here()
    assert (e.python, e.cpus, e.driver, e.gpus) == (
        platform.python_version(),
        os.cpu_count(),
        "580.95.05",
        ("NVIDIA B200",) * 2,
    )
    assert {"torch", "msgspec"} <= set(e.packages) and read_environment(to_json(e)) == e
    environment_here.cache_clear()


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"python": 3}', b"\xff"])
def test_an_unreadable_environment_is_none(data: bytes) -> None:
    assert read_environment(data) is None
