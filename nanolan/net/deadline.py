"""Calls with a total time limit, each in its own thread: a socket time-out limits a single read only."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from threading import Thread
from typing import TypeVar

T = TypeVar("T")


def with_timeout(seconds: float, call: Callable[[], T]) -> T:
    """The result of `call()`, or TimeoutError after `seconds`; the call then goes on, and its result is ignored."""
    try:
        return start_thread(call).result(seconds)
    except FutureTimeout:  # not a TimeoutError in Python 3.10
        raise TimeoutError(f"no whole answer in {seconds:.0f} s") from None


def start_thread(call: Callable[[], T]) -> Future[T]:
    """Start `call` in a thread; returns the future of its result. The program may exit before the thread ends."""
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(call())
        except BaseException as e:
            answer.set_exception(e)

    Thread(target=run, daemon=True).start()  # not a pool: Python waits for a pool at exit
    return answer
