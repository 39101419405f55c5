"""Faults and switches: counted, in order; unknown names are refused."""

from __future__ import annotations

import pytest

from nanolan.sim.shadeform.faults import (
    ACTIONS,
    COUNTED,
    SWITCHES,
    Fault,
    Faults,
    Reply,
    Switches,
    apply_fault,
)

TRUE = Reply(200, {"id": "x"})


class World:
    """Records the order of the effect and the waiting."""

    def __init__(self):
        self.seen = []

    def act(self):
        self.seen.append("effect")
        return TRUE

    def wait(self, seconds):
        self.seen.append(seconds)


@pytest.mark.parametrize(
    "action, params, reply, seen",
    [
        ("status", {"status": 503, "body": {"error": "x"}}, Reply(503, {"error": "x"}), []),
        ("status", {"status": 200}, Reply(200), []),
        ("status_after_effect", {}, Reply(500), ["effect"]),
        ("text", {}, Reply(502, "upstream connect error or disconnect", kind="text/plain"), []),
        ("html", {"body": "<html>"}, Reply(200, "<html>", kind="text/html"), []),
        (
            "rate_limit",
            {"retry_after": "7"},
            Reply(429, {"error": "too many requests"}, {"Retry-After": "7"}),
            [],
        ),
        ("reset", {}, Reply(ending="reset"), []),
        ("reset_after_effect", {}, Reply(ending="reset"), ["effect"]),
        ("truncated", {}, Reply(200, {"id": "x"}, ending="halved"), ["effect"]),
        ("cut", {}, Reply(200, {"id": "x"}, ending="cut"), ["effect"]),
        ("edit", {"change": lambda body: body.pop("id")}, Reply(200, "x"), ["effect"]),
        (
            "edit",
            {"change": lambda body: body.update(id=None)},
            Reply(200, {"id": None}),
            ["effect"],
        ),
        ("stall", {"seconds": 3}, TRUE, [3, "effect"]),
        ("stall_after_effect", {"seconds": 3}, TRUE, ["effect", 3]),
        (
            "out_of_stock",
            {},
            Reply(409, {"error_code": "OUT_OF_STOCK", "error": "Out of stock"}),
            [],
        ),
        ("unauthorized", {}, Reply(401, {"message": "Invalid API key"}), []),
    ],
)
def test_the_answer_and_the_effect_of_each_action(action, params, reply, seen):
    world = World()
    assert apply_fault(Fault("", action, params=params), world.act, world.wait) == reply
    assert world.seen == seen


def test_without_a_fault_the_true_answer_is_returned():
    world = World()
    assert apply_fault(None, world.act, world.wait) == TRUE and world.seen == ["effect"]


def test_editing_an_answer_does_not_change_the_true_one():
    apply_fault(
        Fault("", "edit", params={"change": lambda body: body.clear()}), lambda: TRUE, print
    )
    assert TRUE.body == {"id": "x"}


def test_a_fault_applies_to_matching_requests_after_skip_and_at_most_times():
    faults = Faults()
    faults.add(Fault("POST .*/create$", "reset", times=2, skip=1))
    drawn = [
        faults.take(r) is not None
        for r in (
            "GET /v1/instances",
            "POST /v1/instances/create",
            "POST /v1/instances/create",
            "POST /v1/instances/x/delete",
            "POST /v1/instances/create",
            "POST /v1/instances/create",
        )
    ]
    assert drawn == [False, False, True, False, True, False]


def test_each_request_takes_one_fault_in_order():
    faults = Faults()
    faults.add(Fault("GET", "text"))
    faults.add(Fault("GET", "html", times=None))
    assert [(faults.take("GET /") or Fault("", "cut")).action for _ in range(4)] == [
        "text",
        "html",
        "html",
        "html",
    ]
    faults.clear()
    assert faults.take("GET /") is None


@pytest.mark.parametrize(
    "action, params, error",
    [
        ("explode", {}, ValueError),
        ("explode_after_effect", {}, ValueError),
        ("stall", {}, TypeError),
        ("rate_limit", {"retry": 1}, TypeError),
        ("edit", {}, TypeError),
    ],
)
def test_an_unknown_fault_is_refused_when_it_is_set(action, params, error):
    with pytest.raises(error):
        Fault("", action, params=params)


def test_every_action_can_follow_the_effect():
    needs = {"stall": {"seconds": 0}, "edit": {"change": lambda body: None}}
    for action in ACTIONS:
        world = World()
        apply_fault(
            Fault("", action + "_after_effect", params=needs.get(action, {})), world.act, world.wait
        )
        assert "effect" in world.seen, action


def test_switches_apply_always_or_a_number_of_times_or_never():
    switches = Switches()
    switches.set("ssh_user", "a")
    switches.set("vanishes", 3.0, times=1)
    assert switches.draw() == {"ssh_user": "a", "vanishes": 3.0} and switches.draw() == {
        "ssh_user": "a"
    }
    switches.set("ssh_user", False)
    switches.set("gpu_count_wrong", 0)  # nought is a value
    assert switches.draw() == {"gpu_count_wrong": 0}


def test_counted_switches_count_their_uses():
    switches = Switches()
    switches.set("delete_ignored", 2)
    switches.set("restart_ignored")
    assert [switches.take("delete_ignored") for _ in range(3)] == [True, True, None]
    assert all(switches.take("restart_ignored") for _ in range(9))
    assert switches.draw() == {} and set(COUNTED) < set(SWITCHES)
    switches.set("restart_ignored", 0)
    assert switches.take("restart_ignored") is None


def test_an_unknown_switch_is_refused():
    with pytest.raises(ValueError, match="no switch named gpu_count.*gpu_count_wrong"):
        Switches().set("gpu_count", 3)
