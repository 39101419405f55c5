"""What the forecast takes from gpu-check.json: steps of a GPU that no run has measured, and nothing implausible."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from nanolan.cost.forecast import Work, forecast, forecaster, usual
from nanolan.cost.gpu_check import (
    FAILED,
    FOLDER,
    OK,
    START_S,
    WIDE,
    GpuCheck,
    Part,
    offer_name,
    read_checks,
    read_gpu_check,
    speeds_of,
    with_checks,
)
from nanolan.cost.history import TOKENS
from nanolan.errors import BadAnswer
from nanolan.shadeform.offers import Offer

H100 = "NVIDIA H100 80GB HBM3"
MID, RL = {"tok_per_s": 1_000_000.0, "compile_s": 40.0}, {"tok_per_s": 20_000.0}
CHECK = GpuCheck(
    "2026-11-27T16:00:00Z",
    "cuda",
    H100,
    8,
    "d20",
    600.0,
    (Part("mid", OK, 60.0, MID), Part("sft", FAILED, reason="hung"), Part("rl", OK, 60.0, RL)),
)
ON = Offer("hyperstack", "canada-1", "H100x8", "H100", 8, 80, 2400, ("os",))


@pytest.mark.parametrize(
    "gpu, name",
    [
        (H100, "H100"),
        ("NVIDIA H100 NVL", "H100_nvl"),
        ("NVIDIA B200", "B200"),
        ("NVIDIA GB200", ""),
        ("NVIDIA GH200 480GB", "GH200"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA A100-SXM4-80GB", "A100_80G"),
        ("NVIDIA A100 80GB PCIe", "A100_80G"),
        ("NVIDIA A100-SXM4-40GB", "A100"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA RTX A6000", "A6000"),
        ("Tesla T4", ""),
        ("", ""),
    ],
)
def test_the_names_of_gpus_are_the_marketplaces(gpu: str, name: str) -> None:
    assert offer_name(gpu) == name


def test_a_phases_speed_counts_its_start_and_its_compilation() -> None:
    found = dict(speeds_of(CHECK))
    seconds = TOKENS["mid"] / 1e6 + 40 + START_S
    assert set(found) == {("speed", "H100", "mid"), ("speed", "H100", "rl")}
    assert found["speed", "H100", "mid"] == pytest.approx(TOKENS["mid"] / seconds / 8)


@pytest.mark.parametrize(
    "changes",
    [
        {"device": "cpu"},
        {"size": "toy"},
        {"gpus": 0},
        {"gpu": "Tesla T4"},
        {"parts": ()},
        {"parts": (Part("mid", OK, 1.0, {"tok_per_s": 1e12}),)},
        {"parts": (Part("mid", OK, 1.0, {"tok_per_s": -1.0}),)},
        {"parts": (Part("mid", OK, 1.0, {"tok_per_s": float("nan")}),)},
        {"parts": (Part("mid", OK, 1.0, {"tok_per_s": "fast"}),)},
        {"parts": (Part("mid", FAILED, 1.0, MID),)},
    ],
)
def test_a_rehearsal_and_what_cannot_be_give_no_speed(changes: dict[str, Any]) -> None:
    assert not dict(speeds_of(replace(CHECK, **changes)))


def test_a_run_outranks_a_check_and_the_newest_check_an_older_one() -> None:
    key = ("speed", "H100", "mid")
    older = replace(CHECK, parts=(Part("mid", OK, 1.0, {"tok_per_s": 500.0}),))
    assert with_checks({key: (1.0, 2.0)}, [CHECK])[key] == (1.0, 2.0)
    low, likely, high = with_checks({}, [CHECK, older])[key]
    assert (low, high) == (likely / WIDE, likely * WIDE)
    assert likely == dict(speeds_of(CHECK))[key]


def test_the_forecast_says_whose_figures_it_has() -> None:
    by_guide = forecaster(Work(("mid",)), [])(ON)
    by_check = forecaster(Work(("mid",)), [], [CHECK])(ON)
    assert by_guide and by_check and by_check.checked and not by_guide.checked
    assert "(by the guide)" in by_guide.text() and "(measured by gpu-check)" in by_check.text()
    seconds = TOKENS["mid"] / 1e6 + 40 + START_S
    assert by_check.train["mid"].likely == pytest.approx(seconds)
    assert by_check.train["mid"].low < seconds < by_check.train["mid"].high
    half = forecaster(Work(("mid", "sft")), [], [CHECK])(ON)
    assert half and not half.checked and "(by the guide)" in half.text()
    assert by_guide == forecast(Work(("mid",)), ON, {})


def test_a_rehearsal_is_not_forecast_by_a_check() -> None:
    assert forecaster(Work(("mid",), recipe={"max_steps": 3}), [], [CHECK])(ON) is None


def test_the_usual_speed_of_an_unknown_gpu_is_the_checks_and_replaces_no_machine() -> None:
    assert usual(Work(("mid", "sft")), ON, [], [CHECK]) == ({"mid": pytest.approx(1e6)}, 0)
    assert usual(Work(("mid",)), ON, [], []) == ({}, 0)


def test_files_that_are_none_are_passed_over_and_the_newest_is_first(tmp_path: Path) -> None:
    assert read_checks(tmp_path) == []
    (folder := tmp_path / FOLDER).mkdir()
    later = replace(CHECK, began="2026-12-01T00:00:00Z")
    (folder / "a.json").write_bytes(msgspec.json.encode(CHECK))
    (folder / "b.json").write_bytes(msgspec.json.encode(later))
    (folder / "c.json").write_text("[]")
    (folder / "d.json").mkdir()
    assert read_checks(tmp_path) == [later, CHECK]
    with pytest.raises(BadAnswer, match="gpu-check.json cannot be read"):
        read_gpu_check(b"[]")
