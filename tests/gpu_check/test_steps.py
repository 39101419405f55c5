"""What is read from a trainer's metrics; and the stored losses are those of this trainer on a CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nanolan.errors import RunFailed
from nanolan.gpu_check import steps
from nanolan.gpu_check.inputs import write_texts
from nanolan.gpu_check.machine import SMALL, Machine
from nanolan.train.probe.inputs import write


def row(dt_s: float, **more: Any) -> dict[str, Any]:
    return {"loss": 1.0, "dt_s": dt_s, "tok_per_s": 100 / dt_s, "peak_gib": 2.0, **more}


def test_the_first_step_compiles_and_the_second_does_not_count_either() -> None:
    rows = [row(41.5), row(3.0), row(0.5, mfu=0.4), row(0.5, mfu=0.5), row(0.7, mfu=0.3)]
    assert steps.speed(rows) == {
        "compile_s": 41.0,
        "ms": 500.0,
        "tok_per_s": 200.0,
        "peak_gib": 2.0,
        "mfu": 0.4,
    }


@pytest.mark.parametrize("rows", [[row(2.0)], [row(2.0), row(2.0)], [row(1.0), row(9.0), row(9.0)]])
def test_a_few_rows_are_enough_and_no_time_is_negative(rows: list[dict[str, Any]]) -> None:
    assert steps.speed(rows)["compile_s"] >= 0 and "mfu" not in steps.speed(rows)


def test_a_row_that_is_half_written_and_a_note_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert steps.step_rows(path) == []
    path.write_text(f'{json.dumps(row(1.0))}\n{{"val_bpb": 1}}\n{json.dumps(row(2.0))[:20]}')
    assert [r["dt_s"] for r in steps.step_rows(path)] == [1.0]


def machine(tmp_path: Path, limit_s: float) -> Machine:
    write(tmp_path / "small", SMALL)
    write_texts(tmp_path / "data")
    return Machine("cpu", 1, "toy", str(tmp_path), "feed0002", limit_s)


@pytest.mark.slow  # the trainer itself
def test_the_stored_losses_are_those_of_a_cpu(tmp_path: Path) -> None:
    found = steps.agreement(machine(tmp_path, 600.0))
    assert found["worst"] < 1e-3


@pytest.mark.slow
def test_a_trainer_that_ends_by_itself_is_a_reason(tmp_path: Path) -> None:
    given = machine(tmp_path, 600.0)
    (tmp_path / "small/tokenizer/tokenizer.pkl").write_bytes(b"damaged")
    with pytest.raises(RunFailed, match="mid: the trainer ended with exit code 1 after 0 steps"):
        steps.first_losses(given, "mid")
