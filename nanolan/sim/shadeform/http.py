"""The HTTP side of the simulated Shadeform: routes, the key, faults, and broken answers."""

from __future__ import annotations

import json
import re
import socket
import struct
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from nanolan.sim.marker import overhear
from nanolan.sim.shadeform.account import Account
from nanolan.sim.shadeform.faults import Faults, Reply, apply_fault
from nanolan.sim.shadeform.refusal import Refusal, bad_request, refuse

PREFIX = "/v1"
IDLE_S = 60.0


class Request(NamedTuple):
    """One received request: path with its query, body parsed if it was JSON, t in unix seconds."""

    method: str
    path: str
    body: Any
    t: float


# verb, path after /v1, operation on (account, id, query, body). A known path with another verb is 405.
Operation = Callable[[Account, str, dict[str, str], Any], Any]
ROUTES: list[tuple[str, str, Operation]] = [
    ("GET", "/instances/types", lambda a, _, query, body: a.types(query)),
    ("GET", "/instances", lambda a, _, query, body: a.listed()),
    ("POST", "/instances/create", lambda a, _, query, body: a.create(body)),
    ("GET", "/instances/{id}/info", lambda a, key, query, body: a.info(key)),
    ("POST", "/instances/{id}/delete", lambda a, key, query, body: a.delete(key)),
    ("POST", "/instances/{id}/update", lambda a, key, query, body: a.update(key, body)),
    ("POST", "/instances/{id}/restart", lambda a, key, query, body: a.restart(key)),
    ("", "/instances/{id}", lambda a, _, query, body: None),  # so that a DELETE here is a 405
    ("GET", "/sshkeys", lambda a, _, query, body: a.keys.listed()),
    ("POST", "/sshkeys/add", lambda a, _, query, body: a.keys.add(body)),
    ("GET", "/sshkeys/{id}/info", lambda a, key, query, body: a.keys.info(key)),
    ("POST", "/sshkeys/{id}/delete", lambda a, key, query, body: a.delete_key(key)),
    ("POST", "/sshkeys/{id}/setdefault", lambda a, key, query, body: a.keys.set_default(key)),
    ("", "/sshkeys/{id}", lambda a, _, query, body: None),
]
OPEN = "/instances/types"  # answers without a key


def answer(
    account: Account, key: str, method: str, target: str, given_key: str, raw: bytes
) -> Reply:
    """Carry out a request and return the true answer."""
    url = urlsplit(target)
    path = url.path.removeprefix(PREFIX)
    try:
        if given_key != key and path != OPEN:
            raise refuse("unauthorized")
        operation, name = find_route(method, path if url.path.startswith(PREFIX + "/") else "")
        with account.lock:
            query = dict(parse_qsl(url.query, keep_blank_values=True))
            return Reply(200, operation(account, name, query, parse(raw)))
    except Refusal as refusal:
        return Reply(
            refusal.status,
            refusal.body,
            kind="text/plain" if isinstance(refusal.body, str) else "application/json",
        )


def find_route(method: str, path: str) -> tuple[Operation, str]:
    """The operation of a path, and the id in it; 404 if the path is unknown, 405 if the verb is wrong."""
    known = False
    for verb, pattern, operation in ROUTES:
        match = re.fullmatch(pattern.replace("{id}", "([^/]+)"), path)
        if match and verb == method:
            return operation, match[1] if match.groups() else ""
        known = known or match is not None
    raise refuse("wrong_verb" if known else "not_found")


def parse(raw: bytes) -> Any:
    """The JSON of a request body; an empty one is None."""
    try:
        return json.loads(raw) if raw else None
    except ValueError:
        raise bad_request("the body is not JSON") from None


class Server(ThreadingHTTPServer):
    """Loopback only. Tracks its connections, so that `close_connections` can end them when the server stops."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self, port: int, account: Account, key: str, faults: Faults, wait: Callable[[float], object]
    ) -> None:
        self.account, self.key, self.faults, self.wait = account, key, faults, wait
        self.requests: list[Request] = []
        self.connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), Handler)

    def server_bind(self) -> None:
        # HTTPServer.server_bind looks up its own name, which can take seconds offline
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that close the connection."""

    def close_connections(self) -> None:
        """End every open connection."""
        for connection in list(self.connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # already closed


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "Shadeform-sim"
    disable_nagle_algorithm = True
    timeout = IDLE_S
    server: Server

    def setup(self) -> None:
        super().setup()
        self.server.connections.add(self.connection)

    def finish(self) -> None:
        self.server.connections.discard(self.connection)
        super().finish()

    def serve(self) -> None:
        """Record the request, carry it out under its fault, and answer."""
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        overhear(self.command, self.path, dict(self.headers), raw)
        self.server.requests.append(Request(self.command, self.path, _readable(raw), time.time()))
        fault = self.server.faults.take(f"{self.command} {self.path}")
        given = self.headers.get("X-API-KEY", "")
        self.send(
            apply_fault(
                fault,
                lambda: answer(
                    self.server.account, self.server.key, self.command, self.path, given, raw
                ),
                self.server.wait,
            )
        )

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = serve

    def send(self, reply: Reply) -> None:
        """Send an answer, whole or broken as its `ending` says."""
        if reply.ending == "reset":
            return self.reset()
        body = _encoded(reply.body)
        if reply.ending == "halved":
            body = body[: len(body) // 2]
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if body:
            self.send_header("Content-Type", reply.kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if reply.ending == "cut" else body)
        self.close_connection = self.close_connection or reply.ending == "cut"
        return None

    def reset(self) -> None:
        """End the connection with a TCP reset and no answer."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.rfile.close()  # the socket closes only after its file
        self.connection.close()

    def date_time_string(self, timestamp: float | None = None) -> str:
        """The `Date` header of an answer, from the account's clock."""
        return super().date_time_string(
            self.server.account.now() if timestamp is None else timestamp
        )

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing: `requests` records the requests."""


def _readable(raw: bytes) -> Any:
    try:
        return json.loads(raw) if raw else None
    except ValueError:
        return raw.decode("utf-8", "replace")


def _encoded(body: Any) -> bytes:
    if body is None:
        return b""
    return body.encode() if isinstance(body, str) else json.dumps(body).encode()
