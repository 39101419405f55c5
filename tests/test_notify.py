"""Notifications: sent once, masked, over real HTTP, and never blocking the caller."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from nanolan.notify import FAILURE, SUCCESS, WARNING, Notifier, addresses, ended, started
from nanolan.plan import Predicted
from nanolan.redact import Secret
from nanolan.run.record import PhaseReport, Receipt
from nanolan.sim.marker import MARKER
from tests.support.box_fixtures import make_plan, until
from tests.support.core_fixtures import script


class Service:
    """A service that takes what apprise's json:// sends, or refuses it."""

    def __init__(self) -> None:
        service, self.got, self.code, self.delay_s = self, list[dict[str, Any]](), 200, 0.0

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                time.sleep(service.delay_s)
                service.got.append(json.loads(body) | {"path": self.path})
                self.send_response(service.code)
                self.end_headers()

            def log_message(self, *words: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def url(self, path: str = f"token-{MARKER}") -> str:
        return f"json://127.0.0.1:{self.server.server_port}/{path}"


@pytest.fixture
def service() -> Iterator[Service]:
    made = Service()
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_an_event_arrives_with_the_runs_name_its_kind_and_no_secret(service: Service) -> None:
    said: list[str] = []
    notifier = Notifier(Secret(service.url()), "lanbot-v3 sft", say=said.append)
    notifier.send("failed", f"oom: it said {service.url()} in its log", FAILURE)
    notifier.close()
    assert said == [] and [(g["title"], g["message"], g["type"]) for g in service.got] == [
        ("lanbot-v3 sft: failed", "oom: it said *** in its log", "failure")
    ]


def test_every_address_is_notified_and_a_failure_is_logged_without_the_address(
    service: Service,
) -> None:
    said: list[str] = []
    notifier = Notifier(
        Secret(
            f"json://127.0.0.1:1/token-of-nobody-{MARKER} {service.url()}, nonsense://token-of-another-{MARKER}"
        ),
        "n",
        say=said.append,
    )
    notifier.send("started", "text")
    notifier.close()
    assert len(service.got) == 1 and len(said) == 2
    assert said[0].startswith("notification 1 not sent (started): ") and said[1].startswith(
        "notification 3 not sent (started): "
    )
    assert "token-of" not in " ".join(said)


def test_a_service_that_refuses_is_told_with_its_words(service: Service) -> None:
    said: list[str] = []
    service.code = 401
    notifier = Notifier(Secret(service.url()), "n", say=said.append)
    notifier.send("started", "text")
    notifier.close()
    assert len(said) == 1 and "401" in said[0] and MARKER not in said[0]


def test_an_event_is_sent_once_across_restarts(service: Service, tmp_path: Path) -> None:
    for _ in range(2):
        notifier = Notifier(Secret(service.url()), "n", tmp_path / "notified.json")
        for _ in range(2):
            notifier.send("sft proven", "text", SUCCESS)
        notifier.close()
    assert len(service.got) == 1
    (tmp_path / "notified.json").write_text("{")
    notifier = Notifier(Secret(service.url()), "n", tmp_path / "notified.json")
    notifier.send("sft proven", "text")
    notifier.close()
    assert len(service.got) == 2, "rather twice than never"


def test_a_service_that_hangs_holds_nobody_up(service: Service) -> None:
    service.delay_s = 2.0
    notifier, before = Notifier(Secret(service.url()), "n"), time.monotonic()
    notifier.send("started", "text", WARNING)
    notifier.close(0.2)
    assert time.monotonic() - before < 1.5
    until(lambda: service.got)


def test_without_an_address_nothing_is_sent_and_no_thread_lives() -> None:
    before = threading.active_count()
    notifier = Notifier(None, "n")
    notifier.send("started", "text")
    notifier.close()
    assert threading.active_count() == before


@pytest.mark.parametrize(
    "text, want",
    [
        (None, []),
        ("ntfy://topic", ["ntfy://topic"]),
        ("ntfy://a slack://b/c", ["ntfy://a", "slack://b/c"]),
        ("ntfy://a,slack://b/c", ["ntfy://a", "slack://b/c"]),
        ("ntfy://a, \n slack://b", ["ntfy://a", "slack://b"]),
        ("mailto://u:p@h?to=a@b.c,d@e.f", ["mailto://u:p@h?to=a@b.c,d@e.f"]),
    ],
)
def test_addresses_are_separated_and_a_comma_within_one_does_not_split_it(
    text: str | None, want: list[str]
) -> None:
    assert addresses(Secret(text) if text else None) == want


def test_what_is_told_has_the_money_and_the_next_command() -> None:
    plan = make_plan("", "", run_id="ab12cd34", predicted=Predicted(1_000, 2_400, 4_000))
    text = started(plan)
    for part in (
        "run ab12cd34 on 8x H100 at hyperstack/canada-1, $1.00/h; should cost $24.00 ($10.00 to $40.00), limit $10.00",
        "just watch",
        "just stop ab12cd34",
    ):
        assert part in text
    receipt = Receipt(
        "ab12cd34",
        "failed",
        "oom",
        "phase sft: CUDA out of memory",
        {"mid": PhaseReport("proven", "mid_checkpoints/d20", step=9), "sft": PhaseReport("failed")},
        spent_cents=1_234,
    )
    assert (
        ended(receipt)
        == "oom: phase sft: CUDA out of memory. $12.34 spent. Proven on the Hub: mid_checkpoints/d20 step 9"
    )


def test_just_notify_sends_a_test_and_says_what_went_wrong(service: Service) -> None:
    env = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "NANOLAN_ENV_FILE": "/dev/null"}
    done = script("notify", "hello", env=env | {"NOTIFY_URL": service.url()})
    assert done.returncode == 0 and done.stdout == "sent\n" and service.got[0]["message"] == "hello"
    service.code = 500
    done = script("notify", env=env | {"NOTIFY_URL": service.url()})
    assert done.returncode == 1 and "500" in done.stderr and "a-token" not in done.stderr
    assert script("notify", env=env).returncode == 4
    done = script("notify", env=env | {"NOTIFY_URL": "no address"})
    assert done.returncode == 2 and "ntfy://topic" in done.stderr


def test_what_a_service_says_back_of_its_address_is_masked(service: Service) -> None:
    said: list[str] = []
    notifier = Notifier(
        Secret(service.url()),
        "n",
        say=said.append,
        send=lambda url, *_: f"no such hook: {url.rpartition('/')[2]}",
    )
    notifier.send("started", "text")
    notifier.close()
    assert said == ["notification 1 not sent (started): no such hook: ***"]


def test_a_notification_contains_no_secret_in_title_or_text(service: Service) -> None:
    token = Secret(f"hf_{MARKER}")
    notifier = Notifier(Secret(service.url("x")), f"run {token.reveal()}")
    notifier.send("failed", f"it printed {token.reveal()}", FAILURE)
    notifier.close()
    assert [(g["title"], g["message"]) for g in service.got] == [
        ("run ***: failed", "it printed ***")
    ]
