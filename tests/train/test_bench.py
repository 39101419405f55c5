"""The bench: every case runs and is counted, what is compared is what is said, what cannot be measured is refused."""
from __future__ import annotations

from itertools import islice
from typing import Any

import pytest
import torch

from nanolan.train.bench import CASES, COUNTS, PHASES, line, main, measure
from nanolan.train.model import GPT
from nanolan.train.world import World

from .bench_shape import TINY

FIGURES: dict[str, Any] = {"tok_per_s": 3000.0, "real_per_s": 2000.0, "trained_per_s": 1000.0, "generated_per_s": 0.0,
                           "step_s": 0.5, "cpu_s": 0.9, "peak_gib": 0.7, "mfu": None}


def test_every_phase_has_both_paths() -> None:
    assert PHASES == ("mid", "sft", "rl") == tuple(COUNTS)
    assert set(CASES) == {(phase, path) for phase in PHASES for path in ("plain", "ours")}


@pytest.mark.parametrize(("phase", "path"), list(CASES))
def test_a_case_is_measured(phase: str, path: str) -> None:
    f: Any = measure(TINY, phase, path)
    assert f["tok_per_s"] >= f["real_per_s"] >= f["trained_per_s"] > 0
    assert (f["generated_per_s"] > 0) == (phase == "rl")
    assert "tok/s" in line(phase, f)


@pytest.mark.parametrize(("phase", "path"), list(CASES))
def test_a_step_changes_every_weight(phase: str, path: str) -> None:
    model = GPT.fresh(TINY.config)
    torch.nn.init.normal_(model.lm_head.weight, std=0.02)
    before = {key: t.clone() for key, t in model.state_dict().items()}
    list(islice(CASES[phase, path](TINY, phase, model, World(0, 1, torch.device("cpu"))), 2))
    assert [key for key, t in model.state_dict().items() if torch.equal(t, before[key])] == []


def test_rl_counts_all_answers_and_trains_those_that_teach() -> None:
    tallies = {}
    for path in ("plain", "ours"):
        model = GPT.fresh(TINY.config)
        [tallies[path]] = islice(CASES["rl", path](TINY, "rl", model, World(0, 1, torch.device("cpu"))), 1)
    most = TINY.questions * TINY.samples * TINY.new_tokens
    assert tallies["plain"].trained == tallies["plain"].generated <= most
    assert tallies["ours"].trained < tallies["ours"].generated / 2
    assert tallies["ours"].generated == pytest.approx(tallies["plain"].generated, rel=0.2)


@pytest.mark.parametrize(("change", "says"), [
    ({}, "2,000 real"), ({"generated_per_s": 7.0}, "7 generated"), ({"mfu": 0.4567}, "45.7% MFU"), ({}, "0.70 GiB"),
    ({}, "0.500 s/step (0.900 CPU)")])
def test_a_line_says_what_was_measured(change: dict[str, float], says: str) -> None:
    assert says in line("mid ours", FIGURES | change)
    assert ("MFU" in line("mid", FIGURES | change)) == ("mfu" in change)


@pytest.mark.parametrize(("argv", "says"), [
    (["d99"], "no shape 'd99'; there are cpu-tiny, d20"), (["cpu-tiny", "base"], "no phase 'base'; there are mid, sft, rl"),
    pytest.param(["d20"], "needs a CUDA device", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="has CUDA"))])
def test_what_cannot_be_measured_is_refused(argv: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    assert says in capsys.readouterr().err
