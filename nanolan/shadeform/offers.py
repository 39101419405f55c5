"""Offers: filters and ranks what can be rented. Pure."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from nanolan.errors import NanolanError, NoOffer, UsageProblem, quoted, without_keys
from nanolan.money import dollars
from nanolan.settings.settings import Settings
from nanolan.shadeform.gpu_types import ANY, is_known, matching, normalized, unknown_gpu_text

MIN_DISK_GB = (
    90  # a run needs 60 GB free (plan.min_free_gb); system, driver and PyTorch take the rest
)
UNKNOWN = 10**9  # cents: runs of unknown cost come last


@dataclass(frozen=True)
class Offer:
    """One instance type in one region that can be rented now; the price is for the whole instance."""

    cloud: str
    region: str
    instance_type: str
    gpu: str
    num_gpus: int
    vram_gb: int
    hourly_cents: int
    os_options: tuple[str, ...]
    nvlink: bool | None = None
    interconnect: str = ""
    boot_max_s: int | None = None
    disk_gb: int | None = None  # as advertised
    deployment: str = ""  # vm, container or baremetal; "" if unknown
    spot: bool = False  # the provider may take it away at any time

    @property
    def os(self) -> str:
        """The newest CUDA image with a driver: the one that a create requests."""
        return newest_cuda_image(self.os_options) or ""

    @property
    def where(self) -> str:
        kind = " (spot)" if self.spot else ""
        return f"{self.num_gpus}x {self.gpu} at {self.cloud}/{self.region}{kind}"


@dataclass(frozen=True)
class Market:
    """What one request has shown: the offers in stock, all offers whether sold out or not, and how many entries were unreadable."""

    in_stock: Sequence[Offer]
    listed: Sequence[Offer]
    unreadable: int = 0


Expected = Callable[
    [Offer], int | None
]  # the expected cost of the whole run in cents; None: no figures


@dataclass(frozen=True)
class Wanted:
    """The offers to search for; None means any."""

    gpu: str = ""
    num_gpus: int | None = None
    cloud: str | None = None
    region: str | None = None
    instance_type: str | None = None
    max_price: int | None = None  # cents per hour
    max_total: int | None = None  # expected cents of the whole run


def wanted_from(settings: Settings, all_configs: bool = False) -> Wanted:
    """The offers that the settings ask for; gpu=any or a named instance type override the default GPU and count."""
    loose = settings.instance_type is not None
    every = settings.gpu.lower() == ANY
    return Wanted(
        "" if every or loose and settings.sources["gpu"] == "default" else settings.gpu,
        None
        if all_configs or (loose or every) and settings.sources["num_gpus"] == "default"
        else settings.num_gpus,
        settings.cloud,
        settings.region,
        settings.instance_type,
        settings.max_price,
        settings.max_total,
    )


def newest_cuda_image(os_options: Iterable[str]) -> str | None:
    """The `*_shade_os` image with the highest CUDA (>= 12.2, for PyTorch), or None."""
    found = [
        ((int(m[3]), int(m[4])), (int(m[1]), int(m[2])), o)
        for o in os_options
        if (m := re.fullmatch(r"ubuntu(\d{1,3})\.(\d{1,3})_cuda(\d{1,3})\.(\d{1,3})_shade_os", o))
        and int(m[1]) >= 22
    ]
    cuda, _, image = max(found, default=((0, 0), (0, 0), ""))
    return image if cuda >= (12, 2) else None


def fitting(offers: Sequence[Offer], wanted: Wanted) -> list[Offer]:
    """The offers that are wanted, usable or not."""
    types = matching(wanted.gpu, (o.gpu for o in offers))
    return [o for o in offers if o.gpu in types and _fits(o, wanted)]


def _fits(offer: Offer, wanted: Wanted) -> bool:
    """Whether an offer has the wanted count and place."""
    return (
        wanted.num_gpus in (None, offer.num_gpus)
        and wanted.cloud in (None, offer.cloud)
        and wanted.region in (None, offer.region)
        and wanted.instance_type in (None, offer.instance_type)
    )


def unusable(offer: Offer) -> str | None:
    """Why this offer cannot run a training, or None."""
    if offer.num_gpus < 1:
        return "no GPU"
    if re.match(r"MI\d|GAUDI|Instinct", offer.gpu, re.I):
        return "not an NVIDIA GPU"
    if re.match(r"G[HB]\d", offer.gpu):
        return "an ARM machine"  # GH200, GB200: our wheels are untested there
    if offer.deployment == "container":
        return "a container, which runs no startup script as root"
    if offer.disk_gb is not None and offer.disk_gb < MIN_DISK_GB:
        return f"a disk of less than {MIN_DISK_GB} GB"
    if not offer.os:
        return "no image with a CUDA driver that torch can use"
    return None


def above_price_limit(offer: Offer, wanted: Wanted, expected: Expected) -> str | None:
    """Which price limit an offer exceeds, or None; an unknown total counts as above max-total."""
    if wanted.max_price is not None and offer.hourly_cents > wanted.max_price:
        return f"above max-price ({dollars(wanted.max_price)}/h)"
    if wanted.max_total is None:
        return None
    total = expected(offer)
    if total is None:
        return "the run's total is unknown there, so max-total cannot be kept"
    return (
        f"the run's total is above max-total ({dollars(wanted.max_total)})"
        if total > wanted.max_total
        else None
    )


def choose(
    offers: Sequence[Offer],
    wanted: Wanted,
    *,
    order: str = "price",
    expected: Expected = lambda offer: None,
) -> tuple[list[Offer], Counter[str]]:
    """The usable offers that fit, cheapest first (per hour, or by expected total), and why others were dropped."""
    against = [
        (o, unusable(o) or above_price_limit(o, wanted, expected)) for o in fitting(offers, wanted)
    ]
    dropped = Counter(why for _, why in against if why)
    usable = [o for o, why in against if not why]

    def total(o: Offer) -> int:
        cents = expected(o)
        return UNKNOWN if cents is None else cents

    usable.sort(key=lambda o: (total(o) if order == "total" else o.hourly_cents, o.cloud, o.region))
    return usable, dropped


def check_one_type(offers: Sequence[Offer], gpu: str) -> None:
    """UsageProblem if the offers are of several GPU types: which of them to rent is then a question."""
    types = sorted({o.gpu for o in offers})
    if len(types) > 1:
        raise UsageProblem(
            f"gpu={gpu} fits several types: {', '.join(types)}. With --yes name one of them; nothing was rented"
        )


def no_offer_error(
    wanted: Wanted,
    offers: Sequence[Offer],
    dropped: Counter[str],
    expected: Expected = lambda offer: None,
) -> NanolanError:
    """The error that names what was searched for and what is available; an unknown GPU name is a typo."""
    if not is_known(wanted.gpu, (o.gpu for o in offers)):
        return UsageProblem(unknown_gpu_text(wanted.gpu, (o.gpu for o in offers)))
    asked = " ".join(
        str(x)
        for x in (
            f"{wanted.num_gpus}x" if wanted.num_gpus else "",
            wanted.gpu,
            wanted.cloud,
            wanted.region,
            wanted.instance_type,
        )
        if x
    )
    usable = [o for o in offers if not unusable(o)]
    alike = [o for o in usable if normalized(wanted.gpu) in normalized(o.gpu)] or usable
    others = sorted({f"{o.num_gpus}x {o.gpu}" for o in alike})
    why = f" ({sum(dropped.values())} dropped: {', '.join(dropped)})" if dropped else ""
    seen = (
        f" Available now: {', '.join(others[:8])}."
        if others
        else " Nothing at all is available now."
    )
    return NoOffer(
        f"no available offer for {without_keys(asked) or 'any GPU'}{why}; nothing was rented.{near_places(wanted, offers)}"
        f"{_cheapest_above(usable, wanted, expected)}{seen} Try: just offers --all-configs"
    )


def near_places(wanted: Wanted, offers: Iterable[Offer]) -> str:
    """A sentence for a cloud, and one for a region, that no offer has: those that were probably meant; or ""."""
    listed = list(offers)
    places = (
        ("cloud", wanted.cloud, {o.cloud for o in listed}),
        ("region", wanted.region, {o.region for o in listed}),
    )
    found = ""
    for what, name, names in places:
        near = near_names(name, names) if name and name not in names else []
        if near:
            found += f" No {what} {quoted(name or '', 40)} is listed: did you mean {what}={' or '.join(near)}?"
    return found


def near_names(name: str, names: Iterable[str]) -> list[str]:
    """At most three names like this one: the same in another case, those that begin with it, or a letter or two away."""
    plain = {n.lower(): n for n in sorted(names)}
    begun = [n for low, n in plain.items() if low.startswith(name.lower())]
    close = difflib.get_close_matches(name.lower(), plain, 3, 0.6)
    return list(dict.fromkeys([*begun, *(plain[low] for low in close)]))[:3]


def _cheapest_above(usable: Sequence[Offer], wanted: Wanted, expected: Expected) -> str:
    """The cheapest offer that a price limit dropped, as a sentence, or ""."""
    totals = [
        (expected(o), o) for o in fitting(usable, wanted) if above_price_limit(o, wanted, expected)
    ]
    if not totals:
        return ""
    total, o = min(
        totals,
        key=lambda t: (
            (t[0] is None, t[0]) if wanted.max_total is not None else (False, t[1].hourly_cents)
        ),
    )
    return f" The cheapest of them: {o.where} for {dollars(o.hourly_cents)}/h, the run about {dollars(total)}."
