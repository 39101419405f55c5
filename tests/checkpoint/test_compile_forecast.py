"""Whether to compile: by what the steps that are left would save."""

from __future__ import annotations

import pytest

from nanolan.checkpoint.compile_forecast import compile_forecast

D20, D32 = (3.49e9, 20), (1.208e10, 32)  # FLOP a token, layers
H100, B200, A100, RTX4090 = 989e12, 2250e12, 312e12, 165.2e12
MID, SFT = (809, 524_288, False), (701, 16_400, True)  # steps, tokens of one, flex_attention

TABLE = [
    ("sft on 8 H100", D20, SFT, 8, H100, False),
    ("sft on 8 B200", D20, SFT, 8, B200, False),
    ("sft on 8 A100", D20, SFT, 8, A100, False),
    ("sft on an H100", D20, SFT, 1, H100, False),
    ("sft on an A100", D20, SFT, 1, A100, True),
    ("sft on an RTX 4090", D20, SFT, 1, RTX4090, True),
    ("sft of d32 on 8 H100", D32, SFT, 8, H100, False),
    ("sft of d32 on an H100", D32, SFT, 1, H100, True),
    ("mid on 8 H100", D20, MID, 8, H100, True),
    ("mid on 8 B200", D20, MID, 8, B200, True),
    ("mid of d32 on 8 B200", D32, MID, 8, B200, True),
    ("20 steps of mid on 8 H100", D20, (20, *MID[1:]), 8, H100, False),
    ("20 steps of mid on an RTX 4090", D20, (20, *MID[1:]), 1, RTX4090, True),
    ("the last step", D20, (0, *MID[1:]), 8, H100, False),
]


@pytest.mark.parametrize(
    ("model", "phase", "gpus", "peak", "worth"),
    [row[1:] for row in TABLE],
    ids=[row[0] for row in TABLE],
)
def test_what_is_compiled(
    model: tuple[float, int],
    phase: tuple[int, int, bool],
    gpus: int,
    peak: float,
    worth: bool,
) -> None:
    (flops, layers), (steps, tokens, flex) = model, phase
    assert compile_forecast(steps, flops * tokens / gpus, peak, layers, flex=flex).worth is worth


def test_a_step_that_the_host_bounds_is_no_faster_compiled() -> None:
    forecast = compile_forecast(701, 3.49e9 * 2050, B200, 20, flex=True)
    assert forecast == (82.0, 0.0)


def test_the_seconds_of_a_large_step_are_those_of_its_kernels() -> None:
    flops = 3.49e9 * 524_288 / 8
    assert compile_forecast(1, flops, H100, 20, flex=False).saves_s == pytest.approx(0.46, abs=0.01)
