"""`just gpu-check` as it is typed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from nanolan.gpu_check.parts import PARTS
from nanolan.settings.settings import ROOT


def gpu_check(folder: Path, *words: str, limit_s: float = 60.0) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "NANOLAN_CALLED_FROM": str(folder), "BOX_ROOT": str(folder)}
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts/gpu_check.py"), *words],
        env=env,
        capture_output=True,
        text=True,
        timeout=limit_s,
        stdin=subprocess.DEVNULL,
    )


def no_gpu(folder: Path) -> None:
    (folder / "usr/bin").mkdir(parents=True)
    (folder / "usr/bin/nvidia-smi").write_text("#!/bin/sh\necho No devices were found\nexit 6\n")
    (folder / "usr/bin/nvidia-smi").chmod(0o755)


def test_a_machine_without_gpus_is_told_so_at_once_in_one_line(tmp_path: Path) -> None:
    no_gpu(tmp_path)
    done = gpu_check(tmp_path)
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr == (
        "error: nvidia-smi shows no GPU here; --device cpu rehearses the check\n"
    )
    assert not (tmp_path / "gpu-check.json").exists()


def test_an_unknown_part_is_a_mistake_in_the_command(tmp_path: Path) -> None:
    done = gpu_check(tmp_path, "part=ncl", "--device", "cpu")
    assert done.returncode == 2 and "there is facts, user, nccl" in done.stderr


@pytest.mark.slow
def test_the_facts_of_this_machine_are_a_row_and_a_file(tmp_path: Path) -> None:
    done = gpu_check(tmp_path, "--device=cpu", "--part=facts", limit_s=150)
    assert done.returncode == 0, done.stderr
    [part] = json.loads((tmp_path / "gpu-check.json").read_bytes())["parts"]
    assert part["state"] == "ok" and part["figures"]["cpus"] == os.cpu_count()
    assert "2 CPU ranks: a rehearsal, model toy" in done.stdout and "facts" in done.stdout


@pytest.mark.slow  # every part with PyTorch: minutes
@pytest.mark.timeout(1700)
def test_every_part_runs_on_the_cpu_and_nothing_is_left(tmp_path: Path) -> None:
    done = gpu_check(
        tmp_path, "--device=cpu", "--seconds=1500", f"--folder={tmp_path}", limit_s=1600
    )
    found = json.loads((tmp_path / "gpu-check.json").read_bytes())
    parts = {p["name"]: p for p in found["parts"]}
    assert list(parts) == list(PARTS)
    assert {n: p["reason"] for n, p in parts.items() if p["state"] != "ok"} == {}
    assert done.returncode == 0
    figures = {name: p["figures"] for name, p in parts.items()}
    assert figures["user"]["ranks"] == 2 and figures["user"]["compile_s"] > 0
    assert figures["nccl"]["sum_gb_s"] > 0 and figures["attention"]["math"]["ms"] > 0
    assert figures["mid"]["tok_per_s"] > 0 and figures["sft"]["tok_per_s"] > 0
    assert figures["agreement"]["worst"] < 1e-3
    assert set(figures["decode"]["rows"]) == {"2", "4"} and figures["decode"]["greedy_same"] == 1
    assert figures["rl"]["update_s"] > 0 and figures["oom"]["after"] == 2
    assert figures["save"]["state_gb"] > 0 and figures["soak"]["steps"] > 1
    left = [p for p in psutil.process_iter(["cmdline"]) if p.pid != os.getpid()]
    assert not [p for p in left if str(tmp_path) in " ".join(p.info["cmdline"] or ())]
    assert [p.name for p in tmp_path.iterdir()] == ["gpu-check.json"]
