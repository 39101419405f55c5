"""Packing: whole conversations into rows of one fixed length, by best fit. Pure, works on lengths only.

Static rows compile once and waste ~1 % on padding, where padding each batch to its longest wastes half.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Sequence

LOOK_AHEAD = 100  # conversations to choose from; keeps the shuffled order nearly as it was


def pack(lengths: Sequence[int], capacity: int, look_ahead: int = LOOK_AHEAD) -> list[list[int]]:
    """Rows of indices into `lengths` whose lengths add up to at most `capacity`; each index exactly once.

    A row begins with the conversation that has waited longest, then takes the longest that still fits.
    Every length must be between 1 and `capacity`.
    """
    rows: list[list[int]] = []
    waiting: list[tuple[int, int]] = []  # (length, index), sorted
    order = iter(range(len(lengths)))
    while True:
        for i in order:
            insort(waiting, (lengths[i], i))
            if len(waiting) >= look_ahead:
                break
        if not waiting:
            return rows
        first = min(waiting, key=lambda item: item[1])
        waiting.remove(first)
        row, room = [first[1]], capacity - first[0]
        while (at := bisect_right(waiting, (room, len(lengths)))) > 0:
            length, i = waiting.pop(at - 1)
            row.append(i)
            room -= length
        rows.append(row)
