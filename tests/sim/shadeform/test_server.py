"""The whole local Shadeform over real HTTP, in real time: every request and answer against the OpenAPI file."""

from __future__ import annotations

import time

import pytest
import requests

from nanolan.sim.shadeform.server import KEY
from tests.sim.openapi import Client, document, needs_openapi, operation
from tests.support.sim_server_fixtures import (
    CREATE,
    OFFER,
    client,  # noqa: F401  # a fixture
    cloud,  # noqa: F401  # a fixture
    create,
    script,
    status,
    until,
)


@needs_openapi
def test_every_call_of_the_sim_is_in_the_openapi_file():
    calls = [
        ("GET", "/instances/types"),
        ("GET", "/instances"),
        ("POST", "/instances/create"),
        ("GET", "/instances/x/info"),
        ("GET", "/sshkeys"),
        *(("POST", f"/instances/x/{verb}") for verb in ("delete", "update", "restart")),
        ("POST", "/sshkeys/add"),
        ("GET", "/sshkeys/x/info"),
        ("POST", "/sshkeys/x/delete"),
        ("POST", "/sshkeys/x/setdefault"),
    ]
    assert all(operation(method, path) for method, path in calls)
    assert document()["servers"][0]["url"].endswith("/v1")


# ---- the API
def test_an_instance_from_create_to_deleted(cloud, client):
    box = create(client, auto_delete={"spend_threshold": "100"})
    seen = ["creating"]
    while seen[-1] != "active":
        if (now := status(client, box)) != seen[-1]:
            seen.append(now)
    assert seen == [s for s in ("creating", "pending_provider", "pending", "active") if s in seen]
    assert [i["id"] for i in client.get("/instances")["instances"]] == [box]
    assert client.post(f"/instances/{box}/delete") is None
    assert status(client, box) in ("deleting", 404)
    until(lambda: status(client, box) == 404)
    assert client.get("/instances")["instances"] == []
    assert cloud.instance(box).status == "deleted" and 0 < cloud.spent_dollars() < 1


def test_types_answer_without_a_key_and_take_filters(cloud):
    stranger = Client(cloud.url, key="")
    rows = stranger.get("/instances/types?gpu_type=B200&num_gpus=8&available=true&sort=price")[
        "instance_types"
    ]
    assert [r["cloud"] for r in rows] == ["hyperstack", "datacrunch", "tensordock", "lambdalabs"]
    assert len(stranger.get("/instances/types?available=True")["instance_types"]) > 15


@pytest.mark.parametrize("key", ["", "wrong", "sim-ke"])
@pytest.mark.parametrize(
    "method, path",
    [
        ("GET", "/instances"),
        ("POST", "/instances/create"),
        ("GET", "/sshkeys"),
        ("POST", "/instances/x/delete"),
        ("GET", "/nowhere"),
    ],
)
def test_a_wrong_key_is_401_and_does_nothing(cloud, key, method, path):
    body = OFFER if path.endswith("create") else None
    assert Client(cloud.url, key).call(method, path, body, bad=True) == (
        401,
        {"message": "Invalid API key"},
    )
    assert cloud.instances == []


@pytest.mark.parametrize(
    "method, path, code",
    [
        ("DELETE", "/instances/{id}", 405),
        ("GET", "/instances/{id}/delete", 405),
        ("POST", "/instances", 405),
        ("PUT", "/instances/{id}/update", 405),
        ("DELETE", "/sshkeys/x", 405),
        ("POST", "/instances/types", 405),
        ("GET", "/nowhere", 404),
        ("GET", "/instances/none/info", 404),
        ("POST", "/instances/none/delete", 404),
        ("POST", "/instances/none/update", 404),
        ("POST", "/instances/none/restart", 404),
        ("GET", "/sshkeys/none/info", 404),
        ("POST", "/sshkeys/none/setdefault", 404),
    ],
)
def test_wrong_verbs_and_unknown_ids(client, method, path, code):
    box = create(client)
    body = {} if path.endswith("/update") else None
    assert client.call(method, path.replace("{id}", box), body, bad=True)[0] == code
    assert status(client, box) != 404


def test_paths_outside_v1_are_unknown(cloud):
    outside = cloud.url.removesuffix("/v1") + "/instances"
    assert requests.get(outside, headers={"X-API-KEY": KEY}, timeout=9).status_code == 404


@pytest.mark.parametrize("raw", [b"{", b"[1]", b"null", b"\xff\xfe", b"{}"])
def test_a_malformed_create_is_400(cloud, raw):
    got = requests.post(
        cloud.url + "/instances/create", data=raw, headers={"X-API-KEY": KEY}, timeout=9
    )
    assert got.status_code == 400 and cloud.instances == []


def test_update_and_restart_answer_200_with_nothing(client):
    box = create(client, tags=["a"])
    assert (
        client.post(
            f"/instances/{box}/update", {"tags": None, "auto_delete": {"spend_threshold": "3"}}
        )
        is None
    )
    assert client.post(f"/instances/{box}/restart") is None
    shown = client.get(f"/instances/{box}/info")
    assert (shown["tags"], shown["auto_delete"]) == (None, {"spend_threshold": "3"})


def test_keys_over_http(client):
    (managed,) = client.get("/sshkeys")["ssh_keys"]
    mine = client.post("/sshkeys/add", {"name": "mine", "public_key": "ssh-ed25519 AAAA me"})["id"]
    assert (
        client.call("POST", "/sshkeys/add", {"name": "mine", "public_key": "ssh-ed25519 BBBB me"})[
            0
        ]
        == 409
    )
    client.post(f"/sshkeys/{mine}/setdefault")
    assert client.get(f"/instances/{create(client)}/info")["ssh_key_id"] == mine
    client.post(f"/sshkeys/{managed['id']}/setdefault")
    assert client.call("POST", f"/sshkeys/{mine}/delete")[0] == 409  # in use


def test_every_request_is_recorded_even_without_an_answer(cloud, client):
    cloud.fault(CREATE, "reset")
    with pytest.raises(requests.ConnectionError):
        create(client)
    client.get("/instances/types?cloud=nebius")
    (first, second) = cloud.requests
    assert first[:3] == ("POST", "/v1/instances/create", OFFER) and abs(first.t - time.time()) < 30
    assert second[:3] == ("GET", "/v1/instances/types?cloud=nebius", None)


# ---- limits in real time
@pytest.mark.parametrize(
    "limits, why",
    [
        (lambda: {"spend_threshold": "0.003"}, "spend"),  # $33.60 an hour: a third of a second
        (
            lambda: {
                "date_threshold": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 1))
            },
            "date",
        ),
    ],
)
def test_limits_are_enforced_without_any_request(cloud, client, limits, why):
    box = cloud.instance(create(client, auto_delete=limits(), **script("sleep 600")))
    until(lambda: box.status == "deleted")
    assert box.why == why and not (box.machine and box.machine.processes())
