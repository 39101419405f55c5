"""The recorder: a step runs plainly, then is recorded, then replayed; where that fails, all runs plainly."""

from __future__ import annotations

import pytest

from nanolan.model.generation.graphs import Recorder, Step


def test_a_step_is_run_once_recorded_once_and_then_replayed() -> None:
    done: list[str] = []

    def record(step: Step) -> Step:
        done.append("record")
        return lambda: done.append("replay")

    run = Recorder(record)
    for key in "aabaa":
        run(key, lambda key=key: done.append(key))
    assert done == ["a", "record", "replay", "b", "replay", "replay"]


def test_a_step_that_cannot_be_recorded_runs_plainly_and_one_line_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    done: list[str] = []

    def record(step: Step) -> Step:
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    run = Recorder(record)
    for key in "aabbaa":
        run(key, lambda key=key: done.append(key))
    assert done == list("aabbaa")
    assert capsys.readouterr().err == (
        "warning: no CUDA graph of decoding: operation not permitted when stream is capturing\n"
    )
