"""The user's word from afar: `just stop` and `just limit` put a small file into the run folder, the machine looks for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec

from nanolan.box.watch.periodic import Periodic
from nanolan.errors import NanolanError
from nanolan.hub.client import Hub
from nanolan.plan import UNREADABLE, Plan
from nanolan.run.record import StopReason
from nanolan.run.requests import LIMIT_FILE, STOP_FILE, LimitRequest, StopRequest
from nanolan.settings.settings import is_loopback

POLL_S = {False: 20.0, True: 1.0}  # True: a Hub on this very machine


Word = TypeVar("Word", StopRequest, LimitRequest)
# Made once, here: msgspec may crash when two threads decode a type for the first time
DECODERS = [msgspec.json.Decoder(kind) for kind in (StopRequest, LimitRequest)]


class Control:
    """Looks for such words, in a thread of its own once it is started; a new limit goes to `on_limit`."""

    def __init__(
        self,
        plan: Plan,
        hub: Hub,
        say: Callable[[str], None] = lambda text: None,
        *,
        on_limit: Callable[[LimitRequest], object] = lambda limit: None,
        ticker: Callable[..., Periodic] = Periodic,
    ) -> None:
        self._plan, self._hub, self._say, self._on_limit = plan, hub, say, on_limit
        self._stop: StopReason | None = None
        self._limit: LimitRequest | None = None
        self._ticker = ticker(
            self.look,
            POLL_S[is_loopback(plan.hf_endpoint)],
            lambda e: say(f"stop request: {type(e).__name__}"),
        )

    def start(self) -> Control:
        self._ticker.start()
        return self

    def close(self) -> None:
        self._ticker.close()

    def asked(self) -> StopReason | None:
        """The user's wish to stop, if there is one."""
        return self._stop

    def look(self) -> None:
        """Look once; whatever the Hub answers, the run goes on."""
        if (request := self._word(STOP_FILE, StopRequest)) and self._stop is None:
            self._stop = StopReason(
                "user",
                f"just stop was asked for at {request.at[:20]}"
                if request.at
                else "just stop was asked for",
            )
            self._say(self._stop.text)
        if (limit := self._word(LIMIT_FILE, LimitRequest)) and limit != self._limit:
            self._limit = limit
            self._on_limit(limit)

    def _word(self, name: str, kind: type[Word]) -> Word | None:
        """What the file says, if it is there and meant for this attempt."""
        try:
            word = msgspec.json.decode(
                self._hub.read(self._plan.runs_repo, f"{self._plan.folder}/{name}"), type=kind
            )
        except (NanolanError, *UNREADABLE):
            return None  # no such file, mostly
        return word if word.attempt == self._plan.attempt else None
