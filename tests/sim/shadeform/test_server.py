"""The whole local Shadeform over real HTTP, in real time: every request and answer against the OpenAPI file."""

from __future__ import annotations

import base64
import http.client
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import requests

from nanolan.sim.box import marked
from nanolan.sim.shadeform.instance import Delays
from nanolan.sim.shadeform.server import KEY, ShadeformServer
from tests.sim.openapi import Client, document, needs_openapi, operation

QUICK = Delays(
    creating_s=0.05,
    pending_provider_s=0.05,
    pending_s=0.05,
    restart_s=0.1,
    deleting_s=0.8,
    power_off_s=0.4,
    tick_s=0.02,
)
OFFER = {
    "cloud": "hyperstack",
    "region": "canada-1",
    "shade_instance_type": "8x_b200_pcie_192gb",
    "name": "lanbot",
}
CREATE = "POST /v1/instances/create"


def until(condition, timeout_s=30.0):
    """The first true value of `condition`."""
    end = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
    return value


def script(text):
    encoded = base64.b64encode(text.encode()).decode()
    return {
        "launch_configuration": {
            "type": "script",
            "script_configuration": {"base64_script": encoded},
        }
    }


@pytest.fixture
def cloud(tmp_path):
    with ShadeformServer(tmp_path, delays=QUICK) as server:
        yield server


@pytest.fixture
def client(cloud):
    client = Client(cloud.url)
    yield client
    client.close()


def create(client, **more):
    return client.post("/instances/create", {**OFFER, **more})["id"]


def status(client, box):
    code, body = client.call("GET", f"/instances/{box}/info")
    return body["status"] if code == 200 else code


@needs_openapi
def test_every_call_that_the_sim_plays_is_in_the_openapi_file():
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


def test_a_life_from_create_to_gone(cloud, client):
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
def test_a_create_that_is_not_a_request_is_400(cloud, raw):
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


def test_every_request_is_on_record_even_one_that_got_no_answer(cloud, client):
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
def test_limits_are_enforced_with_nobody_looking(cloud, client, limits, why):
    box = cloud.instance(create(client, auto_delete=limits(), **script("sleep 600")))
    until(lambda: box.status == "deleted")
    assert box.why == why and not (box.machine and box.machine.processes())


# ---- faults on the wire


def test_an_instance_whose_answer_was_lost_exists_all_the_same(cloud, client):
    for action in (
        "reset_after_effect",
        "status_after_effect",
        "cut",
        "truncated",
        "stall_after_effect",
    ):
        cloud.fault(CREATE, action, **({"seconds": 5} if action.startswith("stall") else {}))
        try:
            client.call("POST", "/instances/create", OFFER, timeout_s=1)
        except (requests.RequestException, ValueError, AssertionError):
            pass  # how it fails is the next test's
    assert len(client.get("/instances")["instances"]) == 5


def test_an_answer_that_never_came_means_nothing_where_it_did_not_happen(cloud, client):
    cloud.fault(CREATE, "reset")
    cloud.fault(CREATE, "status", status=500)
    with pytest.raises(requests.ConnectionError):
        create(client)
    assert client.call("POST", "/instances/create", OFFER)[0] == 500 and cloud.instances == []


def test_a_reset_is_a_reset_and_not_an_end(cloud):
    cloud.fault("GET", "reset")
    connection = http.client.HTTPConnection(cloud.url.split("/")[2], timeout=9)
    connection.request("GET", "/v1/instances")
    with pytest.raises(ConnectionResetError) as caught:
        connection.getresponse()
    assert not isinstance(
        caught.value, http.client.RemoteDisconnected
    )  # its subclass for a proper end
    connection.close()


@pytest.mark.parametrize(
    "action, params, error",
    [
        ("reset", {}, requests.ConnectionError),
        ("cut", {}, requests.exceptions.ChunkedEncodingError),
        ("truncated", {}, requests.exceptions.JSONDecodeError),
        ("stall", {"seconds": 5}, requests.ReadTimeout),
    ],
)
def test_answers_that_break_on_the_wire(cloud, client, action, params, error):
    cloud.fault("GET /v1/instances/types", action, **params)
    with pytest.raises(error):
        client.call("GET", "/instances/types", timeout_s=1)
    assert client.get("/instances/types")  # the next one is whole


@pytest.mark.parametrize(
    "action, params, code, kind, text",
    [
        (
            "text",
            {"status": 503, "body": "no healthy upstream"},
            503,
            "text/plain",
            "no healthy upstream",
        ),
        ("html", {}, 200, "text/html", "<!DOCTYPE html>"),
        ("rate_limit", {"retry_after": "3"}, 429, "application/json", "too many"),
        (
            "status",
            {"status": 200, "body": {"instances": "none"}},
            200,
            "application/json",
            '{"instances": "none"}',
        ),
        ("status", {"status": 200}, 200, None, ""),
        ("internal_error", {}, 409, "application/json", "INTERNAL_SERVER_ERROR"),
        (
            "edit",
            {"change": lambda body: body["instances"].append(7)},
            200,
            "application/json",
            '{"instances": [7]}',
        ),
    ],
)
def test_answers_that_are_not_what_was_asked_for(cloud, action, params, code, kind, text):
    cloud.fault("GET /v1/instances$", action, times=1, **params)
    got = requests.get(cloud.url + "/instances", headers={"X-API-KEY": KEY}, timeout=9)
    assert (got.status_code, got.headers.get("Content-Type")) == (code, kind) and text in got.text
    assert got.headers.get("Retry-After") == ("3" if code == 429 else None)


def test_stock_can_run_out_between_list_and_create(cloud, client):
    cloud.fault(CREATE, "out_of_stock")
    assert client.call("POST", "/instances/create", OFFER)[1]["error_code"] == "OUT_OF_STOCK"
    assert cloud.instances == [] and create(client)


# ---- boxes


def console(cloud, box):
    path = cloud.root / "boxes" / box / "console.log"
    return path.read_text() if path.exists() else ""


def test_the_script_runs_once_active_and_its_processes_end_with_the_instance(cloud, client):
    box = create(
        client, **script('"$BOX_ROOT/usr/bin/nvidia-smi" -L; echo $NANOLAN_BOX; sleep 600')
    )
    text = until(lambda: box in console(cloud, box) and console(cloud, box))
    assert text.count("NVIDIA B200") == 8 and status(client, box) == "active" and marked({box})
    client.post(f"/instances/{box}/delete")
    until(lambda: not marked({box}))
    until(lambda: status(client, box) == 404)
    assert console(cloud, box) == text  # the folder stays


def test_a_box_that_deletes_itself_gets_its_answer(cloud, client):
    python = f"""
import os, urllib.request
url = "{cloud.url}/instances/" + os.environ["NANOLAN_BOX"] + "/delete"
request = urllib.request.Request(url, method="POST", headers={{"X-API-KEY": {KEY!r}}})
print(urllib.request.urlopen(request).status, flush=True)
"""
    box = create(client, **script(f"{sys.executable} - <<'EOF'{python}EOF\nsleep 600"))
    until(lambda: status(client, box) == 404)
    assert console(cloud, box) == "200\n" and not marked({box})


def test_the_script_can_come_late_or_never(cloud, client):
    cloud.switch("script_never_started", times=1)
    never = create(client, **script("echo ran"))
    cloud.switch("script_delay", 0.7)
    late = cloud.instance(create(client, **script("echo ran")))
    until(lambda: late.status == "active")
    until(lambda: console(cloud, late.id))
    assert time.time() - late.active_at >= 0.7 and console(cloud, never) == ""


def test_fewer_gpus_than_rented(cloud, client):
    cloud.switch("gpu_count_wrong", 7)
    box = create(client, **script('"$BOX_ROOT/usr/bin/nvidia-smi" -L; echo end'))
    assert until(lambda: "end" in console(cloud, box) and console(cloud, box)).count("GPU ") == 7


def test_a_preempted_box_loses_its_processes(cloud, client):
    cloud.switch("preempted", 1.2)
    box = create(client, **script("echo up; sleep 600"))
    until(lambda: console(cloud, box))
    until(lambda: status(client, box) == 404)
    assert not marked({box}) and cloud.instance(box).why == "preempted"


def test_a_killed_script_comes_back_and_a_restart_is_a_reboot(cloud, client):
    box = create(client, **script("echo up $$; sleep 600"))
    until(lambda: console(cloud, box))
    machine = cloud.instance(box).machine
    os.kill(machine.pid, signal.SIGKILL)
    until(lambda: console(cloud, box).count("up") == 2)
    client.post(f"/instances/{box}/restart")
    until(lambda: console(cloud, box).count("up") == 3)
    assert len({p.pid for p in machine.processes()}) == 2  # bash and sleep: no strays of before
    assert status(client, box) == "active"


def test_without_boxes_no_script_runs(tmp_path):
    with ShadeformServer(tmp_path, delays=QUICK, boxes=False) as cloud:
        box = cloud.instance(create(Client(cloud.url), **script("echo ran")))
        until(lambda: box.status == "active")
        time.sleep(0.3)
        assert box.machine is None and not (tmp_path / "boxes").exists()


def test_foreign_instances_are_never_touched(cloud, client):
    theirs = cloud.add_foreign("someone-elses", 2500)
    mine = create(client, auto_delete={"spend_threshold": "0.001"}, **script("sleep 600"))
    until(lambda: status(client, mine) == 404)
    assert [(i["id"], i["name"], i["status"]) for i in client.get("/instances")["instances"]] == [
        (theirs.id, "someone-elses", "active")
    ]


# ---- its end


def test_stop_ends_boxes_and_connections_and_may_be_called_twice(tmp_path):
    cloud = ShadeformServer(tmp_path, delays=QUICK).start()
    client = Client(cloud.url)
    box = create(client, **script("trap '' TERM HUP INT; sleep 600 & sleep 600"))
    until(lambda: len(marked({box})) == 3)
    cloud.fault("GET /v1/instances$", "stall", seconds=600)
    cloud.stop()
    cloud.stop()
    assert not marked({box})
    with pytest.raises(requests.ConnectionError):
        client.get("/instances")
    assert len(cloud.requests) == 1
    assert not any(
        "machine import guard" in " ".join(p.cmdline()) for p in psutil.Process().children()
    )


def test_boxes_end_with_a_cloud_that_is_killed(tmp_path):
    program = f"""
import time
from pathlib import Path
from nanolan.sim.shadeform.server import ShadeformServer
with ShadeformServer(Path({str(tmp_path)!r})) as cloud:
    print(cloud.url, flush=True)
    time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        box = create(
            Client(process.stdout.readline().strip()), **script("nohup sleep 600 & sleep 600")
        )
        until(lambda: len(marked({box})) == 3)
    finally:
        process.kill()
        process.wait()
    until(lambda: not marked({box}))
