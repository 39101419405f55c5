"""Which GPU types a `gpu=` setting means. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from nanolan.errors import quoted

ANY = "any"
# GPU names that Shadeform has used: one without stock today is not a typo
GPUS = (
    "A10",
    "A100",
    "A100_80G",
    "A16",
    "A30",
    "A40",
    "A4000",
    "A5000",
    "A6000",
    "B200",
    "B300",
    "GB200",
    "GB300",
    "GH200",
    "H100",
    "H100_nvl",
    "H200",
    "L4",
    "L40",
    "L40S",
    "RTX4000Ada",
    "RTX4090",
    "RTX5090",
    "RTX6000",
    "RTX6000Ada",
    "RTXPro6000",
    "V100",
    "V100_32G",
)


def normalized(gpu: str) -> str:
    """A GPU's name without blanks, dashes and letter case."""
    return re.sub(r"[ _-]", "", gpu).lower()


def matching(wanted: str, listed: Iterable[str]) -> set[str]:
    """The GPU types of the market that `wanted` means; "" and "any" mean all of them.

    An exact type wins, so A10 is never an A100. Then its variants count (A100: A100_80G), then, for a name that is no
    type itself, every type that contains it.
    """
    types, name = set(listed), normalized(wanted)
    if name in ("", ANY):
        return types
    for fits in (
        [gpu for gpu in types if normalized(gpu) == name],
        [gpu for gpu in types if normalized(gpu.split("_")[0]) == name],
    ):
        if fits:
            return set(fits)
    if name in map(normalized, GPUS):
        return set()
    return {gpu for gpu in types if name in normalized(gpu)}


def is_known(wanted: str, listed: Iterable[str]) -> bool:
    """Whether some GPU type, for rent today or not, is or contains `wanted`."""
    return wanted.lower() == ANY or any(
        normalized(wanted) in normalized(gpu) for gpu in (*GPUS, *listed)
    )


def unknown_gpu_text(wanted: str, listed: Iterable[str]) -> str:
    """The message about a name that no GPU type has, with the type that was probably meant."""
    known = {normalized(gpu): gpu for gpu in sorted({*GPUS, *listed})}
    guess = difflib.get_close_matches(normalized(wanted), known, 1, 0.5)
    hint = (
        f"Did you mean gpu={known[guess[0]]}?"
        if guess
        else f"Known are {', '.join(known.values())}"
    )
    return f"unknown GPU {quoted(wanted)}. {hint}"
