"""Offers: filters and ranks what can be rented, and formats the guide's table. Pure."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from nanolan.errors import NanolanError, NoOffer, UsageProblem
from nanolan.money import dollars
from nanolan.settings.settings import Settings

# GPU names that Shadeform has used: one without stock today is not a typo
GPUS = (
    "A10",
    "A100",
    "A100_80G",
    "A16",
    "A30",
    "A40",
    "A4000",
    "A5000",
    "A6000",
    "B200",
    "B300",
    "GB200",
    "GB300",
    "GH200",
    "H100",
    "H100_nvl",
    "H200",
    "L4",
    "L40",
    "L40S",
    "RTX4000Ada",
    "RTX4090",
    "RTX5090",
    "RTX6000",
    "RTX6000Ada",
    "RTXPro6000",
    "V100",
    "V100_32G",
)
HEAD = ("#", "Provider", "Region", "GPUs", "VRAM", "Price/hr", "Run", "NVLink")
PROVIDER, REGION, GPU_COUNT = (
    1,
    2,
    3,
)  # columns that shrink so that a line has at most 80 characters
RIGHT = (0, 5, 6)
MIN_COLUMN_WIDTH = 8
MIN_DISK_GB = (
    90  # a run needs 60 GB free (plan.min_free_gb); system, driver and PyTorch take the rest
)
UNKNOWN = 10**9  # cents: runs of unknown cost come last


@dataclass(frozen=True)
class Offer:
    """One available on-demand instance type in one region; the price is for the whole instance."""

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

    @property
    def os(self) -> str:
        """The newest CUDA image with a driver: the one that a create requests."""
        return newest_cuda_image(self.os_options) or ""

    @property
    def where(self) -> str:
        return f"{self.num_gpus}x {self.gpu} at {self.cloud}/{self.region}"


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
    """The offers that the settings ask for; a named instance type overrides the default GPU and count."""
    loose = settings.instance_type is not None
    return Wanted(
        "" if loose and settings.sources["gpu"] == "default" else settings.gpu,
        None
        if all_configs or loose and settings.sources["num_gpus"] == "default"
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


def fits(offer: Offer, wanted: Wanted) -> bool:
    """Whether an offer is wanted; the GPU matches partially and in any case."""
    return (
        _normalized(wanted.gpu) in _normalized(offer.gpu)
        and wanted.num_gpus in (None, offer.num_gpus)
        and wanted.cloud in (None, offer.cloud)
        and wanted.region in (None, offer.region)
        and wanted.instance_type in (None, offer.instance_type)
    )


def _normalized(gpu: str) -> str:
    return re.sub(r"[ _-]", "", gpu).lower()


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
    fitting = [o for o in offers if fits(o, wanted)]
    against = [(o, unusable(o) or above_price_limit(o, wanted, expected)) for o in fitting]
    dropped = Counter(why for _, why in against if why)
    usable = [o for o, why in against if not why]

    def total(o: Offer) -> int:
        cents = expected(o)
        return UNKNOWN if cents is None else cents

    usable.sort(key=lambda o: (total(o) if order == "total" else o.hourly_cents, o.cloud, o.region))
    return usable, dropped


def no_offer_error(
    wanted: Wanted,
    offers: Sequence[Offer],
    dropped: Counter[str],
    expected: Expected = lambda offer: None,
) -> NanolanError:
    """The error that names what was searched for and what is available; an unknown GPU name is a typo."""
    known = sorted({*GPUS, *(o.gpu for o in offers)})
    if not any(_normalized(wanted.gpu) in _normalized(gpu) for gpu in known):
        near = {_normalized(gpu): gpu for gpu in known}
        guess = [near[g] for g in difflib.get_close_matches(_normalized(wanted.gpu), near, 1, 0.5)]
        return UsageProblem(
            f"unknown GPU {wanted.gpu!r}. "
            + (f"Did you mean gpu={guess[0]}?" if guess else f"Known are {', '.join(known)}")
        )
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
    alike = [o for o in usable if _normalized(wanted.gpu) in _normalized(o.gpu)] or usable
    others = sorted({f"{o.num_gpus}x {o.gpu}" for o in alike})
    why = f" ({sum(dropped.values())} dropped: {', '.join(dropped)})" if dropped else ""
    seen = (
        f" Available now: {', '.join(others[:8])}."
        if others
        else " Nothing at all is available now."
    )
    return NoOffer(
        f"no available offer for {asked or 'any GPU'}{why}; nothing was rented."
        f"{_cheapest_above(usable, wanted, expected)}{seen} Try: just offers --all-configs"
    )


def _cheapest_above(usable: Iterable[Offer], wanted: Wanted, expected: Expected) -> str:
    """The cheapest offer that a price limit dropped, as a sentence, or ""."""
    totals = [
        (expected(o), o)
        for o in usable
        if fits(o, wanted) and above_price_limit(o, wanted, expected)
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


def table(offers: Sequence[Offer], expected: Expected, width: int = 80) -> list[str]:
    """The guide's table with the run's expected total; * marks the cheapest. Lines have at most `width` characters."""
    totals = [expected(o) for o in offers]
    best = min((t for t in totals if t is not None), default=None)
    several = len({o.gpu for o in offers}) > 1
    rows = [
        HEAD,
        *(
            _row(i, o, total, total is not None and total == best, several)
            for i, (o, total) in enumerate(zip(offers, totals, strict=True), 1)
        ),
    ]
    widths = [max(len(row[c]) for row in rows) for c in range(len(HEAD))]
    while sum(widths) + 3 * (len(HEAD) - 1) > width:
        column = max((PROVIDER, REGION), key=lambda c: widths[c])
        widths[column if widths[column] > MIN_COLUMN_WIDTH else GPU_COUNT] -= 1
    lines = [
        " | ".join(_cell(text, widths[c], c in RIGHT) for c, text in enumerate(row)).rstrip()
        for row in rows
    ]
    return [lines[0], "-+-".join("-" * n for n in widths), *lines[1:]]


def _row(
    number: int, offer: Offer, total: int | None, cheapest: bool, several: bool
) -> tuple[str, ...]:
    gpus = f"{offer.num_gpus}x {offer.gpu}" if several else f"{offer.num_gpus}x"
    nvlink = {True: "Yes", False: "No", None: "?"}[offer.nvlink]
    run = dollars(total) + ("*" if cheapest else " ")
    return (
        str(number),
        offer.cloud,
        offer.region,
        gpus,
        f"{offer.vram_gb}GB",
        dollars(offer.hourly_cents),
        run,
        nvlink,
    )


def _cell(text: str, width: int, right: bool) -> str:
    text = text if len(text) <= width else text[: width - 1] + "~"
    return text.rjust(width) if right else text.ljust(width)
