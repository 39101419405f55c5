"""The mark in every key and token of the local services: where it turns up, a secret leaked. And who hears what they are sent."""

from __future__ import annotations

from collections.abc import Callable

# Put together only when it runs: this very file is part of the code that a box gets
MARKER = "".join(("CANARY", "7qXw2VbN8kTz4RjM"))
TWIST = '+/"%'  # what looks otherwise in an address and in JSON

LISTENERS: list[
    Callable[[str, str, dict[str, str], bytes], None]
] = []  # called with verb, path with query, headers, body


def overhear(verb: str, target: str, headers: dict[str, str], body: bytes) -> None:
    """Tell every listener of a request, or of a piece of its body."""
    for listen in LISTENERS:
        listen(verb, target, headers, body)
