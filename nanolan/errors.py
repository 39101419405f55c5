"""Errors for the user: what happened, what it means for money and data, what to type next.

    NanolanError                1
      UsageProblem              2   bad option or setting
      NoOffer                   3   no offer fits
        OutOfStock              3   listed, but sold out on create
          OfferRefused          3   the provider rejected this offer
      PreflightFailed           4   a check before renting failed
        CheckUnavailable        4   such a check could not be made: the service did not answer
        AuthProblem             4   wrong or missing key or token
        InsufficientFunds       4   the wallet is too low
      RunFailed                 5   the run ended without its result
        MachineFailed           5   the instance failed its checks; its deletion is confirmed
      LimitHitSaved             6   a limit ended the run, the work is on the Hub
      LimitHitLost              7   a limit ended the run, work was lost
      LedgerProblem             1   ~/.nanolan cannot be written: disk full or no permission
      MayBeBilling              8   something may still cost money; names it and how to stop it
      ApiProblem                1   a service did not do what was asked
        Unreachable             1   no answer after every retry
          WrongSetting          2   no answer because of a local setting: names it
          TooManyRequests       1   rate limit (429)
        NotFound                1   404
        BadAnswer               1   an answer or file with an unexpected format
        UnclearAnswer           1   a change was sent; its outcome is unknown
        NotRented               1   a service failed before the create, or refused it for now


        Conflict                1   a repo has changed since it was read; nothing was written

Only scripts/ catches these, prints one line and exits with `exit_code`.
"""

from __future__ import annotations

import re

from nanolan.redact import STARS, hide

# Keys of services by their first letters; a name such as hf_endpoint has neither capitals nor digits
TOKEN = re.compile(
    r"(?<![A-Za-z0-9])(?:hf_|api_org_|sk-|wandb_v1_|gh[pousr]_|github_pat_|glpat-|xox[abeoprs]-|xapp-|rpa_|r8_|dop_v1_|SG\.|"
    r"AKIA|ASIA|AIza|ya29\.|npm_|pypi-|[sr]k_live_|AGE-SECRET-KEY-|eyJ)(?:(?=[\w.-]*[0-9A-Z])[\w.-]{6,}|\w{20,})"
)
# Keys without such letters: long words of letters and digits that no person would choose as a name
KEY_WORD = re.compile(
    r"(?<!\w)(?=\w*[0-9])(?:(?=\w*[A-Za-z])[A-Za-z0-9]{16,}|(?=\w*[a-z])(?=\w*[A-Z])\w{20,})(?!\w)"
)
RANDOM = re.compile(r"[A-Za-z0-9]{20,}")
LOGIN = re.compile(r"(?<=://)\S*@|(?<![^/@\s])[^/@\s:]+:[^/@\s]+@")  # linear in the text's length
QUERY = re.compile(r"(?<=://)([^?#\s]*[?#])[^\s'\"]+")


def without_keys(text: str) -> str:
    """A text of the user without what is or may be a key: a value may stand in the line of another setting."""
    shown = QUERY.sub(r"\1...", LOGIN.sub("...@", hide(text)))
    return KEY_WORD.sub(STARS, TOKEN.sub(STARS, shown))


def quoted(text: str, most: int = 80) -> str:
    """A text of the user in quotes, as errors show it: without keys, then cut."""
    return repr(without_keys(text)[:most])


def is_key(text: str) -> bool:
    """Whether a text is a key of a known service, which only a setting for keys may hold."""
    return TOKEN.fullmatch(text) is not None and RANDOM.search(text) is not None


class NanolanError(Exception):
    """Base of the errors that are shown to the user in one line; the text has all secrets masked."""

    exit_code = 1

    def __str__(self) -> str:
        return hide(super().__str__())


class UsageProblem(NanolanError):
    """An option, setting or name is not usable."""

    exit_code = 2


class NoOffer(NanolanError):
    """No offer fits the request."""

    exit_code = 3


class OutOfStock(NoOffer):
    """The provider rejected the create: nothing was rented, another offer may be tried."""


class OfferRefused(OutOfStock):
    """The provider rejected this offer: nothing was rented."""


class PreflightFailed(NanolanError):
    """A check before renting failed: nothing was rented."""

    exit_code = 4


class CheckUnavailable(PreflightFailed):
    """A check before renting could not be made: nothing was rented, and a later try may succeed."""


class AuthProblem(PreflightFailed):
    """A key or token is missing, wrong or may not do this."""


class InsufficientFunds(PreflightFailed):
    """The wallet is too low: no other offer would help."""


class RunFailed(NanolanError):
    """The run ended without its result."""

    exit_code = 5


class MachineFailed(RunFailed):
    """An instance is not what the offer said or did not boot. Its deletion is confirmed: another offer may be tried."""

    def __init__(
        self, message: str, instance_id: str | None = None, spent_cents: int | None = None
    ) -> None:
        super().__init__(message)
        self.instance_id = instance_id
        self.spent_cents = spent_cents


class LimitHitSaved(NanolanError):
    """A limit ended the run; the trained work is proven on the Hub."""

    exit_code = 6


class LimitHitLost(NanolanError):
    """A limit ended the run and work was lost."""

    exit_code = 7


class LedgerProblem(NanolanError):
    """The ledger cannot be written."""


class MayBeBilling(NanolanError):
    """Something may still cost money: the message names the instance, its price and how to stop it."""

    exit_code = 8


class ApiProblem(NanolanError):
    """A service did not do what was asked."""


class Unreachable(ApiProblem):
    """No usable answer after every retry."""

    retry_after_s = 0.0  # how long the service asks to wait


class WrongSetting(Unreachable):
    """A service cannot be reached because of a local setting or network. Callers that retry Unreachable retry this, too."""

    exit_code = 2


class TooManyRequests(Unreachable):
    """The service limits the rate of requests (429)."""


class NotFound(ApiProblem):
    """The requested object does not exist (404)."""


class BadAnswer(ApiProblem):
    """An answer or file with an unexpected format."""


class UnclearAnswer(ApiProblem):
    """A change was sent and the answer was lost: check its outcome before repeating it."""


class NotRented(ApiProblem):
    """A service failed before the create was sent, or refused it for now: nothing is rented, a later try may succeed."""


class Conflict(ApiProblem):
    """A repo has changed since it was read: nothing was written."""
