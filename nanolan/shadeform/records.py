"""Reads the records of an API's lists one by one: a field that cannot be read is unknown, and a record that cannot is counted.

The account is shared: a colleague's machine, or a field that Shadeform has changed, must not hide our own machines.
Unknown is None, and never zero. Pure.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar

from nanolan.errors import BadAnswer
from nanolan.money import cents_from_dollars
from nanolan.times import EARLIEST, now_utc, parse_time

T = TypeVar("T")
MOST_CENTS = 10**8  # of a price an hour, or a bill: more is no price
LONGEST_NUMBER = 19  # digits; Python refuses to read one of thousands
MOST_CHARS = 300  # of a word that is no name
AMOUNT = re.compile(r"\$?\d+(\.\d*)?", re.A)  # "103.4", "$15.00"; what a comma means is not known
AHEAD = timedelta(days=1)  # a machine is not made later than that


class Listing(list[T]):
    """The records that could be read, and how many could not."""

    def __init__(self, records: Iterable[T] = (), unreadable: int = 0) -> None:
        super().__init__(records)
        self.unreadable = unreadable

    @property
    def gap(self) -> str:
        """ "1 record of Shadeform's list could not be read", or "" """
        n = self.unreadable
        return f"{n} record{'s' * (n > 1)} of Shadeform's list could not be read" if n else ""


def decode(content: bytes) -> Any:
    """The JSON of an answer, ValueError for what is none. Python's own reader: it takes what one record may hold and a strict one
    refuses all records for, as NaN, half of a surrogate pair or a number of a thousand digits."""
    return json.loads(
        content, parse_int=lambda digits: int(digits) if len(digits) < LONGEST_NUMBER else None
    )


def read_each(records: Iterable[Any], read: Callable[[Any], T]) -> Listing[T]:
    """Every record that `read` takes; one for which it raises BadAnswer is counted."""
    found: Listing[T] = Listing()
    for record in records:
        try:
            found.append(read(record))
        except BadAnswer:
            found.unreadable += 1
    return found


def gap_of(listed: Iterable[Any] | None) -> str:
    """The `gap` of a listing; "" of anything else."""
    return listed.gap if isinstance(listed, Listing) else ""


# ------------------------------------------------------------------ fields
def word(value: Any) -> str:
    """A word as it is, "" where there is none: what is sent back to the API in a create."""
    return value if isinstance(value, str) and len(value) <= MOST_CHARS else ""


def text(value: Any) -> str:
    """A word that can be shown, "" where there is none."""
    return value if word(value).isprintable() and word(value) else ""


def texts(value: Any) -> tuple[str, ...]:
    """The words of a list; what is none is left out."""
    return tuple(filter(None, map(text, value))) if isinstance(value, list) else ()


def whole(value: Any) -> int | None:
    """A whole number of at least 0."""
    good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53
    return value if good else None


def flag(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def record(value: Any) -> dict[str, Any]:
    """The fields of a record within a record; none where there is none."""
    return value if isinstance(value, dict) else {}


def price_cents(value: Any) -> int | None:
    """Cents per hour: a whole number above 0; one with a fraction may be dollars."""
    good = (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and 0 < value < MOST_CENTS
        and value == int(value)
    )
    return int(value) if good else None


def amount_cents(value: Any) -> int | None:
    """Cents of an amount in dollars, a decimal string or a number."""
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


def moment(value: Any) -> datetime | None:
    """A time at which something can have happened, or will."""
    try:
        found = parse_time(value) if isinstance(value, str) and value else None
    except BadAnswer:
        return None
    return found if found and found > EARLIEST else None


def past(value: Any) -> datetime | None:
    """A time at which something has happened."""
    found = moment(value)
    return found if found and found < now_utc() + AHEAD else None
