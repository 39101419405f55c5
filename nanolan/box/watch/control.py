"""Polls the run folder for the requests of `just stop` and `just limit`, and of a job for another machine's claim; each is a small
file."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec

from nanolan.box.watch.periodic import Periodic
from nanolan.errors import NanolanError
from nanolan.hub.client import Hub
from nanolan.plan import UNREADABLE, Plan
from nanolan.run.jobs import CLAIM_FILE, SUPERSEDED, Claim
from nanolan.run.record import StopReason
from nanolan.run.requests import LIMIT_FILE, STOP_FILE, LimitRequest, StopRequest
from nanolan.settings.settings import is_loopback

POLL_S = {False: 20.0, True: 1.0}  # True: a Hub on this machine, in a rehearsal

Request = TypeVar("Request", StopRequest, LimitRequest, Claim)
# Made once, here: msgspec may crash when two threads decode a type for the first time
DECODERS = [msgspec.json.Decoder(kind) for kind in (StopRequest, LimitRequest, Claim)]


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
        claim: Claim | None = None,
    ) -> None:
        self._plan, self._hub, self._say, self._on_limit = plan, hub, say, on_limit
        self._claim = claim  # this machine's, of a job
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

        if self._stop is None and (other := self._other_machine()):
            self._stop = StopReason(
                SUPERSEDED, f"another machine has claimed this run, as attempt {other.attempt}"
            )
            self._say(self._stop.text)

    def _other_machine(self) -> Claim | None:
        """The claim of another machine on this run, if this machine has one at all."""
        newest = self._file(CLAIM_FILE, Claim) if self._claim else None
        return newest if newest and self._claim and newest.token != self._claim.token else None

    def _read(self, name: str, kind: type[Request]) -> Request | None:
        """The request, if there is one for this attempt."""
        request = self._file(name, kind)
        return request if request and request.attempt == self._plan.attempt else None

    def _file(self, name: str, kind: type[Request]) -> Request | None:
        try:
            return msgspec.json.decode(
                self._hub.read(self._plan.runs_repo, f"{self._plan.folder}/{name}"), type=kind
            )
        except (NanolanError, *UNREADABLE):
            return None  # no such file, mostly
