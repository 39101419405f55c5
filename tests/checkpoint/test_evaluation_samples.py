"""Sample answers of the trainer; unreadable files are skipped."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from nanolan.checkpoint.evaluation import PhaseSamples, Sample, beside, gather, read_samples

ONE = PhaseSamples(
    "mid", 24, (Sample("Chat", "Who?", "Me."), Sample("GSM8K", "1+1?", "#### 2", "2", True))
)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = beside(tmp_path / "evaluation-mid.json")
    path.write_bytes(msgspec.json.encode(ONE))
    assert path.name == "evaluation-mid.samples.json" and gather([path, tmp_path / "none"]) == (
        ONE,
    )


@pytest.mark.parametrize(
    "data", [b"", b"{", b"null", b"{}", b'[{"phase": 1}]', b"[" * 100_000, b"\xff"]
)
def test_what_cannot_be_read_is_none(data: bytes, tmp_path: Path) -> None:
    assert read_samples(data) == ()
    (tmp_path / "a").write_bytes(data)
    (tmp_path / "b").write_bytes(msgspec.json.encode(ONE))
    assert gather([tmp_path / "a", tmp_path / "b"]) == (ONE,)
