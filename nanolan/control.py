"""The user's word from afar: `just stop` puts runs/<id>/stop.json on the Hub, the machine looks for it."""
from __future__ import annotations

from collections.abc import Callable

import msgspec

from nanolan.budget import Stop
from nanolan.config import is_loopback
from nanolan.errors import NanolanError
from nanolan.hub import Hub
from nanolan.plan import Plan
from nanolan.ticker import Ticker

STOP_FILE = "stop.json"               # in the run folder
POLL_S = {False: 20.0, True: 1.0}    # True: a Hub on this very machine


class StopRequest(msgspec.Struct, frozen=True):
    """stop.json; one that was meant for an earlier attempt does not count."""

    attempt: int
    at: str = ""


class Control:
    """Looks for a stop request, in a thread of its own once it is started."""

    def __init__(self, plan: Plan, hub: Hub, say: Callable[[str], None] = lambda text: None, *,
                 ticker: Callable[..., Ticker] = Ticker) -> None:
        self._plan, self._hub, self._say = plan, hub, say
        self._stop: Stop | None = None
        self._ticker = ticker(self.look, POLL_S[is_loopback(plan.hf_endpoint)],
                              lambda e: say(f"stop request: {type(e).__name__}"))

    def start(self) -> Control:
        self._ticker.start()
        return self

    def close(self) -> None:
        self._ticker.close()

    def asked(self) -> Stop | None:
        """The user's wish to stop, if there is one."""
        return self._stop

    def look(self) -> None:
        """Look once; whatever the Hub answers, the run goes on."""
        try:
            raw = self._hub.read(self._plan.runs_repo, f"{self._plan.folder}/{STOP_FILE}")
            request = msgspec.json.decode(raw, type=StopRequest)
        except (NanolanError, msgspec.DecodeError):
            return   # no such file, mostly
        if request.attempt == self._plan.attempt and self._stop is None:
            self._stop = Stop("user", f"just stop was asked for at {request.at[:20]}" if request.at else "just stop was asked for")
            self._say(self._stop.text)
