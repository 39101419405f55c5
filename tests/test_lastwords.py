"""What a machine leaves on the Hub before it is deleted."""
from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nanolan.budget import ASSUMED
from nanolan.lastwords import LEAVES, left_behind
from nanolan.machine import Tools
from nanolan.postmortem import read_postmortem
from nanolan.report import Receipt, read_receipt
from nanolan.secret import Secret

from .box_fixtures import TOKEN, make_plan

RECEIPT = Receipt("0123abcd", "succeeded", log="logs/success-x.log")


def machine(work: Path) -> Any:
    """A machine of what the leaves look at."""
    return SimpleNamespace(work=work, plan=make_plan("", "", run_id="0123abcd"), secrets={"HF_TOKEN": Secret(TOKEN)}, unsaved=[],
                           herald=SimpleNamespace(log=lambda: b"the log", log_tail=lambda size: "CUDA out of memory\n"),
                           tools=Tools(probes={"secret": lambda folder: f"a line with {TOKEN}"}),
                           meter=SimpleNamespace(margin=ASSUMED["cpu"]))


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


def test_a_run_that_ended_short_leaves_a_black_box_and_its_headlines_in_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "heartbeat.json").write_text('{"phase": "sft", "step": 12, "steps": 90, "stage": "train"}')
    files = left_behind(machine(tmp_path), Receipt("0123abcd", "failed", "oom", "phase sft: words", log="logs/error-x.log"))
    data = files["runs/0123abcd/postmortem.json"]
    assert isinstance(data, bytes) and TOKEN.encode() not in data
    box = read_postmortem(data)
    assert box.cause == "CUDA out of memory in training at step 12" and box.seen == {"secret": ["a line with ***"]}
    assert "black box: cause: CUDA out of memory in training at step 12" in capsys.readouterr().out


def test_a_machine_that_has_money_for_its_deletion_alone_is_not_examined(tmp_path: Path) -> None:
    m = machine(tmp_path)
    m.unsaved.append("sft step 5")
    data = left_behind(m, Receipt("0123abcd", "failed", "upload_failed", log="logs/error-x.log"))["runs/0123abcd/postmortem.json"]
    assert isinstance(data, bytes) and read_postmortem(data).seen == {}


def test_a_run_that_succeeded_leaves_none(tmp_path: Path) -> None:
    assert "runs/0123abcd/postmortem.json" not in left_behind(machine(tmp_path), RECEIPT)


def test_the_log_is_read_last_so_that_it_holds_what_was_said_of_the_others(tmp_path: Path) -> None:
    said: list[str] = []
    m = machine(tmp_path)
    m.herald.log = lambda: "".join(said).encode()
    files = left_behind(m, RECEIPT, {"a": lambda m, receipt: said.append("said on the way")})    # type: ignore[dict-item,func-returns-value]
    assert files["logs/success-x.log"] == b"said on the way"
