"""The Shadeform API: returns typed values, raises one family of errors, limits the time of every call.

Reads are retried with backoff, jitter and Retry-After. Changes are sent exactly once; nanolan/shadeform/lifecycle.py
handles unclear answers.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec
import requests

from nanolan.errors import (
    ApiProblem,
    AuthProblem,
    BadAnswer,
    InsufficientFunds,
    NanolanError,
    NotFound,
    NotRented,
    OfferRefused,
    OutOfStock,
    UnclearAnswer,
)
from nanolan.net.backoff import backoff_s, jittered_s
from nanolan.net.deadline import with_timeout
from nanolan.net.errors import DOWN, SETTING, SHADEFORM, Trouble, of_answer, of_exception
from nanolan.net.session import open_session
from nanolan.plan import UNREADABLE
from nanolan.redact import Secret, short
from nanolan.shadeform.models import (
    Created,
    Instance,
    instance_of,
    key_of,
    listed_offers_of,
    offers_of,
)
from nanolan.shadeform.offers import Market, Offer
from nanolan.shadeform.records import Listing, decode, on_other_pages, read_each
from nanolan.times import SERVICE_CLOCK, ServiceClock, now_utc

TIMEOUT_S = (10, 30)  # connect, each read
CALL_S = 60.0  # a whole call: a slowly dripping answer passes the time-out of each read
TRIES = 4
FIRST_WAIT_S, LONGEST_WAIT_S, LONGEST_RETRY_AFTER_S = 0.5, 8.0, 120.0
MOST_RETRY_AFTER_S = 3600.0  # a longer Retry-After is not believed
CREATE = "/instances/create"
# HTTP statuses of a refused create that no other offer would change
SAME_FOR_EVERY_OFFER = {402: ApiProblem, 413: ApiProblem, 429: NotRented}
PAGE_BYTES = 4 << 10  # of a body are examined to detect a web page
MOST_BYTES = 32 << 20  # of an answer; the list of all types has less than 1 MiB
DASHBOARD = "https://platform.shadeform.ai/instances"

T = TypeVar("T")


class Shadeform:
    """A client of one account."""

    def __init__(
        self,
        key: Secret | None,
        base: str,
        *,
        session: requests.Session | None = None,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
        service_clock: ServiceClock = SERVICE_CLOCK,
        call_s: float = CALL_S,
    ) -> None:
        self._call_s = call_s
        self._key, self.base, self.sleep, self._jitter = key, base.rstrip("/"), sleep, jitter
        self._service_clock = service_clock
        self._session = session or open_session(base)

    @property
    def has_key(self) -> bool:
        """Whether the account can be asked at all."""
        return self._key is not None

    # -------------------------------------------------------------- reads
    def offers(self, spot: str = "no") -> tuple[list[Offer], int]:
        """Every available offer of the kinds that the setting `spot` allows, and the number of unreadable entries."""
        types = self._list("/instances/types", "instance_types", lambda t: offers_of(t, spot))
        unreadable = types.unreadable + sum(offers.unreadable for offers in types)
        return [offer for offers in types for offer in offers], unreadable

    def market(self, spot: str = "no", tries: int = 1) -> Market:
        """All such offers, in stock or sold out. Tried once: a caller that repeats it sees the Retry-After in the error."""
        types = self._list(
            "/instances/types", "instance_types", lambda t: listed_offers_of(t, spot), tries
        )
        return Market(
            [offer for in_stock, _ in types for offer in in_stock],
            [offer for _, listed in types for offer in listed],
            types.unreadable + sum(in_stock.unreadable for in_stock, _ in types),
        )

    def instances(self) -> Listing[Instance]:
        """Every instance of the account, with the number of unreadable records; raises if the list cannot be read."""
        return self._list("/instances", "instances", instance_of)

    def info(self, instance_id: str) -> Instance:
        """One instance; NotFound when it is gone, BadAnswer for an answer about anything else."""
        path = f"/instances/{quote(instance_id, safe='')}/info"
        found = instance_of(self._read(path))
        if found.id != instance_id:
            raise BadAnswer(f"Shadeform's answer to GET {path} is about another instance")
        return found

    def private_key(self, key_id: str | None) -> tuple[str, Secret] | None:
        """Name and private key of an SSH key (None: the default one); None unless Shadeform generated it."""
        keys = self._list("/sshkeys", "ssh_keys", key_of)
        for k in keys:
            if k.id == key_id or (key_id is None and k.is_default):
                return (k.name, k.private_key) if k.private_key else None
        if keys.unreadable:
            raise BadAnswer(f"no such SSH key on the account; {keys.gap}")
        return None

    def public_keys(self) -> dict[str, str]:
        """The public keys of the account by id."""
        return {k.id: k.public_key for k in self._list("/sshkeys", "ssh_keys", key_of)}

    def _list(
        self, path: str, name: str, read: Callable[[Any], T], tries: int = TRIES
    ) -> Listing[T]:
        """The readable records of a list; BadAnswer if the answer has no such list."""
        answer = self._read(path, tries)
        records = answer.get(name)
        if not isinstance(records, list):
            raise BadAnswer(f"Shadeform's answer to GET {path} has no list of {name}")
        found = read_each(records, read)
        found.unreadable += on_other_pages(answer, len(records))
        return found

    # -------------------------------------------------------------- changes: sent once
    def add_key(self, name: str, public_key: str) -> str:
        """The new SSH key's id; UnclearAnswer: this key may exist nevertheless."""
        raw = self._change("/sshkeys/add", {"name": name, "public_key": public_key})
        try:
            return msgspec.json.decode(raw, type=Created).id
        except UNREADABLE:
            raise UnclearAnswer(
                "Shadeform accepted the SSH key but its answer cannot be read"
            ) from None

    def create(self, body: dict[str, Any]) -> str:
        """The new instance's id. UnclearAnswer: it may exist, never send it again. Any other error: nothing is rented."""
        try:
            raw = self._change(CREATE, body)
        except NotFound as e:  # a removed cloud or type
            raise OfferRefused(f"{e}; nothing was rented") from None
        try:
            return msgspec.json.decode(raw, type=Created).id
        except UNREADABLE:
            raise UnclearAnswer(
                "Shadeform accepted the create but its answer cannot be read"
            ) from None

    def delete(self, instance_id: str) -> None:
        self._change(f"/instances/{quote(instance_id, safe='')}/delete", None)

    def restart(self, instance_id: str) -> None:
        self._change(f"/instances/{quote(instance_id, safe='')}/restart", None)

    def update(self, instance_id: str, body: dict[str, Any]) -> None:
        """Change the given fields; others stay. None would remove a limit, so it raises ValueError."""
        if any(v is None for v in body.values()):
            raise ValueError("a null would remove the field")
        self._change(f"/instances/{quote(instance_id, safe='')}/update", body)

    # -------------------------------------------------------------- HTTP
    def _send(self, method: str, path: str, body: dict[str, Any] | None) -> requests.Response:
        headers = {"X-API-KEY": self._key.reveal()} if self._key else {}
        data = None if body is None else msgspec.json.encode(body)
        if data is not None:
            headers["Content-Type"] = "application/json"

        def call() -> requests.Response:
            answer = self._session.request(
                method,
                self.base + path,
                data=data,
                headers=headers,
                timeout=TIMEOUT_S,
                allow_redirects=False,
                stream=True,
            )
            self._service_clock.learn(
                "Shadeform", answer.headers.get("Date"), answer.headers.get("Age")
            )
            return read_whole(answer)

        try:
            return with_timeout(self._call_s, call)
        except TimeoutError as e:
            raise requests.Timeout(str(e)) from None

    def _read(self, path: str, tries: int = TRIES) -> dict[str, Any]:
        trouble, asked_s = None, 0.0
        for attempt in range(tries):
            wait = jittered_s(backoff_s(attempt + 1, FIRST_WAIT_S, LONGEST_WAIT_S), self._jitter)
            asked_s = 0.0
            try:
                answer = self._send("GET", path, None)
            except (OSError, ValueError) as e:  # requests' own errors are OSErrors
                trouble = of_exception(e, SHADEFORM, self.base)
            else:
                trouble = of_answer(SHADEFORM, answer.status_code, answer.headers, _body(answer))
                asked_s = retry_after_s(
                    answer.headers.get("Retry-After"), most_s=MOST_RETRY_AFTER_S
                )
            if trouble is None:
                return self._decode(answer, path)
            if not trouble.again:
                raise trouble.error("; nothing was changed")
            if attempt < tries - 1:
                self.sleep(max(wait, min(asked_s, LONGEST_RETRY_AFTER_S)))
        trouble = trouble or Trouble(DOWN, "no answer")
        tried = f", {tries} tries of GET {path}; nothing was changed. {trouble.advice}"
        error = trouble.error(tried if tries > 1 else "")
        error.retry_after_s = asked_s
        raise error

    def _change(self, path: str, body: dict[str, Any] | None) -> bytes:
        try:
            answer = self._send("POST", path, body)
        except (OSError, ValueError) as e:
            trouble = of_exception(e, SHADEFORM, self.base)
            if trouble.kind == SETTING and not trouble.sent:
                raise trouble.error("; nothing was sent") from None
            raise UnclearAnswer(f"the answer to POST {path} was lost ({trouble.text})") from None
        if answer.status_code == 200:
            return answer.content
        raise self._refusal(answer, f"POST {path}")

    def _decode(self, answer: requests.Response, path: str) -> dict[str, Any]:
        if answer.status_code != 200:
            raise self._refusal(answer, f"GET {path}")
        try:
            found = decode(answer.content)
        except (ValueError, RecursionError) as e:
            raise BadAnswer(
                f"Shadeform's answer to GET {path} cannot be read: {str(e)[:200]}"
            ) from None
        if not isinstance(found, dict):
            raise BadAnswer(f"Shadeform's answer to GET {path} cannot be read: not a JSON object")
        return found

    def _refusal(self, answer: requests.Response, call: str) -> NanolanError:
        code, text = _error_of(answer)
        status = answer.status_code
        creates = call == f"POST {CREATE}"
        done = "rented" if creates else "changed"
        if status in (401, 403):
            return AuthProblem(
                f"Shadeform refused SHADEFORM_API_KEY (HTTP {status}: {text}); nothing was {done}. "
                "Get a key: https://platform.shadeform.ai/settings/api"
            )
        if status == 404:
            return NotFound(f"Shadeform did not find it (404): {call}")
        if status == 409 and code == "OUT_OF_STOCK":
            return OutOfStock("just sold out; nothing was rented")
        if status == 409 and code == "INSUFFICIENT_FUNDS":
            return InsufficientFunds(
                f"Shadeform's wallet is too low: {text} Nothing was rented. "
                "Add money: https://platform.shadeform.ai/settings/billing"
            )
        if status >= 500 or status in (408, 409, 425) or 200 <= status < 400:
            return UnclearAnswer(f"{call} answered HTTP {status} {code} {text}".strip())
        refused = f"Shadeform refused {call}: HTTP {status} {text}".strip()
        if not creates:
            return ApiProblem(refused)
        return SAME_FOR_EVERY_OFFER.get(status, OfferRefused)(f"{refused}; nothing was rented")


def read_whole(answer: requests.Response) -> requests.Response:
    """The answer with its whole content; RequestException if it is too long or takes too long."""
    if isinstance(answer, requests.Response):
        data = bytearray()
        end = time.monotonic() + CALL_S
        for chunk in answer.iter_content(1 << 10):
            data += chunk
            if time.monotonic() > end:  # the caller has stopped waiting
                answer.close()
                raise requests.Timeout(f"no whole answer in {CALL_S:.0f} s")
            if len(data) > MOST_BYTES:
                answer.close()
                data.clear()  # the traceback of a kept error holds this frame
                raise requests.RequestException(f"an answer of more than {MOST_BYTES >> 20} MiB")
        answer._content = bytes(data)
    return answer


def retry_after_s(
    text: str | None, now: datetime | None = None, most_s: float = LONGEST_RETRY_AFTER_S
) -> float:
    """Seconds of a Retry-After header (number or date), from 0 to `most_s`; 0 if it is invalid."""
    if not text:
        return 0.0
    try:
        wait = float(text)
    except ValueError:
        try:
            wait = (parsedate_to_datetime(text) - (now or now_utc())).total_seconds()
        except (ValueError, TypeError, OverflowError):
            return 0.0
    return min(max(wait, 0.0), most_s) if wait == wait else 0.0


def _error_of(answer: requests.Response) -> tuple[str, str]:
    """(error_code, text) of an error body: JSON, plain text or a proxy's HTML page."""
    try:
        d = msgspec.json.decode(answer.content, type=dict)
        return short(str(d.get("error_code") or ""), 40), short(
            str(d.get("error") or d.get("message") or "")
        )
    except UNREADABLE:
        return "", short(answer.text, 200)


def _body(answer: requests.Response) -> str:
    return answer.content[:PAGE_BYTES].decode(errors="replace")
