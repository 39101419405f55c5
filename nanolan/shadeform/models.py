"""What Shadeform's API answers: its own shapes in, offers and instances with cents and UTC out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

import msgspec

from nanolan.errors import BadAnswer
from nanolan.redact import Secret, hide, short
from nanolan.shadeform.offers import Offer
from nanolan.shadeform.records import (
    MOST_CHARS,
    amount_cents,
    flag,
    moment,
    past,
    price_cents,
    record,
    text,
    texts,
    whole,
    word,
)
from nanolan.times import now_utc

GONE = {"deleting", "deleted"}  # billing has stopped
NO_STATUS = "of unknown status"  # bills, as far as anybody knows
ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,127}")
MOST_GPUS, MOST_GB = 10**4, 10**5  # of a machine that there is; GB of a GPU
RUN, ATTEMPT, OWNER = "nanolan-run", "nanolan-attempt", "nanolan-owner"


class Created(msgspec.Struct):
    id: Annotated[str, msgspec.Meta(pattern=r"^[\w-]+\Z")]


# Made once, here: msgspec may crash when two threads decode a type for the first time
DECODERS = [msgspec.json.Decoder(Created)]


@dataclass(frozen=True)
class Key:
    """An SSH key of the account; the private half where Shadeform made it."""

    id: str
    name: str
    is_default: bool
    public_key: str
    private_key: Secret | None


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
        for words, pattern in (
            *((t, rf"{ATTEMPT}=(\d{{1,9}})") for t in self.tags),
            (self.name, r".*-a(\d{1,9})-[^-]+"),
        ):
            if m := re.fullmatch(pattern, words):
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


def offers_of(entry: Any) -> list[Offer]:
    """One offer per region with on-demand stock (a region may also hold a spot entry); BadAnswer when no price or GPU is told."""
    t = record(entry)
    c = t | record(t.get("configuration"))  # older answers have some of it at the top
    price, gpus, gpu = (
        price_cents(t.get("hourly_price")),
        whole(c.get("num_gpus")),
        word(c.get("gpu_type")),
    )
    cloud, name = word(t.get("cloud")), word(t.get("shade_instance_type"))
    regions = t.get("availability")
    if (
        price is None
        or not isinstance(regions, list)
        or gpus is None
        or gpus >= MOST_GPUS
        or not (gpu and cloud and name)
    ):
        raise BadAnswer("an offer without its cloud, type, GPUs or price")
    vram = whole(c.get("vram_per_gpu_in_gb")) or 0
    boot_max_s = whole(record(t.get("boot_time")).get("max_boot_in_sec"))
    return [
        Offer(
            cloud,
            region,
            name,
            gpu,
            gpus,
            vram if vram < MOST_GB else 0,
            price,
            texts(c.get("os_options")),
            flag(c.get("nvlink")),
            text(c.get("interconnect")),
            boot_max_s,
            whole(c.get("storage_in_gb")),
            text(t.get("deployment_type")),
        )
        for region in map(_on_demand, regions)
        if region
    ]


def _on_demand(entry: Any) -> str:
    """The region of an availability entry that can be rented now, else ""; old answers have no rental type."""
    a = record(entry)
    rentable = a.get("available") is True and a.get("rental_type", "on_demand") == "on_demand"
    return word(a.get("region")) if rentable else ""


def key_of(entry: Any) -> Key:
    """An SSH key; BadAnswer without its id."""
    k = record(entry)
    if not isinstance(k.get("id"), str) or not k["id"]:
        raise BadAnswer("an SSH key without an id")
    public, private = k.get("public_key"), k.get("private_key")
    return Key(
        k["id"],
        text(k.get("name")),
        k.get("is_default") is True,
        public if isinstance(public, str) else "",
        Secret(private) if isinstance(private, str) and private else None,
    )


def instance_of(entry: Any) -> Instance:
    """An Instance of the API's answer. Its id, name, tags and status are enough to find and stop it; all else may be unknown.

    BadAnswer for one without an id that can be asked for.
    """
    i = record(entry)
    instance_id = i.get("id")
    if not isinstance(instance_id, str) or not ID.fullmatch(
        instance_id
    ):  # it stands in commands to be copied
        raise BadAnswer(
            f"Shadeform's answer holds an instance id that is none: {short(str(instance_id), 40)!r}"
        )
    c = record(i.get("configuration"))
    port = whole(i.get("ssh_port"))
    return Instance(
        id=instance_id,
        name=_line(i.get("name")),
        status=_line(i.get("status")).strip().lower() or NO_STATUS,
        details=_line(i.get("status_details")),
        cloud=text(i.get("cloud")),
        region=text(i.get("region")),
        instance_type=text(i.get("shade_instance_type")),
        gpu=text(c.get("gpu_type")) or None,
        num_gpus=whole(c.get("num_gpus")),
        hourly_cents=price_cents(i.get("hourly_price")),
        cost_cents=amount_cents(i.get("cost_estimate")),
        created_at=past(i.get("created_at")),
        ip=text(i.get("ip")) or None,
        ssh_user=text(i.get("ssh_user")) or "shadeform",
        ssh_port=port if port and port < 2**16 else 22,
        ssh_key_id=text(i.get("ssh_key_id")) or None,
        tags=texts(i.get("tags")),
        limits=_limits(i.get("auto_delete")),
        shade_cloud=flag(i.get("shade_cloud")),
    )


def _line(value: Any) -> str:
    """Words of the account as one line; what is there in place of a line's end must not make another name of it."""
    words = value if isinstance(value, str) else ""
    words = (
        words if len(words) <= MOST_CHARS else hide(words)[:MOST_CHARS]
    )  # half a secret is known to no mask
    return "".join(c if c.isprintable() else "?" for c in words)


def _limits(value: Any) -> Limits | None:
    spend = amount_cents(record(value).get("spend_threshold")) or None
    date = moment(record(value).get("date_threshold"))
    return Limits(spend, date) if spend or date else None
