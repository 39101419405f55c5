"""Hardware: names as CUDA gives them, the work of a token, memory."""

from __future__ import annotations

import pytest
import torch

from nanolan.model.gpt import GPTConfig
from nanolan.train.progress import flops_per_token, mfu_per_token, peak_flops, peak_gib

D20 = GPTConfig(2048, 65_536, 20, 10, 10, 1280)


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H200", 989),
        ("NVIDIA H200 NVL", 835),
        ("NVIDIA H20", 148),
        ("NVIDIA B200", 2250),
        ("NVIDIA GB200", 2500),
        ("NVIDIA GH200 480GB", 989),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA A10", 125),
        ("NVIDIA A10G", None),
        ("NVIDIA L40S", 362),
        ("NVIDIA L40", 181),
        ("NVIDIA L4", 121),
        ("NVIDIA RTX A6000", 154.8),
        ("NVIDIA RTX 6000 Ada Generation", 364.2),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA A40", 149.7),
        ("Tesla V100-SXM2-16GB", None),
        ("AMD Instinct MI300X", None),
        ("", None),
    ],
)
def test_a_gpus_peak_by_its_most_specific_name_or_none(name: str, tflops: float | None) -> None:
    assert peak_flops(name) == (None if tflops is None else tflops * 1e12)


def test_a_token_of_d20_is_the_published_work() -> None:
    assert flops_per_token(D20, 2048) == pytest.approx(3.491758e9, rel=1e-6)


def test_there_is_no_utilisation_on_the_cpu() -> None:
    assert mfu_per_token(D20, 2048, torch.device("cpu"), 8) is None


def test_memory_on_the_cpu_is_what_the_process_has_held() -> None:
    before = peak_gib("cpu")
    assert 0.05 < before < 200
    held = torch.ones(int((before + 0.2) * 2**28))
    assert peak_gib("cpu") > before + 0.1, len(held)
