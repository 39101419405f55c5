"""Checks before renting: money, wallet, outputs and keys."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nanolan.checklist import Check
from nanolan.cost.forecast import Forecast, Work, forecast
from nanolan.launch.preflight import (
    check_box_key,
    check_money,
    check_outputs,
    check_time,
    wallet_hint,
)
from nanolan.settings.load import load_settings
from nanolan.shadeform.models import Instance, instance_of
from nanolan.sim.hub.server import HubServer
from nanolan.sim.shadeform.server import ShadeformServer
from tests.support.preflight_fixtures import (
    H100,
    REPO,
    failed,
    look,
    server,  # noqa: F401  # a fixture
    text_of,
)

SFT = forecast(Work(("sft",)), H100, {})  # $24.09, between $3.06 and $40.96


# ---- money, wallet, outputs
@pytest.mark.parametrize(
    "limit, expected, really, ok, says",
    [
        (
            15_000,
            SFT,
            False,
            True,
            r"\$150.00, \$11.20 of it kept for saving; the run: likely \$24.09 in 1.0 h, low \$3.06, high \$40.96",
        ),
        (2_409 + 1_120 + 1, SFT, False, True, "likely"),
        (2_409 + 1_120, SFT, False, False, "cut off. Try: spend-limit=53 or --yes-really$"),
        (100, SFT, False, False, "cut off. Try: spend-limit=53"),
        (100, SFT, True, None, "cut off; accepted by --yes-really$"),
        (15_000, None, False, None, "no forecast$"),
        (1_120, None, False, False, "Try: spend-limit=12 or"),
        (100_000, SFT, False, True, "likely"),
        (
            100_001,
            SFT,
            False,
            False,
            "limits above \\$1,000.00 must be confirmed. Try: --yes-really$",
        ),
        (100_001, None, False, False, "must be confirmed"),
        (100_001, SFT, True, None, "accepted by --yes-really"),
        (
            900_000,
            forecast(Work(("mid",), 10**12), H100, {}),
            False,
            False,
            "Try: another offer or --yes-really$",
        ),
    ],
)
def test_the_soft_limit_must_be_above_the_likely_cost(
    limit: int, expected: Forecast | None, really: bool, ok: bool | None, says: str
) -> None:
    check = check_money(limit, 2400, expected, really)
    assert check.name == "spend limit" and check.ok is ok and re.search(says, check.text)


@pytest.mark.parametrize(
    "minutes, expected, really, ok, says",
    [
        (
            300,
            SFT,
            False,
            True,
            "300 minutes, 28 of them kept for saving; the run: likely 60, up to 102$",
        ),
        (89, SFT, False, True, "likely"),
        (88, SFT, False, False, "cut off. Try: max-duration=131m or --yes-really$"),
        (88, SFT, True, None, "accepted by --yes-really"),
        (29, None, False, None, "29 minutes"),
        (28, None, False, False, "max-duration=29m"),
    ],
)
def test_the_soft_duration_must_be_above_the_likely_time(
    minutes: int, expected: Forecast | None, really: bool, ok: bool | None, says: str
) -> None:
    (check,) = check_time(minutes * 60, expected, really)
    assert check.name == "max duration" and check.ok is ok and re.search(says, check.text)
    assert check_time(None, expected) == []


def test_the_wallet_cannot_be_seen_and_its_need_is_named() -> None:
    assert (
        wallet_hint(6_000).ok is None
        and "$60.00" in wallet_hint(6_000).text
        and "needs $5.00" in wallet_hint(None).text
    )


def instance(status: str, *tags: str) -> Instance:
    return instance_of(dict(id="i-1", name="lanbot-sft-x", status=status, tags=list(tags)))


@pytest.mark.parametrize(
    "others, ok",
    [
        ([], True),
        ([instance("active", "nanolan-out=me/lanbot/chatsft_checkpoints/d20")], False),
        ([instance("error", "x", "nanolan-out=me/lanbot/chatsft_checkpoints/d20")], False),
        ([instance("deleting", "nanolan-out=me/lanbot/chatsft_checkpoints/d20")], True),
        ([instance("active", "nanolan-out=me/lanbot/chatsft_checkpoints/d32")], True),
        ([instance("active")], True),
    ],
)
def test_a_folder_that_a_live_run_writes_is_not_written_by_another(
    others: list[Instance], ok: bool
) -> None:
    check = check_outputs(others, ["nanolan-out=me/lanbot/chatsft_checkpoints/d20"])
    assert check.ok is ok and "me/lanbot/chatsft_checkpoints/d20" in check.text
    assert ok or ("just stop i-1" in check.text and "output-tag=" in check.text)


def key_check(cloud: ShadeformServer, listed: list[Instance] | None = None, **flags: str) -> Check:
    s = load_settings(
        {"shadeform_api": cloud.url, "shadeform_api_key": "another-01234"} | flags, {}
    )
    return check_box_key(s, None if listed is None else lambda: listed)


# ---- which Shadeform key goes to the machine
def test_the_check_names_the_key_for_the_box_and_tests_a_second_one(tmp_path: Path) -> None:
    with ShadeformServer(tmp_path, boxes=False) as cloud:
        assert "your SHADEFORM_API_KEY" in key_check(cloud).text and key_check(cloud).ok is None
        off = key_check(cloud, self_delete="off", shadeform_api_key_box=cloud.key)
        assert (
            off.ok is None
            and "none" in off.text
            and "just guard" in off.text
            and not cloud.requests
        )
        good = key_check(cloud, [instance("deleted")], shadeform_api_key_box=cloud.key)
        assert good.ok and "second" in good.text and cloud.requests
        wrong = key_check(cloud, shadeform_api_key_box="wrong-01234")
        assert wrong.ok is False and "refused SHADEFORM_API_KEY_BOX" in wrong.text
        assert "same key" in key_check(cloud, shadeform_api_key_box="another-01234").text
        foreign = key_check(cloud, [instance("active")], shadeform_api_key_box=cloud.key)
        assert foreign.ok is False and "i-1" in foreign.text and "another account" in foreign.text
        cloud.fault("GET /v1/instances$", "status", status=400)
        assert "could not be checked" in key_check(cloud, shadeform_api_key_box=cloud.key).text


def test_a_line_of_the_checklist_shows_how_it_went() -> None:
    assert [Check("a", ok, "b").line() for ok in (True, False, None)] == [
        "  [  ok  ] a: b",
        "  [FAILED] a: b",
        "  [  --  ] a: b",
    ]


def test_a_renamed_repo_is_reported_and_the_plan_uses_its_name_on_the_hub(
    server: HubServer,
) -> None:
    server.moved["me/before"] = REPO
    found = look(server, hf_repo="me/before")
    assert not failed(found) and found.hf_repo == found.runs_repo == REPO
    assert f"me/before is named {REPO} on the Hub" in text_of(found, "repo name") and all(
        p.repo == REPO for p in found.inputs
    )
