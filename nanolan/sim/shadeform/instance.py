"""One simulated instance: its lifecycle, its bill and its limits, as functions of a given time.

    creating -> pending_provider -> pending -> active -> deleting -> deleted (no longer listed)
                                 \\-> error

Times are unix seconds, prices integer cents per hour of the whole instance, costs Decimal dollars.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

from nanolan.sim.box import Machine
from nanolan.sim.shadeform.catalogue import Offer

NEVER = float("inf")
MICRO = Decimal("0.000001")


@dataclass(frozen=True)
class Delays:
    """Durations in the simulated cloud, in real seconds."""

    creating_s: float = 0.2
    pending_provider_s: float = 0.2
    pending_s: float = 0.2
    script_s: float = 0.0  # from active to the start of the startup script
    restart_s: float = 1.0  # from a failed end of the script to its next start
    deleting_s: float = 0.5
    power_off_s: float = 0.2  # from the delete to the end of the machine's processes
    tick_s: float = 0.05  # how often limits are checked and machines started or stopped


@dataclass
class Instance:
    """The cloud's state of one instance; `spec` is the create request, `behavior` the switches drawn for it."""

    id: str
    offer: Offer
    spec: dict[str, Any]
    price_cents: int
    created_at: float
    delays: Delays = field(default_factory=Delays)
    behavior: dict[str, Any] = field(default_factory=dict)
    billed_from: str = "created"  # or "active"; the real rule is unknown
    foreign: bool = False  # another user's, on the same account
    number: int = 1  # determines its address
    deleting_at: float = NEVER
    why: str = ""  # of the deletion: asked, date, spend, preempted
    reboot_asked: bool = False
    machine: Machine | None = None

    @property
    def name(self) -> str:
        return str(self.spec["name"])

    @property
    def status(self) -> str:
        """The status now."""
        return self.status_at(time.time())

    @property
    def active_at(self) -> float:
        """When it becomes active; NEVER if a switch prevents it."""
        if self.behavior.get("stuck_in_pending_provider") or self.behavior.get("goes_to_error"):
            return NEVER
        delays = self.delays
        return self.created_at + delays.creating_s + delays.pending_provider_s + delays.pending_s

    @property
    def ends_at(self) -> float:
        """When its billing stops."""
        return min(self.deleting_at, self.created_at + self.behavior.get("vanishes", NEVER))

    @property
    def script_at(self) -> float:
        """When its startup script starts; NEVER without one."""
        if self.script is None or self.behavior.get("script_never_started"):
            return NEVER
        return self.active_at + self.delays.script_s + self.behavior.get("script_delay", 0.0)

    @property
    def script(self) -> str | None:
        """The startup script in base64."""
        launch = self.spec.get("launch_configuration") or {}
        return (launch.get("script_configuration") or {}).get("base64_script")

    @property
    def image(self) -> str:
        """The operating system image: the requested one, or the type's first."""
        return str(self.spec.get("os") or self.offer["configuration"]["os_options"][0])

    def status_at(self, now: float) -> str:
        """One of the API's status words."""
        if now >= self.ends_at + (
            self.delays.deleting_s if self.deleting_at <= self.ends_at else 0
        ):
            return "deleted"
        if now >= self.deleting_at:
            return "deleting"
        delays = self.delays
        age = now - self.created_at
        if age < delays.creating_s:
            return "creating"
        if age < delays.creating_s + delays.pending_provider_s or self.behavior.get(
            "stuck_in_pending_provider"
        ):
            return "pending_provider"
        if self.behavior.get("goes_to_error"):
            return "error"
        return "active" if now >= self.active_at else "pending"

    def runs_at(self, now: float) -> bool:
        """Whether its processes should be running."""
        off_at = self.ends_at + (self.delays.power_off_s if self.deleting_at <= self.ends_at else 0)
        return self.script_at <= now < off_at and self.script_at < self.ends_at

    def cost_at(self, now: float) -> Decimal:
        """Dollars via Shadeform so far, per second, unrounded; zero for an instance of a linked account.

        An instance in `error` is still billed: the API does not say that it is not.
        """
        start = self.active_at if self.billed_from == "active" else self.created_at
        billed_s = max(0.0, min(now, self.ends_at) - start)
        return (
            self.price_cents * Decimal(billed_s).quantize(MICRO) / 360_000
            if self.via_shadeform
            else Decimal(0)
        )

    @property
    def via_shadeform(self) -> bool:
        return self.spec.get("shade_cloud", True) is True

    def deletion_reason_at(self, now: float) -> str:
        """Why the provider deletes it now (preempted, date, spend), or an empty string."""
        if now >= self.active_at + self.behavior.get("preempted", NEVER):
            return "preempted"
        limits = self.spec.get("auto_delete") or {}
        if "date_threshold" in limits and now >= parse_time(limits["date_threshold"]):
            return "date"
        if "spend_threshold" in limits and self.cost_at(now) >= Decimal(limits["spend_threshold"]):
            return "spend"
        return ""

    def apply_provider_changes(self, now: float) -> None:
        """Apply the changes that the provider makes after the create, each once."""
        if now >= self.active_at + self.behavior.get("price_rises", NEVER):
            del self.behavior["price_rises"]
            self.price_cents *= 3
        if now >= self.active_at + self.behavior.get("limits_dropped", NEVER):
            del self.behavior["limits_dropped"]
            self.spec.pop("auto_delete", None)
        if now >= self.deleting_at + self.behavior.get("deletion_reverted", NEVER):
            del self.behavior["deletion_reverted"]
            self.deleting_at = NEVER
        if self.status_at(
            now
        ) == "deleted" and now >= self.ends_at + self.delays.deleting_s + self.behavior.get(
            "comes_back", NEVER
        ):
            del self.behavior["comes_back"]
            self.deleting_at = NEVER

    def delete(self, now: float, why: str) -> None:
        """Start deleting it, unless that has begun."""
        if now < self.deleting_at:
            self.deleting_at, self.why = now, why


def parse_time(text: str) -> float:
    """Unix seconds of an RFC 3339 date-time; ValueError if it is invalid or has no time zone."""
    # Python 3.10 parses neither Z nor every fraction
    plain = re.sub(r"\.\d+", "", text.replace("Z", "+00:00"))
    moment = datetime.fromisoformat(plain)
    if moment.tzinfo is None or "T" not in text:
        raise ValueError(f"not RFC 3339: {text}")
    return moment.timestamp()


def time_text(moment: float) -> str | None:
    """`2026-01-28T20:53:39.459529Z`; None for NEVER."""
    if moment == NEVER:
        return None
    return datetime.fromtimestamp(moment, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def dollars_text(amount: Decimal) -> str:
    """An amount as the API shows it: a string, unrounded (ten places), no trailing zeros."""
    text = f"{amount:.10f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
