"""An instance as the API shows it: the fields of GET /instances, and those that /info adds."""

from __future__ import annotations

from typing import Any

from nanolan.sim.shadeform.instance import Instance, dollars_text, time_text

DETAILS = {
    "creating": "",
    "pending_provider": "Instance created, waiting on provider to spin up instance",
    "pending": "downloading",
    "active": "",
    "error": "the provider could not make this instance",
}
SSH_USERS = {"hotaisle": "hotaisle"}  # every other cloud: shadeform


def listed(instance: Instance, now: float) -> dict[str, Any]:
    """The entry of GET /instances. It contains the startup script, as at the real Shadeform."""
    status = instance.status_at(now)
    reached = now >= instance.active_at
    row: dict[str, Any] = {
        "id": instance.id,
        "cloud": instance.spec["cloud"],
        "region": instance.spec["region"],
        "shade_instance_type": instance.spec["shade_instance_type"],
        "cloud_instance_type": instance.offer["cloud_instance_type"],
        "cloud_assigned_id": f"sim-{instance.id[:8]}"
        if status not in ("creating", "pending_provider")
        else None,
        "shade_cloud": instance.via_shadeform,
        "name": instance.name,
        "configuration": configuration(instance),
        "ip": instance.behavior.get("ip", f"203.0.113.{instance.number % 254 + 1}")
        if reached
        else None,
        "ssh_user": instance.behavior.get(
            "ssh_user", SSH_USERS.get(instance.spec["cloud"], "shadeform")
        ),
        "ssh_port": instance.behavior.get("ssh_port", 22)
        if reached and not instance.behavior.get("ssh_port_null")
        else None,
        "status": instance.behavior.get("unknown_status", status)
        if status == "pending_provider"
        else status,
        "status_details": "preempted" if instance.why == "preempted" else DETAILS.get(status, ""),
        "cost_estimate": "0"
        if instance.behavior.get("cost_frozen")
        else dollars_text(instance.cost_at(now)),
        "hourly_price": instance.price_cents,
        "rental_terms": {
            "rental_type": instance.spec.get("rental_type", "on_demand"),
            "hourly_price": f"{instance.price_cents / 100:.2f}",
            "ending_at": None,
        },
        "launch_configuration": instance.spec.get("launch_configuration"),
        "tags": None if instance.behavior.get("tags_not_stored") else instance.spec.get("tags"),
        "port_mappings": None,
        "created_at": time_text(instance.created_at),
        "active_at": time_text(instance.active_at) if reached else None,
        "deleted_at": None,
    }
    return row | (
        {"boot_time": instance.offer["boot_time"]} if "boot_time" in instance.offer else {}
    )


def info(instance: Instance, now: float) -> dict[str, Any]:
    """The answer of GET /instances/{id}/info."""
    late = now < instance.created_at + instance.behavior.get("auto_delete_late", 0.0)
    return listed(instance, now) | {
        "volume_ids": None,
        "ssh_key_id": instance.spec.get("ssh_key_id"),
        "auto_delete": None if late else instance.spec.get("auto_delete"),
        "alert": instance.spec.get("alert"),
        "volume_mount": instance.spec.get("volume_mount"),
        "envs": instance.spec.get("envs"),
    }


def configuration(instance: Instance) -> dict[str, Any]:
    """The type's configuration, with the instance's image in place of the list."""
    kept = {k: v for k, v in instance.offer["configuration"].items() if k != "os_options"}
    return kept | {"os": instance.image}
