"""The simulated account: catalogue, wallet, keys and instances, and the effect of each API call.

Calls take parsed bodies and return JSON values (None: an empty answer) or raise Refusal. One lock protects everything.
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
from nanolan.sim.shadeform.catalogue import Offer, entry_for, find, select, sold_out
from nanolan.sim.shadeform.checks import check_image, validate_create, validate_update
from nanolan.sim.shadeform.faults import Switches
from nanolan.sim.shadeform.instance import Delays, Instance, dollars_text
from nanolan.sim.shadeform.keys import Keys
from nanolan.sim.shadeform.refusal import bad_request, insufficient_funds, refuse

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
        self.catalogue = deepcopy(catalogue)
        self.wallet_cents = wallet_cents
        self.delays = delays
        self.switches = switches or Switches()
        self.billed_from = billed_from
        self.now = now
        self.odd_records: list[Any] = []  # of other users: added unchanged to every listing
        self.keys = keys or Keys()
        self.first_look: float | None = None  # at the types, since a switch was set: for "no_stock"
        self.instances: dict[str, Instance] = {}
        self.lock = threading.RLock()

    # ---- reads

    def types(self, query: Mapping[str, str]) -> dict[str, Any]:
        """GET /instances/types."""
        return {"instance_types": select(self._stock(), query)}

    def listed(self) -> dict[str, Any]:
        """GET /instances: every instance that is not deleted, including other users'."""
        now = self.now()
        shown = [
            i
            for i in self.instances.values()
            if i.status_at(now) != "deleted"
            and now >= i.created_at + i.behavior.get("list_lag", 0.0)
        ]
        return {"instances": [*self.odd_records, *(view.listed(i, now) for i in shown)]}

    def info(self, instance_id: str) -> dict[str, Any]:
        """GET /instances/{id}/info."""
        return view.info(self._existing(instance_id), self.now())

    # ---- changes

    def create(self, body: Any) -> dict[str, str]:
        """POST /instances/create: checks the wallet first, then the names, then the stock."""
        spec = validate_create(body)
        if self.balance_dollars() * 100 < MINIMUM_CENTS:
            raise insufficient_funds(dollars_text(self.balance_dollars()))
        offer = find(self._stock(), spec["cloud"], spec["shade_instance_type"])
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
        instance = self._existing(instance_id)
        if not self.switches.take("delete_ignored"):
            instance.delete(self.now(), "asked")

    def update(self, instance_id: str, body: Any) -> None:
        """POST /instances/{id}/update: null removes a field; absent fields stay."""
        instance, changes = self._existing(instance_id), validate_update(body)
        if "auto_delete" in changes and self.switches.take("auto_delete_not_stored"):
            del changes["auto_delete"]
        instance.spec |= changes
        for name in [k for k, v in changes.items() if v is None]:
            del instance.spec[name]

    def restart(self, instance_id: str) -> None:
        """POST /instances/{id}/restart: reboots; the startup script then runs again."""
        instance = self._existing(instance_id)
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

    # ---- what happens without a call

    def enforce(self) -> None:
        """Delete instances that exceed a limit or are preempted; never other users' instances."""
        now = self.now()
        for instance in self.instances.values():
            instance.apply_provider_changes(now)
            why = "" if instance.foreign else instance.deletion_reason_at(now)
            if why:
                instance.delete(now, why)

    def add_foreign(self, name: str, hourly_cents: int) -> Instance:
        """Add another user's instance to the account: active for an hour, of the first type."""
        offer = self.catalogue[0]
        spec = {
            "cloud": offer["cloud"],
            "region": "elsewhere-1",
            "name": name,
            "tags": [],
            "shade_instance_type": offer["shade_instance_type"],
        }
        return self._add(
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
        """The cost so far of all instances of this user, including deleted ones."""
        now = self.now()
        return sum((i.cost_at(now) for i in self.instances.values() if not i.foreign), Decimal(0))

    def balance_dollars(self) -> Decimal:
        """The balance of the wallet; it can be negative, as at the real Shadeform."""
        return Decimal(self.wallet_cents) / 100 - self.spent_dollars()

    def _rent(self, offer: Offer, entry: Mapping[str, Any], spec: dict[str, Any]) -> Instance:
        behavior = self.switches.draw()
        if "auto_delete" in spec and self.switches.take("auto_delete_not_stored"):
            del spec["auto_delete"]
        if "auto_delete_stored_as" in behavior:
            spec["auto_delete"] = behavior["auto_delete_stored_as"]
        spot = "hourly_price" in entry  # dollars as a string, on spot entries only
        price_cents: int = (
            int(Decimal(entry["hourly_price"]) * 100) if spot else offer["hourly_price"]
        )
        return self._add(
            Instance(
                str(uuid.uuid4()),
                deepcopy(offer),
                deepcopy(spec),
                behavior.get("price_differs") or price_cents,
                self.now(),
                self.delays,
                behavior,
                self.billed_from,
            )
        )

    def _add(self, instance: Instance) -> Instance:
        with self.lock:
            instance.number = len(self.instances) + 1
            self.instances[instance.id] = instance
        return instance

    def _stock(self) -> list[Offer]:
        """The catalogue, with everything sold out as long as the switch says so."""
        seconds = self.switches.take("no_stock")
        if self.first_look is None:
            self.first_look = self.now()
        over = seconds is not True and self.now() >= self.first_look + (seconds or 0)
        return self.catalogue if over else sold_out(self.catalogue)

    def _existing(self, instance_id: str) -> Instance:
        instance = self.instances.get(instance_id)
        if instance is None or instance.status_at(self.now()) == "deleted":
            raise refuse("not_found")
        return instance
