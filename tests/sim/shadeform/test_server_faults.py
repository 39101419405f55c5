"""Faults on the wire and processes of the local Shadeform."""

from __future__ import annotations

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
from nanolan.sim.shadeform.server import KEY, ShadeformServer
from tests.sim.openapi import Client
from tests.support.sim_server_fixtures import (
    CREATE,
    OFFER,
    QUICK,
    client,  # noqa: F401  # a fixture
    cloud,  # noqa: F401  # a fixture
    create,
    script,
    status,
    until,
)


# ---- faults on the wire
def test_an_instance_whose_create_answer_was_lost_exists(cloud, client):
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


def test_a_create_that_was_reset_before_its_effect_rents_nothing(cloud, client):
    cloud.fault(CREATE, "reset")
    cloud.fault(CREATE, "status", status=500)
    with pytest.raises(requests.ConnectionError):
        create(client)
    assert client.call("POST", "/instances/create", OFFER)[0] == 500 and cloud.instances == []


def test_a_reset_is_a_tcp_reset(cloud):
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
def test_answers_of_another_status_or_type(cloud, action, params, code, kind, text):
    cloud.fault("GET /v1/instances$", action, times=1, **params)
    got = requests.get(cloud.url + "/instances", headers={"X-API-KEY": KEY}, timeout=9)
    assert (got.status_code, got.headers.get("Content-Type")) == (code, kind) and text in got.text
    assert got.headers.get("Retry-After") == ("3" if code == 429 else None)


def test_stock_can_run_out_between_list_and_create(cloud, client):
    cloud.fault(CREATE, "out_of_stock")
    assert client.call("POST", "/instances/create", OFFER)[1]["error_code"] == "OUT_OF_STOCK"
    assert cloud.instances == [] and create(client)


def console(cloud, box):
    path = cloud.root / "boxes" / box / "console.log"
    return path.read_text() if path.exists() else ""


# ---- boxes
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


def test_the_script_can_start_late_or_never(cloud, client):
    cloud.switch("script_never_started", times=1)
    never = create(client, **script("echo ran"))
    cloud.switch("script_delay", 0.7)
    late = cloud.instance(create(client, **script("echo ran")))
    until(lambda: late.status == "active")
    until(lambda: console(cloud, late.id))
    assert time.time() - late.active_at >= 0.7 and console(cloud, never) == ""


def test_a_box_can_have_fewer_gpus_than_rented(cloud, client):
    cloud.switch("gpu_count_wrong", 7)
    box = create(client, **script('"$BOX_ROOT/usr/bin/nvidia-smi" -L; echo end'))
    assert until(lambda: "end" in console(cloud, box) and console(cloud, box)).count("GPU ") == 7


def test_a_preempted_box_loses_its_processes(cloud, client):
    cloud.switch("preempted", 1.2)
    box = create(client, **script("echo up; sleep 600"))
    until(lambda: console(cloud, box))
    until(lambda: status(client, box) == 404)
    assert not marked({box}) and cloud.instance(box).why == "preempted"


def test_a_killed_script_is_restarted_and_a_restart_is_a_reboot(cloud, client):
    box = create(client, **script("echo up $$; sleep 600"))
    until(lambda: console(cloud, box))
    machine = cloud.instance(box).machine
    until(lambda: machine.pid)  # its script may write before this program knows the pid
    os.kill(machine.pid, signal.SIGKILL)
    until(lambda: console(cloud, box).count("up") == 2)
    client.post(f"/instances/{box}/restart")
    until(lambda: console(cloud, box).count("up") == 3)
    until(
        lambda: len({p.pid for p in machine.processes()}) == 2
    )  # bash and sleep: no strays of before
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


def test_boxes_end_when_their_cloud_is_killed(tmp_path):
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
