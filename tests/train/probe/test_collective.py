"""The sum over all ranks is checked number by number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from nanolan.errors import RunFailed
from nanolan.train.probe.collective import check_gather, check_sum, measure
from nanolan.train.processes import Processes

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Broken(Processes):
    """Rank 0 of two whose other rank sends `more` to the first element only, and gathers `parts`."""

    first_more: float = 2.0
    more: float = 2.0
    parts: tuple[float, ...] = (0.0, 1.0)

    def sum_(self, tensor: torch.Tensor) -> None:
        tensor += self.more
        tensor[0] += self.first_more - self.more

    def gather(self, part: torch.Tensor) -> torch.Tensor:
        return torch.tensor(self.parts)


def test_one_rank_alone_sums_gathers_and_compiles_nothing() -> None:
    found = measure({"elements": 100}, Processes(0, 1, CPU))
    assert found["ranks"] == 1 and found["sum_s"] >= 0 and "compile_s" not in found


@pytest.mark.parametrize("first, others", [(2.5, 2.0), (2.0, 2.5), (float("nan"), 2.0), (0.0, 0.0)])
def test_one_wrong_number_is_enough(first: float, others: float) -> None:
    with pytest.raises(RunFailed, match="rank 0: a sum over all ranks is .* not 3"):
        check_sum(Broken(0, 2, CPU, first, others), 64)


def test_a_right_sum_and_parts_in_their_order_pass() -> None:
    check_sum(Broken(0, 2, CPU), 64)
    check_gather(Broken(0, 2, CPU))


@pytest.mark.parametrize("parts", [(1.0, 0.0), (0.0, 0.0), (0.0,)])
def test_parts_out_of_place_are_told(parts: Any) -> None:
    with pytest.raises(RunFailed, match="gathered"):
        check_gather(Broken(0, 2, CPU, parts=parts))
