"""The local Hub's HTTP plumbing: bodies in, replies out, the request log, and faults as a network would make them."""

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
CONTROLS = "/__test__/"  # a test's own requests: not logged, never hit by a fault
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Route = tuple[str, "re.Pattern[str]", Callable[..., None]]


def route(method: str, pattern: str, answer: Callable[..., None]) -> Route:
    """A row of a route table; `answer` is called with the request and the pattern's groups, unquoted."""
    return method, re.compile(pattern), answer


class Dripping:
    """A stream that takes each byte after a wait."""

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
    """One connection; the attributes below are of the request that it is answering."""

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
        """Find the route and answer; what goes wrong becomes a reply or a closed connection, never a dead server."""
        line = self._begin()
        try:
            self._before()
            self._route()
        except Refusal as no:
            self._refuse(no)
        except ConnectionError:
            self.close_connection = True
        except OSError as e:
            status = 507 if e.errno in DISK_FULL else 500
            self._refuse(Refusal(status, f"storage failed: {e.strerror}"))
        except (KeyError, ValueError, TypeError, AttributeError) as e:
            self._refuse(Refusal(400, f"not a request I understand: {type(e).__name__}: {e}"))
        except Exception as e:  # ours or hf-xet's: told to the client, the server lives on
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
            self.hub.log.append(line)  # on arrival, so that a test never races the reply
        return line

    def _before(self) -> None:
        """The faults that strike before anything is done."""
        f = self.fault
        if f is None:
            return
        if f.action == "stall" and not f.after:
            self.stall(f.seconds)
        if f.action == "reset" and not f.after:
            self.reset()
        if f.action == "redirect":
            raise Refusal(f.status, "go round in a circle", headers={"Location": self.path})
        if f.action == "drip":
            self.wfile = Dripping(self.wfile, lambda: self.stall(f.seconds))  # type: ignore[assignment]
        if f.action == "status":
            raise Refusal(f.status, f"scripted {f.status}", headers=f.headers, **f.body or {})

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

    def _refuse(self, no: Refusal) -> None:
        if self._status:  # the reply has begun: all that is left is to break it off
            self.close_connection = True
            return
        headers = dict(no.headers) | {
            "X-Error-Message": no.message.encode("ascii", "replace").decode()
        }
        if no.code:
            headers["X-Error-Code"] = no.code
        try:
            for _ in self.body:  # a client that is still sending would not see the reply
                pass
            self.reply(no.status, no.body, headers)
        except (OSError, ValueError):
            self.close_connection = True

    # ---- the request's body

    def json(self) -> dict[str, Any]:
        """The body as a JSON object; ValueError (a 400) if it is something else."""
        d = json.loads(b"".join(self.body) or b"{}")
        if not isinstance(d, dict):
            raise ValueError("the body is not a JSON object")
        return d

    def _read_body(self) -> Iterator[bytes]:
        chunked = "chunked" in self.headers.get("Transfer-Encoding", "").lower()
        sizes = self._chunk_sizes() if chunked else iter([self._length])
        seen = 0
        for left in sizes:
            while left:
                block = self.rfile.read(min(CHUNK, left))
                if not block:
                    raise ConnectionError("the client went away")
                left -= len(block)
                seen += len(block)
                self._strike_upload(seen)
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
        cut = self.fault.cuts() if self.fault else None
        if data:
            self.wfile.write(data[:cut])
        if cut is not None and cut < len(data):
            self._break_off()

    def reply_file(self, path: Path, headers: Mapping[str, Any]) -> None:
        """Send a file, or the part of it that a Range header asks for; 416 outside of it."""
        size = path.stat().st_size
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
        cut = self.fault.cuts() if self.fault else None
        stop = end if cut is None else min(end, start + cut)
        if stop > start:
            with open(path, "rb") as f:
                # os.sendfile where the system has one for this pair, plain reads and sends elsewhere
                self.connection.sendfile(f, start, stop - start)
        if stop < end:
            self._break_off()

    def _range(self, size: int) -> tuple[int, int] | None:
        m = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if m is None or not (m[1] or m[2]):
            return None  # none, or one that this server need not understand
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
        if self._unread:  # or the rest of the body would be read as the next request
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
        """Drop the connection with a real RST, as a killed proxy does; raises ConnectionError."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        raise ConnectionError("scripted reset")

    def stall(self, seconds: float) -> None:
        """Say nothing for a while, but not longer than the server lives."""
        if self.hub.stopping.wait(seconds):
            raise ConnectionError("the server is stopping")

    def _strike_upload(self, seen: int) -> None:
        """A reset or stall with `after`, once so many bytes of the body are here."""
        f = self.fault
        if f and f.after and seen >= f.after and f.action in ("reset", "stall"):
            if f.action == "reset":
                self.reset()
            self.fault = None  # struck: the reply is whole
            self.stall(f.seconds)

    def _break_off(self) -> None:
        if self.fault and self.fault.action == "reset":
            self.reset()
        if self.fault and self.fault.action == "stall":
            self.stall(self.fault.seconds)
        self.close_connection = True  # fewer bytes than Content-Length promised


def handler(hub: HubState, routes: list[Route]) -> type[Request]:
    """The request class of one Hub."""
    return type("HubRequest", (Request,), {"hub": hub, "routes": routes})
