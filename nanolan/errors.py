"""Errors for the person at the prompt: what happened, what it means for money and data, what to type next.

    NanolanError                1
      UsageProblem              2   bad option or setting
      NoOffer                   3   nothing to rent that fits
        OutOfStock              3   listed, but sold out on create
          OfferRefused          3   the provider will not make this one
      PreflightFailed           4   a check before renting failed
        AuthProblem             4   wrong or missing key or token
        InsufficientFunds       4   the wallet is too low
      RunFailed                 5   the run ended without its result
        MachineFailed           5   the machine was no good; it is seen to be deleted
      LimitHitSaved             6   a limit ended the run, the work is on the Hub
      LimitHitLost              7   a limit ended the run, work was lost
      LedgerProblem             1   ~/.nanolan cannot be written: no room, no right
      MayBeBilling              8   something may still cost money; names it and how to stop it
      ApiProblem                1   a service did not do what was asked
        Unreachable             1   no answer after every retry
          WrongSetting          2   no answer, for a setting of this machine's: names it
          TooManyRequests       1   the service wants to be asked less often
        NotFound                1   404
        BadAnswer               1   an answer that is not what its format says
        UnclearAnswer           1   a change was sent, nobody knows if it happened

Only scripts/ catches these, prints one line and exits with `exit_code`.
"""

from __future__ import annotations

from nanolan.redact import hide


class NanolanError(Exception):
    """Something went wrong that the user can be told about in one line; without any secret, wherever its words end up."""

    exit_code = 1

    def __str__(self) -> str:
        return hide(super().__str__())


class UsageProblem(NanolanError):
    """An option, setting or name is not usable."""

    exit_code = 2


class NoOffer(NanolanError):
    """No offer fits what was asked."""

    exit_code = 3


class OutOfStock(NoOffer):
    """The provider said definitely no: nothing was rented, another offer may be tried."""


class OfferRefused(OutOfStock):
    """The provider refused to make this offer, for sure."""


class PreflightFailed(NanolanError):
    """A check before renting failed: nothing was rented."""

    exit_code = 4


class AuthProblem(PreflightFailed):
    """A key or token is missing, wrong or may not do this."""


class InsufficientFunds(PreflightFailed):
    """The wallet is too low: no other offer would help."""


class RunFailed(NanolanError):
    """The run ended without its result."""

    exit_code = 5


class MachineFailed(RunFailed):
    """A machine was not what was agreed or did not come up. It is seen to be deleted: another offer may be tried."""

    def __init__(
        self, message: str, instance_id: str | None = None, spent_cents: int | None = None
    ) -> None:
        super().__init__(message)
        self.instance_id, self.spent_cents = instance_id, spent_cents


class LimitHitSaved(NanolanError):
    """A limit ended the run; what was trained is verified on the Hub."""

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


class WrongSetting(Unreachable):
    """A service cannot be reached for a setting or the network of this machine. Whoever waits for a service waits for this, too."""

    exit_code = 2


class TooManyRequests(Unreachable):
    """The service wants to be asked less often (429)."""


class NotFound(ApiProblem):
    """The thing asked for is not there (404)."""


class BadAnswer(ApiProblem):
    """An answer or file that is not what its format says."""


class UnclearAnswer(ApiProblem):
    """A change was sent and the answer was lost: look before doing anything again."""
