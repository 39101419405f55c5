"""Calls with a total time limit, each in a thread of its own: the time-outs of a socket count for one read only."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from threading import Thread
from typing import TypeVar

T = TypeVar("T")


def within(seconds: float, call: Callable[[], T]) -> T:
    """`call()`, or TimeoutError after `seconds`. The call itself may then still end, unheard."""
    try:
        return begin(call).result(seconds)
    except FutureTimeout:  # in Python 3.10 it is no TimeoutError
        raise TimeoutError(f"no whole answer in {seconds:.0f} s") from None


def begin(call: Callable[[], T]) -> Future[T]:
    """The answer of a call that runs in a thread of its own, which nobody waits for at the program's end."""
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(call())
        except BaseException as e:
            answer.set_exception(e)

    Thread(target=run, daemon=True).start()  # a pool would be waited for
    return answer
