"""A part of a save in its own thread: it ends well, fails in words, or is given up."""

from __future__ import annotations

import threading
from collections.abc import Callable

from nanolan.checkpoint.manifest import Cancelled
from nanolan.train.state.task import GIVEN_UP, Task


def full(cancelled: Callable[[], bool]) -> None:
    raise OSError(28, "No space left on device")


def test_a_task_beside_the_training_runs_until_it_is_done() -> None:
    goes_on = threading.Event()
    task = Task(lambda cancelled: bool(goes_on.wait(10)) and None, beside=True)
    assert not task.done
    goes_on.set()
    task.wait()
    assert (task.done, task.problem) == (True, "")


def test_a_task_that_is_not_beside_is_done_at_once() -> None:
    here: list[threading.Thread] = []
    task = Task(lambda cancelled: here.append(threading.current_thread()), beside=False)
    assert task.done and here == [threading.current_thread()]


def test_a_task_that_fails_says_why_and_raises_nothing() -> None:
    for beside in (False, True):
        task = Task(full, beside=beside)
        task.wait()
        assert task.problem == "OSError: [Errno 28] No space left on device"


def test_a_task_is_given_up_when_asked() -> None:
    begun = threading.Event()

    def act(cancelled: Callable[[], bool]) -> None:
        begun.set()
        while not cancelled():
            threading.Event().wait(0.01)
        raise Cancelled

    task = Task(act, beside=True)
    begun.wait(10)
    task.cancel()
    task.wait()
    assert task.problem == GIVEN_UP
