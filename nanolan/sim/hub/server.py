"""A Hugging Face Hub on loopback: enough of its HTTP API for the real huggingface_hub client and `hf` command.

    with HubServer(folder) as hub:                           in a test
        subprocess.run(["hf", ...], env=os.environ | hub.env(home))
    python -m nanolan.sim.hub.server --root DIR [--port N] [--xet]   from a shell

With xet=True it also simulates Xet, which real uploads use by default; without, clients need
HF_HUB_DISABLE_XET=1 (env() sets it). Not simulated: merging pull requests, gated repos, Spaces, server-side copies.
Repositories can be private, objects cannot: anyone who knows a hash can read the bytes.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import sys
import threading
import time
from collections.abc import Mapping
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from nanolan.sim.hub import accounts, commits, jobs, lfs, read
from nanolan.sim.hub.http import CONTROLS, Request, handler, route
from nanolan.sim.hub.repo import Blob, Change, Refusal, Repo, User, gitattributes
from nanolan.sim.hub.state import WRITER, Fault, HubState

__all__ = ["Fault", "HubServer"]

POLL_S = 0.02  # how often the listener checks for stop()
CLOSE_S = 5.0


class Listener(ThreadingHTTPServer):
    """A thread per connection; tracks the open ones, so that `close_connections` can end them."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], handler: type[Request]) -> None:
        self.open: set[Any] = set()
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Record the connection, then answer it in a thread."""
        self.open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close the connection and remove it from the record."""
        super().shutdown_request(request)
        self.open.discard(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a client that disconnected; print the traceback of any other error."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)

    def close_connections(self) -> None:
        """Drop every open connection (kept-alive ones too) and wait for their threads."""
        for connection in list(self.open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        deadline = time.monotonic() + CLOSE_S
        while self.open and time.monotonic() < deadline:
            time.sleep(0.01)


class HubServer(HubState):
    """The Hub and its listener. Constructor: root, port=0 and the settings of HubState.

    Can be started once; a second HubServer on the same root (and port) continues with the same data.
    """

    def __init__(
        self,
        root: str | Path,
        port: int = 0,
        tokens: Mapping[str, User] | None = None,
        multipart_over: int = 0,
        part_size: int = 16 << 20,
        page_size: int = 1000,
        xet: bool = False,
    ) -> None:
        super().__init__(root, tokens, multipart_over, part_size, page_size, xet)
        self._listener = Listener(("127.0.0.1", port), handler(self, ROUTES))
        self._thread = threading.Thread(
            target=self._listener.serve_forever, args=(POLL_S,), daemon=True
        )
        self.port: int = self._listener.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.cdn_url = f"http://localhost:{self.port}"  # another *origin*: clients must not send their token there

    def start(self) -> HubServer:
        """Answer requests from now on, in threads."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop answering, drop every connection, release the port; idempotent."""
        self.stopping.set()
        if self._thread.is_alive():
            self._listener.shutdown()
        self._listener.server_close()
        self._listener.close_connections()

    def __enter__(self) -> HubServer:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def env(self, home: str | Path, token: str = WRITER) -> dict[str, str]:
        """Environment variables for a client (set before its import): this Hub, a token, all folders in `home`."""
        home = Path(home).resolve()
        return {
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": token,
            "HF_HUB_DISABLE_XET": "0" if self.xet else "1",
            "HF_HOME": str(home),
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_XET_CACHE": str(home / "xet"),
            "HF_ASSETS_CACHE": str(home / "assets"),
            "HF_TOKEN_PATH": str(home / "token"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "NO_PROXY": "127.0.0.1,localhost",
        }

    # ---- without a client: for seeding and for tests

    def put(
        self,
        repo: str,
        files: Mapping[str, bytes | Path],
        typ: str = "model",
        private: bool = True,
        message: str = "put files",
        delete: str = "",
    ) -> str:
        """Commit files to main (creating the repository, private or not) and return the commit's id; first the folder `delete`
        is removed."""
        changes = [Change(delete, None, folder=True)] if delete else []
        changes += [Change(path, self.store.add(path, content)) for path, content in files.items()]
        repo = self.moved.get(repo, repo)
        with self.store.lock:
            stored = self.store.load(typ, repo) or Repo.new(
                typ,
                repo,
                private,
                {".gitattributes": self.store.add(".gitattributes", gitattributes())},
            )
            commit = stored.commit("main", changes, message)
            self.store.save(stored)
        return commit.oid

    def files(self, repo: str, typ: str = "model", rev: str = "main") -> dict[str, Blob]:
        """Path -> Blob (size, sha256, lfs) of a repository; Refusal if there is no such repository or revision."""
        stored = self.store.load(typ, self.moved.get(repo, repo))
        if stored is None:
            raise Refusal(404, f"no {typ} repository {repo}", "RepoNotFound")
        return stored.at(rev).files

    def read(self, repo: str, path: str, typ: str = "model", rev: str = "main") -> bytes:
        """A file's bytes; KeyError if the repository has no such file."""
        return self.store.object(self.files(repo, typ, rev)[path].sha256).read_bytes()


# ---- a test's controls over HTTP, for a Hub in a process of its own


def add_fault(request: Request) -> None:
    """POST the fields of a Fault."""
    request.hub.fault(**request.json())
    request.reply(200, {})


def clear_faults(request: Request) -> None:
    """Remove the pending faults."""
    request.hub.faults.clear()
    request.reply(200, {})


def show_log(request: Request) -> None:
    """hub.log as JSON."""
    request.reply(200, request.hub.log)


ROUTES = [
    *accounts.ROUTES,
    *lfs.ROUTES,
    *commits.ROUTES,
    *read.ROUTES,
    *jobs.ROUTES,
    route("POST", CONTROLS + "faults", add_fault),
    route("DELETE", CONTROLS + "faults", clear_faults),
    route("GET", CONTROLS + "log", show_log),
]


def main() -> None:
    """Serve until interrupted; the first line printed is the address."""
    parser = argparse.ArgumentParser(description="a local Hugging Face Hub")
    parser.add_argument("--root", type=Path, required=True, help="folder of its files")
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--xet", action="store_true", help="also simulate Xet")
    args = parser.parse_args()
    with HubServer(args.root, args.port, xet=args.xet) as hub:
        print(hub.url, flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
