"""Polls the run folder for the requests of `just stop` and `just limit`, one small file each."""

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

POLL_S = {False: 20.0, True: 1.0}  # True: a Hub on this machine, in a rehearsal

Request = TypeVar("Request", StopRequest, LimitRequest)
# Made once, here: msgspec may crash when two threads decode a type for the first time
DECODERS = [msgspec.json.Decoder(kind) for kind in (StopRequest, LimitRequest)]


class Control:
    """Polls in its own thread once it is started; a new limit goes to `on_limit`."""

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
        """The reason to stop, once the user has asked for it."""
        return self._stop

    def look(self) -> None:
        """Poll once. An answer that is an error changes nothing."""
        if (request := self._read(STOP_FILE, StopRequest)) and self._stop is None:
            self._stop = StopReason(
                "user",
                f"just stop was asked for at {request.at[:20]}"
                if request.at
                else "just stop was asked for",
            )
            self._say(self._stop.text)
        if (limit := self._read(LIMIT_FILE, LimitRequest)) and limit != self._limit:
            self._limit = limit
            self._on_limit(limit)

    def _read(self, name: str, kind: type[Request]) -> Request | None:
        """The request, if there is one for this attempt."""
        try:
            request = msgspec.json.decode(
                self._hub.read(self._plan.runs_repo, f"{self._plan.folder}/{name}"), type=kind
            )
        except (NanolanError, *UNREADABLE):
            return None  # no such file, mostly
        return request if request.attempt == self._plan.attempt else None
