"""A world's faults by the words of a command line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from nanolan.errors import UsageProblem
from nanolan.sim.world import World


class Noted:
    """A cloud that notes what is asked of it."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def switch(self, *words: Any) -> None:
        self.asked.append(words)

    def fault(self, *words: Any) -> None:
        self.asked.append(words)


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)  # not started
    made.cloud = Noted()  # type: ignore[assignment]
    return made


CREATE = "POST /v1/instances/create"


@pytest.mark.parametrize(
    "words, asked",
    [
        ("gpu-count-wrong:7", ("gpu_count_wrong", 7, None)),
        ("gpu-count-wrong:7@1", ("gpu_count_wrong", 7, 1)),
        ("goes-to-error", ("goes_to_error", True, None)),
        ("goes-to-error@2", ("goes_to_error", True, 2)),
        ("vanishes:1.5", ("vanishes", 1.5, None)),
        ("delete_ignored:2", ("delete_ignored", 2, None)),
        ("create-out-of-stock@1", (CREATE, "out_of_stock", 1)),
        ("create-reset-after-effect", (CREATE, "reset_after_effect", None)),
    ],
)
def test_a_fault_is_for_all_machines_or_the_first_ones(
    world: World, words: str, asked: tuple[Any, ...]
) -> None:
    world.switch(words)
    assert world.cloud.asked == [asked]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "words",
    [
        "no-such",
        "vanishes:x",
        "goes-to-error@",
        "goes-to-error@x",
        "create-edit",
        "create-stall",
        "create-",
        "out-of-stock",
        "",
        ":",
        "vanishes:1:2",
        "goes to error",
    ],
)
def test_an_unknown_fault_is_a_usage_problem(world: World, words: str) -> None:
    with pytest.raises(UsageProblem, match="just sim --list-faults"):
        world.switch(words)
    assert world.cloud.asked == []  # type: ignore[attr-defined]


def test_a_world_leaves_no_setting_of_packages_behind(tmp_path: Path) -> None:
    before = dict(os.environ)
    with World(tmp_path, cache=tmp_path / "cache", xet=False):
        assert os.environ["UV_OFFLINE"] == "1"
    assert dict(os.environ) == before
