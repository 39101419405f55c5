"""The state that all modules of the local Hub share: settings, store, request log and scripted faults."""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanolan.sim.hub.repo import Refusal, User
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
    """A fault of the next `times` requests whose 'METHOD /path' matches `match`, after `skip` good ones.

    status   answers `status` with `headers` and `body`, and does nothing
    reset    a TCP RST: at once, or after `after` bytes of the upload or download
    truncate closes after `after` bytes of the reply, fewer than Content-Length
    stall    hangs `seconds`, then continues: first, or after `after` bytes of the upload; inside a download it then closes
    drip     carries out the request, then answers a byte every `seconds`, headers included
    redirect answers `status` (say 307) and redirects the client to the same address
    committed_reply_lost  carries out the request, then resets instead of answering
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
    lasts_s: float = math.inf  # from its first use, by the Hub's clock
    applied_at: float | None = None

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            raise ValueError(f"no fault action {self.action!r}: one of {', '.join(ACTIONS)}")
        re.compile(self.match)  # a typo fails here, not in a server thread

    def cut_after(self) -> int | None:
        """The number of bytes after which a started reply is cut; None: not cut."""
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
        self.multipart_over = multipart_over
        self.part_size = part_size
        self.page_size = page_size
        self.xet = xet
        self.url = self.cdn_url = ""  # set once the port is known
        # multipart uploads: (sha256, part number) -> sha256 of the part
        self.parts: dict[tuple[str, int], str] = {}
        self.log: list[dict[str, Any]] = []
        self.jobs: list[dict[str, Any]] = []  # as submitted; see nanolan/sim/hub/jobs.py
        self.faults: list[Fault] = []
        self.stopping = threading.Event()  # ends stalls
        self.moved: dict[str, str] = {}  # a repo's old name -> its new name
        self.storage_full = False  # new large files are refused
        self.bad_readmes = ""  # the error of the check of a README's metadata
        self.clock: Callable[[], float] = time.monotonic  # for lasts_s
        self._lock = threading.Lock()

    def rename(self, old: str, new: str, typ: str = "model") -> None:
        """Rename a repository; the old name redirects to the new one."""
        with self.store.lock:
            repo = self.store.load(typ, old)
            if repo is None:
                raise Refusal(404, f"no {typ} repository {old}", "RepoNotFound")
            repo.id = new
            self.store.save(repo)
            self.store.delete(typ, old)
            self.moved[old] = new

    def _expired(self, fault: Fault) -> bool:
        return fault.applied_at is not None and self.clock() - fault.applied_at >= fault.lasts_s

    def fault(self, match: str, action: str = "status", **how: Any) -> Fault:
        """Add a fault (see Fault) and return it; its `.times` counts down."""
        fault = Fault(match, action, **how)
        self.faults.append(fault)
        return fault

    def take_fault(self, line: str) -> Fault | None:
        """The fault for 'METHOD /path', if any; counts the use."""
        with self._lock:
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.match, line) and not self._expired(fault):
                    if fault.skip > 0:
                        fault.skip -= 1
                        continue
                    fault.times -= 1
                    fault.applied_at = (
                        self.clock() if fault.applied_at is None else fault.applied_at
                    )
                    return fault
        return None
