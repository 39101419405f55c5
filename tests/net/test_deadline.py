"""Calls with a total time limit."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from nanolan.errors import UnclearAnswer, Unreachable
from nanolan.net.deadline import with_timeout
from nanolan.redact import Secret
from nanolan.shadeform.client import TRIES, Shadeform


def test_a_call_ends_at_its_time_limit() -> None:
    assert with_timeout(5, lambda: 7) == 7
    with pytest.raises(TimeoutError, match="no whole answer in 0 s"):
        with_timeout(0.05, lambda: time.sleep(1))
    with pytest.raises(ZeroDivisionError):
        with_timeout(5, lambda: 1 // 0)


def test_an_endless_shadeform_answer_times_out_and_is_retried() -> None:
    for_ever, calls = threading.Event(), []

    def request(method: str, *_: Any, **__: Any) -> Any:
        calls.append(method)
        for_ever.wait(20)

    api = Shadeform(
        Secret("k" * 20),
        "http://127.0.0.1:1/v1",
        session=SimpleNamespace(request=request),
        sleep=lambda s: None,  # type: ignore[arg-type]
        call_s=0.05,
    )
    with pytest.raises(Unreachable):
        api.info("an-id")
    assert calls == ["GET"] * TRIES
    with pytest.raises(UnclearAnswer):
        api.delete("an-id")
    for_ever.set()
