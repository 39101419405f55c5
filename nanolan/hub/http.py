"""The HTTP client that huggingface_hub uses in this process; its own client waits for ever and reads answers of any size.

Each read and write has a time-out, a whole answer or upload must keep a minimum speed, and answers that are not files are read
at once, within a maximum size and time.
"""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import httpcore2
import httpx2
from huggingface_hub import set_client_factory
from huggingface_hub.utils._http import hf_request_event_hook  # not exported; adds the request id

from nanolan.net.errors import HUB, of_exception
from nanolan.times import SERVICE_CLOCK

READ_S = 60.0
ANSWER_S = 120.0  # for a whole answer that is not a file
MOST_BYTES = 32 << 20  # of such an answer: the file list of a repo of 100,000 files
MOST_PAGE_BYTES = 1 << 20  # of a redirect or an error
MOST_REDIRECTS = 6
PIECE = 1 << 16
NO_PROXY = {f"all://{host}": None for host in ("127.0.0.1", "localhost", "[::1]")}


@dataclass(frozen=True)
class Pace:
    """How long a request or an answer may take: `grace_s`, plus the time for its bytes at `least_bytes_s` bytes a second."""

    grace_s: float = 60.0
    least_bytes_s: float = 10_000.0
    clock: Callable[[], float] = time.monotonic

    def left_s(self, since: float, moved: int) -> float:
        return self.grace_s + moved / self.least_bytes_s - (self.clock() - since)


class PacedStream(httpcore2.NetworkStream):
    """A connection that times out when a request or an answer, headers included, is slower than the pace."""

    def __init__(self, stream: httpcore2.NetworkStream, pace: Pace) -> None:
        self._stream = stream
        self._pace = pace
        self._way = ""  # read or write
        self._since = 0.0
        self._moved = 0

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data = self._stream.read(max_bytes, self._limit("read", timeout, httpcore2.ReadTimeout))
        self._moved += len(data)
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), PIECE):
            piece = buffer[start : start + PIECE]
            self._stream.write(piece, self._limit("write", timeout, httpcore2.WriteTimeout))
            self._moved += len(piece)

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore2.NetworkStream:
        return PacedStream(
            self._stream.start_tls(ssl_context, server_hostname, timeout), self._pace
        )

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)

    def _limit(self, way: str, timeout: float | None, late: type[Exception]) -> float:
        """The time-out of the next step; raises `late` if no time is left."""
        if way != self._way:
            self._way = way
            self._since = self._pace.clock()
            self._moved = 0
        left = self._pace.left_s(self._since, self._moved)
        if left <= 0:
            raise late(
                f"fewer than {self._pace.least_bytes_s:.0f} bytes a second for {self._pace.grace_s:.0f} s"
            )
        return left if timeout is None else min(timeout, left)


class PacedNetwork(httpcore2.NetworkBackend):
    """Opens paced connections."""

    def __init__(self, network: httpcore2.NetworkBackend, pace: Pace) -> None:
        self._network = network
        self._pace = pace

    def connect_tcp(self, *args: Any, **kwargs: Any) -> httpcore2.NetworkStream:
        return PacedStream(self._network.connect_tcp(*args, **kwargs), self._pace)

    def connect_unix_socket(self, *args: Any, **kwargs: Any) -> httpcore2.NetworkStream:
        return PacedStream(self._network.connect_unix_socket(*args, **kwargs), self._pace)

    def sleep(self, seconds: float) -> None:
        self._network.sleep(seconds)


def read_date(answer: httpx2.Response) -> None:
    """Read the service clock from the answer: an instance without a Shadeform key has no other source."""
    SERVICE_CLOCK.learn("the Hub", answer.headers.get("Date"), answer.headers.get("Age"))


def read_at_once(answer: httpx2.Response) -> None:
    """Read and decompress an answer that is not a file, within a size and a time; the library would read any size."""
    if is_file(answer):
        return
    most, end = MOST_BYTES if answer.is_success else MOST_PAGE_BYTES, time.monotonic() + ANSWER_S
    data = bytearray()
    for chunk in answer.iter_bytes(PIECE):
        data += chunk
        if len(data) > most:
            raise httpx2.RemoteProtocolError(
                f"an answer of more than {most >> 20} MiB", request=answer.request
            )
        if time.monotonic() > end:
            raise httpx2.ReadTimeout(f"no whole answer in {ANSWER_S:.0f} s", request=answer.request)
    answer._content = bytes(data)


def is_file(answer: httpx2.Response) -> bool:
    """Whether this is a file download, which the caller reads in pieces."""
    path = answer.request.url.path
    return (
        answer.request.method == "GET"
        and answer.is_success
        and ("/resolve/" in path or "/api/" not in path)
    )


def bounded_client(pace: Pace, read_s: float = READ_S) -> httpx2.Client:
    """A client with these limits; loopback bypasses proxies.

    Uses HTTPS_PROXY and SSL_CERT_FILE, as httpx does, and also REQUESTS_CA_BUNDLE.
    """
    bundle = os.environ.get("REQUESTS_CA_BUNDLE")
    try:
        verify = (
            ssl.create_default_context(cafile=bundle) if bundle and Path(bundle).is_file() else True
        )
    except ssl.SSLError as e:
        raise of_exception(e, HUB, HUB.usual).error() from None
    client = httpx2.Client(
        event_hooks={"request": [hf_request_event_hook], "response": [read_date, read_at_once]},
        follow_redirects=True,
        max_redirects=MOST_REDIRECTS,
        timeout=httpx2.Timeout(30, connect=10, read=read_s),
        mounts=NO_PROXY,
        verify=verify,
    )
    # None in mounts: no proxy for these addresses. HTTPTransport has no argument for the network backend.
    for transport in (client._transport, *client._mounts.values()):
        if isinstance(transport, httpx2.HTTPTransport):
            transport._pool._network_backend = PacedNetwork(transport._pool._network_backend, pace)
    return client


@lru_cache(maxsize=1)  # once: setting it again closes the connections that other threads are using
def use_timeouts(read_s: float = READ_S, pace: Pace = Pace()) -> None:
    """Make huggingface_hub use this client in this process."""
    set_client_factory(lambda: bounded_client(pace, read_s))
