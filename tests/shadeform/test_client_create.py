"""Create requests: which failures are definite, and keys and proxies."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from nanolan.errors import (
    ApiProblem,
    AuthProblem,
    BadAnswer,
    InsufficientFunds,
    NanolanError,
    NotRented,
    OfferRefused,
    OutOfStock,
    UnclearAnswer,
)
from nanolan.redact import Secret
from nanolan.shadeform.client import Shadeform
from nanolan.sim.marker import MARKER
from nanolan.sim.shadeform.server import ShadeformServer
from nanolan.times import parse_time
from tests.support.client_fixtures import (
    BODY,
    api,  # noqa: F401  # a fixture
    cloud,  # noqa: F401  # a fixture
)
from tests.support.core_fixtures import (
    CREATE,
    LIST,
    PLAN,
    Waits,
    client,
    creates,
)


# ---- create: what is a definite no, and what is not
@pytest.mark.parametrize(
    "action, params, kind, said",
    [
        ("out_of_stock", {}, OutOfStock, "nothing was rented"),
        ("insufficient_funds", {}, InsufficientFunds, r"minimum of \$5.*Nothing was rented"),
        ("unauthorized", {}, AuthProblem, "SHADEFORM_API_KEY.*nothing was rented"),
        ("forbidden", {}, AuthProblem, "SHADEFORM_API_KEY.*nothing was rented"),
        ("not_found", {}, OfferRefused, "nothing was rented"),
        (
            "status",
            {"status": 400, "body": {"error": "no such os"}},
            OfferRefused,
            "no such os; nothing was rented",
        ),
        ("status", {"status": 422, "body": ""}, OfferRefused, "HTTP 422.*nothing was rented"),
        ("status", {"status": 402, "body": ""}, ApiProblem, "HTTP 402.*nothing was rented"),
        ("status", {"status": 413, "body": ""}, ApiProblem, "HTTP 413.*nothing was rented"),
        ("rate_limit", {}, NotRented, "HTTP 429.*nothing was rented"),
    ],
    ids=str,
)
def test_trap_4_a_refused_create_is_classified_by_its_code_not_its_status(
    cloud: ShadeformServer,
    api: Shadeform,
    action: str,
    params: dict[str, Any],
    kind: type[NanolanError],
    said: str,
) -> None:
    cloud.fault(CREATE, action, **params)
    with pytest.raises(kind, match=said) as e:
        api.create(BODY)
    assert not isinstance(e.value, UnclearAnswer)
    assert creates(cloud) == 1


@pytest.mark.parametrize(
    "action, params",
    [
        ("internal_error", {}),
        ("status", {"status": 409, "body": {"error_code": "A_NEW_ONE"}}),
        ("status", {"status": 409, "body": "raw"}),
        ("status", {"status": 500}),
        ("text", {}),
        ("html", {"status": 504}),
        ("status", {"status": 408}),
        ("status", {"status": 425}),
        ("reset", {}),
        ("html", {}),
        ("truncated", {}),
        ("cut", {}),
        ("status", {"status": 200, "body": None}),
        ("status", {"status": 200, "body": {}}),
        ("status", {"status": 200, "body": {"id": None}}),
        ("status", {"status": 200, "body": {"id": 7}}),
        ("status", {"status": 200, "body": {"id": ""}}),
        ("status", {"status": 200, "body": {"id": "../x"}}),
        ("status", {"status": 200, "body": {"id": "x\n"}}),
        ("status", {"status": 200, "body": ["x"]}),
        ("status", {"status": 201, "body": {"id": "x"}}),
        ("status", {"status": 204}),
        ("status", {"status": 302}),
    ],
    ids=str,
)
def test_trap_5_any_other_answer_to_a_create_is_unclear_and_it_is_never_sent_again(
    cloud: ShadeformServer, api: Shadeform, action: str, params: dict[str, Any]
) -> None:
    cloud.fault(CREATE, action, **params)
    with pytest.raises(UnclearAnswer):
        api.create(BODY)
    assert creates(cloud) == 1


@pytest.mark.parametrize("verb", ["delete", "restart", "update"])
def test_a_change_is_sent_once_and_a_lost_answer_is_unclear(
    cloud: ShadeformServer, api: Shadeform, verb: str
) -> None:
    box = api.create(BODY)
    cloud.requests.clear()
    cloud.fault(f"POST .*/{verb}", "reset_after_effect")
    with pytest.raises(UnclearAnswer):
        getattr(api, verb)(box, *([{"name": "x"}] if verb == "update" else []))
    assert len(cloud.requests) == 1


def test_a_create_may_have_another_field_in_its_answer(
    cloud: ShadeformServer, api: Shadeform
) -> None:
    cloud.fault(CREATE, "edit", change=lambda body: body.update(cloud_assigned_id="a-b"))
    assert api.create(BODY) == cloud.instances[0].id


# ---- keys and proxies
def test_a_wrong_key_names_the_variable_and_never_the_value(cloud: ShadeformServer) -> None:
    key = f"{MARKER}-0123456789"
    cloud.fault(LIST, "status", status=401, body={"message": f"Invalid API key {key}"})
    with pytest.raises(AuthProblem) as e:
        client(cloud, key).instances()
    assert "SHADEFORM_API_KEY" in str(
        e.value
    ) and "https://platform.shadeform.ai/settings/api" in str(e.value)
    assert key not in str(e.value) and "***" in str(e.value)
    with pytest.raises(AuthProblem):
        client(cloud, key).instances()


def test_the_key_goes_in_its_header_and_not_into_the_address(
    cloud: ShadeformServer, api: Shadeform
) -> None:
    api.instances()
    assert cloud.key not in json.dumps(cloud.requests)
    with pytest.raises(AuthProblem):
        Shadeform(None, cloud.url, sleep=Waits()).instances()


def test_a_loopback_api_is_reached_past_any_proxy(
    cloud: ShadeformServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert client(cloud, sleep=Waits()).instances() == []
    assert Shadeform(
        Secret("k"), "https://api.shadeform.ai/v1"
    )._session.trust_env  # the world outside goes through it


def test_a_redirect_is_not_followed_with_the_key(
    cloud: ShadeformServer, api: Shadeform, tmp_path: Path
) -> None:
    with ShadeformServer(tmp_path / "other", boxes=False) as other:
        cloud.fault(LIST, "status", status=307, headers={"Location": other.url + "/instances"})
        with pytest.raises(ApiProblem):
            api.instances()
        assert other.requests == []


def test_a_time_of_the_api_is_utc(cloud: ShadeformServer, api: Shadeform) -> None:
    created = api.info(api.create(BODY | {"name": "x"})).created_at
    assert created and abs((created - datetime.now(timezone.utc)).total_seconds()) < 60
    assert parse_time(PLAN.deadline).tzinfo is timezone.utc


def test_a_listing_ignores_unknown_fields_and_a_missing_one_is_an_error(
    cloud: ShadeformServer, api: Shadeform
) -> None:
    api.create(BODY)
    cloud.fault(LIST, "edit", change=lambda body: body.update(total=1, page={"next": None}))
    assert len(api.instances()) == 1
    cloud.fault(LIST, "edit", change=lambda body: body.pop("instances") and None)
    with pytest.raises(BadAnswer, match="instances"):
        api.instances()
    cloud.fault("GET /v1/sshkeys$", "edit", change=lambda body: body.pop("ssh_keys") and None)
    with pytest.raises(BadAnswer, match="ssh_keys"):
        api.public_keys()
