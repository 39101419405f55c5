"""An instance as the API shows it: what GET /instances lists and what /info adds."""

from __future__ import annotations

from typing import Any

from nanolan.sim.shadeform.instance import Instance, show_dollars, show_time

DETAILS = {
    "creating": "",
    "pending_provider": "Instance created, waiting on provider to spin up instance",
    "pending": "downloading",
    "active": "",
    "error": "the provider could not make this instance",
}
SSH_USERS = {"hotaisle": "hotaisle"}  # every other cloud: shadeform


def listed(i: Instance, now: float) -> dict[str, Any]:
    """The entry of GET /instances. It carries the startup script, as the real one does."""
    status = i.status_at(now)
    reached = now >= i.active_at
    row: dict[str, Any] = {
        "id": i.id,
        "cloud": i.spec["cloud"],
        "region": i.spec["region"],
        "shade_instance_type": i.spec["shade_instance_type"],
        "cloud_instance_type": i.offer["cloud_instance_type"],
        "cloud_assigned_id": f"sim-{i.id[:8]}"
        if status not in ("creating", "pending_provider")
        else None,
        "shade_cloud": i.via_shadeform,
        "name": i.name,
        "configuration": configuration(i),
        "ip": i.fate.get("ip", f"203.0.113.{i.number % 254 + 1}") if reached else None,
        "ssh_user": i.fate.get("ssh_user", SSH_USERS.get(i.spec["cloud"], "shadeform")),
        "ssh_port": i.fate.get("ssh_port", 22)
        if reached and not i.fate.get("ssh_port_null")
        else None,
        "status": i.fate.get("unknown_status", status) if status == "pending_provider" else status,
        "status_details": "preempted" if i.why == "preempted" else DETAILS.get(status, ""),
        "cost_estimate": "0" if i.fate.get("cost_frozen") else show_dollars(i.cost_at(now)),
        "hourly_price": i.price_cents,
        "rental_terms": {
            "rental_type": i.spec.get("rental_type", "on_demand"),
            "hourly_price": f"{i.price_cents / 100:.2f}",
            "ending_at": None,
        },
        "launch_configuration": i.spec.get("launch_configuration"),
        "tags": None if i.fate.get("tags_not_stored") else i.spec.get("tags"),
        "port_mappings": None,
        "created_at": show_time(i.created_at),
        "active_at": show_time(i.active_at) if reached else None,
        "deleted_at": None,
    }
    return row | ({"boot_time": i.offer["boot_time"]} if "boot_time" in i.offer else {})


def info(i: Instance, now: float) -> dict[str, Any]:
    """The answer of GET /instances/{id}/info."""
    late = now < i.created_at + i.fate.get("auto_delete_late", 0.0)
    return listed(i, now) | {
        "volume_ids": None,
        "ssh_key_id": i.spec.get("ssh_key_id"),
        "auto_delete": None if late else i.spec.get("auto_delete"),
        "alert": i.spec.get("alert"),
        "volume_mount": i.spec.get("volume_mount"),
        "envs": i.spec.get("envs"),
    }


def configuration(i: Instance) -> dict[str, Any]:
    """The type's configuration with the image that is used in place of the choice."""
    kept = {k: v for k, v in i.offer["configuration"].items() if k != "os_options"}
    return kept | {"os": i.image}
