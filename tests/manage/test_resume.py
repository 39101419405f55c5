"""The next attempt of a run: its settings stay, unless others are typed."""

from __future__ import annotations

import pytest
from msgspec import structs

from nanolan.cli.consent import names_one_offer
from nanolan.manage.resume import settings_of
from nanolan.manage.run_budget import RunBudget, saved_share
from nanolan.plan import Limits, Pinned, Plan
from nanolan.run.record import Progress
from nanolan.run.remaining import Remaining, SavedWork
from nanolan.settings.load import load_settings
from nanolan.shadeform.offers import wanted_from
from tests.support.box_fixtures import REPO
from tests.support.resume_fixtures import PLAN, REST, settings


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


LIMITS = Limits(3000, 4000, 7200, "lambda", "us-east")


def test_the_limits_and_the_place_are_those_of_the_launch() -> None:
    plan = structs.replace(PLAN, limits=LIMITS)
    s = settings_of(settings(), {}, plan, REST, RunBudget(1000, 400))
    assert (s.max_price, s.max_total, s.max_duration) == (3000, 4000, 7200)
    wanted = wanted_from(s)
    assert (wanted.max_price, wanted.max_total) == (3000, 4000)
    assert (wanted.cloud, wanted.region) == ("lambda", "us-east")


def test_limits_that_are_typed_again_replace_those_of_the_launch() -> None:
    typed = {"max_price": "60", "cloud": "hyperstack"}
    plan = structs.replace(PLAN, limits=LIMITS)
    s = settings_of(settings(**typed), typed, plan, REST, RunBudget(1000, 400))
    assert (s.max_price, s.max_total, s.cloud, s.region) == (6000, 4000, "hyperstack", None)


def test_a_place_that_is_kept_is_no_consent_to_rent_without_a_question() -> None:
    given = load_settings({}, {"CLOUD": "a", "REGION": "b", "INSTANCE_TYPE": "c"})
    assert names_one_offer(given)
    plan = structs.replace(PLAN, limits=LIMITS)
    assert not names_one_offer(settings_of(given, {}, plan, REST, RunBudget(1000, 400)))


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


# ---- spot
SPOT = structs.replace(PLAN, offer=structs.replace(PLAN.offer, spot=True))


@pytest.mark.parametrize(
    "plan, configured, typed, spot",
    [
        (PLAN, "no", {}, "no"),
        (PLAN, "only", {}, "only"),
        (SPOT, "no", {}, "yes"),
        (SPOT, "only", {}, "only"),
        (SPOT, "no", {"spot": "no"}, "no"),
        (SPOT, "no", {"spot": "only"}, "only"),
        (PLAN, "no", {"spot": "yes"}, "yes"),
    ],
)
def test_a_spot_run_goes_on_on_spot_or_on_demand_unless_something_else_is_asked_for(
    plan: Plan, configured: str, typed: dict[str, str], spot: str
) -> None:
    s = load_settings(typed, {"SPOT": configured})
    assert settings_of(s, typed, plan, REST, RunBudget(1000, 400)).spot == spot


def saved(step: int, phase: str = "sft") -> Remaining:
    pinned = Pinned("me/x", "model", "f" * 40, ())
    return Remaining((phase,), None, SavedWork(phase, step, "runs/x/saved/sft", pinned))


def at(step: int | None, steps: int | None, phase: str = "sft") -> Progress:
    return Progress("", "training", {}, "2026-01-28T20:53:39Z", step=step, steps=steps, phase=phase)


@pytest.mark.parametrize(
    "progress, remaining, share",
    [
        (at(95, 100), saved(90), 0.9),
        (at(95, 100), saved(120), 1.0),
        (at(95, 100), saved(-5), 0.0),
        (at(95, None), saved(90), 0.0),
        (at(95, 0), saved(90), 0.0),
        (at(95, 100, "mid"), saved(90), 0.0),
        (None, saved(90), 0.0),
        (at(95, 100), Remaining(("sft",)), 0.0),
    ],
)
def test_the_saved_share_of_a_phase_is_known_only_from_its_own_steps(
    progress: Progress | None, remaining: Remaining, share: float
) -> None:
    assert saved_share(progress, remaining, PLAN) == share
