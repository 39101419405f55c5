"""The clock for all dates and ages: the services' time, read from the `Date` header of their answers.

The provider deletes instances by its clock, not by the local one. A laptop's clock can be hours behind (WSL2 after a sleep),
ahead, or jump during a run. So a service's date is extrapolated with the monotonic clock and renewed by every answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime

from nanolan.errors import BadAnswer

SERVICES = ("the Hub", "Shadeform")  # in ascending order of trust
AGREES_S = 5.0  # equal times: a `Date` has whole seconds and takes a while to arrive
NOTE_S = 60.0  # a larger difference is reported
FRESH_S = 600.0  # maximum age of an answer that a deletion may rely on
EARLIEST = datetime(2025, 1, 1, tzinfo=timezone.utc)  # earlier dates are invalid
LATEST = datetime(2100, 1, 1, tzinfo=timezone.utc)  # later dates are invalid
# answers in a row, or one answer and the local clock, that must agree before anything is deleted
CONFIRMATIONS = 2


def machine_now() -> datetime:
    """UTC by the local clock, which may be wrong."""
    return datetime.now(timezone.utc)


def local_text(moment: datetime | str) -> str:
    """A moment in this machine's time zone, with the zone: "28 Jan 20:53 CET"; the day is left out if it is today."""
    here = (parse_time(moment) if isinstance(moment, str) else moment).astimezone()
    day = "" if here.date() == now_utc().astimezone().date() else f"{here.day} {here:%b} "
    return f"{day}{here:%H:%M %Z}"


def steady() -> float:
    """Monotonic seconds; include the time that the machine sleeps, if the system supports it."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@dataclass(frozen=True)
class Reading:
    """A service's date, and the monotonic time at which it arrived."""

    service: str
    date: datetime
    at: float


class ServiceClock:
    """The services' time; the local time before the first answer, or if they agree."""

    def __init__(
        self, machine: Callable[[], datetime] = machine_now, steady: Callable[[], float] = steady
    ) -> None:
        self._machine = machine
        self._steady = steady
        self._reading: Reading | None = None
        self._last: Reading | None = None  # the newest answer, accepted or not
        self._confirmations = 0
        self._reported_s = 0.0
        self.on_difference: Callable[[str], object] = lambda text: None  # gets a message

    def learn(self, service: str, date: str | None, age: str | None = None) -> None:
        """Use the `Date` of an answer that has just arrived; ignores invalid dates and cached answers."""
        read = _date_of(date)
        known = self._reading
        if read is None or (age or "0").strip() != "0":
            return
        if known and SERVICES.index(known.service) > SERVICES.index(service):
            return
        self._accept(Reading(service, read, self._steady()))
        self._report_difference()

    def _accept(self, new: Reading) -> None:
        """A single answer may be replayed, or come from a server with a wrong clock: one that contradicts both the known time and
        the local clock is accepted only when the next answer confirms it."""
        confirmed = self._agree(new, self._last)
        local_agrees = abs(self._machine() - new.date) <= timedelta(seconds=NOTE_S)
        self._confirmations = 1 + local_agrees + (self._confirmations if confirmed else 0)
        self._last = new
        first = self._reading is None or self._reading.service != new.service
        if first or self._confirmations >= CONFIRMATIONS or self._agree(new, self._reading):
            self._reading = new

    @staticmethod
    def _agree(new: Reading, old: Reading | None) -> bool:
        """Whether two answers of one service agree within a minute."""
        if old is None or old.service != new.service:
            return False
        return abs((new.date - old.date).total_seconds() - (new.at - old.at)) <= NOTE_S

    def forget(self) -> None:
        """Forget all answers, as at the start."""
        self._reading = None
        self._last = None
        self._confirmations = 0
        self._reported_s = 0.0

    @property
    def known(self) -> bool:
        """Whether an answer of a service has been accepted."""
        return self._reading is not None

    def now(self) -> datetime:
        """UTC by the service's clock if it is known, else by the local clock."""
        machine = self._machine()
        service = self._extrapolated()
        if service is None or abs((machine - service).total_seconds()) <= AGREES_S:
            return machine  # more precise: it has fractions of a second
        return service

    def agreed(self) -> datetime | None:
        """Shadeform's time, or None if its last answer is too old or its answers contradict each other: then no instance is
        deleted because of its age."""
        known = self._reading
        if (
            self._confirmations < CONFIRMATIONS
            or known is None
            or known.service != SERVICES[-1]
            or self._steady() - known.at > FRESH_S
        ):
            return None
        return self._extrapolated()

    @property
    def ahead_s(self) -> float:
        """Seconds that the local clock is ahead of the service's; 0 if no service's time is known."""
        service = self._extrapolated()
        return (self._machine() - service).total_seconds() if service else 0.0

    def _extrapolated(self) -> datetime | None:
        known = self._reading
        return known.date + timedelta(seconds=self._steady() - known.at) if known else None

    def _report_difference(self) -> None:
        ahead_s = self.ahead_s
        if abs(ahead_s - self._reported_s) <= NOTE_S:
            return
        self._reported_s = ahead_s
        self.on_difference(difference(ahead_s, self._reading.service if self._reading else ""))


def difference(ahead_s: float, service: str) -> str:
    """The message about a local clock that is wrong, or right again."""
    if abs(ahead_s) <= NOTE_S:
        return f"the clock of this machine agrees with {service}'s again"
    amount = (
        f"{abs(ahead_s) / 3600:,.1f} h" if abs(ahead_s) >= 3600 else f"{abs(ahead_s) / 60:.0f} min"
    )
    return (
        f"the clock of this machine is {amount} {'ahead of' if ahead_s > 0 else 'behind'} {service}'s; dates and limits use "
        f"{service}'s. Set the clock: timedatectl set-ntp true, or your system's settings"
    )


def _date_of(text: str | None) -> datetime | None:
    try:
        date = parsedate_to_datetime(text or "")
        if date.tzinfo is None:  # an unknown zone: it may be hours off
            return None
        date = date.astimezone(timezone.utc)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return date if EARLIEST < date < LATEST else None


SERVICE_CLOCK = ServiceClock()


def now_utc() -> datetime:
    """UTC by the services' clock if it is known, else by the local clock."""
    return SERVICE_CLOCK.now()


def iso(moment: datetime) -> str:
    """ISO-8601 UTC to the second, with Z."""
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str) -> datetime:
    """The datetime of an ISO-8601 text with any fraction and zone (default UTC); BadAnswer if it is invalid."""
    try:
        head, _, tail = text.replace("Z", "+00:00").partition(".")
        digits = len(tail) - len(tail.lstrip("0123456789"))
        moment = datetime.fromisoformat(head + (tail[digits:] if tail else ""))
        if tail:  # Python 3.10 reads only 3 or 6 digits of a fraction
            moment += timedelta(microseconds=int(tail[:digits].ljust(6, "0")[:6]))
        if abs(moment.year - 2100) > 100:  # a zone or a sum could move it out of datetime's range
            raise ValueError
        return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
    except (ValueError, AttributeError, TypeError):
        raise BadAnswer(f"{str(text)[:40]!r} is not a time") from None
