"""Which build of PyTorch scripts/setup.sh installs."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.support.setup_fixtures import (
    checkout,  # noqa: F401  # a fixture
    setup,
    stub_uv,
)


@pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("nvidia-smi") is not None,
    reason="needs Linux without an NVIDIA driver",
)
@pytest.mark.parametrize("index_answers", [True, False])
def test_without_a_gpu_the_cpu_build_is_asked_for_first_and_the_size_of_the_other_is_said(
    checkout: Path, tmp_path: Path, index_answers: bool
) -> None:
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "UV": stub_uv(tmp_path, "nothing" if index_answers else "--torch-backend cpu"),
    }
    done = setup(checkout, env, "train")
    asked = [line for line in (tmp_path / "asked").read_text().splitlines() if " torch" in line]
    assert done.returncode == 0 and "--torch-backend cpu" in asked[0]
    assert len(asked) == (1 if index_answers else 2)
    assert all("-c constraints-cu13.txt torch" in line for line in asked[1:])
    assert ("about 3 GB" in done.stderr) is not index_answers


@pytest.mark.parametrize(
    ("driver", "cuda"),
    [
        ("580.95.05", 13),
        ("595.1", 13),
        ("570.172.08", 12),
        ("535.1", 12),
        ("[N/A]", 13),
        ("WARNING: infoROM is corrupted at gpu 0000:1B:00.0\n570.172.08", 12),
        ("\n580.95.05\n580.95.05\n14 devices", 13),
    ],
)
def test_with_a_gpu_pypis_torch_for_its_driver_is_taken_by_version_and_hash(
    checkout: Path, tmp_path: Path, driver: str, cuda: int
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/nvidia-smi").write_text(
        f"#!/bin/sh\necho '{driver}'; echo 'GPU 0: one (UUID: GPU-1)'; exit 14\n"
    )
    (tmp_path / "bin/nvidia-smi").chmod(0o755)
    env = {
        "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "UV": stub_uv(tmp_path, "nothing"),
    }
    assert setup(checkout, env, "train").returncode == 0
    assert (
        f"-c constraints.txt -c constraints-cu{cuda}.txt torch -r pyproject.toml --extra train"
        in (tmp_path / "asked").read_text()
    )


@pytest.mark.parametrize(
    ("what", "extras"),
    [
        ("train", "--extra train"),
        ("wandb", "--extra train --extra wandb"),
        ("dev", "--extra train --extra wandb --extra dev"),
    ],
)
def test_wandb_is_in_its_own_set_and_in_that_of_the_tests(
    checkout: Path, tmp_path: Path, what: str, extras: str
) -> None:
    env = rented(tmp_path, GPU_580)
    assert setup(checkout, env, what).returncode == 0
    assert (tmp_path / "asked").read_text().rstrip().endswith(f"-r pyproject.toml {extras}")


def test_the_set_with_wandb_serves_all_that_is_smaller_and_not_the_other_way_round(
    checkout: Path, tmp_path: Path
) -> None:
    env = rented(tmp_path, GPU_580)
    asked = tmp_path / "asked"
    for what, installs in (("train", True), ("train", False), ("wandb", True), ("wandb", False)):
        before = asked.read_text().count(" install ") if asked.exists() else 0
        assert setup(checkout, env, what).returncode == 0
        assert (asked.read_text().count(" install ") > before) is installs, what
    for what in ("light", "report", "box", "train"):
        (checkout / ".venv/.ready-train").unlink(missing_ok=True)
        assert setup(checkout, env | {"UV": "/nonexistent"}, what).returncode == 0, what


def rented(tmp_path: Path, smi: str, device: str = "cuda") -> dict[str, str]:
    """The environment of set-up on a rented machine whose nvidia-smi is this script."""
    (tmp_path / "bin").mkdir(exist_ok=True)
    (tmp_path / "bin/nvidia-smi").write_text(f"#!/bin/sh\n{smi}\n")
    (tmp_path / "bin/nvidia-smi").chmod(0o755)
    return {
        "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "UV": stub_uv(tmp_path, "nothing"),
        "NANOLAN_DEVICE": device,
    }


GPU_570 = "case $* in -L) echo 'GPU 0: one (UUID: GPU-1)' ;; *) echo 570.1.2 ;; esac"


GPU_580 = GPU_570.replace("570", "580")


@pytest.mark.parametrize(
    "smi",
    [
        "exit 9",
        "echo NVIDIA-SMI has failed; exit 9",
        "echo No devices were found; exit 6",
        "exit 127",
    ],
)
def test_a_machine_with_gpus_never_gets_a_cpu_torch(
    checkout: Path, tmp_path: Path, smi: str
) -> None:
    done = setup(checkout, rented(tmp_path, smi), "train")
    assert done.returncode == 1 and "the NVIDIA driver does not answer" in done.stderr
    assert (
        " torch" not in (tmp_path / "asked").read_text()
        and not (checkout / ".venv/.ready-train").exists()
    )
    assert setup(checkout, rented(tmp_path, GPU_570), "train").returncode == 0, "the driver came up"
    assert "constraints-cu12.txt torch" in (tmp_path / "asked").read_text()


def test_a_wrong_build_of_torch_is_replaced_on_a_machine_with_gpus(
    checkout: Path, tmp_path: Path
) -> None:
    assert setup(checkout, rented(tmp_path, GPU_570, "cpu"), "train").returncode == 0
    site = checkout / ".venv/lib/python3.11/site-packages/torch-2.13.0+cpu.dist-info"
    site.mkdir(parents=True)
    for smi, words in (
        (GPU_570, "constraints-cu12.txt torch --reinstall-package torch"),
        (GPU_580, "constraints-cu13.txt torch"),
    ):
        assert setup(checkout, rented(tmp_path, smi), "train").returncode == 0
        assert words in (tmp_path / "asked").read_text().splitlines()[-1]
    count = len((tmp_path / "asked").read_text().splitlines())
    assert setup(checkout, rented(tmp_path, GPU_580), "train").returncode == 0
    assert len((tmp_path / "asked").read_text().splitlines()) == count, "in place: nothing is done"


def test_a_rehearsal_takes_the_cpu_build_whatever_nvidia_smi_says(
    checkout: Path, tmp_path: Path
) -> None:
    assert setup(checkout, rented(tmp_path, GPU_570, "cpu"), "train").returncode == 0
    assert "--torch-backend cpu" in (tmp_path / "asked").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have one build")
def test_a_driver_that_comes_up_after_the_first_set_up_replaces_the_cpu_build(
    checkout: Path, tmp_path: Path
) -> None:
    """On a machine of one's own nothing says that it has GPUs: this nvidia-smi answers from its third call on."""
    calls = tmp_path / "calls"
    late = f"echo x >> '{calls}'; [ $(wc -l < '{calls}') -gt 2 ] || exit 9; {GPU_570}"
    env = {k: v for k, v in rented(tmp_path, late).items() if k != "NANOLAN_DEVICE"}
    assert setup(checkout, env, "train").returncode == 0
    asked = (tmp_path / "asked").read_text().splitlines()
    assert "--torch-backend cpu" in asked[-1] and len(calls.read_text().split()) == 2
    (checkout / ".venv/lib/python3.11/site-packages/torch-2.13.0+cpu.dist-info").mkdir(parents=True)
    for what in ("train", "light"):
        assert setup(checkout, env | {"NANOLAN_DEVICE": "cpu"}, what).returncode == 0
    assert (tmp_path / "asked").read_text().splitlines() == asked, "the CPU is asked for"
    assert setup(checkout, env, "train").returncode == 0
    asked = (tmp_path / "asked").read_text().splitlines()
    assert "constraints-cu12.txt torch --reinstall-package torch" in asked[-1]
