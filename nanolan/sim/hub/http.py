"""The HTTP side of the local Hub: request bodies, replies, the request log, and network faults."""

from __future__ import annotations

import errno
import json
import re
import socket
import struct
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from nanolan.sim.hub.repo import Refusal
from nanolan.sim.hub.state import Fault, HubState
from nanolan.sim.hub.store import CHUNK
from nanolan.sim.marker import overhear

JSON = "application/json; charset=utf-8"
CONTROLS = "/__test__/"  # a test's own requests: not logged, without faults
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Route = tuple[str, "re.Pattern[str]", Callable[..., None]]


def route(method: str, pattern: str, answer: Callable[..., None]) -> Route:
    """A row of a route table; `answer` is called with the request and the pattern's groups, unquoted."""
    return method, re.compile(pattern), answer


class SlowStream:
    """A stream that waits before it writes each byte."""

    def __init__(self, stream: Any, wait: Callable[[], None]) -> None:
        self._stream, self._wait = stream, wait

    def write(self, data: bytes) -> int:
        for i in range(len(data)):
            self._wait()
            self._stream.write(data[i : i + 1])
        return len(data)

    def flush(self) -> None:
        self._stream.flush()

    def close(self) -> None:
        self._stream.close()

    @property
    def closed(self) -> bool:
        return bool(self._stream.closed)


class Request(BaseHTTPRequestHandler):
    """One connection; the attributes below belong to the current request."""

    protocol_version = "HTTP/1.1"
    server_version = "loopback-hub"
    wbufsize = 0
    disable_nagle_algorithm = True

    hub: HubState  # these two are set by `handler`
    routes: list[Route]

    fault: Fault | None
    body: Iterator[bytes]  # the request's body, read once, a chunk at a time
    url_path: str
    query: dict[str, list[str]]

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the base class's name for it)
        """Nothing on stderr: there is hub.log."""

    # ---- one request, from arrival to log line

    def answer(self) -> None:
        """Find the route and answer; an error becomes a reply or a closed connection, and the server keeps running."""
        line = self._begin()
        try:
            self._apply_early_fault()
            self._route()
        except Refusal as refusal:
            self._refuse(refusal)
        except ConnectionError:
            self.close_connection = True
        except OSError as e:
            status = 507 if e.errno in DISK_FULL else 500
            self._refuse(Refusal(status, f"storage failed: {e.strerror}"))
        except (KeyError, ValueError, TypeError, AttributeError) as e:
            self._refuse(Refusal(400, f"invalid request: {type(e).__name__}: {e}"))
        except (
            Exception
        ) as e:  # a bug here or in hf-xet: reported to the client; the server keeps running
            self._refuse(Refusal(500, f"{type(e).__name__}: {e}"))
        finally:
            line |= {"status": self._status, "ms": round((time.time() - line["t"]) * 1e3, 1)}

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = answer

    def _begin(self) -> dict[str, Any]:
        url = urllib.parse.urlsplit(self.path)
        self.url_path, self.query = url.path, urllib.parse.parse_qs(url.query)
        self._status, self.fault = 0, None
        length = self.headers.get("Content-Length", "")
        self._length = int(length) if length.isdigit() else 0
        self._unread = bool(self._length or self.headers.get("Transfer-Encoding"))
        self.body = self._read_body()
        overhear(self.command, self.path, dict(self.headers), b"")
        line: dict[str, Any] = {
            "t": time.time(),
            "ms": None,
            "method": self.command,
            "path": url.path,
            "query": url.query,
            "range": self.headers.get("Range"),
            "auth": bool(self.headers.get("Authorization")),
            "status": None,
            "fault": None,
        }
        if not url.path.startswith(CONTROLS):
            self.fault = self.hub.take_fault(f"{self.command} {url.path}")
            line["fault"] = self.fault.action if self.fault else None
            self.hub.log.append(line)  # on arrival, so that a test does not race the reply
        return line

    def _apply_early_fault(self) -> None:
        """Apply the faults that come before the request is carried out."""
        fault = self.fault
        if fault is None:
            return
        if fault.action == "stall" and not fault.after:
            self.stall(fault.seconds)
        if fault.action == "reset" and not fault.after:
            self.reset()
        if fault.action == "redirect":
            raise Refusal(
                fault.status, "redirect to the same address", headers={"Location": self.path}
            )
        if fault.action == "drip":
            self.wfile = SlowStream(self.wfile, lambda: self.stall(fault.seconds))  # type: ignore[assignment]
        if fault.action == "status":
            raise Refusal(
                fault.status, f"scripted {fault.status}", headers=fault.headers, **fault.body or {}
            )

    def _route(self) -> None:
        for old, new in self.hub.moved.items():
            if re.search(rf"/{re.escape(old)}(?![\w-])", self.url_path):
                raise Refusal(
                    307,
                    f"moved to {new}",
                    headers={"Location": self.path.replace(f"/{old}", f"/{new}", 1)},
                )
        for method, pattern, answer in self.routes:
            m = pattern.fullmatch(self.url_path)
            if m and method == self.command:
                return answer(self, *(g and urllib.parse.unquote(g) for g in m.groups()))
        raise Refusal(404, f"Not found: {self.command} {self.url_path}")

    def _refuse(self, refusal: Refusal) -> None:
        if self._status:  # the reply has begun and can only be cut
            self.close_connection = True
            return
        headers = dict(refusal.headers) | {
            "X-Error-Message": refusal.message.encode("ascii", "replace").decode()
        }
        if refusal.code:
            headers["X-Error-Code"] = refusal.code
        try:
            for _ in self.body:  # a client that is still sending does not read the reply
                pass
            self.reply(refusal.status, refusal.body, headers)
        except (OSError, ValueError):
            self.close_connection = True

    # ---- the request's body

    def json(self) -> dict[str, Any]:
        """The body as a JSON object; ValueError (a 400) if it is not one."""
        value = json.loads(b"".join(self.body) or b"{}")
        if not isinstance(value, dict):
            raise ValueError("the body is not a JSON object")
        return value

    def _read_body(self) -> Iterator[bytes]:
        chunked = "chunked" in self.headers.get("Transfer-Encoding", "").lower()
        sizes = self._chunk_sizes() if chunked else iter([self._length])
        seen = 0
        for left in sizes:
            while left:
                block = self.rfile.read(min(CHUNK, left))
                if not block:
                    raise ConnectionError("the client disconnected")
                left -= len(block)
                seen += len(block)
                self._apply_upload_fault(seen)
                overhear(self.command, self.path, {}, block)
                yield block
        self._unread = False

    def _chunk_sizes(self) -> Iterator[int]:
        while size := int(self.rfile.readline().split(b";")[0] or b"0", 16):
            yield size
            self.rfile.readline()  # the line end after each chunk
        while self.rfile.readline().strip():  # trailers
            pass

    # ---- the reply

    def reply(
        self,
        status: int,
        obj: Any = None,
        headers: Mapping[str, Any] | None = None,
        *,
        raw: bytes = b"",
        content_type: str = JSON,
    ) -> None:
        """Send a whole reply: `obj` as JSON, or `raw` bytes."""
        data = raw if obj is None else json.dumps(obj).encode()
        self._head(
            status,
            {"Content-Type": content_type, "Content-Length": len(data)} | dict(headers or {}),
        )
        if self.command == "HEAD":
            return
        cut = self.fault.cut_after() if self.fault else None
        if data:
            self.wfile.write(data[:cut])
        if cut is not None and cut < len(data):
            self._cut_reply()

    def reply_file(self, path: Path, headers: Mapping[str, Any]) -> None:
        """Send a file, or the part of it that a Range header asks for; 416 outside of it."""
        try:
            size = path.stat().st_size
        except FileNotFoundError:  # listed, and lost in the storage
            raise Refusal(404, "Not Found") from None
        part = self._range(size)
        start, end = part or (0, size)
        extra = {"Content-Range": f"bytes {start}-{end - 1}/{size}"} if part else {}
        self._head(
            206 if part else 200,
            {
                "Content-Type": "application/octet-stream",
                "Content-Length": end - start,
                "Accept-Ranges": "bytes",
            }
            | extra
            | dict(headers),
        )
        if self.command == "HEAD":
            return
        cut = self.fault.cut_after() if self.fault else None
        stop = end if cut is None else min(end, start + cut)
        if stop > start:
            with open(path, "rb") as f:
                # os.sendfile where the system has one for this pair, plain reads and sends elsewhere
                self.connection.sendfile(f, start, stop - start)
        if stop < end:
            self._cut_reply()

    def _range(self, size: int) -> tuple[int, int] | None:
        m = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if m is None or not (m[1] or m[2]):
            return None  # no range, or one that this server ignores
        start = int(m[1]) if m[1] else max(0, size - int(m[2]))
        end = min(size, int(m[2]) + 1) if m[1] and m[2] else size
        if start >= end:
            raise Refusal(
                416, "Requested range not satisfiable", headers={"Content-Range": f"bytes */{size}"}
            )
        return start, end

    def _head(self, status: int, headers: Mapping[str, Any]) -> None:
        if self.fault and self.fault.action == "committed_reply_lost":
            self.reset()
        if self._unread:  # else the rest of the body would be read as the next request
            self.close_connection = True
        self._status = status
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()

    # ---- faults

    def reset(self) -> None:
        """Drop the connection with a TCP RST, as a killed proxy does; raises ConnectionError."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        raise ConnectionError("scripted reset")

    def stall(self, seconds: float) -> None:
        """Wait, at most until the server stops."""
        if self.hub.stopping.wait(seconds):
            raise ConnectionError("the server is stopping")

    def _apply_upload_fault(self, seen: int) -> None:
        """Apply a reset or stall with `after`, once that many bytes of the body have arrived."""
        fault = self.fault
        if fault and fault.after and seen >= fault.after and fault.action in ("reset", "stall"):
            if fault.action == "reset":
                self.reset()
            self.fault = None  # used: the reply is whole
            self.stall(fault.seconds)

    def _cut_reply(self) -> None:
        if self.fault and self.fault.action == "reset":
            self.reset()
        if self.fault and self.fault.action == "stall":
            self.stall(self.fault.seconds)
        self.close_connection = True  # fewer bytes than Content-Length


def handler(hub: HubState, routes: list[Route]) -> type[Request]:
    """The request class of one Hub."""
    return type("HubRequest", (Request,), {"hub": hub, "routes": routes})
