"""Validates create and update requests of the simulated Shadeform; an invalid one is a 400 with a reason.

May be stricter than the real API, whose answers to bad dates, types and names are unknown.
"""

from __future__ import annotations

import base64
import binascii
from decimal import Decimal, InvalidOperation
from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType, ValidationError, convert
from msgspec.structs import fields

from nanolan.sim.shadeform.catalogue import Offer
from nanolan.sim.shadeform.instance import parse_time
from nanolan.sim.shadeform.refusal import bad_request


class _Limits(Struct):
    date_threshold: str | UnsetType = UNSET
    spend_threshold: str | UnsetType = UNSET


class _Env(Struct):
    name: str
    value: str


class _Ports(Struct):
    host_port: int
    container_port: int


class _Bind(Struct):
    host_path: str
    container_path: str


class _Registry(Struct):
    username: str | UnsetType = UNSET
    password: str | UnsetType = UNSET


class _Docker(Struct):
    image: str
    args: str | UnsetType = UNSET
    shared_memory_in_gb: int | UnsetType = UNSET
    envs: list[_Env] | UnsetType = UNSET
    port_mappings: list[_Ports] | UnsetType = UNSET
    volume_mounts: list[_Bind] | UnsetType = UNSET
    registry_credentials: _Registry | UnsetType = UNSET


class _Script(Struct):
    base64_script: str


class _Launch(Struct):
    type: Literal["docker", "script"]
    docker_configuration: _Docker | UnsetType = UNSET
    script_configuration: _Script | UnsetType = UNSET


class _Mount(Struct):
    auto: bool | UnsetType = UNSET


class _Create(Struct):
    cloud: str
    region: str
    shade_instance_type: str
    name: str
    shade_cloud: bool | UnsetType = UNSET
    rental_type: Literal["on_demand", "spot"] | UnsetType = UNSET
    os: str | UnsetType = UNSET
    template_id: str | UnsetType = UNSET
    launch_configuration: _Launch | UnsetType = UNSET
    volume_ids: list[str] | UnsetType = UNSET
    ssh_key_id: str | UnsetType = UNSET
    auto_delete: _Limits | UnsetType = UNSET
    alert: _Limits | UnsetType = UNSET
    volume_mount: _Mount | UnsetType = UNSET
    tags: list[str] | UnsetType = UNSET
    envs: list[_Env] | UnsetType = UNSET


class _Update(Struct):  # null removes
    name: str | UnsetType = UNSET
    auto_delete: _Limits | None | UnsetType = UNSET
    alert: _Limits | None | UnsetType = UNSET
    tags: list[str] | None | UnsetType = UNSET


def validate_create(body: Any) -> dict[str, Any]:
    """The known fields of a create request, with their types checked."""
    spec = _known(body, _Create)
    empty = [f.name for f in fields(_Create) if f.required and not spec[f.name]]
    if empty:
        raise bad_request(f"empty: {', '.join(empty)}")
    if spec.get("rental_type") == "spot" and spec.get("shade_cloud") is False:
        raise bad_request("spot needs shade_cloud true")
    if spec.get("template_id") or spec.get("volume_ids"):
        raise bad_request("no such template or volume")
    _check_launch(spec.get("launch_configuration"))
    return spec


def validate_update(body: Any) -> dict[str, Any]:
    """The fields of an update: present fields are changed, null removes."""
    return _known(body, _Update)


def check_image(spec: dict[str, Any], offer: Offer) -> None:
    """Raise a 400 for an `os` that the type does not offer."""
    if (
        spec.get("os", offer["configuration"]["os_options"][0])
        not in offer["configuration"]["os_options"]
    ):
        raise bad_request(f"os {spec['os']} is not one of the type's os_options")


def _known(body: Any, shape: type[Struct]) -> dict[str, Any]:
    """The fields of `shape` that the body has, as they were sent; a 400 for a wrong type at any depth."""
    try:
        convert(body, shape)
    except ValidationError as e:
        raise bad_request(str(e)) from None
    spec = {f.name: body[f.name] for f in fields(shape) if f.name in body}
    for limits in ("auto_delete", "alert"):
        _check_limits(spec.get(limits) or {}, limits)
    return spec


def _check_limits(limits: dict[str, str], where: str) -> None:
    try:
        if "date_threshold" in limits:
            parse_time(limits["date_threshold"])
        if not Decimal(limits.get("spend_threshold", "0")).is_finite():
            raise ValueError(limits["spend_threshold"])
    except (ValueError, InvalidOperation):
        raise bad_request(
            f"{where}: date_threshold is RFC 3339, spend_threshold a decimal string"
        ) from None


def _check_launch(launch: dict[str, Any] | None) -> None:
    """The configuration of its type and no other; containers are accepted but not run."""
    if launch is None:
        return
    given = sorted(launch.keys() & {"docker_configuration", "script_configuration"})
    if given != [f"{launch['type']}_configuration"]:
        raise bad_request(
            f"launch_configuration: type {launch['type']} needs its configuration alone"
        )
    if launch["type"] == "script":
        _check_script(launch["script_configuration"]["base64_script"])


def _check_script(text: str) -> None:
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise bad_request("base64_script is no Base64") from None
