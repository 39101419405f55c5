"""Instance types of the local Shadeform: filter and find them as `GET /instances/types` does."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from nanolan.sim.shadeform.refusal import bad_request

Offer = dict[str, Any]


def select(catalogue: list[Offer], query: Mapping[str, str]) -> list[Offer]:
    """Copies of the types that match `query`: filters are exact, an empty one is none; region and available filter the
    entries."""
    if query.get("sort", "price") != "price":
        raise bad_request("sort: price is the only order")
    if query.get("available", "true").lower() not in ("true", "false"):  # clients also send "True"
        raise bad_request("available: true or false")
    query = {name: value for name, value in query.items() if value}
    chosen = []
    for row in deepcopy([row for row in catalogue if _type_fits(row, query)]):
        row["availability"] = [e for e in row["availability"] if _entry_fits(e, query)]
        if row["availability"] or not {"region", "available"} & query.keys():
            chosen.append(row)
    return (
        sorted(chosen, key=lambda row: row["hourly_price"])
        if query.get("sort") == "price"
        else chosen
    )


def _type_fits(row: Offer, query: Mapping[str, str]) -> bool:
    flat = row["configuration"] | {k: row[k] for k in ("cloud", "shade_instance_type")}
    return all(
        str(flat[k]) == query[k]
        for k in ("cloud", "shade_instance_type", "num_gpus", "gpu_type")
        if k in query
    )


def _entry_fits(entry: Mapping[str, Any], query: Mapping[str, str]) -> bool:
    wanted = query.get("available", "").lower()
    return entry["region"] == query.get("region", entry["region"]) and wanted in (
        "",
        str(entry["available"]).lower(),
    )


def sold_out(catalogue: list[Offer]) -> list[Offer]:
    """A copy of the types in which no region has stock."""
    return [
        row | {"availability": [e | {"available": False} for e in row["availability"]]}
        for row in deepcopy(catalogue)
    ]


def find(catalogue: list[Offer], cloud: str, kind: str) -> Offer | None:
    """The type of that cloud and shade_instance_type, or None."""
    return next(
        (r for r in catalogue if (r["cloud"], r["shade_instance_type"]) == (cloud, kind)), None
    )


def entry_for(offer: Offer, region: str, rental: str) -> dict[str, Any] | None:
    """The availability entry of a region and rental type (absent counts as on_demand), or None."""
    return next(
        (
            e
            for e in offer["availability"]
            if (e["region"], e.get("rental_type", "on_demand")) == (region, rental)
        ),
        None,
    )
