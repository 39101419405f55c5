"""The table of offers that the commands show. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from nanolan.money import dollars
from nanolan.shadeform.offers import Expected, Offer

HEAD = ("#", "Provider", "Region", "GPU", "GPUs", "VRAM", "Price/hr", "Run", "NVLink")
PROVIDER, REGION, GPU = 1, 2, 3  # these shrink so that a line has at most 80 characters
RIGHT = (0, 6, 7)
KIND = "Kind"  # a column of its own if some offers are spot


def table(offers: Sequence[Offer], expected: Expected, width: int = 80) -> list[str]:
    """The guide's table with the run's expected total; * marks the cheapest. Lines have at most `width` characters."""
    totals = [expected(o) for o in offers]
    best = min((t for t in totals if t is not None), default=None)
    kinds = any(o.spot for o in offers)
    rows = [
        (*HEAD, *([KIND] if kinds else [])),
        *(
            (
                *_row(i, o, total, total is not None and total == best),
                *([kind_of(o)] if kinds else []),
            )
            for i, (o, total) in enumerate(zip(offers, totals, strict=True), 1)
        ),
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    while sum(widths) + 3 * (len(widths) - 1) > width:
        widest = max((PROVIDER, REGION, GPU), key=lambda c: widths[c])
        widths[widest] -= 1
    lines = [
        " | ".join(_cell(text, widths[c], c in RIGHT) for c, text in enumerate(row)).rstrip()
        for row in rows
    ]
    return [lines[0], "-+-".join("-" * n for n in widths), *lines[1:]]


def kind_of(offer: Offer) -> str:
    """The offer's rental type in the table."""
    return "spot" if offer.spot else "on demand"


def _row(number: int, offer: Offer, total: int | None, cheapest: bool) -> tuple[str, ...]:
    nvlink = {True: "Yes", False: "No", None: "?"}[offer.nvlink]
    run = dollars(total) + ("*" if cheapest else " ")
    return (
        str(number),
        offer.cloud,
        offer.region,
        offer.gpu,
        f"{offer.num_gpus}x",
        f"{offer.vram_gb}GB",
        dollars(offer.hourly_cents),
        run,
        nvlink,
    )


def _cell(text: str, width: int, right: bool) -> str:
    text = text if len(text) <= width else text[: width - 1] + "~"
    return text.rjust(width) if right else text.ljust(width)
