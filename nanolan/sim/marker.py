"""The marker in every key and token of the local services, to find leaked secrets; and listeners for their requests."""

from __future__ import annotations

from collections.abc import Callable

# Joined at run time: this file is part of the code sent to a box
MARKER = "".join(("CANARY", "7qXw2VbN8kTz4RjM"))
TWIST = '+/"%'  # characters that are escaped in URLs and JSON

LISTENERS: list[
    Callable[[str, str, dict[str, str], bytes], None]
] = []  # called with verb, path with query, headers, body


def overhear(verb: str, target: str, headers: dict[str, str], body: bytes) -> None:
    """Pass a request, or a piece of its body, to every listener."""
    for listen in LISTENERS:
        listen(verb, target, headers, body)
