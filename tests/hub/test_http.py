"""The HTTP client of huggingface_hub: no answer may take for ever or fill the memory."""

from __future__ import annotations

import gzip
import socket
import threading
import time
from collections.abc import Callable, Iterator

import httpx2
import pytest

from nanolan.hub.http import MOST_BYTES, MOST_PAGE_BYTES, Pace, bounded_client

PACE = Pace(grace_s=0.6, least_bytes_s=10_000)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[socket.socket], None]], str]]:
    """A server that answers each connection with a function; its address."""
    listeners: list[socket.socket] = []

    def start(answer: Callable[[socket.socket], None]) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def follow() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                    connection.recv(65536)
                    answer(connection)
                except OSError:
                    if listener.fileno() < 0:
                        return

        threading.Thread(target=follow, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for listener in listeners:
        listener.close()


def dripping(data: bytes, from_byte: int) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        connection.sendall(data[:from_byte])
        for i in range(from_byte, len(data)):
            connection.sendall(data[i : i + 1])
            time.sleep(0.05)

    return answer


WHOLE = HEAD + b"Content-Length: 2000\r\n\r\n" + b"x" * 2000


@pytest.mark.parametrize(
    "from_byte", [0, 20, len(HEAD) + 30], ids=["status line", "headers", "body"]
)
@pytest.mark.parametrize(
    "path", ["/api/models/me/x", "/me/x/resolve/main/a.json"], ids=["answer", "file"]
)
def test_an_answer_that_trickles_times_out(
    serve: Callable[..., str], from_byte: int, path: str
) -> None:
    url, started = serve(dripping(WHOLE, from_byte)) + path, time.monotonic()
    with bounded_client(PACE, read_s=5) as client, pytest.raises(httpx2.ReadTimeout):
        client.get(url)
    assert time.monotonic() - started < 5


def test_a_large_file_at_full_speed_does_not_time_out(serve: Callable[..., str]) -> None:
    def answer(connection: socket.socket) -> None:
        connection.sendall(HEAD + b"Content-Length: 400000\r\n\r\n")
        for _ in range(20):
            connection.sendall(b"x" * 20_000)
            time.sleep(0.06)

    with bounded_client(PACE) as client:
        assert len(client.get(serve(answer) + "/me/x/resolve/main/model.pt").content) == 400_000


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize(
    "status", [b"200 OK", b"404 Not Found", b"307 Moved"], ids=["answer", "refusal", "redirect"]
)
def test_a_large_answer_takes_no_more_memory_than_its_limit(
    serve: Callable[..., str], packed: bool, status: bytes
) -> None:
    most = MOST_BYTES if status.startswith(b"200") else MOST_PAGE_BYTES
    body = b"x" * (most + 1)
    body = gzip.compress(body) if packed else body
    head = (
        b"HTTP/1.1 "
        + status
        + (b"\r\nContent-Encoding: gzip" if packed else b"")
        + b"\r\nLocation: /api/there\r\n"
    )

    def answer(connection: socket.socket) -> None:
        connection.sendall(
            head + b"Content-Length: " + str(len(body)).encode() + b"\r\n\r\n" + body
        )

    with (
        bounded_client(PACE) as client,
        pytest.raises(httpx2.RemoteProtocolError, match=f"more than {most >> 20} MiB"),
    ):
        client.get(serve(answer) + "/api/models/me/x")
