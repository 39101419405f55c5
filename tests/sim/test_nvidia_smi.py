"""The stand-in for nvidia-smi, run by the real /bin/sh."""

from __future__ import annotations

import subprocess

import pytest

from nanolan.sim.nvidia_smi import gpus_of, nvidia_smi
from nanolan.sim.shadeform.catalogue import find
from nanolan.sim.shadeform.sample_offers import CUDA_12_8, CUDA_13_0, PLAIN, SAMPLE

BOX = "1dc915dd-8899-4b4f-862a-f63fb2b3dc3d"


def configuration(cloud, kind):
    return find(SAMPLE, cloud, kind)["configuration"]


def run(tmp_path, gpus, *words):
    script = tmp_path / "nvidia-smi"
    script.write_text(nvidia_smi(gpus, BOX))
    done = subprocess.run(
        ["/bin/sh", script, *words], capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"}
    )
    return done.returncode, done.stdout.splitlines(), done.stderr


def test_one_row_per_gpu_with_the_fields_in_the_order_asked(tmp_path):
    gpus = gpus_of(configuration("hyperstack", "H100x2"), CUDA_12_8)
    code, rows, _ = run(
        tmp_path,
        gpus,
        "--query-gpu=index,name,memory.total,driver_version,uuid,memory.used",
        "--format=csv,noheader,nounits",
    )
    assert code == 0
    assert rows == [
        "0, NVIDIA H100 PCIe, 81559, 570.195.03, GPU-1dc915dd-8899-4b4f-862a-000000000000, 0",
        "1, NVIDIA H100 PCIe, 81559, 570.195.03, GPU-1dc915dd-8899-4b4f-862a-000000000001, 0",
    ]
    assert run(tmp_path, gpus, "--query-gpu=memory.used,index", "--format=csv,noheader")[1] == [
        "0 MiB, 0",
        "0 MiB, 1",
    ]
    assert run(tmp_path, gpus, "--query-gpu=index,name", "--format=csv")[1][0] == "index, name"


def test_the_list_of_gpus(tmp_path):
    code, rows, _ = run(
        tmp_path, gpus_of(configuration("hyperstack", "8x_b200_pcie_192gb"), CUDA_13_0), "-L"
    )
    assert code == 0 and len(rows) == 8
    assert rows[7] == "GPU 7: NVIDIA B200 (UUID: GPU-1dc915dd-8899-4b4f-862a-000000000007)"


def test_fewer_gpus_than_rented_and_none_at_all(tmp_path):
    assert (
        len(run(tmp_path, gpus_of(configuration("hyperstack", "H100x4"), CUDA_12_8, 3), "-L")[1])
        == 3
    )
    code, rows, _ = run(
        tmp_path, gpus_of(configuration("hyperstack", "H100x4"), CUDA_12_8, 0), "-L"
    )
    assert (code, rows) == (6, ["No devices were found"])


@pytest.mark.parametrize(
    "words", [("--query-gpu=index,colour", "--format=csv,noheader"), ("--gpu-reset",)]
)
def test_what_it_does_not_know_it_refuses(tmp_path, words):
    code, rows, error = run(
        tmp_path, gpus_of(configuration("hyperstack", "H100"), CUDA_12_8), *words
    )
    assert code == 2 and ("colour" in rows[0] if rows else "--gpu-reset" in error)


def test_no_other_process_is_on_the_gpus(tmp_path):
    gpus = gpus_of(configuration("hyperstack", "H100"), CUDA_12_8)
    assert run(tmp_path, gpus, "--query-compute-apps=pid,name", "--format=csv,noheader") == (
        0,
        [],
        "",
    )


@pytest.mark.parametrize(
    "cloud, kind, image",
    [
        ("hotaisle", "MI300X", PLAIN),
        ("massedcompute", "A6000", PLAIN),
        ("digitalocean", "cpu_small", PLAIN),
    ],
)
def test_no_nvidia_smi_without_card_or_driver(cloud, kind, image):
    assert gpus_of(configuration(cloud, kind), image) is None


def test_an_unknown_card_has_the_memory_of_its_offer():
    machine = configuration("hyperstack", "H100") | {"gpu_type": "B400", "vram_per_gpu_in_gb": 500}
    gpus = gpus_of(machine, CUDA_13_0)
    assert gpus and (gpus.name, gpus.memory_mib, gpus.driver) == (
        "NVIDIA B400",
        500_000,
        "580.95.05",
    )
