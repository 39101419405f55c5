"""The optimizer of a state for another number of processes: the slices of Muon's momentum are dealt anew.

The matrices of one shape are stacked and padded with zeros, and every rank has an equal slice of them (nanolan/train/optim.py).
Everything else is equal on all ranks, or is a rank's random numbers, which training does not use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from nanolan.errors import BadAnswer

Read = Callable[[int], Mapping[str, Tensor]]  # what a rank has saved


@dataclass(frozen=True)
class Dealt:
    """How `total` matrices are dealt to `ranks` in equal slices, the last ones padded."""

    total: int
    ranks: int

    @property
    def each(self) -> int:
        """Matrices of a slice, with the padding."""
        return -(-self.total // self.ranks)

    def to(self, rank: int) -> range:
        """The matrices of a rank, without the padding."""
        ends = (min(r * self.each, self.total) for r in (rank, rank + 1))
        return range(*ends)


def resharded(
    read: Read, totals: Mapping[str, int], saved: int, rank: int, ranks: int
) -> dict[str, Tensor]:
    """The slices of `rank` of `ranks`, from those that `saved` ranks have saved; none if no step was made.

    `totals`: the key of a slice -> number of matrices dealt. BadAnswer when a slice is missing or has another size.
    """
    first = read(0)
    found = {
        key: first[key].new_zeros((Dealt(total, ranks).each, *first[key].shape[1:]))
        for key, total in totals.items()
        if key in first
    }
    for old in range(saved):
        common = {
            key: both
            for key in found
            if (
                both := _common(
                    Dealt(totals[key], saved).to(old), Dealt(totals[key], ranks).to(rank)
                )
            )
        }
        state = read(old) if common else {}
        for key, both in common.items():
            here = _slice(state, key, Dealt(totals[key], saved), old)
            found[key][_within(both, rank * len(found[key]))] = here[_within(both, old * len(here))]
    return found


def _common(a: range, b: range) -> range:
    return range(max(a.start, b.start), min(a.stop, b.stop))


def _within(part: range, start: int) -> slice:
    """`part` counted from `start`."""
    return slice(part.start - start, part.stop - start)


def _slice(state: Mapping[str, Tensor], key: str, dealt: Dealt, rank: int) -> Tensor:
    found = state.get(key)
    if found is None:
        raise BadAnswer(f"rank {rank}'s optimizer has no {key}")
    if found.ndim == 0 or len(found) != dealt.each:
        raise BadAnswer(
            f"rank {rank}'s {key} is no slice of {dealt.total} among {dealt.ranks} ranks"
        )
    return found
