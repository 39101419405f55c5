"""Secrets that print as ***, and the mask that keeps their values out of everything that leaves the process."""
from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from urllib.parse import quote

STARS = "***"
SHORTEST = 6   # masking shorter values would blank out ordinary words


class Secret:
    """A value that shows as *** wherever it is printed; `reveal()` is the only way to it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __str__(self) -> str:
        return STARS

    __repr__ = __str__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __bool__(self) -> bool:
        return bool(self._value)


class Mask:
    """Replaces every form of the given secrets in a text: raw, URL-quoted, JSON-escaped, base64."""

    def __init__(self, secrets: Iterable[Secret | None]) -> None:
        values = {s.reveal() for s in secrets if s and len(s.reveal()) >= SHORTEST}
        forms = {form for value in values for form in _forms(value)}
        self._forms = sorted(forms, key=len, reverse=True)

    def hide(self, text: str) -> str:
        """`text` with *** in place of each secret."""
        for form in self._forms:
            text = text.replace(form, STARS)
        return text


def _forms(value: str) -> set[str]:
    raw = value.encode()
    forms = {value, quote(value, safe=""), json.dumps(value)[1:-1]}
    for shift, cut in enumerate((0, 2, 3)):   # base64 of a longer text shows the secret at one of three alignments
        whole = (shift + len(raw)) * 8 // 6    # characters that no neighbouring byte changes
        forms.add(base64.b64encode(b"\0" * shift + raw).decode()[cut:whole])
    return {f for f in forms if len(f) >= SHORTEST}
