"""What Shadeform's API answers: its own shapes in, offers and instances with cents and UTC out."""
from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

import msgspec

from nanolan.errors import BadAnswer
from nanolan.money import cents_from_dollars
from nanolan.offers import Offer
from nanolan.plan import now_utc, parse_time
from nanolan.secret import hide, short

GONE = {"deleting", "deleted"}          # billing has stopped
ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,127}")
MOST_CHARS = 300                        # of a name
RUN, ATTEMPT, OWNER = "nanolan-run", "nanolan-attempt", "nanolan-owner"


# ------------------------------------------------------------------ the API's own shapes; unknown fields pass
class ApiConfiguration(msgspec.Struct):
    num_gpus: int
    gpu_type: str
    vram_per_gpu_in_gb: int = 0
    nvlink: bool | None = None
    interconnect: str = ""
    os_options: list[str] = []


class ApiAvailability(msgspec.Struct):
    region: str
    available: bool
    rental_type: str = "on_demand"      # missing in old answers


class ApiBootTime(msgspec.Struct):
    max_boot_in_sec: int | None = None


class ApiType(msgspec.Struct):
    cloud: str
    shade_instance_type: str
    hourly_price: int                   # cents, the whole machine
    configuration: ApiConfiguration
    availability: list[ApiAvailability]
    boot_time: ApiBootTime | None = None


class ApiThresholds(msgspec.Struct):
    date_threshold: str | None = None
    spend_threshold: str | None = None


class ApiInstance(msgspec.Struct):
    id: str
    name: str
    status: str
    cloud: str = ""
    region: str = ""
    shade_instance_type: str = ""
    status_details: str | None = None
    shade_cloud: bool | None = None
    configuration: ApiConfiguration | None = None
    hourly_price: int | None = None
    cost_estimate: str | None = None
    created_at: str | None = None
    active_at: str | None = None
    ip: str | None = None
    ssh_user: str | None = None
    ssh_port: int | None = None
    ssh_key_id: str | None = None
    tags: list[str] | None = None
    auto_delete: ApiThresholds | None = None


class Created(msgspec.Struct):
    id: Annotated[str, msgspec.Meta(pattern=r"^[\w-]+\Z")]


class ApiKey(msgspec.Struct):
    id: str
    name: str
    is_default: bool = False
    public_key: str = ""
    private_key: str = ""


# Made once, here: msgspec may crash when two threads decode a type for the first time
DECODERS = [msgspec.json.Decoder(kind) for kind in (ApiType, ApiInstance, Created, ApiKey)]


# ------------------------------------------------------------------ what the rest of nanolan sees
@dataclass(frozen=True)
class Limits:
    """What the provider stored: it deletes the instance at this bill or date."""

    spend_cents: int | None
    date: datetime | None


@dataclass(frozen=True)
class Instance:
    """A rented machine; None where the API did not (yet) tell."""

    id: str
    name: str
    status: str
    details: str
    cloud: str
    region: str
    instance_type: str
    gpu: str | None
    num_gpus: int | None
    hourly_cents: int | None
    cost_cents: int | None
    created_at: datetime | None
    ip: str | None
    ssh_user: str
    ssh_port: int
    ssh_key_id: str | None
    tags: tuple[str, ...]
    limits: Limits | None
    shade_cloud: bool | None

    @property
    def billing(self) -> bool:
        """Every status but deleting/deleted may cost money, `error` and unknown words included."""
        return self.status not in GONE

    def is_run(self, run_id: str) -> bool:
        """Whether this is the machine of run `run_id`: exact tag, or the id at the end of the name."""
        return run_tag(run_id) in self.tags or self.name.endswith(f"-{run_id}")

    @property
    def attempt(self) -> int:
        """Which machine of its run this is, counted from 1: by its tag, else by its name."""
        for text, pattern in (*((t, rf"{ATTEMPT}=(\d{{1,9}})") for t in self.tags), (self.name, r".*-a(\d{1,9})-[^-]+")):
            if m := re.fullmatch(pattern, text):
                return int(m[1])
        return 1

    @property
    def run_id(self) -> str | None:
        """The run that this machine says it is of, by tag, else by the end of its name; None for other tools' machines."""
        named = re.fullmatch(r"lanbot-.*-([0-9a-f]{8})", self.name)
        return self._hex_tag(RUN) or (named[1] if named else None)

    @property
    def owner(self) -> str | None:
        """The owner id in its tags."""
        return self._hex_tag(OWNER)

    def _hex_tag(self, key: str) -> str | None:
        """The first `key=` tag that holds 8 hex digits: anything else is not ours, and may be anything."""
        values = (t.removeprefix(f"{key}=") for t in self.tags if t.startswith(f"{key}="))
        return next((v for v in values if re.fullmatch(r"[0-9a-f]{8}", v)), None)

    def cost_now_cents(self) -> int | None:
        """The larger of the API's figure and price x age; None when neither is known."""
        own = None
        if self.hourly_cents is not None and self.created_at is not None:
            age_s = max(0.0, (now_utc() - self.created_at).total_seconds())
            own = int(self.hourly_cents * age_s / 3600)
        return max((c for c in (own, self.cost_cents) if c is not None), default=None)


def run_tag(run_id: str) -> str:
    return f"{RUN}={run_id}"


def attempt_tag(number: int) -> str:
    return f"{ATTEMPT}={number}"


def owner_tag(owner: str) -> str:
    return f"{OWNER}={owner}"


def offers_of(t: ApiType) -> list[Offer]:
    """One offer per region with on-demand stock; a region may also hold a spot entry."""
    c = t.configuration
    if not 0 < t.hourly_price < 10**8 or not 0 <= c.num_gpus < 10**4 or not 0 <= c.vram_per_gpu_in_gb < 10**5:
        raise BadAnswer("a price of nothing, or no machine that there is")
    return [Offer(t.cloud, a.region, t.shade_instance_type, c.gpu_type, c.num_gpus, c.vram_per_gpu_in_gb, t.hourly_price,
                  tuple(c.os_options), c.nvlink, c.interconnect, t.boot_time.max_boot_in_sec if t.boot_time else None)
            for a in t.availability if a.available and a.rental_type == "on_demand"]


def instance_of(i: ApiInstance) -> Instance:
    """An Instance of the API's answer; BadAnswer names a field that cannot be read."""
    c, limits = i.configuration, i.auto_delete
    if not ID.fullmatch(i.id):     # it stands in commands to be copied
        raise BadAnswer(f"Shadeform's answer holds an instance id that is none: {short(i.id, 40)!r}")
    return Instance(
        id=i.id, name=_line(i.name), status=_line(i.status), details=_line(i.status_details or ""), cloud=i.cloud, region=i.region,
        instance_type=i.shade_instance_type, gpu=c.gpu_type if c else None, num_gpus=c.num_gpus if c else None,
        hourly_cents=i.hourly_price, cost_cents=_cost(i.cost_estimate),
        created_at=parse_time(i.created_at) if i.created_at else None,
        ip=i.ip or None, ssh_user=i.ssh_user or "shadeform", ssh_port=i.ssh_port or 22, ssh_key_id=i.ssh_key_id or None,
        tags=tuple(i.tags or ()), limits=_limits(limits) if limits else None, shade_cloud=i.shade_cloud)


def _line(text: str) -> str:
    """Words of the account as one line; what is there in place of a line's end must not make another name of it."""
    short = text if len(text) <= MOST_CHARS else hide(text)[:MOST_CHARS]     # half a secret is known to no mask
    return "".join(c if c.isprintable() else "?" for c in short)


def _limits(t: ApiThresholds) -> Limits | None:
    if not t.date_threshold and not t.spend_threshold:
        return None
    return Limits(cents_from_dollars(t.spend_threshold, "auto_delete.spend_threshold") if t.spend_threshold else None,
                  parse_time(t.date_threshold) if t.date_threshold else None)


def _cost(text: str | None) -> int | None:
    return cents_from_dollars(text, "cost_estimate") if text else None
