"""The bench: both paths train the same, and what it prints is what it says."""
from __future__ import annotations

from dataclasses import replace
from itertools import islice

import pytest
import torch

from nanolan.train.bench import CASES, SHAPES, all_logits, line, main, measure
from nanolan.train.model import GPT, GPTConfig

TINY = replace(SHAPES["cpu-tiny"], config=GPTConfig(64, 128, 1, 2, 2, 32), usual=20, steps=1)


@pytest.mark.parametrize(("phase", "path"), list(CASES))
def test_the_work_of_a_step_is_counted_right(phase: str, path: str) -> None:
    for works in islice(CASES[phase, path](TINY, phase), 3):
        for w in works:
            assert w.trained == int((w.batch.targets >= 0).sum())
            assert 0 < w.trained <= w.real <= w.batch.ids.numel()


def test_both_paths_of_sft_train_32_conversations_a_step() -> None:
    trained = {path: sum(w.trained for works in islice(CASES["sft", path](TINY, "sft"), 40) for w in works)
               for path in ("ours", "plain")}
    assert trained["ours"] == pytest.approx(trained["plain"], rel=0.1)


def test_both_losses_are_the_same() -> None:
    model = GPT.fresh(TINY.config)
    torch.nn.init.normal_(model.lm_head.weight)
    [w, *_] = next(CASES["sft", "plain"](TINY, "sft"))
    ids, targets, _ = w.batch
    assert model.loss_sum(ids, targets).item() == pytest.approx(all_logits(model)(ids, targets).item(), rel=1e-5)


@pytest.mark.parametrize(("phase", "path"), list(CASES))
def test_a_case_is_measured(phase: str, path: str) -> None:
    figures = measure(TINY, phase, path)
    assert figures["tok_per_s"] >= figures["real_per_s"] >= figures["trained_per_s"] > 0      # type: ignore[operator]
    assert "tok/s" in line(phase, figures)      # type: ignore[arg-type]


@pytest.mark.parametrize(("argv", "says"), [
    (["d99"], "no shape 'd99'; there are cpu-tiny, d20"), (["cpu-tiny", "base"], "no phase 'base'"),
    pytest.param(["d20"], "needs a CUDA device", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="has CUDA"))])
def test_what_cannot_be_measured_is_refused(argv: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    assert says in capsys.readouterr().err
