"""Forecasts whether compiling a phase's model takes less time than it saves. Pure; shared by laptop and trainer.

No figure was measured on a GPU. Seconds to compile: cold, on two cores, on a stub of the CUDA libraries. The host's time of a
step: 25-33 ms at d20 when compiled (the same stub), 2,246 launches of about 10 us when not (the fake device). How much
longer the GPU computes without fused kernels is an estimate, rather too high: then too much is compiled, which costs a
minute, and not too little, which would cost more.
"""

from __future__ import annotations

from typing import NamedTuple

D20_LAYERS = 20
COMPILE_S = 41.0  # of d20
FLEX_S = 41.0  # flex_attention's kernels and their check, besides
HOST_S = 0.03  # of a step of d20, compiled or not
MFU = 0.5  # of compiled kernels
PLAIN = 2.0  # the time of kernels that are not fused, in that of fused ones


class CompileForecast(NamedTuple):
    """Seconds of a phase."""

    takes_s: float
    saves_s: float

    @property
    def worth(self) -> bool:
        return self.saves_s > self.takes_s


def compile_forecast(
    steps: int, step_flops: float, peak_flops: float, n_layer: int, *, flex: bool
) -> CompileForecast:
    """For `steps` steps of `step_flops` on one GPU. A step takes as long as the host or the GPU, whichever is slower."""
    kernels_s = step_flops / (MFU * peak_flops)
    host_s = HOST_S * n_layer / D20_LAYERS
    saved_s = max(host_s, PLAIN * kernels_s) - max(host_s, kernels_s)
    takes_s = (COMPILE_S + FLEX_S * flex) * n_layer / D20_LAYERS
    return CompileForecast(takes_s, steps * saved_s)
