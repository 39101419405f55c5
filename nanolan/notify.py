"""Notifications to the addresses of NOTIFY_URL, through apprise (Slack, Discord, ntfy, mail, ...).

Sent by the box, so the laptop may be off, and in a background thread, so that nothing waits. Best effort: an error
is a line of the log. An address contains a token, so it is a secret, and apprise's messages are masked.
"""

from __future__ import annotations

import json
import queue
import re
import threading
from collections.abc import Callable
from pathlib import Path

from nanolan.files import try_write_atomic
from nanolan.money import dollars
from nanolan.plan import Plan
from nanolan.redact import Mask, Secret, hide, short
from nanolan.run.record import Receipt

INFO, SUCCESS, WARNING, FAILURE = "info", "success", "warning", "failure"  # apprise's own words
CLOSE_S = 20.0

Send = Callable[[str, str, str, str], str]  # (address, title, text, kind) -> "" or what went wrong


class Notifier:
    """Sends each event once, also over restarts of the box program: `kept` holds what was sent."""

    def __init__(
        self,
        urls: Secret | None,
        name: str,
        kept: Path | None = None,
        say: Callable[[str], None] = lambda text: None,
        send: Send | None = None,
    ) -> None:
        self._urls, self._name, self._kept, self._say = addresses(urls), name, kept, say
        self._mask = Mask([urls], pieces=True)  # a service may echo the token without the address
        self._send = send or by_apprise
        self._queue: queue.SimpleQueue[tuple[str, str, str] | None] = queue.SimpleQueue()
        self._sent = _read(kept)
        self._told = set(self._sent)
        self._thread = threading.Thread(target=self._follow, daemon=True)
        if self._urls:
            self._thread.start()

    def tell(self, event: str, text: str, kind: str = INFO) -> None:
        """Send `text` under the title "<run>: <event>", unless that event was sent before; returns at once."""
        if self._urls and event not in self._told:
            self._told.add(event)
            self._queue.put((event, text, kind))

    def close(self, most_s: float = CLOSE_S) -> None:
        """Send what is queued, within `most_s` seconds."""
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join(most_s)

    def _follow(self) -> None:
        while (event := self._queue.get()) is not None:
            for number, url in enumerate(self._urls, 1):
                try:
                    problem = self._send(
                        url, hide(f"{self._name}: {event[0]}"), hide(event[1]), event[2]
                    )
                except Exception as e:  # best effort: the run continues
                    problem = f"{type(e).__name__}: {e}"
                if problem:
                    self._say(
                        f"notification {number} not sent ({event[0]}): {short(self._mask.hide(problem), 200)}"
                    )
            self._sent.append(event[0])  # after sending: if killed before, it is sent again
            _write(self._kept, self._sent)


def started(plan: Plan) -> str:
    """What runs where, what it should cost, and how to follow it."""
    o, p = plan.offer, plan.predicted
    cost = (
        f"should cost {dollars(p.likely_cents)} ({dollars(p.low_cents)} to {dollars(p.high_cents)}), "
        if p
        else ""
    )
    return (
        f"run {plan.run_id} on {o.num_gpus}x {o.gpu} at {o.cloud}/{o.region}, {dollars(o.hourly_cents)}/h; {cost}"
        f"limit {dollars(plan.limit_cents)}. Follow it: just watch; stop it: just stop {plan.run_id}"
    )


def ended(receipt: Receipt) -> str:
    """The cause, the money, and what is proven."""
    proven = [f"{r.folder} step {r.step}" for r in receipt.phases.values() if r.state == "proven"]
    why = (
        f"{': '.join(filter(None, (receipt.reason, receipt.message)))}. " if receipt.message else ""
    )
    return f"{why}{dollars(receipt.spent_cents)} spent. Proven on the Hub: {', '.join(proven) or 'nothing'}"


def addresses(urls: Secret | None) -> list[str]:
    """The addresses in NOTIFY_URL, which are separated by blanks or commas in front of a scheme."""
    return [
        u
        for u in re.split(r"[\s,]+(?=[a-z][a-z0-9+.-]*://)|\s+", urls.reveal() if urls else "")
        if u
    ]


def by_apprise(url: str, title: str, text: str, kind: str) -> str:
    """Send by apprise; "" or what went wrong."""
    import logging

    import apprise

    words: list[str] = []
    logger, hear = logging.getLogger("apprise"), logging.Handler(logging.WARNING)
    hear.emit = lambda record: words.append(record.getMessage())  # type: ignore[method-assign]
    logger.propagate = False  # its messages may contain the address
    logger.addHandler(hear)
    try:
        target = apprise.Apprise()
        if not target.add(url):
            return "apprise does not support this address"
        sent = target.notify(title=title, body=text, notify_type=apprise.NotifyType(kind))
        return "" if sent else " ".join(words[-1:]) or "the service rejected it"
    finally:
        logger.removeHandler(hear)


def _read(path: Path | None) -> list[str]:
    try:
        return [str(event) for event in json.loads(path.read_text())] if path else []
    except (OSError, ValueError, TypeError):
        return []


def _write(path: Path | None, events: list[str]) -> None:
    if path:
        try_write_atomic(path, json.dumps(events).encode())
