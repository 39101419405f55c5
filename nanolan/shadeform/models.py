"""Parses Shadeform's JSON into offers, instances and keys, with integer cents and UTC times."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any

import msgspec

from nanolan.errors import BadAnswer
from nanolan.redact import Secret, hide, short
from nanolan.shadeform.offers import Offer
from nanolan.shadeform.records import (
    AHEAD,
    MOST_CHARS,
    Listing,
    amount_cents,
    boolean,
    fields,
    past_timestamp,
    price_cents,
    printable,
    printables,
    raw_text,
    timestamp,
    whole_number,
)
from nanolan.times import EARLIEST, now_utc

GONE = {"deleting", "deleted"}  # billing has stopped
NO_STATUS = "of unknown status"  # counts as billing
ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,127}")
# An instance is created after its plan is written: within STALE_S of launch/rent.py, then the create itself
BEFORE_PLAN, AFTER_PLAN = timedelta(minutes=5), timedelta(hours=1)
MOST_GPUS = 10**4  # of an instance; more is an error
MOST_GB = 10**5  # of a GPU
RUN, ATTEMPT, OWNER = "nanolan-run", "nanolan-attempt", "nanolan-owner"
ON_DEMAND, SPOT = "on_demand", "spot"  # rental types; others are unknown
RENTALS = {"no": (ON_DEMAND,), "yes": (ON_DEMAND, SPOT), "only": (SPOT,)}  # by the setting `spot`


class Created(msgspec.Struct):
    id: Annotated[str, msgspec.Meta(pattern=r"^[\w-]+\Z")]


# Built at import: msgspec may crash when two threads decode a type for the first time
DECODERS = [msgspec.json.Decoder(Created)]


@dataclass(frozen=True)
class Key:
    """An SSH key of the account; with the private key if Shadeform generated it."""

    id: str
    name: str
    is_default: bool
    public_key: str
    private_key: Secret | None


# ------------------------------------------------------------------ public types
@dataclass(frozen=True)
class Limits:
    """The limits stored by the provider: it deletes the instance at this bill or date."""

    spend_cents: int | None
    date: datetime | None


@dataclass(frozen=True)
class Instance:
    """A rented instance; None for fields that the API does not (yet) report."""

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
    rental: str = ""  # ON_DEMAND, SPOT or a newer kind; "" if unknown
    ends_at: datetime | None = None  # when the provider takes it back, if it says so

    @property
    def billing(self) -> bool:
        """Every status except deleting/deleted may cost money, including `error` and unknown ones."""
        return self.status not in GONE

    def is_run(self, run_id: str) -> bool:
        """Whether this instance belongs to run `run_id`: by its exact tag, or the id at the end of its name."""
        return run_tag(run_id) in self.tags or self.name.endswith(f"-{run_id}")

    @property
    def attempt(self) -> int:
        """The attempt number, from 1: by its tag, else by its name."""
        for words, pattern in (
            *((t, rf"{ATTEMPT}=(\d{{1,9}})") for t in self.tags),
            (self.name, r".*-a(\d{1,9})-[^-]+"),
        ):
            if m := re.fullmatch(pattern, words):
                return int(m[1])
        return 1

    @property
    def run_id(self) -> str | None:
        """The run id by tag, else by the end of the name; None for instances of other tools."""
        named = re.fullmatch(r"lanbot-.*-([0-9a-f]{8})", self.name)
        return self._hex_tag(RUN) or (named[1] if named else None)

    @property
    def owner(self) -> str | None:
        """The owner id by tag."""
        return self._hex_tag(OWNER)

    def _hex_tag(self, key: str) -> str | None:
        """The value of the first `key=` tag that is 8 hex digits; others are not nanolan's."""
        values = (t.removeprefix(f"{key}=") for t in self.tags if t.startswith(f"{key}="))
        return next((v for v in values if re.fullmatch(r"[0-9a-f]{8}", v)), None)

    def cost_now_cents(self) -> int | None:
        """The larger of the API's figure and price x age; None if both are unknown."""
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


def offers_of(entry: Any, spot: str = "no") -> Listing[Offer]:
    """One offer per region and rental type that can be rented now; `spot` is the setting. BadAnswer without a price or GPU.

    A spot entry has a price of its own: without it, it counts as unreadable."""
    t = fields(entry)
    c = t | fields(t.get("configuration"))  # older answers have some of it at the top
    price, gpus, gpu = (
        price_cents(t.get("hourly_price")),
        whole_number(c.get("num_gpus")),
        raw_text(c.get("gpu_type")),
    )
    cloud, name = raw_text(t.get("cloud")), raw_text(t.get("shade_instance_type"))
    regions = t.get("availability")
    if (
        price is None
        or not isinstance(regions, list)
        or gpus is None
        or gpus >= MOST_GPUS
        or not (gpu and cloud and name)
    ):
        raise BadAnswer("an offer without its cloud, type, GPUs or price")
    vram = whole_number(c.get("vram_per_gpu_in_gb")) or 0
    boot_max_s = whole_number(fields(t.get("boot_time")).get("max_boot_in_sec"))
    wanted = [a for a in map(fields, regions) if _rentable(a, RENTALS[spot])]
    found = Listing[Offer]()
    for a in wanted:
        of_spot = a.get("rental_type") == SPOT
        cents = amount_cents(a.get("hourly_price")) if of_spot else price
        if not cents:
            found.unreadable += 1
            continue
        found.append(
            Offer(
                cloud,
                raw_text(a.get("region")),
                name,
                gpu,
                gpus,
                vram if vram < MOST_GB else 0,
                cents,
                printables(c.get("os_options")),
                boolean(c.get("nvlink")),
                printable(c.get("interconnect")),
                boot_max_s,
                whole_number(c.get("storage_in_gb")),
                printable(t.get("deployment_type")),
                of_spot,
            )
        )
    return found


def listed_offers_of(entry: Any, spot: str = "no") -> tuple[Listing[Offer], Listing[Offer]]:
    """(the offers of a type that are in stock, all of its offers as if they were)."""
    t = fields(entry)
    regions = t.get("availability")
    if isinstance(regions, list):
        t = t | {"availability": [fields(a) | {"available": True} for a in regions]}
    return offers_of(entry, spot), offers_of(t, spot)


def _rentable(entry: dict[str, Any], rentals: tuple[str, ...]) -> bool:
    """Whether an availability entry can be rented now as one of these types; old answers lack the type."""
    rental = entry.get("rental_type", ON_DEMAND)
    return (
        entry.get("available") is True and rental in rentals and raw_text(entry.get("region")) != ""
    )


def key_of(entry: Any) -> Key:
    """An SSH key; BadAnswer without an id."""
    k = fields(entry)
    if not isinstance(k.get("id"), str) or not k["id"]:
        raise BadAnswer("an SSH key without an id")
    public, private = k.get("public_key"), k.get("private_key")
    return Key(
        k["id"],
        printable(k.get("name")),
        k.get("is_default") is True,
        public if isinstance(public, str) else "",
        Secret(private) if isinstance(private, str) and private else None,
    )


def instance_of(entry: Any) -> Instance:
    """An instance; id, name, tags and status suffice to find and stop it, all other fields may be unknown.

    BadAnswer without a valid id.
    """
    i = fields(entry)
    instance_id = i.get("id")
    if not isinstance(instance_id, str) or not ID.fullmatch(
        instance_id
    ):  # ids appear in commands that users copy
        raise BadAnswer(
            f"Shadeform's answer has an invalid instance id: {short(str(instance_id), 40)!r}"
        )
    c = fields(i.get("configuration"))
    port = whole_number(i.get("ssh_port"))
    terms = fields(i.get("rental_terms"))
    rental = printable(terms.get("rental_type")).strip().lower().replace("-", "_")
    # `hourly_price` may be that of the type on demand; the terms name the price of this rental
    spot_cents = amount_cents(terms.get("hourly_price")) if rental == SPOT else None
    return Instance(
        id=instance_id,
        name=_line(i.get("name")),
        status=_line(i.get("status")).strip().lower() or NO_STATUS,
        details=_line(i.get("status_details")),
        cloud=printable(i.get("cloud")),
        region=printable(i.get("region")),
        instance_type=printable(i.get("shade_instance_type")),
        gpu=printable(c.get("gpu_type")) or None,
        num_gpus=whole_number(c.get("num_gpus")),
        hourly_cents=spot_cents or price_cents(i.get("hourly_price")),
        cost_cents=amount_cents(i.get("cost_estimate")),
        created_at=_born(_line(i.get("name")), past_timestamp(i.get("created_at"))),
        ip=printable(i.get("ip")) or None,
        ssh_user=printable(i.get("ssh_user")) or "shadeform",
        ssh_port=port if port and port < 2**16 else 22,
        ssh_key_id=printable(i.get("ssh_key_id")) or None,
        tags=printables(i.get("tags")),
        limits=_limits(i.get("auto_delete")),
        shade_cloud=boolean(i.get("shade_cloud")),
        rental=rental,
        ends_at=timestamp(terms.get("ending_at")),
    )


def _line(value: Any) -> str:
    """A text of the account as one line; unprintable characters become "?", so that different names stay different."""
    words = value if isinstance(value, str) else ""
    words = (
        words if len(words) <= MOST_CHARS else hide(words)[:MOST_CHARS]
    )  # masked before it is cut: a mask does not match half a secret
    return "".join(c if c.isprintable() else "?" for c in words)


def _born(name: str, reported: datetime | None) -> datetime | None:
    """When an instance was created. The time in one of our names, that of its plan, counts if the reported one does not fit it:
    a time in another zone would make it hours older, or free of charge for hours."""
    stamp = re.fullmatch(r"lanbot-.*-(\d{8}-\d{4})-(?:a\d+-)?[0-9a-f]{8}", name)
    try:
        planned = datetime.strptime(f"{stamp[1]}+0000", "%Y%m%d-%H%M%z") if stamp else None
    except ValueError:
        planned = None
    if planned is None or not EARLIEST < planned < now_utc() + AHEAD:  # a name that anybody wrote
        return reported
    if reported and -BEFORE_PLAN <= reported - planned <= AFTER_PLAN:
        return reported
    return planned


def _limits(value: Any) -> Limits | None:
    spend = amount_cents(fields(value).get("spend_threshold")) or None
    date = timestamp(fields(value).get("date_threshold"))
    return Limits(spend, date) if spend or date else None
