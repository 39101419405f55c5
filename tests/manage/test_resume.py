"""The next attempt of a run: settings, inputs and code stay, the money counts the whole run, and losses are reported."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from msgspec import structs

from nanolan.cost.forecast import Forecast, Work, forecast
from nanolan.errors import PreflightFailed
from nanolan.manage.resume import (
    RunBudget,
    attempts,
    budget_of,
    cost_of,
    settings_of,
)
from nanolan.run.ledger import REFUSED, STOPPED_BY_USER, Attempt
from nanolan.run.record import Progress, Receipt
from nanolan.run.remaining import Remaining
from nanolan.settings.load import load_settings
from nanolan.shadeform.offers import Offer, wanted_from
from nanolan.status.view import RunView
from nanolan.times import iso
from tests.support.box_fixtures import REPO
from tests.support.resume_fixtures import LIVE, NOW, PLAN, REST, settings


def ended(state: str = "lost", reason: str = "gone", **fields: Any) -> RunView:
    entry = structs.replace(
        LIVE,
        **{k: fields.pop(k) for k in ("gone", "note", "spent_cents", "earlier") if k in fields},
    )
    return RunView(entry, state, reason, **fields)


def told(minutes_ago: float, cents: int | None) -> Progress:
    return Progress(
        PLAN.run_id, "training", {}, iso(NOW - timedelta(minutes=minutes_ago)), spent_cents=cents
    )


# ---- money
@pytest.mark.parametrize(
    "view, cents",
    [
        (ended(receipt=Receipt(PLAN.run_id, "failed", spent_cents=123)), 123),
        (ended(receipt=Receipt(PLAN.run_id, "failed", spent_cents=0)), 0),
        (ended(receipt=Receipt(PLAN.run_id, "failed", spent_cents=-9)), 0),
        (ended(gone=True, note=STOPPED_BY_USER, spent_cents=77), 77),
        (ended(gone=True, note=f"{REFUSED}: sold out"), 0),
        # it vanished: as long as it can have lived, at the agreed price of $1 an hour
        (ended(progress=told(60, 100)), 117),
        (ended(progress=told(60, 190)), 190),
        (ended(progress=told(0, 150)), 200),
        (ended(progress=told(60, None)), 117),
        (ended(), 200),
        (ended(receipt=Receipt(PLAN.run_id, "failed")), 200),
    ],
)
def test_an_attempts_cost_is_its_receipts_or_an_upper_estimate(view: RunView, cents: int) -> None:
    assert cost_of(view, NOW) == cents


@pytest.mark.parametrize(
    "view, cents",
    [
        (ended(progress=told(60, 100)), 117),
        (ended(progress=told(0, 150)), 217),  # ten minutes after its last report
        (ended(), 1000),
    ],
)  # nobody can say: the provider's limit
def test_a_month_later_it_cost_no_more_than_it_can_have_lived(view: RunView, cents: int) -> None:
    assert cost_of(view, NOW + timedelta(days=30)) == cents


def test_every_attempt_is_remembered_with_what_became_of_it() -> None:
    first = Attempt(1, "i-0", 50, "lost: gone")
    view = ended(
        "stopped",
        "spend_limit",
        earlier=(first,),
        receipt=Receipt(PLAN.run_id, "stopped", spent_cents=123),
    )
    assert attempts(view, NOW) == (first, Attempt(1, "i-1", 123, "stopped: spend_limit"))


@pytest.mark.parametrize(
    "past, whole, left",
    [
        ([400], None, 600),
        ([50, 400], None, 600),  # the old limit counted what was spent before
        ([400], 2000, 1600),
        ([50, 400], 2000, 1550),
        ([None, 400], 5000, 3600),
    ],
)  # unknown: as much as a whole limit
def test_the_limit_counts_the_whole_run(
    past: list[int | None], whole: int | None, left: int
) -> None:
    budget = budget_of(PLAN, tuple(Attempt(i, None, c, "") for i, c in enumerate(past, 1)), whole)
    assert budget.left_cents == left


@pytest.mark.parametrize(
    "past, whole", [([1000], None), ([1001], None), ([50, 1000], None), ([400], 400), ([400], 399)]
)
def test_when_nothing_is_left_the_refusal_has_the_numbers_and_the_command(
    past: list[int | None], whole: int | None
) -> None:
    with pytest.raises(PreflightFailed) as e:
        budget_of(PLAN, tuple(Attempt(i, None, c, "") for i, c in enumerate(past, 1)), whole)
    spent = sum(c or 0 for c in past)
    assert f"has spent ${spent / 100:.2f}" in str(e.value) and "nothing was rented" in str(e.value)
    assert f"just resume ab12cd34 spend-limit={spent // 100 + 11}" in str(e.value)


H100 = Offer("c", "r", "t", "H100", 8, 80, 2400, ())


SFT = forecast(Work(("sft",)), H100, {})  # likely $24.09; $11.20 are kept for saving


@pytest.mark.parametrize(
    "left, expected, ok",
    [
        (3530, SFT, True),
        (3529, SFT, False),
        (600, SFT, False),
        (1121, None, None),
        (1120, None, False),
    ],
)
def test_the_rest_less_saving_must_be_above_the_likely_cost(
    left: int, expected: Forecast | None, ok: bool | None
) -> None:
    check = RunBudget(left + 400, 400).check(2400, expected)
    assert (
        check.ok is ok
        and f"${left / 100:.2f} left of ${left / 100 + 4:.2f} for the whole run ($4.00 spent)"
        in check.text
    )
    assert ("Try: spend-limit=" in check.text) == (ok is False)
    if ok is False:
        tried = int(check.text.rsplit("=", 1)[1])
        assert RunBudget(100 * tried, 400).check(2400, expected).ok is not False


# ---- settings
def test_the_settings_are_those_of_the_run_regardless_of_the_environment() -> None:
    s = settings_of(settings(), {}, PLAN, REST, RunBudget(1000, 400))
    assert (s.phase, s.phases, s.run_name, s.model_tag, s.output_tag) == (
        "sft",
        ("sft",),
        "mine",
        "d20-x",
        "d20-x",
    )
    assert (s.gpu, s.num_gpus, s.eval, s.gate, s.batch, s.upload_minutes) == (
        "H100",
        8,
        "full",
        "val_bpb<0.5",
        4,
        3.0,
    )
    assert (s.spend_limit, s.no_identity, s.hf_repo, s.runs_repo, s.probation_usd) == (
        600,
        True,
        REPO,
        REPO,
        300,
    )
    assert s.cloud == "hyperstack", "where to look is no setting of the run"


def test_what_is_typed_anew_counts() -> None:
    typed = {"run_name": "other", "eval": "none", "gpu": "H200", "output_tag": "d21"}
    s = settings_of(settings(**typed), typed, PLAN, REST, RunBudget(1000, 400))
    assert (s.run_name, s.eval, s.gpu, s.num_gpus, s.output_tag, s.batch) == (
        "other",
        "none",
        "H200",
        8,
        "d21",
        4,
    )


@pytest.mark.parametrize(
    "run, now, typed, kept",
    [
        (True, True, {}, True),
        (False, True, {}, False),
        (True, False, {}, False),
        (False, False, {}, False),
        (False, True, {"self_delete": "yes"}, True),
        (True, False, {"self_delete": "off"}, False),
    ],
    ids=str,
)
def test_no_key_goes_to_the_box_if_run_or_settings_exclude_it_unless_typed(
    run: bool, now: bool, typed: dict[str, str], kept: bool
) -> None:
    s = load_settings(typed, {"SELF_DELETE": "yes" if now else "no"})
    assert (
        settings_of(
            s, typed, structs.replace(PLAN, self_delete=run), REST, RunBudget(1000, 400)
        ).self_delete
        is kept
    )


@pytest.mark.parametrize(
    "typed, wanted",
    [
        ({}, ("H100", 8)),
        ({"gpu": "B200"}, ("B200", 8)),
        ({"gpu": "B200:4"}, ("B200", 4)),
        ({"num_gpus": "2"}, ("H100", 2)),
        ({"instance_type": "x"}, ("", None)),
    ],
    ids=str,
)
def test_the_offer_is_like_the_last_one_unless_another_is_requested(
    typed: dict[str, str], wanted: tuple[str, int | None]
) -> None:
    s = settings_of(load_settings(typed, {}), typed, PLAN, REST, RunBudget(1000, 400))
    w = wanted_from(s)
    assert (w.gpu, w.num_gpus) == wanted


@pytest.mark.parametrize(
    "phases, phase", [(("mid", "sft", "rl"), "all"), (("sft", "rl"), "sft+rl"), (("rl",), "rl")]
)
def test_the_phases_are_those_that_are_left(phases: tuple[str, ...], phase: str) -> None:
    s = settings_of(
        settings(),
        {},
        structs.replace(PLAN, phases=phases),
        Remaining(phases),
        RunBudget(1000, 400),
    )
    assert (s.phase, s.model_tag) == (phase, "d20")
