"""The table fits 80 columns and has a row for each part."""

from __future__ import annotations

import pytest

from nanolan.cost.gpu_check import FAILED, LEFT_OUT, OK, GpuCheck, Part
from nanolan.gpu_check.table import WIDTH, part_lines, render

ATTENTION = {
    name: {"first_ms": 1234.56, "ms": 12.345, "error": 0.0019, "decode_first_ms": 431.002}
    for name in ("flash", "cudnn", "efficient", "math")
}
PARTS = (
    Part("facts", OK, 12.0, {"torch": "2.13.0+cu130", "nodes": ["666 0 nvidia0"] * 40, "xid": []}),
    Part("attention", OK, 60.0, ATTENTION),
    Part("mid", FAILED, 121.0, reason="mid: the trainer ended with exit code 1 " * 6),
    Part("soak", LEFT_OUT, reason="no time: 600 s are over"),
    Part("oom", OK, 3.0),
)
CHECK = GpuCheck("2026-11-27T16:00:00Z", "cuda", "NVIDIA B200 " * 9, 8, "d20", 600.4, PARTS)


def test_no_line_is_wider_than_a_terminal() -> None:
    lines = render(CHECK)
    assert max(map(len, lines)) <= WIDTH
    assert [line[:10].strip() for line in lines if line[:1].strip()][1:] == [p.name for p in PARTS]


def test_a_failed_part_shows_its_reason_and_facts_only_the_short_ones() -> None:
    assert part_lines(PARTS[3]) == ["soak      left o    0 s no time: 600 s are over"]
    assert "the trainer ended with exit code 1" in part_lines(PARTS[2])[0]
    assert part_lines(PARTS[0]) == ["facts     ok       12 s torch 2.13.0+cu130, xid none"]


@pytest.mark.parametrize("parts, good", [((), True), (PARTS, False), (PARTS[3:], True)])
def test_a_check_is_good_when_no_part_failed(parts: tuple[Part, ...], good: bool) -> None:
    assert GpuCheck("", "cpu", "", 2, "toy", 1.0, parts).good is good
