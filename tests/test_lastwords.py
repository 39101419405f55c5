"""What a machine leaves on the Hub before it is deleted."""
from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nanolan.lastwords import LEAVES, left_behind
from nanolan.report import Receipt, read_receipt

RECEIPT = Receipt("0123abcd", "succeeded", log="logs/success-x.log")


def machine(work: Path) -> Any:
    """A machine of what the leaves look at."""
    return SimpleNamespace(work=work, plan=SimpleNamespace(folder="runs/0123abcd"), herald=SimpleNamespace(log=lambda: b"the log"))


def test_the_log_the_metrics_and_the_receipt_are_left(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n')
    files = left_behind(machine(tmp_path), RECEIPT)
    assert files["logs/success-x.log"] == b"the log"
    assert files["runs/0123abcd/metrics.jsonl"] == b'{"step": 1}\n'
    receipt = files["runs/0123abcd/receipt.json"]
    assert isinstance(receipt, bytes) and read_receipt(receipt) == RECEIPT


def test_a_run_without_metrics_leaves_none(tmp_path: Path) -> None:
    assert "runs/0123abcd/metrics.jsonl" not in left_behind(machine(tmp_path), RECEIPT)


def test_a_leave_that_cannot_be_made_keeps_none_of_the_others_away(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(m: Any, receipt: Receipt) -> bytes:
        raise KeyError("a chart")
    files = left_behind(machine(tmp_path), RECEIPT, {"broken.html": broken, **LEAVES})
    assert "runs/0123abcd/receipt.json" in files and "runs/0123abcd/broken.html" not in files
    assert "broken.html could not be made: KeyError" in capsys.readouterr().out
