"""What a launch does after it has rented: it follows the run, and takes a spot run up again when its instance is taken away."""

from __future__ import annotations

import outside_venv  # noqa: F401

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from nanolan.cli.run import Account, say

if TYPE_CHECKING:
    from nanolan.hub.client import Hub
    from nanolan.manage.run_budget import Agreed
    from nanolan.manage.takeover import TakeOver
    from nanolan.status.view import RunView

LOOK_S, LOOK_LOCAL_S = 15.0, 1.0


def follow_log(account: Account, run_id: str) -> int:
    """Print the run's log as it is written. Ctrl-C detaches; at the run's end its verdict is the exit code."""
    from logs import reader_of, show

    from nanolan.errors import ApiProblem, AuthProblem

    reader, mask = reader_of(account, account.ledger.find(run_id)), account.settings.mask()
    try:
        say("Its log follows. Ctrl-C detaches: the run goes on.\n")
        for text in reader.onward(0):
            show([text], mask)
    except KeyboardInterrupt:
        say(f"\ndetached; run {run_id} goes on. Follow it: just watch; stop it: just stop {run_id}")
        return 0
    except (ApiProblem, AuthProblem) as e:
        say(f"the log cannot be read ({e}); run {run_id} goes on. Follow it: just watch")
        return 0
    return verdict(reader.view, run_id)


def verdict(view: RunView | None, run_id: str) -> int:
    """0 for a success; the error of any other end."""
    if view and (error := view.verdict()):
        raise error
    say(f"run {run_id} succeeded. Next: just pull; just chat; just report {run_id}")
    return 0


def follow_spot(
    account: Account,
    hub: Hub,
    run_id: str,
    agreed: Agreed,
    shows_log: bool,
    report: Callable[[str], None] = say,
) -> int:
    """Follow a spot run to its end, and rent again each time that its instance is taken away. Ctrl-C ends only this."""
    from nanolan.cli.trainer import rehearsal_of
    from nanolan.launch.looks import LOCAL, POLITE
    from nanolan.manage.takeover import TakeOver, bound_text, follow_and_take_up
    from nanolan.settings.settings import is_loopback

    local = is_loopback(account.api.base)
    take_over = TakeOver(
        account.ledger,
        account.settings,
        account.api,
        hub,
        report,
        rehearsal_of(account.settings),
        pace=LOCAL if local else POLITE,
    )
    say(
        "Spot: while this command runs, the run is taken up on the next offer when its instance is taken away, for "
        f"{bound_text(agreed, account.ledger.find(run_id))}. Ctrl-C ends only that: the run goes on."
    )
    every_s = LOOK_LOCAL_S if local else LOOK_S
    try:
        view = follow_and_take_up(
            take_over,
            agreed,
            lambda: follow_once(account, run_id, take_over, shows_log, every_s),
            retry_s=every_s if local else 30.0,
            plan=account.ledger.find(run_id).plan,
        )
    except KeyboardInterrupt as e:
        if str(e):  # while it waited for an offer: nothing is rented
            raise
        say(
            f"\ndetached; run {run_id} goes on, and is not taken up again by this command: just guard --failover does "
            f"that. Follow it: just watch; stop it: just stop {run_id}"
        )
        return 0
    return verdict(view, run_id)


def follow_once(
    account: Account, run_id: str, take_over: TakeOver, shows_log: bool, every_s: float
) -> RunView:
    """Follow the run's newest attempt until it has ended, with its log at a terminal."""
    from logs import reader_of, show

    from nanolan.errors import ApiProblem, AuthProblem

    mask = account.settings.mask()
    reader = reader_of(account, account.ledger.find(run_id))
    try:
        for text in reader.onward(0) if shows_log else ():
            show([text], mask)
    except (ApiProblem, AuthProblem) as e:
        say(f"the log cannot be read ({e}); the run is still followed")
    view = reader.look()
    while not view.ended:
        time.sleep(every_s)
        view = reader.look()
    return view
