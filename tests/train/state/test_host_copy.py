"""Copies in host memory are apart from what is trained on, and are made only where there is memory for them."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import torch

from nanolan.train.state.host_copy import HostCopy, available_bytes


def test_a_copy_does_not_change_with_what_it_was_made_of() -> None:
    weights = {"a": torch.ones(3, 2), "b": torch.ones(2, dtype=torch.bfloat16)}
    copy = HostCopy(keep=False).take(weights)
    weights["a"].zero_()
    assert torch.equal(copy["a"], torch.ones(3, 2)) and copy["b"].dtype == torch.bfloat16


@pytest.mark.parametrize("keep", [False, True])
def test_the_memory_of_a_copy_is_used_again_where_it_is_kept(keep: bool) -> None:
    copies = HostCopy(keep)
    tensors = {"a": torch.ones(3, 2), "losses": torch.ones(4)}
    assert copies.missing_bytes(tensors) == 4 * 10
    first = copies.take(tensors)["a"]
    tensors["losses"] = torch.ones(5)  # it grows from save to save
    assert copies.missing_bytes(tensors) == (4 * 5 if keep else 4 * 11)
    second = copies.take(tensors)["a"]
    assert (first.data_ptr() == second.data_ptr()) == keep
    assert copies.take({"a": torch.zeros(3, 2)})["a"].sum() == 0


@pytest.mark.parametrize(
    ("limit", "used", "stat", "free"),
    [
        ("max", "500", "inactive_file 100\n", None),
        ("1000", "700", "anon 5\ninactive_file 100\n", 400),
        ("1000", "700", "", 300),
        ("1000", "1000", "inactive_file 0\n", 0),
        ("", "", "", None),
    ],
)
def test_a_container_has_no_more_memory_than_its_limit(
    limit: str, used: str, stat: str, free: int | None, tmp_path: Path
) -> None:
    for name, text in (("max", limit), ("current", used), ("stat", stat)):
        (tmp_path / f"memory.{name}").write_text(text)
    want = free if free is not None else psutil.virtual_memory().available
    assert available_bytes(tmp_path) == pytest.approx(want, rel=0.5)


def test_a_machine_without_cgroups_says_what_is_available(tmp_path: Path) -> None:
    assert 0 < available_bytes(tmp_path / "none") <= psutil.virtual_memory().total
