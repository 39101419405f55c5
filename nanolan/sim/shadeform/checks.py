"""Validates create and update requests of the simulated Shadeform; an invalid one is a 400 with a reason.

May be stricter than the real API, whose answers to bad dates, types and names are unknown.
"""

from __future__ import annotations

import base64
import binascii
from decimal import Decimal, InvalidOperation
from typing import Any

from nanolan.sim.shadeform.catalogue import Offer
from nanolan.sim.shadeform.instance import parse_time
from nanolan.sim.shadeform.refusal import bad_request

REQUIRED = ("cloud", "region", "shade_instance_type", "name")
TYPES: dict[str, type] = {
    "cloud": str,
    "region": str,
    "shade_instance_type": str,
    "name": str,
    "shade_cloud": bool,
    "rental_type": str,
    "os": str,
    "template_id": str,
    "launch_configuration": dict,
    "volume_ids": list,
    "ssh_key_id": str,
    "auto_delete": dict,
    "alert": dict,
    "volume_mount": dict,
    "tags": list,
    "envs": list,
}
REMOVABLE = ("auto_delete", "alert", "tags")  # null in an update removes them
CHANGEABLE = ("name", *REMOVABLE)


def validate_create(body: Any) -> dict[str, Any]:
    """The known fields of a create request, with their types checked."""
    spec = _typed(body, TYPES)
    missing = [k for k in REQUIRED if not spec.get(k)]
    if missing:
        raise bad_request(f"missing: {', '.join(missing)}")
    if spec.get("rental_type") == "spot" and spec.get("shade_cloud") is False:
        raise bad_request("spot needs shade_cloud true")
    if spec.get("template_id") or spec.get("volume_ids"):
        raise bad_request("no such template or volume")
    _check_script(spec.get("launch_configuration"))
    return spec


def validate_update(body: Any) -> dict[str, Any]:
    """The fields of an update: present fields are changed, null removes."""
    if not isinstance(body, dict):
        raise bad_request("the body must be a JSON object")
    nulls = {k: None for k in REMOVABLE if k in body and body[k] is None}
    return nulls | _typed(
        {k: v for k, v in body.items() if k not in nulls}, {k: TYPES[k] for k in CHANGEABLE}
    )


def check_image(spec: dict[str, Any], offer: Offer) -> None:
    """Raise a 400 for an `os` that the type does not offer."""
    if (
        spec.get("os", offer["configuration"]["os_options"][0])
        not in offer["configuration"]["os_options"]
    ):
        raise bad_request(f"os {spec['os']} is not one of the type's os_options")


def _typed(body: Any, types: dict[str, type]) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise bad_request("the body must be a JSON object")
    spec = {k: body[k] for k in types if k in body}
    wrong = [k for k, v in spec.items() if not isinstance(v, types[k])]
    if "tags" not in wrong and not all(isinstance(tag, str) for tag in spec.get("tags", [])):
        wrong.append("tags")
    if wrong:
        raise bad_request(f"wrong type: {', '.join(wrong)}")
    for limits in ("auto_delete", "alert"):
        _check_limits(spec.get(limits, {}), limits)
    return spec


def _check_limits(limits: dict[str, Any], where: str) -> None:
    try:
        if "date_threshold" in limits:
            parse_time(limits["date_threshold"])
        spend = limits.get("spend_threshold", "0")
        if not isinstance(spend, str) or not Decimal(spend).is_finite():
            raise ValueError(spend)
    except (ValueError, TypeError, AttributeError, InvalidOperation):
        raise bad_request(
            f"{where}: date_threshold is RFC 3339, spend_threshold a decimal string"
        ) from None


def _check_script(launch: dict[str, Any] | None) -> None:
    if launch is None or launch.get("type") == "docker":  # containers are accepted but not run
        return
    if launch.get("type") != "script":
        raise bad_request("launch_configuration: type is docker or script")
    try:
        base64.b64decode(launch["script_configuration"]["base64_script"], validate=True)
    except (KeyError, TypeError, binascii.Error, ValueError):
        raise bad_request(
            "launch_configuration: type script needs script_configuration.base64_script"
        ) from None
