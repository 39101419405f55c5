"""A fake clock and the actors that live by it: threads of which exactly one runs at a time, in an order that is always the same.

An actor runs until it sleeps or waits; then whoever is due next runs. `kill` is a kill -9: the actor's next breath raises Killed.
"""

from __future__ import annotations

import heapq
import itertools
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Executor, Future
from datetime import datetime, timezone
from types import FrameType
from typing import Any

from nanolan.settings.settings import ROOT

NEVER = float("inf")
OURS, SIM = str(ROOT / "nanolan") + "/", str(ROOT / "nanolan/sim") + "/"


class Killed(BaseException):
    """This actor is dead: nothing of it may go on."""


class Actor:
    """One thread of a program; `box` is the machine that it runs on, None for the laptop."""

    def __init__(self, clock: Clock, act: Callable[[], object], box: Any, program: str) -> None:
        self.clock, self.act, self.box, self.program = clock, act, box, program
        self.killed = self.done = self.started = False
        self.error: BaseException | None = None
        self.throw: BaseException | None = None  # raised in it when it goes on: Ctrl-C
        self.lines_left: int | None = None  # it is killed so many lines of nanolan from now
        self.ticket = self.ident = 0
        self.ended = Event(clock)
        self.baton = threading.Lock()
        self.baton.acquire()

    def breathe(self) -> None:
        """Raise what is to be raised in it; from here on it is traced if its lines are counted."""
        if self.killed:
            raise Killed
        if self.throw is not None:
            error, self.throw = self.throw, None
            raise error
        if self.lines_left is not None and threading.get_ident() == self.ident:
            frame: FrameType | None = sys._getframe(1)
            while frame:
                frame.f_trace = self._trace
                frame = frame.f_back
            sys.settrace(self._trace)

    def live(self) -> None:
        self.ident = threading.get_ident()
        try:
            self.breathe()
            self.act()
        except Killed as e:
            traceback.clear_frames(e.__traceback__)  # a dead process holds no lock
        except BaseException as e:
            self.error = e
        finally:
            sys.settrace(None)
            self.done = True
            self.ended.set()
            self.clock.back.release()

    def _trace(self, frame: FrameType, event: str, arg: object) -> Any:
        if (
            not frame.f_code.co_filename.startswith(OURS)
            or frame.f_code.co_filename.startswith(SIM)
            or self.lines_left is None
        ):
            return None
        if event == "line":
            self.lines_left -= 1
            if self.lines_left <= 0:
                self.lines_left, self.killed = None, True
                sys.settrace(None)
                self.clock.struck(self)
                raise Killed
        return self._trace


class Clock:
    """Time, and who is due when."""

    def __init__(self, start: float) -> None:
        self.now, self._limit = start, start
        self._due: list[tuple[float, int, Any, int]] = []
        self._order = itertools.count()
        self.actors: list[Actor] = []
        self.current: Actor | None = None
        self.struck: Callable[[Actor], None] = lambda actor: (
            None
        )  # told when counted lines are over
        self.resumed: Callable[[Actor], None] = lambda actor: None  # told before an actor goes on
        self.paused: Callable[[Actor], None] = lambda actor: None  # and after it has
        self.back = threading.Lock()
        self.back.acquire()

    # ---- what programs see

    def monotonic(self) -> float:
        return self.now

    def utc(self) -> datetime:
        return datetime.fromtimestamp(self.now, timezone.utc)

    def sleep(self, seconds: float) -> None:
        """Let time pass; whoever is due meanwhile runs first."""
        actor, wake = self._me(), self.now + max(0.0, seconds)
        actor.breathe()
        if wake <= self._limit and not (self._due and self._due[0][0] <= wake):
            self.now = wake  # nobody is due before: no need to change threads
        else:
            self.park(actor, wake)

    def event(self) -> Event:
        return Event(self)

    def thread(self, target: Callable[[], object], daemon: bool = True) -> Thread:
        return Thread(self, target)

    def pool(self) -> Pool:
        return Pool(self)

    # ---- actors

    def spawn(self, act: Callable[[], object], box: Any, program: str) -> Actor:
        """A new actor, due now."""
        actor = Actor(self, act, box, program)
        self.actors = [a for a in self.actors if not a.done] + [actor]
        self.ready(actor)
        return actor

    def park(self, actor: Actor, wake: float) -> None:
        """Give the baton back until `wake` (or until made `ready`)."""
        actor.ticket += 1
        if wake < NEVER:
            self._push(wake, actor, actor.ticket)
        self.back.release()
        actor.baton.acquire()
        actor.breathe()

    def ready(self, actor: Actor) -> None:
        self._push(self.now, actor, actor.ticket)

    def at(self, moment: float, act: Callable[[], object]) -> None:
        """Do something outside of every actor."""
        self._push(moment, act, 0)

    def aside(self, act: Callable[[], object]) -> None:
        """The same, now, for an actor: it goes on when that is done."""
        self._me().breathe()
        self.at(self.now, act)
        self.sleep(0)

    def kill(self, doomed: Callable[[Actor], bool]) -> None:
        """End actors, now; not to be called by one."""
        dying = [a for a in self.actors if not a.done and doomed(a)]
        for actor in dying:
            actor.killed = True
        for actor in dying:
            if actor.started:
                self._resume(actor)
            else:
                actor.done = True
                actor.ended.set()

    def run(self, end: float, until: Callable[[], bool] = lambda: False) -> None:
        """Let everybody live until `end`, or until something has come true; an actor's error is raised here."""
        self._limit = end
        while self._due and self._due[0][0] <= end and not until():
            moment, _, what, ticket = heapq.heappop(self._due)
            if isinstance(what, Actor):
                if what.done or what.ticket != ticket:
                    continue
                self.now = max(self.now, moment)
                self._resume(what)
                if what.error is not None and what.program != "laptop":
                    raise what.error
            else:
                self.now = max(self.now, moment)
                what()
        if not until():
            self.now = max(self.now, end)

    def _resume(self, actor: Actor) -> None:
        actor.ticket += 1
        self.current = actor
        self.resumed(actor)
        if actor.started:
            actor.baton.release()
        else:
            actor.started = True
            threading.Thread(target=actor.live, daemon=True).start()
        self.back.acquire()
        self.paused(actor)
        self.current = None

    def _push(self, moment: float, what: Any, ticket: int) -> None:
        heapq.heappush(self._due, (moment, next(self._order), what, ticket))

    def _me(self) -> Actor:
        assert self.current is not None, "only actors wait"
        return self.current


# ---- what stands in for threading's


class Event:
    """threading.Event, by this clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._set = clock, False
        self._waiting: list[Actor] = []

    def is_set(self) -> bool:
        return self._set

    def clear(self) -> None:
        self._set = False

    def set(self) -> None:
        self._set = True
        for actor in self._waiting:
            self._clock.ready(actor)
        self._waiting.clear()

    def wait(self, timeout: float | None = None) -> bool:
        actor = self._clock._me()
        actor.breathe()
        if not self._set:
            self._waiting.append(actor)
            try:
                self._clock.park(
                    actor, NEVER if timeout is None else self._clock.now + max(0.0, timeout)
                )
            finally:
                if actor in self._waiting:
                    self._waiting.remove(actor)
        return self._set


class Thread:
    """threading.Thread, as another actor of the same program."""

    def __init__(self, clock: Clock, target: Callable[[], object]) -> None:
        self._clock, self._target = clock, target
        self.actor: Actor | None = None

    def start(self) -> None:
        me = self._clock._me()
        me.breathe()
        self.actor = self._clock.spawn(self._target, me.box, me.program)

    def is_alive(self) -> bool:
        return self.actor is not None and not self.actor.done

    def join(self, timeout: float | None = None) -> None:
        if self.actor and not self.actor.done:
            self.actor.ended.wait(timeout)


class Later(Future[Any]):
    """A Future that is waited for by the clock."""

    def __init__(self, done: Event) -> None:
        super().__init__()
        self.told = done

    def exception(self, timeout: float | None = None) -> BaseException | None:
        self.told.wait(timeout)
        return super().exception(0)

    def result(self, timeout: float | None = None) -> Any:
        self.told.wait(timeout)
        return super().result(0)


class Pool(Executor):
    """ThreadPoolExecutor(1)."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._threads: list[Thread] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Later:
        later, before = Later(self._clock.event()), self._threads[-1:]

        def work() -> None:
            for thread in before:
                thread.join()
            try:
                later.set_result(fn(*args, **kwargs))
            except Exception as e:
                later.set_exception(e)
            later.told.set()

        self._threads.append(Thread(self._clock, work))
        self._threads[-1].start()
        return later

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        for thread in self._threads if wait else ():
            thread.join()
