"""Shared by tests/sim/shadeform/test_server*.py."""

from __future__ import annotations

import base64
import time

import pytest

from nanolan.sim.shadeform.instance import Delays
from nanolan.sim.shadeform.server import ShadeformServer
from tests.sim.openapi import Client

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
