"""Shared by tests/sim/shadeform/test_account*.py."""

from __future__ import annotations

import pytest

from nanolan.sim.shadeform.account import Account
from nanolan.sim.shadeform.instance import Delays
from nanolan.sim.shadeform.refusal import Refusal
from nanolan.sim.shadeform.sample_offers import SAMPLE
from tests.sim.openapi import check_response

DELAYS = Delays(creating_s=10, pending_provider_s=20, pending_s=30, deleting_s=40)


CREATE = {
    "cloud": "hyperstack",
    "region": "canada-1",
    "shade_instance_type": "8x_b200_pcie_192gb",
    "name": "n",
}


class Clock:
    def __init__(self):
        self.t = 1_800_000_000.0

    def __call__(self):
        return self.t


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def account(clock):
    return Account(SAMPLE, 10_000, DELAYS, now=clock)


def create(account, **more):
    return account.create({**CREATE, **more})["id"]


def refusal(call, *args):
    with pytest.raises(Refusal) as caught:
        call(*args)
    return caught.value.status, caught.value.body


def ids(account):
    answer = account.listed()
    check_response("GET", "/instances", 200, answer)
    return [i["id"] for i in answer["instances"]]


def info(account, instance_id):
    answer = account.info(instance_id)
    check_response("GET", f"/instances/{instance_id}/info", 200, answer)
    return answer
