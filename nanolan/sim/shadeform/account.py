"""The simulated account: catalogue, wallet, keys and instances, and what each API call does to them.

Calls take parsed bodies and give JSON values (None: an empty answer) or raise Refusal. One lock for all.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Mapping
from copy import deepcopy
from decimal import Decimal
from typing import Any

from nanolan.sim.shadeform import view as view
from nanolan.sim.shadeform.catalogue import Offer, entry_for, find, select
from nanolan.sim.shadeform.checks import check_image, checked_create, checked_update
from nanolan.sim.shadeform.faults import Switches
from nanolan.sim.shadeform.instance import Delays, Instance, show_dollars
from nanolan.sim.shadeform.keys import Keys
from nanolan.sim.shadeform.refusal import bad_request, poor, refuse

MINIMUM_CENTS = 500


class Account:
    """One account. `now` is the clock (unix seconds), `billed_from` when billing starts: created or active."""

    def __init__(
        self,
        catalogue: list[Offer],
        wallet_cents: int,
        delays: Delays,
        *,
        switches: Switches | None = None,
        billed_from: str = "created",
        now: Callable[[], float] = time.time,
        keys: Keys | None = None,
    ) -> None:
        self.catalogue, self.wallet_cents, self.delays = deepcopy(catalogue), wallet_cents, delays
        self.switches, self.billed_from, self.now = switches or Switches(), billed_from, now
        self.odd_records: list[Any] = []  # of colleagues: they stand in every listing, as they are
        self.keys = keys or Keys()
        self.instances: dict[str, Instance] = {}
        self.lock = threading.RLock()

    # ---- reads

    def types(self, query: Mapping[str, str]) -> dict[str, Any]:
        """GET /instances/types."""
        return {"instance_types": select(self.catalogue, query)}

    def listed(self) -> dict[str, Any]:
        """GET /instances: every instance that is not gone, other users' too."""
        now = self.now()
        shown = [
            i
            for i in self.instances.values()
            if i.status_at(now) != "deleted" and now >= i.created_at + i.fate.get("list_lag", 0.0)
        ]
        return {"instances": [*self.odd_records, *(view.listed(i, now) for i in shown)]}

    def info(self, instance_id: str) -> dict[str, Any]:
        """GET /instances/{id}/info."""
        return view.info(self._living(instance_id), self.now())

    # ---- changes

    def create(self, body: Any) -> dict[str, str]:
        """POST /instances/create: the wallet is looked at first, then the names, then the stock."""
        spec = checked_create(body)
        if self.balance_dollars() * 100 < MINIMUM_CENTS:
            raise poor(show_dollars(self.balance_dollars()))
        offer = find(self.catalogue, spec["cloud"], spec["shade_instance_type"])
        if offer is None or all(e["region"] != spec["region"] for e in offer["availability"]):
            raise bad_request("no such cloud, region or shade_instance_type")
        check_image(spec, offer)
        spec.setdefault("ssh_key_id", self.keys.default.id)
        if spec["ssh_key_id"] not in self.keys.all:
            raise bad_request("no such ssh_key_id")
        entry = entry_for(offer, spec["region"], spec.get("rental_type", "on_demand"))
        if entry is None or not entry["available"]:
            raise refuse("out_of_stock")
        return {"id": self._rent(offer, entry, spec).id}

    def delete(self, instance_id: str) -> None:
        """POST /instances/{id}/delete."""
        instance = self._living(instance_id)
        if not self.switches.take("delete_ignored"):
            instance.delete(self.now(), "asked")

    def update(self, instance_id: str, body: Any) -> None:
        """POST /instances/{id}/update: null removes, what is not there stays."""
        instance, changes = self._living(instance_id), checked_update(body)
        if "auto_delete" in changes and self.switches.take("auto_delete_not_stored"):
            del changes["auto_delete"]
        instance.spec |= changes
        for name in [k for k, v in changes.items() if v is None]:
            del instance.spec[name]

    def restart(self, instance_id: str) -> None:
        """POST /instances/{id}/restart: a reboot, after which the script runs again."""
        instance = self._living(instance_id)
        if not self.switches.take("restart_ignored"):
            instance.reboot_asked = True

    def delete_key(self, key_id: str) -> None:
        """POST /sshkeys/{id}/delete."""
        now = self.now()
        self.keys.delete(
            key_id,
            {
                i.spec["ssh_key_id"]
                for i in self.instances.values()
                if "ssh_key_id" in i.spec and i.status_at(now) != "deleted"
            },
        )

    # ---- what happens by itself

    def enforce(self) -> None:
        """Delete what is over one of its limits or taken away; other users' instances are left alone."""
        now = self.now()
        for instance in self.instances.values():
            instance.change_its_mind(now)
            why = "" if instance.foreign else instance.due_at(now)
            if why:
                instance.delete(now, why)

    def add_foreign(self, name: str, hourly_cents: int) -> Instance:
        """Another user's instance on the same account: active for an hour, of no type that matters."""
        offer = self.catalogue[0]
        spec = {
            "cloud": offer["cloud"],
            "region": "elsewhere-1",
            "name": name,
            "tags": [],
            "shade_instance_type": offer["shade_instance_type"],
        }
        return self._keep(
            Instance(
                str(uuid.uuid4()),
                offer,
                spec,
                hourly_cents,
                self.now() - 3600,
                self.delays,
                foreign=True,
            )
        )

    # ---- money

    def spent_dollars(self) -> Decimal:
        """What all instances of this user have cost so far, gone ones included."""
        now = self.now()
        return sum((i.cost_at(now) for i in self.instances.values() if not i.foreign), Decimal(0))

    def balance_dollars(self) -> Decimal:
        """What is left in the wallet; below zero is possible, as with the real one."""
        return Decimal(self.wallet_cents) / 100 - self.spent_dollars()

    def _rent(self, offer: Offer, entry: Mapping[str, Any], spec: dict[str, Any]) -> Instance:
        fate = self.switches.fate()
        if "auto_delete" in spec and self.switches.take("auto_delete_not_stored"):
            del spec["auto_delete"]
        if "auto_delete_stored_as" in fate:
            spec["auto_delete"] = fate["auto_delete_stored_as"]
        spot = "hourly_price" in entry  # dollars as a string, only there
        price_cents: int = (
            int(Decimal(entry["hourly_price"]) * 100) if spot else offer["hourly_price"]
        )
        return self._keep(
            Instance(
                str(uuid.uuid4()),
                deepcopy(offer),
                deepcopy(spec),
                fate.get("price_differs") or price_cents,
                self.now(),
                self.delays,
                fate,
                self.billed_from,
            )
        )

    def _keep(self, instance: Instance) -> Instance:
        with self.lock:
            instance.number = len(self.instances) + 1
            self.instances[instance.id] = instance
        return instance

    def _living(self, instance_id: str) -> Instance:
        instance = self.instances.get(instance_id)
        if instance is None or instance.status_at(self.now()) == "deleted":
            raise refuse("not_found")
        return instance
