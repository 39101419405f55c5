"""A local Shadeform on loopback: the same API and quirks; instances are local processes, and nothing is rented.

    with ShadeformServer(Path("somewhere"), delays=Delays(pending_s=1)) as cloud:
        ...  cloud.url, cloud.key, cloud.requests, cloud.instances, cloud.fault(...), cloud.switch(...)

Time is real; `Delays` sets the durations in seconds. State is in memory; the boxes' folders stay in root/boxes.
"""

from __future__ import annotations

import base64
import sys
import threading
import traceback
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any

from nanolan.sim.box import RESTARTS, Guard, Machine
from nanolan.sim.box_trouble import before_script, make_trouble
from nanolan.sim.marker import MARKER, TWIST
from nanolan.sim.nvidia_smi import gpus_of
from nanolan.sim.shadeform.account import Account
from nanolan.sim.shadeform.catalogue import Offer
from nanolan.sim.shadeform.faults import Fault, Faults, Switches
from nanolan.sim.shadeform.http import PREFIX, Request, Server
from nanolan.sim.shadeform.instance import Delays, Instance
from nanolan.sim.shadeform.sample_offers import SAMPLE

POLL_S = 0.05
KEY = f"sim-{MARKER}{TWIST}"


class ShadeformServer:
    """The cloud, started and stopped as a context manager; `boxes=False` runs no startup script."""

    def __init__(
        self,
        root: Path,
        port: int = 0,
        key: str = KEY,
        catalogue: list[Offer] = SAMPLE,
        wallet_cents: int = 100_000,
        delays: Delays | None = None,
        boxes: bool = True,
        billed_from: str = "created",
        restarts: int = RESTARTS,
    ) -> None:
        self.root = Path(root)
        self.key = key
        self.boxes = boxes
        self.restarts = restarts
        self.delays = delays or Delays()
        self.switches = Switches()
        self.faults = Faults()
        self.account = Account(
            catalogue, wallet_cents, self.delays, switches=self.switches, billed_from=billed_from
        )
        self._port = port
        self._stop = threading.Event()
        self._server: Server | None = None
        self._threads: list[threading.Thread] = []
        self._guard: Guard | None = None

    # ---- start and stop

    def start(self) -> ShadeformServer:
        """Start the HTTP server and the clock."""
        self._server = Server(self._port, self.account, self.key, self.faults, self._stop.wait)
        self._threads = [
            threading.Thread(
                target=self._server.serve_forever,
                args=(POLL_S,),
                name="shadeform http",
                daemon=True,
            ),
            threading.Thread(target=self._run_clock, name="shadeform clock", daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        return self

    def stop(self) -> None:
        """Stop listening and end every box; may be called twice."""
        self._stop.set()
        if self._server and self._threads:
            self._server.shutdown()
            self._server.server_close()
            self._server.close_connections()
        for thread in self._threads:
            thread.join()
        self._threads = []
        for instance in self.instances:
            if instance.machine:
                instance.machine.kill()
        if self._guard:
            self._guard.close()
            self._guard = None

    def __enter__(self) -> ShadeformServer:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.stop()

    # ---- inspection

    @property
    def url(self) -> str:
        """The address of the API, with its /v1."""
        return f"http://127.0.0.1:{self._listening.server_port}{PREFIX}"

    @property
    def requests(self) -> list[Request]:
        """Every request so far: (method, path, body, t)."""
        return self._listening.requests

    @property
    def instances(self) -> list[Instance]:
        """Every instance so far, oldest first, including deleted ones and other users'."""
        with self.account.lock:
            return list(self.account.instances.values())

    def instance(self, instance_id: str) -> Instance:
        """The instance of that id."""
        return self.account.instances[instance_id]

    def spent_dollars(self) -> Decimal:
        """The bill so far, unrounded."""
        with self.account.lock:
            return self.account.spent_dollars()

    # ---- faults

    def fault(
        self, match: str, action: str, times: int | None = 1, skip: int = 0, **params: Any
    ) -> None:
        """Inject a fault into the next `times` requests whose "METHOD /v1/path" matches; see faults.py."""
        self.faults.add(Fault(match, action, times, skip, params))

    def switch(self, name: str, value: Any = True, times: int | None = None) -> None:
        """Change how instances behave; see SWITCHES in faults.py."""
        self.switches.set(name, value, times)
        self.account.first_look = None

    def add_foreign(self, name: str, hourly_cents: int) -> Instance:
        """Put another user's active instance into the account."""
        return self.account.add_foreign(name, hourly_cents)

    # ---- clock

    @property
    def _listening(self) -> Server:
        if self._server is None:
            raise RuntimeError("the local Shadeform is not started")
        return self._server

    def _run_clock(self) -> None:
        while not self._stop.wait(self.delays.tick_s):
            with self.account.lock:
                self.account.enforce()
            for instance in self.instances:
                try:
                    self._update_machine(instance, self.account.now())
                except Exception:  # one box that cannot start must not stop the clock of the others
                    traceback.print_exc(file=sys.stderr)

    def _update_machine(self, instance: Instance, now: float) -> None:
        """Start, stop or reboot an instance's machine, as required now."""
        runs, machine = self.boxes and instance.runs_at(now), instance.machine
        if runs and machine is None:
            self._boot(instance)
        elif machine and machine.on and not runs:
            machine.kill()
        elif instance.reboot_asked:
            instance.reboot_asked = False
            if machine and machine.on:
                machine.reboot()

    def _boot(self, instance: Instance) -> None:
        self._guard = self._guard or Guard()
        self._guard.watch(instance.id)
        gpus = gpus_of(
            instance.offer["configuration"],
            instance.image,
            instance.behavior.get("gpu_count_wrong"),
        )
        instance.machine = Machine(
            instance.id,
            self.root.resolve() / "boxes" / instance.id,
            base64.b64decode(instance.script or ""),
            gpus,
            restarts=self.restarts,
            restart_s=self.delays.restart_s,
            before=before_script(instance.behavior.get("box_trouble")),
        )
        if trouble := instance.behavior.get("box_trouble"):
            make_trouble(instance.machine.folder, trouble)
        if instance.behavior.get("home_takes_nothing"):
            instance.machine.block("root/.nanolan")
        instance.machine.start()
