"""docs/scale.md says what the model says, and the model obeys what is known."""

from __future__ import annotations

import pytest

from nanolan.checkpoint.model_size import ModelSize
from nanolan.settings.settings import ROOT
from tests.bench.scale import (
    B200,
    D20_SIZE,
    H100,
    INSTANCES,
    NETWORKS,
    STEPS,
    Gpu,
    Setup,
    least_gbit_s,
    scale,
    step_bytes,
)

KINDS = pytest.mark.parametrize("gpu", [H100, B200], ids=lambda g: g.name)
PHASES = pytest.mark.parametrize("phase", STEPS)


def test_the_page_has_the_tables_that_the_bench_prints() -> None:
    page = (ROOT / "docs/scale.md").read_text()
    tables = "\n".join(scale()).split("\n\n")
    assert len(tables) == 5 and all(table in page for table in tables)


@KINDS
@PHASES
def test_more_instances_always_cost_more(phase: str, gpu: Gpu) -> None:
    for gbit_s in (*NETWORKS, float("inf")):
        dollars = [Setup(gpu, 8, n, gbit_s).dollars(phase) for n in (1, *INSTANCES)]
        assert dollars == sorted(dollars) and dollars[1] > 1.3 * dollars[0]


@KINDS
@PHASES
def test_fewer_gpus_of_an_instance_cost_less_and_take_longer(phase: str, gpu: Gpu) -> None:
    setups = [Setup(gpu, n) for n in (1, 2, 4, 8)]
    dollars = [s.dollars(phase) for s in setups]
    times = [s.run_s(phase) for s in setups]
    assert dollars == sorted(dollars) and times == sorted(times, reverse=True)


@KINDS
@pytest.mark.parametrize("instances", INSTANCES)
def test_the_network_from_which_a_step_is_faster_is_where_it_is_equal(
    gpu: Gpu, instances: int
) -> None:
    least = least_gbit_s("mid", gpu, instances)
    assert least is not None
    equal = Setup(gpu, 8, instances, least).step_s("mid")
    assert equal == pytest.approx(Setup(gpu).step_s("mid"))
    assert least_gbit_s("sft", gpu, instances) is None


def test_the_bytes_of_a_step_are_those_of_the_optimizer() -> None:
    # Muon's part is the 2.36 GB of docs/performance.md
    table = 2 * D20_SIZE.vocab_size * D20_SIZE.n_embd
    assert 6 * (D20_SIZE.n_params - table) == pytest.approx(2.36e9, rel=0.01)
    assert step_bytes(D20_SIZE) == pytest.approx(3.37e9, rel=0.01)


def test_a_larger_model_needs_the_same_network() -> None:
    d32 = ModelSize(65_536, 32, 2048)
    bytes_per_parameter = [step_bytes(s) / s.n_params for s in (D20_SIZE, d32)]
    assert bytes_per_parameter == pytest.approx([6.0, 6.0])
