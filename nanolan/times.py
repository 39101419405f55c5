"""The time that dates and ages are reckoned by: the service's own, read from the `Date` of its answers.

The provider deletes by its clock, not by ours. The clock of a laptop can be hours behind (WSL2 after a sleep), ahead, or jump in
mid-run; so a service's date is carried on by the steady clock, which nobody sets, and is renewed by every answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime

from nanolan.errors import BadAnswer

SERVICES = ("the Hub", "Shadeform")  # a later one is believed before an earlier one
AGREES_S = 5.0  # a `Date` has whole seconds, and takes a while to arrive
NOTE_S = 60.0  # a larger difference is said
FRESH_S = 600.0  # how long an answer says what time it is for a deletion
EARLIEST = datetime(2025, 1, 1, tzinfo=timezone.utc)  # a date before nanolan is no date
LATEST = datetime(2100, 1, 1, tzinfo=timezone.utc)  # nor is one so late
WITNESSES = (
    2  # answers in a row, or one and this machine, that must agree before anything is deleted
)


def machine_now() -> datetime:
    """UTC by the clock of this machine, right or wrong."""
    return datetime.now(timezone.utc)


def steady() -> float:
    """Seconds that nobody sets; they go on while the machine sleeps, where the system can tell."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@dataclass(frozen=True)
class Reading:
    """What time a service said it was at a moment of the steady clock."""

    service: str
    date: datetime
    at: float


class ServiceClock:
    """The services' time; this machine's where no answer has come yet, or where they agree."""

    def __init__(
        self, machine: Callable[[], datetime] = machine_now, steady: Callable[[], float] = steady
    ) -> None:
        self._machine = machine
        self._steady = steady
        self._reading: Reading | None = None
        self._last: Reading | None = None  # the newest answer, believed or not
        self._witnesses = 0
        self._said_s = 0.0
        self.tell: Callable[[str], object] = lambda text: None  # of a difference that is new

    def learn(self, service: str, date: str | None, age: str | None = None) -> None:
        """Take the `Date` of an answer that has just come; what is no date, or came out of a cache, is passed over."""
        told = _date_of(date)
        known = self._reading
        if told is None or (age or "0").strip() != "0":
            return
        if known and SERVICES.index(known.service) > SERVICES.index(service):
            return
        self._weigh(Reading(service, told, self._steady()))
        self._tell_difference()

    def _weigh(self, new: Reading) -> None:
        """One answer alone may be replayed, or of a server with a wrong clock: what contradicts the known time and this machine's
        is believed when the next answer bears it out."""
        again, right = (
            self._agree(new, self._last),
            abs(self._machine() - new.date) <= timedelta(seconds=NOTE_S),
        )
        self._witnesses = 1 + right + (self._witnesses if again else 0)
        self._last = new
        first = self._reading is None or self._reading.service != new.service
        if first or self._witnesses >= WITNESSES or self._agree(new, self._reading):
            self._reading = new

    @staticmethod
    def _agree(new: Reading, old: Reading | None) -> bool:
        """Whether two answers of one service tell the same time, within a minute."""
        if old is None or old.service != new.service:
            return False
        return abs((new.date - old.date).total_seconds() - (new.at - old.at)) <= NOTE_S

    def forget(self) -> None:
        """Know only this machine's clock, as at the start."""
        self._reading = None
        self._last = None
        self._witnesses = 0
        self._said_s = 0.0

    @property
    def told(self) -> bool:
        """Whether a service has told its time to this program."""
        return self._reading is not None

    def now(self) -> datetime:
        """UTC by the service's clock as far as it is known."""
        machine, service = self._machine(), self._carried_on()
        if service is None or abs((machine - service).total_seconds()) <= AGREES_S:
            return machine  # it has the fractions of a second
        return service

    def agreed(self) -> datetime | None:
        """Shadeform's own time, or None when it has not told it within the last minutes, or its answers contradict each other:
        then nothing is deleted for its age."""
        known = self._reading
        if (
            self._witnesses < WITNESSES
            or known is None
            or known.service != SERVICES[-1]
            or self._steady() - known.at > FRESH_S
        ):
            return None
        return self._carried_on()

    @property
    def ahead_s(self) -> float:
        """Seconds that this machine's clock is ahead of the service's; 0 when no service has told its time."""
        service = self._carried_on()
        return (self._machine() - service).total_seconds() if service else 0.0

    def _carried_on(self) -> datetime | None:
        known = self._reading
        return known.date + timedelta(seconds=self._steady() - known.at) if known else None

    def _tell_difference(self) -> None:
        ahead_s = self.ahead_s
        if abs(ahead_s - self._said_s) <= NOTE_S:
            return
        self._said_s = ahead_s
        self.tell(difference(ahead_s, self._reading.service if self._reading else ""))


def difference(ahead_s: float, service: str) -> str:
    """The sentence about a clock that is wrong, or right again."""
    if abs(ahead_s) <= NOTE_S:
        return f"the clock of this machine agrees with {service}'s again"
    amount = (
        f"{abs(ahead_s) / 3600:,.1f} h" if abs(ahead_s) >= 3600 else f"{abs(ahead_s) / 60:.0f} min"
    )
    return (
        f"the clock of this machine is {amount} {'ahead of' if ahead_s > 0 else 'behind'} {service}'s; dates and limits go by "
        f"{service}'s. Set it: timedatectl set-ntp true, or your system's settings"
    )


def _date_of(text: str | None) -> datetime | None:
    try:
        told = parsedate_to_datetime(text or "")
        if told.tzinfo is None:  # a zone that is not known: it may be hours off
            return None
        told = told.astimezone(timezone.utc)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return told if EARLIEST < told < LATEST else None


SERVICE_CLOCK = ServiceClock()


def now_utc() -> datetime:
    """UTC by the service's clock, as far as an answer has told it."""
    return SERVICE_CLOCK.now()


def iso(moment: datetime) -> str:
    """ISO-8601 UTC to the second, with Z."""
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str) -> datetime:
    """A UTC datetime of an ISO-8601 text with any fraction and zone; BadAnswer if it is none."""
    try:
        head, _, tail = text.replace("Z", "+00:00").partition(".")
        digits = len(tail) - len(tail.lstrip("0123456789"))
        moment = datetime.fromisoformat(head + (tail[digits:] if tail else ""))
        if tail:  # Python 3.10 reads only 3 or 6 digits of a fraction
            moment += timedelta(microseconds=int(tail[:digits].ljust(6, "0")[:6]))
        if abs(moment.year - 2100) > 100:  # with a zone, or a while later, it might be none
            raise ValueError
        return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
    except (ValueError, AttributeError, TypeError):
        raise BadAnswer(f"{str(text)[:40]!r} is not a time") from None
