"""Reads the records of an API's lists one by one: an unreadable field is None, an unreadable record is counted.

The account is shared: a colleague's instance, or a field that Shadeform has changed, must not hide the user's instances.
Unknown is None, never zero. Pure.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar

from nanolan.errors import BadAnswer
from nanolan.money import cents_from_dollars
from nanolan.times import EARLIEST, now_utc, parse_time

T = TypeVar("T")
MOST_CENTS = 10**8  # of a price per hour, or a bill; more is an error
LONGEST_NUMBER = 19  # digits; Python refuses to parse thousands
MOST_CHARS = 300  # of a text field
AMOUNT = re.compile(r"\$?\d+(\.\d*)?", re.A)  # "103.4", "$15.00"; a comma is ambiguous
MORE_PAGES = (
    "has_more",
    "has_next",
    "next",
    "next_cursor",
    "next_page",
    "next_page_token",
)
NO_PAGE: tuple[Any, ...] = (None, False, 0, "", "false", "null", [], {})
AHEAD = timedelta(days=1)  # how far a past time may be ahead of this clock


class Listing(list[T]):
    """The readable records, and the number of unreadable ones."""

    def __init__(self, records: Iterable[T] = (), unreadable: int = 0) -> None:
        super().__init__(records)
        self.unreadable = unreadable

    @property
    def gap(self) -> str:
        """ "1 record of Shadeform's list could not be read", or "" """
        n = self.unreadable
        return f"{n} record{'s' * (n > 1)} of Shadeform's list could not be read" if n else ""


def decode(content: bytes) -> Any:
    """The JSON of an answer; ValueError if it is invalid. Python's own parser, because a strict one rejects all records for an
    oddity in one of them: NaN, half of a surrogate pair, a number of a thousand digits."""
    return json.loads(
        content, parse_int=lambda digits: int(digits) if len(digits) < LONGEST_NUMBER else None
    )


def read_each(records: Iterable[Any], read: Callable[[Any], T]) -> Listing[T]:
    """The records parsed by `read`; those for which it raises BadAnswer are counted."""
    found: Listing[T] = Listing()
    for record in records:
        try:
            found.append(read(record))
        except BadAnswer:
            found.unreadable += 1
    return found


def on_other_pages(answer: Mapping[str, Any], here: int) -> int:
    """How many records an answer leaves out; at least 1 if it names another page. The API has none; a change must not blind us."""
    totals = [whole_number(answer.get(name)) or 0 for name in ("total", "total_count", "count")]
    more = any(answer.get(name) not in NO_PAGE for name in MORE_PAGES)
    return max(*(total - here for total in totals), int(more))


def gap_of(listed: Iterable[Any] | None) -> str:
    """The `gap` of a Listing; "" for other lists."""
    return listed.gap if isinstance(listed, Listing) else ""


# ------------------------------------------------------------------ fields
def raw_text(value: Any) -> str:
    """An unchanged string, or "": for values that a create sends back to the API."""
    return value if isinstance(value, str) and len(value) <= MOST_CHARS else ""


def printable(value: Any) -> str:
    """A printable string, or ""."""
    return value if raw_text(value).isprintable() and raw_text(value) else ""


def printables(value: Any) -> tuple[str, ...]:
    """The printable strings of a list; other elements are dropped."""
    return tuple(filter(None, map(printable, value))) if isinstance(value, list) else ()


def whole_number(value: Any) -> int | None:
    """A whole number of at least 0."""
    good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53
    return value if good else None


def boolean(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def fields(value: Any) -> dict[str, Any]:
    """The fields of a nested record, or {}."""
    return value if isinstance(value, dict) else {}


def price_cents(value: Any) -> int | None:
    """Cents per hour: a whole number above 0; a fraction may mean dollars, so it is unknown."""
    good = (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and 0 < value < MOST_CENTS
        and value == int(value)
    )
    return int(value) if good else None


def amount_cents(value: Any) -> int | None:
    """Cents of an amount in dollars, given as a decimal string or number."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    written = (
        f"{Decimal(str(value)):f}"
        if isinstance(value, float) and math.isfinite(value)
        else str(value).strip()
    )
    if len(written) > MOST_CHARS or not AMOUNT.fullmatch(written):
        return None
    cents = cents_from_dollars(written, "an amount")
    return cents if cents < MOST_CENTS else None


def timestamp(value: Any) -> datetime | None:
    """A plausible time."""
    try:
        found = parse_time(value) if isinstance(value, str) and value else None
    except BadAnswer:
        return None
    return found if found and found > EARLIEST else None


def past_timestamp(value: Any) -> datetime | None:
    """A plausible time that is not in the future."""
    found = timestamp(value)
    return found if found and found < now_utc() + AHEAD else None
