"""nanolan/sim's Shadeform account on a fake clock, behind a session that calls it in this process."""

from __future__ import annotations

import io
import json
import urllib.error
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from functools import lru_cache
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import requests

from nanolan.shadeform.client import CALL_S
from nanolan.sim.shadeform.account import Account
from nanolan.sim.shadeform.faults import Faults, Reply, apply_fault
from nanolan.sim.shadeform.http import answer
from nanolan.sim.shadeform.instance import Delays, Instance
from nanolan.sim.shadeform.keys import Keys
from nanolan.sim.shadeform.sample_offers import SAMPLE
from tests.support.life_clock import Clock

OFFERS = SAMPLE[:2]  # hyperstack's 8x B200, $33.60 an hour, and datacrunch's, $35.84
DELAYS = Delays(
    creating_s=5, pending_provider_s=20, pending_s=40, script_s=5, deleting_s=30, power_off_s=5
)
BEFORE_S, AFTER_S, READ_TIMEOUT_S = 0.4, 0.2, 30.0


@dataclass(frozen=True)
class Request:
    """One request as it came; `who` is (box, program)."""

    method: str
    path: str
    body: Any
    t: float
    who: Any


@dataclass
class Cloud:
    """The account, its outages and faults, and everything that was asked of it."""

    clock: Clock
    key: str
    faults: Faults = field(default_factory=Faults)
    requests: list[Request] = field(default_factory=list)
    outages: list[tuple[float, float]] = field(default_factory=list)  # from, to
    heard: Callable[[Request], None] = lambda request: None  # told of every request that arrives
    odd_records: list[Any] = field(
        default_factory=list
    )  # that stand in the list beside the true ones
    odd_fields: dict[str, Any] = field(
        default_factory=dict
    )  # of every machine, as list and info show it
    late_until = late_s = 0.0  # the list shows until then what was true so many seconds ago
    past_s = 0.0  # how far back the account looks, for one answer

    def __post_init__(self) -> None:
        self.account = Account(
            OFFERS, 1_000_000, DELAYS, now=lambda: self.clock.now - self.past_s, keys=keys()
        )

    @property
    def ours(self) -> list[Instance]:
        return [i for i in self.instances if not i.foreign]

    @property
    def instances(self) -> list[Instance]:
        return list(self.account.instances.values())

    def billing(self, instance: Instance) -> bool:
        """In truth."""
        return instance.status_at(self.clock.now) not in ("deleting", "deleted")

    # ---- requests.Session's part

    def request(
        self, method: str, url: str, *, data: bytes | None, headers: dict[str, str], **_: object
    ) -> SimpleNamespace:
        """One request to its end, as `requests` would give it."""
        began = self.clock.now
        self.clock.sleep(BEFORE_S)
        if any(a <= self.clock.now < b for a, b in self.outages):
            raise requests.ConnectionError(f"no route to Shadeform with {self.key}")
        path, who = (
            urlsplit(url).path,
            self.clock.current and (self.clock.current.box, self.clock.current.program),
        )
        self.requests.append(
            Request(method, path, json.loads(data) if data else None, self.clock.now, who)
        )
        self.heard(self.requests[-1])
        reply = apply_fault(
            self.faults.take(f"{method} {path}"),
            lambda: self._answer(method, path, headers.get("X-API-KEY", ""), data or b""),
            self.clock.sleep,
        )
        self.clock.sleep(AFTER_S)
        if self.clock.now - began >= CALL_S:  # an answer that drips, which the client leaves
            raise requests.Timeout(f"no whole answer in {CALL_S:.0f} s")
        return self._received(reply)

    @property
    def price_hidden(self) -> bool:
        """Whether no answer shows what our machines cost."""
        return {"hourly_price", "cost_estimate"} <= self.odd_fields.keys()

    def _answer(self, method: str, path: str, key: str, data: bytes) -> Reply:
        """The account's own answer, with what is late and odd in it."""
        lists = method == "GET" and path.endswith("/instances")
        self.past_s = self.late_s if lists and self.clock.now < self.late_until else 0.0
        reply = answer(self.account, self.key, method, path, key, data)
        self.past_s = 0.0
        if method == "POST" or reply.status != 200:
            return reply
        if path.endswith("/info"):
            return replace(reply, body=reply.body | self.odd_fields)
        rows = (
            [*self.odd_records, *(row | self.odd_fields for row in reply.body["instances"])]
            if lists
            else []
        )
        return replace(reply, body={"instances": rows}) if lists else reply

    def _received(self, reply: Reply) -> SimpleNamespace:
        if reply.ending in ("reset", "cut"):
            raise requests.ConnectionError(f"the connection was {reply.ending}")
        body = (
            b""
            if reply.body is None
            else reply.body.encode()
            if isinstance(reply.body, str)
            else json.dumps(reply.body).encode()
        )
        body = body[: len(body) // 2] if reply.ending == "halved" else body
        return SimpleNamespace(
            status_code=reply.status,
            content=body,
            text=body.decode(),
            headers={**reply.headers, "Date": formatdate(self.clock.now, usegmt=True)},
        )

    # ---- the rescue program's part

    def ask(self, url: str, key: str, body: bytes | None) -> bytes:
        """The same for urllib: an answer's bytes, or HTTPError."""
        try:
            got = self.request(
                "GET" if body is None else "POST", url, data=body, headers={"X-API-KEY": key}
            )
        except requests.RequestException as e:
            raise OSError(str(e)) from None
        if got.status_code != 200:
            raise urllib.error.HTTPError(
                url, got.status_code, got.text, None, io.BytesIO(got.content)
            )  # type: ignore[arg-type]
        return bytes(got.content)


@lru_cache(maxsize=1)
def keys() -> Keys:
    """Made once: it takes a process."""
    return Keys()
