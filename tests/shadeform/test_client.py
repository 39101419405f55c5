"""The Shadeform client over real HTTP: typed answers, one family of errors, reads retried, changes sent once."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from nanolan.errors import (
    ApiProblem,
    AuthProblem,
    BadAnswer,
    NanolanError,
    NotFound,
    TooManyRequests,
    Unreachable,
    WrongSetting,
)
from nanolan.redact import Secret
from nanolan.shadeform.client import LONGEST_RETRY_AFTER_S, TRIES, Shadeform, retry_after_s
from nanolan.sim.shadeform.sample_offers import SAMPLE
from nanolan.sim.shadeform.server import KEY as SIM_KEY
from nanolan.sim.shadeform.server import ShadeformServer
from tests.sim.openapi import check_request
from tests.support.client_fixtures import (
    BODY,
    api,  # noqa: F401  # a fixture
    cloud,  # noqa: F401  # a fixture
)
from tests.support.core_fixtures import (
    INFO,
    LIST,
    TYPES,
    Waits,
    client,
)

ON_DEMAND = sum(
    e["available"] and e.get("rental_type", "on_demand") == "on_demand"
    for t in SAMPLE
    for e in t["availability"]
)


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


# ---- a look at the market
def test_the_market_shows_what_is_in_stock_and_what_is_sold_out(
    cloud: ShadeformServer, api: Shadeform
) -> None:
    market = api.market()
    assert market.in_stock == api.offers()[0] and market.unreadable == 0
    assert set(market.in_stock) < set(market.listed)
    cloud.switch("no_stock")
    sold_out = api.market()
    assert sold_out.in_stock == [] and sold_out.listed == market.listed == api.market().listed


def test_a_market_of_spot_offers_has_no_others(cloud: ShadeformServer, api: Shadeform) -> None:
    market = api.market("only")
    assert market.listed and all(o.spot for o in (*market.listed, *market.in_stock))
    assert {*market.listed} | {*api.market("no").listed} == {*api.market("yes").listed}


@pytest.mark.parametrize(
    "answer, seconds",
    [("17", 17.0), ("900", 900.0), ("86400", 3600.0), ("soon", 0.0), ("-3", 0.0)],
)
def test_a_look_is_sent_once_and_its_error_says_how_long_to_wait(
    cloud: ShadeformServer, api: Shadeform, answer: str, seconds: float
) -> None:
    cloud.fault(TYPES, "rate_limit", retry_after=answer)
    with pytest.raises(TooManyRequests) as e:
        api.market()
    assert e.value.retry_after_s == seconds and len(cloud.requests) == 1
    assert "tries" not in str(e.value)


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
