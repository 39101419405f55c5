"""What every room of the local Hub shares: its settings, its store, the request log and the scripted faults."""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanolan.sim.hub.repo import User
from nanolan.sim.hub.store import Store
from nanolan.sim.marker import MARKER

ACTIONS = ("status", "reset", "truncate", "stall", "drip", "redirect", "committed_reply_lost")
# Stand-ins that work on loopback only, not secrets. Both act for "me", the owner in a rehearsal.
WRITER, READER = f"hf_loopback{MARKER}", f"hf_readonly{MARKER}"
TOKENS: dict[str, User] = {
    WRITER: {"name": "me", "orgs": [], "role": "write"},
    READER: {"name": "me", "orgs": [], "role": "read"},
}


@dataclass
class Fault:
    """What goes wrong with the next `times` requests whose 'METHOD /path' matches `match`, after `skip` good ones.

    status   answers `status` with `headers` and `body`, and does nothing
    reset    a real RST: at once, or after `after` bytes of the upload or download
    truncate closes after `after` bytes of the reply, fewer than it promised
    stall    hangs `seconds` and goes on: first, or after `after` bytes of the upload; inside a download it then closes
    drip     does what was asked, then answers a byte every `seconds`, headers included
    redirect answers `status` (say 307) and sends the client to the very same address
    committed_reply_lost  does what was asked, then resets instead of answering
    """

    match: str
    action: str = "status"
    status: int = 503
    headers: dict[str, str] = field(default_factory=dict)
    body: dict[str, Any] | None = None
    after: int = 0
    seconds: float = 0.0
    times: int = 1
    skip: int = 0
    lasts_s: float = math.inf  # from the first time that it strikes, by the Hub's clock
    struck_at: float | None = None

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            raise ValueError(f"no fault action {self.action!r}: one of {', '.join(ACTIONS)}")
        re.compile(self.match)  # a typo fails here, not in a server thread

    def cuts(self) -> int | None:
        """After how many bytes a reply that has begun is broken off; None: not at all."""
        broken = self.action == "truncate" or (self.action in ("reset", "stall") and self.after)
        return self.after if broken else None


class HubState:
    """Settings, store, log and faults; `hub.log` is one dict per request, in order of arrival."""

    def __init__(
        self,
        root: str | Path,
        tokens: Mapping[str, User] | None = None,
        multipart_over: int = 0,
        part_size: int = 16 << 20,
        page_size: int = 1000,
        xet: bool = False,
    ) -> None:
        self.root = Path(root).resolve()
        self.store = Store(self.root, xet)
        self.tokens = dict(TOKENS if tokens is None else tokens)
        self.multipart_over, self.part_size, self.page_size, self.xet = (
            multipart_over,
            part_size,
            page_size,
            xet,
        )
        self.url = self.cdn_url = ""  # known once there is a port
        self.parts: dict[
            tuple[str, int], str
        ] = {}  # multipart uploads: (sha256, part number) -> its sha256
        self.log: list[dict[str, Any]] = []
        self.faults: list[Fault] = []
        self.stopping = threading.Event()  # ends stalls
        self.moved: dict[str, str] = {}  # a repo's old name -> its name now
        self.storage_full = False  # new large files are refused
        self.bad_readmes = ""  # what the check of a README's metadata says
        self.clock: Callable[[], float] = time.monotonic  # of faults that last
        self._lock = threading.Lock()

    def _over(self, fault: Fault) -> bool:
        return fault.struck_at is not None and self.clock() - fault.struck_at >= fault.lasts_s

    def fault(self, match: str, action: str = "status", **how: Any) -> Fault:
        """Script a fault (see Fault); returns it: `.times` counts down."""
        fault = Fault(match, action, **how)
        self.faults.append(fault)
        return fault

    def take_fault(self, line: str) -> Fault | None:
        """The fault that 'METHOD /path' runs into, if any; counts it."""
        with self._lock:
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.match, line) and not self._over(fault):
                    if fault.skip > 0:
                        fault.skip -= 1
                        continue
                    fault.times -= 1
                    fault.struck_at = self.clock() if fault.struck_at is None else fault.struck_at
                    return fault
        return None
