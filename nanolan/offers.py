"""Offers: what can be rented, filtered, ranked and shown as the guide's table. Pure."""
from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nanolan.config import Settings
from nanolan.errors import NoOffer
from nanolan.money import cost_cents, dollars
from nanolan.phases import expected_hours


@dataclass(frozen=True)
class Offer:
    """One machine type in one region, on demand and available; the price is of the whole machine."""

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

    @property
    def os(self) -> str:
        """The newest CUDA image with a driver: what we ask for on create."""
        return newest_cuda_image(self.os_options) or ""

    @property
    def where(self) -> str:
        return f"{self.num_gpus}x {self.gpu} at {self.cloud}/{self.region}"


@dataclass(frozen=True)
class Wanted:
    """What to look for; None means any."""

    gpu: str = ""
    num_gpus: int | None = None
    cloud: str | None = None
    region: str | None = None
    instance_type: str | None = None


def wanted_by(s: Settings, all_configs: bool = False) -> Wanted:
    """What the settings ask for; a named instance type outweighs the default GPU and count."""
    loose = s.instance_type is not None
    return Wanted("" if loose and s.sources["gpu"] == "default" else s.gpu,
                  None if all_configs or loose and s.sources["num_gpus"] == "default" else s.num_gpus,
                  s.cloud, s.region, s.instance_type)


def newest_cuda_image(os_options: Iterable[str]) -> str | None:
    """The `*_shade_os` image with the highest CUDA (>= 12.2), or None: no torch that we can install fits."""
    found = [(float(m[2]), float(m[1]), o) for o in os_options
             if (m := re.fullmatch(r"ubuntu([\d.]+)_cuda(\d+\.\d+)_shade_os", o)) and float(m[1]) >= 22]
    best = max(found, default=(0.0, 0.0, ""))
    return best[2] if best[0] >= 12.2 else None


def fits(offer: Offer, wanted: Wanted) -> bool:
    """Whether an offer is what was asked for; the GPU matches partially and in any case."""
    plain = re.sub(r"[ _-]", "", wanted.gpu).lower()
    return (plain in re.sub(r"[ _-]", "", offer.gpu).lower()
            and wanted.num_gpus in (None, offer.num_gpus)
            and wanted.cloud in (None, offer.cloud)
            and wanted.region in (None, offer.region)
            and wanted.instance_type in (None, offer.instance_type))


def unusable(offer: Offer) -> str | None:
    """Why no run can be made on this offer, or None."""
    if offer.num_gpus < 1:
        return "no GPU"
    if re.match(r"MI\d|GAUDI|Instinct", offer.gpu, re.I):
        return "not an NVIDIA GPU"
    if re.match(r"G[HB]\d", offer.gpu):
        return "an ARM machine"   # GH200, GB200: no wheels of ours were run there
    if not offer.os:
        return "no image with a CUDA driver that torch can use"
    return None


def choose(offers: Sequence[Offer], wanted: Wanted, *, order: str = "price",
           phases: tuple[str, ...] = ("sft",)) -> tuple[list[Offer], Counter[str]]:
    """The usable offers that fit, cheapest first (per hour, or by expected total), and why others were dropped."""
    fitting = [o for o in offers if fits(o, wanted)]
    dropped = Counter(why for o in fitting if (why := unusable(o)))
    usable = [o for o in fitting if not unusable(o)]

    def total(o: Offer) -> int:
        cents = expected_cents(o, phases)
        return cents if cents is not None else 10**9
    usable.sort(key=lambda o: (total(o) if order == "total" else o.hourly_cents, o.cloud, o.region))
    return usable, dropped


def expected_cents(offer: Offer, phases: tuple[str, ...]) -> int | None:
    """What the whole run should cost there, in cents; None for a GPU we have no figure for."""
    hours = expected_hours(phases, offer.gpu, offer.num_gpus)
    return None if hours is None else cost_cents(offer.hourly_cents, hours * 3600)


def nothing_fits(wanted: Wanted, offers: Sequence[Offer], dropped: Counter[str]) -> NoOffer:
    """The error that says what was looked for and what there is instead."""
    asked = " ".join(str(x) for x in (f"{wanted.num_gpus}x" if wanted.num_gpus else "", wanted.gpu, wanted.cloud,
                                      wanted.region, wanted.instance_type) if x)
    others = sorted({f"{o.num_gpus}x {o.gpu}" for o in offers if not unusable(o)})
    why = f" ({sum(dropped.values())} dropped: {', '.join(dropped)})" if dropped else ""
    seen = f" Available now: {', '.join(others[:8])}." if others else " Nothing at all is available now."
    return NoOffer(f"no available offer for {asked or 'any GPU'}{why}; nothing was rented.{seen} "
                   "Try: just offers --all-configs")


def table(offers: Sequence[Offer], phases: tuple[str, ...]) -> list[str]:
    """The guide's table with the expected total of the run; * marks the cheapest total."""
    totals = [expected_cents(o, phases) for o in offers]
    best = min((t for t in totals if t is not None), default=None)
    rows = [f"{'#':>2} | {'Provider':<12} | {'Region':<15} | {'GPUs':<4} | {'VRAM':<5} | {'Price/hr':>8} | {'Run':>8}  | NVLink",
            "---+--------------+-----------------+------+-------+----------+-----------+-------"]
    for i, (o, total) in enumerate(zip(offers, totals, strict=True), 1):
        star = "*" if total is not None and total == best else " "
        nvlink = {True: "Yes", False: "No", None: "?"}[o.nvlink]
        rows.append(f"{i:>2} | {_cut(o.cloud, 12)} | {_cut(o.region, 15)} | {o.num_gpus}x".ljust(42) +
                    f"| {_cut(f'{o.vram_gb}GB', 5)} | {dollars(o.hourly_cents):>8} | {dollars(total):>8}{star} | {nvlink}")
    return rows


def _cut(text: str, width: int) -> str:
    return text.ljust(width) if len(text) <= width else text[: width - 1] + "~"
