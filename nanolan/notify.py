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

INFO, SUCCESS, WARNING, FAILURE = "info", "success", "warning", "failure"  # apprise's types
CLOSE_S = 20.0

Send = Callable[[str, str, str, str], str]  # (address, title, text, kind) -> "" or the error


class Notifier:
    """Sends each event once, across restarts of the box program: the file `kept` stores the sent events."""

    def __init__(
        self,
        urls: Secret | None,
        name: str,
        kept: Path | None = None,
        say: Callable[[str], None] = lambda text: None,
        send: Send | None = None,
    ) -> None:
        self._urls = addresses(urls)
        self._name = name
        self._kept = kept
        self._say = say
        self._mask = Mask([urls], pieces=True)  # a service may echo the token without the address
        self._send = send or by_apprise
        self._queue: queue.SimpleQueue[tuple[str, str, str] | None] = queue.SimpleQueue()
        self._sent = _read(kept)
        self._seen_events = set(self._sent)
        self._thread = threading.Thread(target=self._send_queued, daemon=True)
        if self._urls:
            self._thread.start()

    def send(self, event: str, text: str, kind: str = INFO) -> None:
        """Send `text` under the title "<run>: <event>", unless that event was sent before; returns at once."""
        if self._urls and event not in self._seen_events:
            self._seen_events.add(event)
            self._queue.put((event, text, kind))

    def close(self, most_s: float = CLOSE_S) -> None:
        """Send what is queued, within `most_s` seconds."""
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join(most_s)

    def _send_queued(self) -> None:
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
    """The message at the start: run, instance, expected cost, and commands."""
    offer, predicted = plan.offer, plan.predicted
    cost = ""
    if predicted:
        low, high = dollars(predicted.low_cents), dollars(predicted.high_cents)
        cost = f"should cost {dollars(predicted.likely_cents)} ({low} to {high}), "
    where = f"{offer.num_gpus}x {offer.gpu} at {offer.cloud}/{offer.region}"
    return (
        f"run {plan.run_id} on {where}, {dollars(offer.hourly_cents)}/h; {cost}"
        f"limit {dollars(plan.limit_cents)}. Follow it: just watch; stop it: just stop {plan.run_id}"
    )


def ended(receipt: Receipt) -> str:
    """The message at the end: cause, money spent, and what is proven on the Hub."""
    proven = [f"{r.folder} step {r.step}" for r in receipt.phases.values() if r.state == "proven"]
    why = (
        f"{': '.join(filter(None, (receipt.reason, receipt.message)))}. " if receipt.message else ""
    )
    return f"{why}{dollars(receipt.spent_cents)} spent. Proven on the Hub: {', '.join(proven) or 'nothing'}"


def addresses(urls: Secret | None) -> list[str]:
    """The addresses in NOTIFY_URL, separated by blanks or by commas before a scheme."""
    return [
        u
        for u in re.split(r"[\s,]+(?=[a-z][a-z0-9+.-]*://)|\s+", urls.reveal() if urls else "")
        if u
    ]


def by_apprise(url: str, title: str, text: str, kind: str) -> str:
    """Send through apprise; returns "" or the error."""
    import logging

    import apprise

    messages: list[str] = []
    logger, collect = logging.getLogger("apprise"), logging.Handler(logging.WARNING)
    collect.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger.propagate = False  # its messages may contain the address
    logger.addHandler(collect)
    try:
        target = apprise.Apprise()
        if not target.add(url):
            return "apprise does not support this address"
        sent = target.notify(title=title, body=text, notify_type=apprise.NotifyType(kind))
        return "" if sent else " ".join(messages[-1:]) or "the service rejected it"
    finally:
        logger.removeHandler(collect)


def _read(path: Path | None) -> list[str]:
    try:
        return [str(event) for event in json.loads(path.read_text())] if path else []
    except (OSError, ValueError, TypeError):
        return []


def _write(path: Path | None, events: list[str]) -> None:
    if path:
        try_write_atomic(path, json.dumps(events).encode())
