"""The bench: every case runs and is counted, what is compared is what is said, what cannot be measured is refused."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import pytest
import torch

from nanolan.errors import UsageProblem
from nanolan.model.gpt import GPT
from nanolan.train.processes import Processes
from tests.bench.bench_shape import TINY
from tests.bench.cases import CASES, Tally
from tests.bench.trainer import (
    COUNTED,
    PATHS,
    PHASES,
    Step,
    line,
    main,
    measure,
    own_case,
    ratios,
    run,
)
from tests.bench.workload import SHAPES

STEP = Step(Tally(3000, 2000, 1000), 0.5, 0.9, 0.7, None)


def test_every_phase_has_both_paths() -> None:
    assert PHASES == ("mid", "sft", "rl") == tuple(COUNTED)
    assert set(CASES) == {(phase, path) for phase in PHASES for path in PATHS}


@pytest.mark.parametrize(("phase", "path"), list(CASES))
def test_a_case_is_measured(phase: str, path: str) -> None:
    [first, second] = islice(measure(TINY, phase, path), 2)
    t = first.tally
    assert t.positions >= t.real >= t.trained > 0
    assert (t.generated > 0) == (phase == "rl")
    assert min(first.wall_s, first.cpu_s, first.peak_gib) > 0
    assert second.peak_gib >= first.peak_gib
    assert "tok/s" in line(phase, [first, second])


@pytest.mark.parametrize(("phase", "path"), list(CASES))
def test_a_step_changes_every_weight(phase: str, path: str) -> None:
    model = GPT.fresh(TINY.config)
    torch.nn.init.normal_(model.lm_head.weight, std=0.02)
    before = {key: t.clone() for key, t in model.state_dict().items()}
    list(islice(CASES[phase, path](TINY, phase, model, Processes(0, 1, torch.device("cpu"))), 2))
    assert [key for key, t in model.state_dict().items() if torch.equal(t, before[key])] == []


def test_rl_counts_all_answers_and_trains_those_that_teach() -> None:
    tallies = {}
    for path in PATHS:
        model = GPT.fresh(TINY.config)
        [tallies[path]] = islice(
            CASES["rl", path](TINY, "rl", model, Processes(0, 1, torch.device("cpu"))), 1
        )
    most = TINY.questions * TINY.samples * TINY.new_tokens
    assert tallies["plain"].trained == tallies["plain"].generated <= most
    assert tallies["ours"].trained < tallies["ours"].generated / 2
    assert tallies["ours"].generated == pytest.approx(tallies["plain"].generated, rel=0.2)


@pytest.mark.slow
def test_a_case_has_a_process_of_its_own_that_ends_with_it() -> None:
    with own_case("cpu-tiny", "mid", "ours") as case:
        steps = [case.step() for _ in range(2)]
        assert case.child.poll() is None
    assert case.child.returncode
    assert all(s.tally == Tally(2048, s.tally.real, s.tally.trained) for s in steps)


@pytest.mark.slow
def test_a_case_that_fails_says_why() -> None:
    with (
        own_case("cpu-tiny", "base", "ours") as case,
        pytest.raises(UsageProblem, match=r"base ours: KeyError: \('base', 'ours'\)"),
    ):
        case.step()


@pytest.mark.slow
def test_both_paths_make_the_same_number_of_steps() -> None:
    steps = run("cpu-tiny", "mid")
    assert {path: len(made) for path, made in steps.items()} == dict.fromkeys(
        PATHS, SHAPES["cpu-tiny"].steps
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, "6,000 tok/s"),
        ({}, "4,000 real"),
        ({}, "0.70 GiB"),
        ({}, "0.500 s/step (0.900 CPU)"),
        ({"tally": Tally(3000, 2000, 1000, 7)}, "14 generated"),
        ({"mfu_per_token": 1e-4}, "40.0% MFU"),
    ],
)
def test_a_line_says_what_was_measured(change: dict[str, float], says: str) -> None:
    text = line("mid ours", [replace(STEP, **change)])
    assert says in text
    assert ("MFU" in text) == ("mfu_per_token" in change)
    assert ("generated" in text) == ("tally" in change)


def test_the_ratio_is_the_median_of_step_against_step() -> None:
    fast, slow = replace(STEP, wall_s=0.25, cpu_s=0.3), replace(STEP, wall_s=9.0, cpu_s=9.0)
    text = ratios("mid", [fast, fast, slow], [STEP, STEP, replace(slow, peak_gib=1.4)])
    assert text == "mid ours / plain: 2.00x real tokens/s (3.00x by CPU time) at 0.50x memory"
    more = replace(STEP, tally=Tally(9, 9, 9, 30), wall_s=1.0)
    assert "1.50x generated tokens/s" in ratios(
        "rl", [more], [replace(STEP, tally=Tally(9, 9, 9, 10))]
    )


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["d99"], "no shape 'd99'; there are cpu-tiny, d20"),
        (["cpu-tiny", "base"], "no phase 'base'; there are mid, sft, rl"),
        pytest.param(
            ["d20"],
            "needs a CUDA device",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="has CUDA"),
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(
    argv: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    assert says in capsys.readouterr().err
