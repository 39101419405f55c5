"""Injected failures: faults change single HTTP answers, switches change how instances behave.

cloud.fault("POST /v1/instances/create", "reset_after_effect")      the create happens, its answer is lost
cloud.fault("GET /v1/instances", "rate_limit", times=2, retry_after="1")
cloud.switch("stuck_in_pending_provider", times=1)                  the next instance only
cloud.switch("list_lag", 2.0)                                       seconds, every instance from now on
"""

from __future__ import annotations

import inspect
import re
import threading
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

from nanolan.sim.shadeform.refusal import REFUSALS

AFTER_EFFECT = "_after_effect"
PAGE = "<!DOCTYPE html><html><head><title>Just a moment...</title></head><body>checking your browser</body></html>"


@dataclass(frozen=True)
class Reply:
    """An answer to send: body None is empty, a str is sent unchanged, anything else as JSON."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    kind: str = "application/json"
    # whole | halved (still well-formed HTTP) | cut (the connection ends early) | reset
    ending: str = "whole"


def _status(
    reply: Reply, status: int = 500, body: Any = None, headers: dict[str, str] | None = None
) -> Reply:
    return Reply(status, body, headers or {})


def _text(
    reply: Reply, status: int = 502, body: str = "upstream connect error or disconnect"
) -> Reply:
    return Reply(status, body, kind="text/plain")


def _html(reply: Reply, status: int = 200, body: str = PAGE) -> Reply:
    return Reply(status, body, kind="text/html")


def _rate_limit(reply: Reply, retry_after: str = "1") -> Reply:
    return Reply(429, {"error": "too many requests"}, {"Retry-After": retry_after})


def _edit(reply: Reply, change: Callable[[Any], Any]) -> Reply:
    body = deepcopy(reply.body)
    changed = change(body)  # a function that edits in place returns None
    return replace(reply, body=body if changed is None else changed)


# The answer sent in place of the true one, or made from it. `stall` waits: see `apply_fault`.
ACTIONS: dict[str, Callable[..., Reply]] = {
    "status": _status,  # any status and body: wrong types, missing fields, an empty 200 ...
    "text": _text,
    "html": _html,
    "rate_limit": _rate_limit,
    "reset": lambda reply: Reply(ending="reset"),
    "truncated": lambda reply: replace(reply, ending="halved"),
    "cut": lambda reply: replace(reply, ending="cut"),
    "edit": _edit,  # change=function of the true body
    "stall": lambda reply, seconds: reply,
    **{
        name: lambda reply, name=name: Reply(*REFUSALS[name])
        for name in (
            "unauthorized",
            "forbidden",
            "not_found",
            "out_of_stock",
            "insufficient_funds",
            "internal_error",
        )
    },
}
USES_TRUE_ANSWER = ("truncated", "cut", "edit", "stall")


@dataclass
class Fault:
    """Applied to the next `times` requests (None: all) whose "METHOD /path" matches, after the first `skip`."""

    match: str
    action: str
    times: int | None = 1
    skip: int = 0
    params: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        name = self.action.removesuffix(AFTER_EFFECT)
        if name not in ACTIONS:
            raise ValueError(
                f"no fault named {self.action}; known faults, also with {AFTER_EFFECT}: {', '.join(ACTIONS)}"
            )
        inspect.signature(ACTIONS[name]).bind(Reply(), **self.params)

    def due(self, request: str) -> bool:
        """Count this request and return whether the fault applies to it."""
        if self.times == 0 or not re.search(self.match, request):
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.times = None if self.times is None else self.times - 1
        return True


class Faults:
    """The pending faults, in the order in which they were set."""

    def __init__(self) -> None:
        self._lock, self._faults = threading.Lock(), list[Fault]()

    def add(self, fault: Fault) -> None:
        with self._lock:
            self._faults.append(fault)

    def take(self, request: str) -> Fault | None:
        """The fault for this request, if any; at most one applies."""
        with self._lock:
            return next((fault for fault in self._faults if fault.due(request)), None)

    def clear(self) -> None:
        with self._lock:
            self._faults.clear()


def apply_fault(
    fault: Fault | None, perform: Callable[[], Reply], wait: Callable[[float], object]
) -> Reply:
    """The answer under `fault`; `perform` carries out the request and returns the true answer, `wait` sleeps."""
    if fault is None:
        return perform()
    name = fault.action.removesuffix(AFTER_EFFECT)
    after_effect = fault.action.endswith(AFTER_EFFECT)
    if name == "stall" and not after_effect:
        wait(fault.params["seconds"])
    true_answer = perform() if after_effect or name in USES_TRUE_ANSWER else Reply()
    if name == "stall" and after_effect:
        wait(fault.params["seconds"])
    return ACTIONS[name](true_answer, **fault.params)


# name -> its effect. Drawn when an instance is created, except for the counted ones.
SWITCHES = {
    "no_stock": "seconds from the first listing of types during which everything is sold out",
    "list_lag": "seconds until GET /instances shows a new instance (info shows it at once)",
    "stuck_in_pending_provider": "it stays in pending_provider and is billed",
    "goes_to_error": "error instead of pending; it stays listed and is billed",
    "vanishes": "seconds until it disappears without notice",
    "preempted": "seconds after active until it is deleted, status_details preempted",
    "unknown_status": "the status shown in place of pending_provider",
    "price_differs": "cents per hour of the instance, in place of the offer's price",
    "price_rises": "seconds from active until its price triples",
    "limits_dropped": "seconds from active until its limits are dropped without notice",
    "comes_back": "seconds from its end until it is listed and billed again",
    "deletion_reverted": "seconds from its first delete until it is active again; below 0.2 its programs run on",
    "auto_delete_late": "seconds until info shows the limits",
    "auto_delete_stored_as": "the limits that create stores in place of those sent",
    "tags_not_stored": "info and list show no tags",
    "cost_frozen": 'cost_estimate stays "0"',
    "ip": "the address: a DNS name, or the same for each",
    "ssh_port": "the port in place of 22",
    "ssh_port_null": "no port even when active",
    "ssh_user": "the user in place of shadeform",
    "script_never_started": "active, but the startup script does not run",
    "script_delay": "seconds from active to the start of the script",
    "gpu_count_wrong": "number of GPUs that nvidia-smi shows on the box",
    "box_trouble": "one of the troubles of nanolan/sim/box_trouble.py",
    "home_takes_nothing": "writes into root's home on the box fail, as on a full disk",
    "delete_ignored": "counted: how many deletes answer 200 and do nothing",
    "restart_ignored": "counted: how many restarts answer 200 and do nothing",
    "auto_delete_not_stored": "counted: how many creates and updates lose their limits without notice",
}
COUNTED = ("delete_ignored", "restart_ignored", "auto_delete_not_stored")


class Switches:
    """The active switches: their values, and the number of uses left."""

    def __init__(self) -> None:
        self._lock, self._on = threading.Lock(), dict[str, tuple[Any, int | None]]()

    def set(self, name: str, value: Any = True, times: int | None = None) -> None:
        """Switch on for the next `times` instances (None: all), or off (False); a counted one for `value` uses."""
        if name not in SWITCHES:
            raise ValueError(f"no switch named {name}; known: {', '.join(SWITCHES)}")
        if name in COUNTED and value is not True:
            value, times = bool(value), int(value)
        with self._lock:
            self._on.pop(name, None)
            if value is not False:
                self._on[name] = (value, times)

    def take(self, name: str) -> Any:
        """The switch's value for one use, None if it is off or used up."""
        with self._lock:
            value, times = self._on.get(name, (None, None))
            if times == 0:
                return None
            if times is not None:
                self._on[name] = (value, times - 1)
            return value

    def draw(self) -> dict[str, Any]:
        """The switches that apply to an instance created now."""
        drawn = {name: self.take(name) for name in SWITCHES if name not in COUNTED}
        return {name: value for name, value in drawn.items() if value is not None}
