"""The Shadeform client over real HTTP: typed answers, one family of errors, reads retried, changes sent once."""

from __future__ import annotations

import json
from collections.abc import Iterator
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
    NotFound,
    OfferRefused,
    OutOfStock,
    UnclearAnswer,
    Unreachable,
    WrongSetting,
)
from nanolan.launch.request import create_body
from nanolan.redact import Secret
from nanolan.shadeform.client import LONGEST_RETRY_AFTER_S, TRIES, Shadeform, retry_after_s
from nanolan.sim.marker import MARKER
from nanolan.sim.shadeform.sample_offers import SAMPLE
from nanolan.sim.shadeform.server import KEY as SIM_KEY
from nanolan.sim.shadeform.server import ShadeformServer
from nanolan.times import parse_time
from tests.sim.openapi import check_request
from tests.support.core_fixtures import (
    CREATE,
    INFO,
    LIST,
    PLAN,
    QUICK,
    TYPES,
    Waits,
    client,
    creates,
)

BODY = create_body(PLAN, "#!/bin/bash\n")
ON_DEMAND = sum(
    e["available"] and e.get("rental_type", "on_demand") == "on_demand"
    for t in SAMPLE
    for e in t["availability"]
)


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[ShadeformServer]:
    with ShadeformServer(tmp_path, delays=QUICK, boxes=False) as server:
        yield server


@pytest.fixture
def api(cloud: ShadeformServer) -> Shadeform:
    return client(cloud)


def sent(cloud: ShadeformServer) -> list[str]:
    return [f"{r.method} {r.path}" for r in cloud.requests]


# ---- a life, with every request as the API's own description wants it


def test_offers_create_info_list_update_restart_delete(
    cloud: ShadeformServer, api: Shadeform
) -> None:
    offers, unreadable = api.offers()
    assert len(offers) == ON_DEMAND and unreadable == 0
    box = api.create(BODY)
    assert api.info(box).id == box and [i.id for i in api.instances()] == [box]
    api.update(box, {"auto_delete": {"spend_threshold": "5.00"}})
    api.restart(box)
    api.delete(box)
    assert not api.info(box).billing
    for r in cloud.requests:
        check_request(r.method, r.path, r.body)


def test_trap_2_changes_are_posts_on_a_sub_path_and_their_empty_answers_are_fine(
    cloud: ShadeformServer, api: Shadeform
) -> None:
    box = api.create(BODY)
    cloud.requests.clear()
    api.restart(box)
    api.delete(box)
    assert sent(cloud) == [f"POST /v1/instances/{box}/restart", f"POST /v1/instances/{box}/delete"]


def test_an_update_with_a_null_would_remove_a_limit_and_is_not_sent(
    cloud: ShadeformServer, api: Shadeform
) -> None:
    with pytest.raises(ValueError, match="null"):
        api.update("x", {"auto_delete": None})
    assert sent(cloud) == []


def test_trap_7_private_keys_stay_out_of_every_text(cloud: ShadeformServer, api: Shadeform) -> None:
    private = cloud.account.keys.default.private_key
    name, key = api.private_key(None) or ("", Secret(""))
    assert (
        name
        and key.reveal() == private
        and "PRIVATE KEY" in private
        and str(key) == repr(key) == "***"
    )
    cloud.fault("GET /v1/sshkeys", "edit", change=lambda body: body["ssh_keys"][0].update(id=5))
    with pytest.raises(BadAnswer) as e:
        api.private_key(None)
    assert "PRIVATE" not in str(e.value) and private.split()[8] not in str(e.value)


# ---- reads that go wrong


@pytest.mark.parametrize(
    "action, params",
    [
        ("status", {"status": 500}),
        ("status", {"status": 503}),
        ("text", {}),
        ("reset", {}),
        ("cut", {}),
        ("rate_limit", {"retry_after": "0"}),
    ],
    ids=str,
)
@pytest.mark.parametrize("path, read", [(TYPES, "offers"), (LIST, "instances")])
def test_a_read_is_tried_again_until_it_works(
    cloud: ShadeformServer, path: str, read: str, action: str, params: dict[str, Any]
) -> None:
    waits = Waits()
    cloud.fault(path, action, times=TRIES - 1, **params)
    getattr(client(cloud, sleep=waits), read)()
    assert len(cloud.requests) == TRIES and len(waits) == TRIES - 1


@pytest.mark.parametrize(
    "action, said",
    [("status", "HTTP 500"), ("reset", "ConnectionError"), ("rate_limit", "HTTP 429")],
)
def test_a_read_that_always_fails_raises_one_error_after_a_bounded_wait(
    cloud: ShadeformServer, action: str, said: str
) -> None:
    waits = Waits()
    cloud.fault(LIST, action, times=None)
    with pytest.raises(Unreachable, match=said):
        client(cloud, sleep=waits).instances()
    assert len(cloud.requests) == TRIES and sum(waits) < 60


def test_nobody_there_is_unreachable(tmp_path: Path) -> None:
    with ShadeformServer(tmp_path, boxes=False) as cloud:
        address = cloud.url
    with pytest.raises(Unreachable, match="Is the network up"):
        Shadeform(Secret(SIM_KEY), address, sleep=Waits()).instances()


def test_waits_grow_are_jittered_and_heed_retry_after(cloud: ShadeformServer) -> None:
    low, high = Waits(), Waits()
    for jitter, waits in ((0.0, low), (1.0, high)):
        cloud.fault(LIST, "status", times=TRIES, status=502)
        with pytest.raises(Unreachable):
            client(cloud, sleep=waits, jitter=lambda jitter=jitter: jitter).instances()
    assert high == [0.5, 1.0, 2.0] and low == [w / 2 for w in high]
    asked = Waits()
    cloud.fault(LIST, "rate_limit", times=1, retry_after="7")
    client(cloud, sleep=asked).instances()
    assert asked == [7.0]


@pytest.mark.parametrize(
    "text, seconds",
    [
        (None, 0),
        ("", 0),
        ("0", 0),
        ("7", 7),
        ("1.5", 1.5),
        ("120", 120),
        ("121", LONGEST_RETRY_AFTER_S),
        ("1e9", LONGEST_RETRY_AFTER_S),
        ("inf", LONGEST_RETRY_AFTER_S),
        ("-inf", 0),
        ("nan", 0),
        ("-10", 0),
        ("soon", 0),
        ("7 seconds", 0),
        ("\x00", 0),
        ("9" * 400, LONGEST_RETRY_AFTER_S),
        ("Mon, 23 Nov 2026 12:00:30 GMT", 30),
        ("Mon, 23 Nov 2026 11:00:00 GMT", 0),
        ("Mon, 23 Nov 2099 12:00:00 GMT", LONGEST_RETRY_AFTER_S),
        ("Mon, 23 Nov 2026 12:00:30 -0000", 0),
        ("Fri, 01 Jan 100000 00:00:00 GMT", 0),
        ("Fri, 99 Zzz 2026 12:00:30 GMT", 0),
        ("Mon, 23 Nov 2026 12:00:30 +9999", 0),
        ("2026-11-23T12:00:30Z", 0),
    ],
    ids=lambda t: str(t)[:40],
)
def test_retry_after_is_between_0_and_120_seconds(text: str | None, seconds: float) -> None:
    assert retry_after_s(text, datetime(2026, 11, 23, 12, 0, tzinfo=timezone.utc)) == seconds


@pytest.mark.parametrize(
    "action, params, kind, said",
    [
        ("unauthorized", {}, AuthProblem, "SHADEFORM_API_KEY"),
        ("forbidden", {}, AuthProblem, "SHADEFORM_API_KEY"),
        ("not_found", {}, NotFound, "did not find it"),
        ("status", {"status": 400, "body": {"error": "odd"}}, ApiProblem, "odd"),
        ("status", {"status": 418, "body": "raw text"}, ApiProblem, "raw text"),
        ("html", {}, WrongSetting, "a web page answered instead of Shadeform"),
        ("html", {"status": 403}, WrongSetting, "Just a moment"),
        ("truncated", {}, BadAnswer, "cannot be read"),
        ("status", {"status": 200, "body": None}, BadAnswer, "cannot be read"),
        ("status", {"status": 200, "body": []}, BadAnswer, "GET /instances"),
        ("status", {"status": 200, "body": {}}, BadAnswer, "no list of instances"),
        ("status", {"status": 200, "body": {"instances": None}}, BadAnswer, "no list of instances"),
        (
            "status",
            {"status": 302, "headers": {"Location": "http://127.0.0.1:1/"}},
            ApiProblem,
            "HTTP 302",
        ),
    ],
    ids=str,
)
def test_an_answer_without_a_list_is_an_error_and_never_an_empty_list(
    cloud: ShadeformServer,
    api: Shadeform,
    action: str,
    params: dict[str, Any],
    kind: type[NanolanError],
    said: str,
) -> None:
    cloud.fault(LIST, action, **params)
    with pytest.raises(kind, match=said):
        api.instances()
    assert len(cloud.requests) == 1


def test_an_instance_with_only_the_fields_that_matter_can_be_read(
    cloud: ShadeformServer, api: Shadeform
) -> None:
    box = api.create(BODY)
    cloud.fault(INFO, "edit", change=lambda body: {k: body[k] for k in ("id", "name", "status")})
    assert api.info(box).billing


def test_an_unknown_status_word_is_kept_and_counts_as_billing(
    cloud: ShadeformServer, api: Shadeform
) -> None:
    box = api.create(BODY)
    cloud.fault(INFO, "edit", change=lambda body: body.update(status="hibernating"))
    seen = api.info(box)
    assert seen.status == "hibernating" and seen.billing


@pytest.mark.parametrize(
    "changes",
    [
        {"hourly_price": None},
        {"hourly_price": "3360"},
        {"hourly_price": 0},
        {"hourly_price": -3360},
        {"hourly_price": 33.6},
        {"configuration": {}, "num_gpus": None},
        {"availability": {}},
        {"cloud": 5},
    ],
    ids=str,
)
def test_an_offer_that_cannot_be_read_is_left_out_and_counted(
    cloud: ShadeformServer, api: Shadeform, changes: dict[str, Any]
) -> None:
    cloud.fault(TYPES, "edit", change=lambda body: body["instance_types"][0].update(changes))
    offers, unreadable = api.offers()
    assert (
        unreadable == 1 and len(offers) == ON_DEMAND - 1 and all(o.hourly_cents > 0 for o in offers)
    )


def test_a_list_of_types_that_is_none_is_an_error(cloud: ShadeformServer, api: Shadeform) -> None:
    for body in ({}, {"instance_types": None}, {"instance_types": {}}):
        cloud.fault(TYPES, "status", status=200, body=body)
        with pytest.raises(BadAnswer, match="instance_types"):
            api.offers()
    cloud.fault(TYPES, "html")
    with pytest.raises(WrongSetting):
        api.offers()


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
        ("rate_limit", {}, ApiProblem, "HTTP 429.*nothing was rented"),
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
    created = api.info(api.create(BODY)).created_at
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
