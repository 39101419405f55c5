"""What an export checks: a price, and nothing of Shadeform."""

from __future__ import annotations

from dataclasses import replace as changed

import pytest
from msgspec.structs import replace

from nanolan.checklist import Check
from nanolan.errors import PreflightFailed, UsageProblem
from nanolan.export.notes import notes
from nanolan.export.prepare import (
    Machine,
    bill,
    for_platform,
    rate_cents,
    secret_names,
    settings_for,
    upload,
)
from nanolan.hub.client import Hub
from nanolan.launch.prepare import Prepared
from nanolan.plan import HF_JOB, SKYPILOT
from nanolan.run.ledger import Entry
from nanolan.settings.load import load_settings
from tests.support.core_fixtures import PLAN

MACHINE = Machine(SKYPILOT, "H100", 8, 80, 2400)
CHECKS = [Check(name, True, "") for name in ("Hub token", "wallet", "key on the machine", "code")]


def prepared(platform: str = SKYPILOT, *earlier: Entry) -> Prepared:
    made = Prepared(PLAN, MACHINE.offer(), list(CHECKS), b"bundle", False)
    return for_platform(made, changed(MACHINE, platform=platform), earlier)


def settings(**flags: str) -> object:
    env = {"HF_TOKEN": "hf_" + "x" * 30, "HF_REPO": "me/lanbot", "SHADEFORM_API_KEY": "k" * 30}
    return load_settings(flags, env)


@pytest.mark.parametrize(
    ("price", "most", "rate"), [(2400, None, 2400), (None, 3000, 3000), (2400, 3000, 2400)]
)
def test_the_meters_rate_is_the_price_or_the_highest_allowed(
    price: int | None, most: int | None, rate: int
) -> None:
    assert rate_cents(price, most) == rate


@pytest.mark.parametrize(("price", "most"), [(None, None), (3001, 3000)])
def test_no_rate_is_guessed(price: int | None, most: int | None) -> None:
    with pytest.raises(UsageProblem, match="nothing was exported"):
        rate_cents(price, most)


def test_shadeforms_checks_and_keys_stay_away() -> None:
    made = prepared()
    assert [c.name for c in made.checks] == ["Hub token", "code", "output folder"]
    assert made.plan.is_job and not made.plan.holds_key
    s = settings_for(load_settings({"self_delete": "off", "cloud": "x"}, {}))
    assert s.self_delete and s.cloud is None


def test_the_secrets_of_a_job_are_named_and_never_a_shadeform_key() -> None:
    assert secret_names(settings()) == ("HF_TOKEN",)  # type: ignore[arg-type]
    named = secret_names(settings(wandb_api_key="w" * 40, notify_url="ntfy://topic"))  # type: ignore[arg-type]
    assert named == ("HF_TOKEN", "WANDB_API_KEY", "NOTIFY_URL")


def test_a_run_that_may_write_the_same_folder_is_named() -> None:
    other = Entry(replace(PLAN, run_id="cafe0123", hf_repo="ME/lanbot-checkpoints"))
    check = prepared(SKYPILOT, other).checks[-1]
    assert check.ok is None and "run cafe0123 may write" in check.text
    for over in (replace(other, gone=True), Entry(replace(PLAN, output_tag="other"))):
        assert prepared(SKYPILOT, over).checks[-1].ok


def test_a_failed_check_uploads_nothing() -> None:
    made = prepared()
    failed = changed(made, checks=[*made.checks, Check("code", False, "a key in it")])
    hub = Hub("http://127.0.0.1:1", None, patience_s=0)
    with pytest.raises(PreflightFailed, match="1 of 4 checks failed .*nothing was exported"):
        upload(failed, hub, settings())  # type: ignore[arg-type]


# ---- what is said
def test_the_bill_says_who_ends_it() -> None:
    assert "nanolan ends the job then; SkyPilot has no limit of its own" in bill(prepared())
    assert "Hugging Face ends the job then" in bill(prepared(HF_JOB))


@pytest.mark.parametrize(
    ("platform", "holds"),
    [
        (
            SKYPILOT,
            (
                "sky jobs cancel -n lanbot-ab12cd34",
                "SkyPilot's job controller",
                "no cloud enforces a limit",
                "max_hourly_cost ($33.60)",
                "the file holds no secret",
                "nobody has run this on a real account",
            ),
        ),
        (
            HF_JOB,
            (
                "hf jobs cancel ID (of lanbot-ab12cd34 in: hf jobs ps)",
                "Hugging Face ends each job after 16071 s: $150.00 by today's price",
                "each submission of the file is a job with a timeout of its own",
            ),
        ),
    ],
)
def test_the_notes_say_what_bounds_the_money_and_what_does_not(
    platform: str, holds: tuple[str, ...]
) -> None:
    text = " ".join(t for _, t in notes(prepared(platform), "START", ("HF_TOKEN",)))
    assert [words for words in holds if words not in text] == []
