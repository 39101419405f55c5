"""`just watch --guard`, and status from another laptop."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
import pytest
from msgspec import structs

from nanolan.cli.run import Account
from nanolan.cost.overdue import SLACK_S, OverdueTimer
from nanolan.errors import LimitHitLost
from nanolan.redact import Secret
from nanolan.settings.load import load_settings
from nanolan.shadeform.client import Shadeform
from nanolan.times import iso, now_utc
from tests.support.box_fixtures import KEY, REPO
from tests.support.check_status_fixtures import (
    Terminal,
    desk,  # noqa: F401  # a fixture
    terminal,  # noqa: F401  # a fixture
)
from tests.support.status_fixtures import RUN, TRAINING, Desk, receipt


def outlived(desk: Desk, **plan: Any) -> None:
    """The run of the desk is past its deadline, and the provider did not delete its machine."""
    late = structs.replace(
        desk.entry.plan, **({"deadline": iso(now_utc() - timedelta(minutes=5))} | plan)
    )
    desk.entry = structs.replace(desk.entry, plan=late)
    desk.ledger.put(desk.entry)
    desk.tell(progress=TRAINING)


def watched(
    desk: Desk, terminal: Terminal, monkeypatch: pytest.MonkeyPatch, slack_s: float = 0.0
) -> int:
    """`just watch --guard` in this process; the minute of slack is `slack_s`."""
    from check_status import follow

    monkeypatch.setenv("NANOLAN_SSH_KEYS", str(desk.ledger.home / "keys"))
    api = Shadeform(Secret(KEY), desk.cloud.url)
    s = load_settings({}, terminal.env)
    ticks = iter(range(10_000))
    timer = OverdueTimer(lambda: next(ticks) * slack_s)
    account = Account(desk.ledger, s, api)
    return follow(account, desk.ledger.find(RUN), 0.05, False, timer)


# ---- the guard
def test_the_guard_deletes_a_machine_that_has_outlived_its_limits_and_says_so(
    terminal: Terminal,
    desk: Desk,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    outlived(desk)
    with pytest.raises(
        LimitHitLost, match="deleted by just watch --guard: it should have been deleted at"
    ):
        watched(desk, terminal, monkeypatch, SLACK_S)
    machine = desk.cloud.instance(desk.entry.instance_id or "")
    said = capsys.readouterr().err
    assert (
        machine.why == "asked"
        and f"DELETING instance {machine.id} now" in said
        and f"instance {machine.id} is gone" in said
    )
    entry = desk.ledger.find(RUN)
    assert entry.gone and "--guard" in entry.note and entry.spent_cents is not None


def test_the_guard_leaves_a_machine_within_its_limits_and_the_first_minute_alone(
    terminal: Terminal, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.tell(progress=TRAINING)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(
            lambda: (
                time.sleep(1.5),
                desk.tell(receipt=receipt()),
                desk.cloud.account.delete(desk.entry.instance_id or ""),
            )
        )
        assert watched(desk, terminal, monkeypatch, SLACK_S) == 0
    assert not [r for r in desk.cloud.requests if r.path.endswith("/delete")]
    again = Desk(desk.ledger.home.parent, desk.hub, desk.cloud)
    outlived(again)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(
            lambda: (
                time.sleep(1.5),
                again.tell(receipt=receipt()),
                again.cloud.account.delete(again.entry.instance_id or ""),
            )
        )
        assert (
            watched(again, terminal, monkeypatch, 0.0) == 0
        )  # its clock stands still: the minute is never over
    assert not [r for r in desk.cloud.requests if r.path.endswith("/delete")]


def test_the_guard_waits_for_a_machine_in_error_and_deletes_it_too(
    terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal.cloud.switch("goes_to_error")
    desk = Desk(tmp_path, terminal.hub, terminal.cloud)
    outlived(desk)
    with pytest.raises(LimitHitLost):
        watched(desk, terminal, monkeypatch, SLACK_S)
    assert desk.cloud.instance(desk.entry.instance_id or "").why == "asked"


def test_the_guard_deletes_a_machine_without_a_key_once_its_run_is_over(
    terminal: Terminal,
    desk: Desk,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    keyless = structs.replace(
        desk.entry.plan, self_delete=False, deadline=iso(now_utc() + timedelta(hours=1))
    )
    desk.entry = structs.replace(desk.entry, plan=keyless)
    desk.ledger.put(desk.entry)
    desk.tell(receipt=receipt())
    _, out, _ = terminal.type(RUN)
    assert "STOPPING" in out and "waits to be deleted: just guard" in out
    assert watched(desk, terminal, monkeypatch, SLACK_S) == 0
    machine = desk.cloud.instance(desk.entry.instance_id or "")
    assert (
        machine.why == "asked"
        and "its run is over (succeeded). DELETING" in capsys.readouterr().err
    )


def test_the_guard_is_for_watching_and_for_our_own_runs(terminal: Terminal, desk: Desk) -> None:
    code, _, err = terminal.type("--guard")
    assert code == 2 and "just watch" in err
    desk.hub.put(
        REPO,
        {f"runs/{RUN}/plan.json": structs.replace(desk.entry.plan, owner="0badcafe").to_json()},
    )
    (desk.ledger.runs / f"{RUN}.json").unlink()
    code, _, err = terminal.type("--watch", "--guard", RUN, HF_REPO=REPO)
    assert (
        code == 2
        and "nothing was changed" in err
        and terminal.cloud.instance(desk.entry.instance_id or "").status == "active"
    )


# ---- from another laptop
def test_a_run_that_is_not_in_the_ledger_is_rebuilt_from_the_account_and_its_folder(
    terminal: Terminal, desk: Desk
) -> None:
    desk.hub.put(REPO, {f"runs/{RUN}/plan.json": desk.entry.plan.to_json()})
    desk.tell(progress=TRAINING)
    (desk.ledger.runs / f"{RUN}.json").unlink()
    code, out, err = terminal.type("ab12", HF_REPO=REPO)
    assert code == 0 and "TRAINING" in out, err
    assert desk.ledger.has(RUN), "it is of our own owner"


def test_a_run_of_another_owner_is_shown_until_the_owner_is_named(
    terminal: Terminal, desk: Desk
) -> None:
    desk.hub.put(
        REPO,
        {f"runs/{RUN}/plan.json": structs.replace(desk.entry.plan, owner="0badcafe").to_json()},
    )
    desk.tell(receipt=receipt("failed", "hang"))
    desk.cloud.account.delete(desk.entry.instance_id or "")
    (desk.ledger.runs / f"{RUN}.json").unlink()
    code, out, _ = terminal.type(RUN, HF_REPO=REPO)
    assert code == 0 and "FAILED" in out and not desk.ledger.has(RUN)
    code, _, err = terminal.type("--watch", RUN, HF_REPO=REPO)
    assert code == 5 and not desk.ledger.has(RUN)
    code, out, _ = terminal.type(RUN, "--owner=0badcafe", HF_REPO=REPO)
    assert code == 0 and desk.ledger.has(RUN)


@pytest.mark.parametrize(
    "words, watch, want",
    [
        ((), True, (60.0, None)),
        (("30",), True, (30.0, None)),
        (("30", "1a2b"), True, (30.0, "1a2b")),
        (("1a2b", "30"), True, (30.0, "1a2b")),
        (("12345678",), True, (60.0, "12345678")),
        (("30",), False, (60.0, "30")),
        (("lanbot-v3",), False, (60.0, "lanbot-v3")),
    ],
)
def test_seconds_and_a_run_are_told_apart(
    words: tuple[str, ...], watch: bool, want: tuple[float, str | None]
) -> None:
    from check_status import read_words  # type: ignore[import-not-found]

    assert read_words(words, watch) == want


@pytest.mark.parametrize("words", [("0",), ("30", "60"), ("a", "b")])
def test_words_that_mean_nothing_are_refused(words: tuple[str, ...]) -> None:
    from check_status import read_words

    with pytest.raises(click.UsageError, match="one number of seconds|give 1 or more"):
        read_words(words, True)
