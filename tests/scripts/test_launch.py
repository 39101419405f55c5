"""`just launch` and `just dry-run` as a user types them: real processes against a local Shadeform and a local Hub."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nanolan.run.ledger import Entry, Ledger
from nanolan.settings.settings import ROOT
from nanolan.sim.marker import MARKER, TWIST
from nanolan.sim.world import REPO, World
from tests.sim.openapi import check_request
from tests.support.core_fixtures import (
    CREATE,
    INFO,
    LIST,
    QUICK,
    TYPES,
    creates,
    forget,
    forms_of,
    script,
    started,
    until,
    without,
)
from tests.support.launch_fixtures import progress, tell

KEYS = ("SHADEFORM_API_KEY", "HF_TOKEN", "HF_REPO")
TRIO = ("cloud=datacrunch", "region=FIN-01", "instance-type=B200_sxm6x8")
CANARIES = {"SHADEFORM_API_KEY": f"{MARKER}+sf/{TWIST}", "WANDB_API_KEY": f"{MARKER}+wb/{TWIST}"}


@pytest.fixture(scope="module")
def one_world(tmp_path_factory: pytest.TempPathFactory, seed_cache: Path) -> Iterator[World]:
    with World(
        tmp_path_factory.mktemp("world"), cache=seed_cache, delays=QUICK, boxes=False
    ) as world:
        yield world


@pytest.fixture
def world(one_world: World) -> World:
    return forget(one_world)


def entries(world: World) -> list[Entry]:
    return Ledger(world.root / "nanolan-home").entries()


def launch(world: World, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """A launch that does not wait for its machine, which in this world runs no script."""
    return script("launch", "--no-wait", *words, env=world.env() | env)


@contextmanager
def boxes_that_train(world: World) -> Iterator[None]:
    """While a launch waits: every run's newest attempt trains."""
    over = threading.Event()

    def play() -> None:
        while not over.wait(0.1):
            for entry in entries(world):
                if entry.instance_id and not entry.gone:
                    tell(world, entry.plan, progress("training"))

    thread = threading.Thread(target=play)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def commits(world: World, seen: int) -> list[str]:
    """What was sent to the Hub to be kept since its log had `seen` lines."""
    return [
        h["path"] for h in world.hub.log[seen:] if h["method"] != "GET" and h["method"] != "HEAD"
    ]


def bare(world: World, tmp_path: Path) -> dict[str, str]:
    """The environment of a newcomer: no key, no token, no login."""
    return without(world.env(), *KEYS, "SHADEFORM_API", "NANOLAN_REHEARSAL") | {
        "HOME": str(tmp_path)
    }


# ---- launching


def test_a_launch_rents_once_reads_back_and_says_what_to_type_next(world: World) -> None:
    with boxes_that_train(world):
        done = script("launch", "--yes", "phase=sft", env=world.env())
    (box,) = world.cloud.instances
    (entry,) = entries(world)
    assert done.returncode == 0 and creates(world.cloud) == 1 and entry.instance_id == box.id
    assert done.stdout == f"run {entry.plan.run_id} on instance {box.id}\n"
    for part in (
        "read back: $33.60/h, limit $150.00",
        "waiting until it trains",
        "it is ready:",
        "just watch",
        f"just stop {entry.plan.run_id}",
        "https://platform.shadeform.ai/instances",
    ):
        assert part in done.stderr
    for r in world.cloud.requests:
        check_request(r.method, r.path, r.body)
    body = next(r.body for r in world.cloud.requests if r.path.endswith("/create"))
    assert body["os"] == "ubuntu24.04_cuda13.0_shade_os" and body["auto_delete"].keys() == {
        "spend_threshold",
        "date_threshold",
    }


def test_json_on_stdout_is_json_and_nothing_else(world: World) -> None:
    told = json.loads(launch(world, "--yes", "--json", "spend-limit=40.50").stdout)
    (entry,) = entries(world)
    assert (told["run_id"], told["instance_id"], told["limit_usd"], told["worst_case_usd"]) == (
        entry.plan.run_id,
        entry.instance_id,
        "40.50",
        "40.50",
    )
    dry = json.loads(launch(world, "--dry-run", "--json", "output-tag=x").stdout)
    assert (
        dry["schema_version"] == 1 and dry["request"]["auto_delete"]["spend_threshold"] == "150.00"
    )
    low, high = map(float, dry["expected_range_usd"])
    assert 0 < low < float(dry["expected_usd"]) < high < 150


def test_the_full_cloud_region_and_type_is_consent_and_needs_no_prompt(
    world: World,
) -> None:  # the guide's line for CI
    done = launch(world, *TRIO)
    assert (
        done.returncode == 0
        and world.cloud.instances[0].spec["cloud"] == "datacrunch"
        and "Select" not in done.stderr
    )


@pytest.mark.parametrize("words", [(), TRIO[:2], ("gpu=H100", "--all-configs")], ids=str)
def test_without_a_terminal_and_without_consent_it_is_an_error_and_not_a_hang(
    world: World, words: tuple[str, ...]
) -> None:
    done = launch(world, *words)
    assert (
        done.returncode == 2
        and "not a terminal" in done.stderr
        and "--yes" in done.stderr
        and creates(world.cloud) == 0
    )


def test_a_loopback_api_is_reached_past_any_proxy(world: World) -> None:
    dead = "http://127.0.0.1:9"
    assert (
        launch(
            world,
            "--dry-run",
            HTTP_PROXY=dead,
            http_proxy=dead,
            HTTPS_PROXY=dead,
            ALL_PROXY=dead,
            NO_PROXY="",
            no_proxy="",
        ).returncode
        == 0
    )


# ---- the prompt


class Terminal:
    """A launch at a terminal: what it shows so far, and what the user types."""

    def __init__(self, env: dict[str, str], *words: str) -> None:
        self.end, other = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "scripts/launch.py"), *words],
            env=env,
            cwd=ROOT,
            stdin=other,
            stdout=other,
            stderr=other,
            start_new_session=True,
        )
        os.close(other)
        self.text = ""

    def expect(self, part: str, timeout_s: float = 30) -> None:
        start, end = len(self.text), time.monotonic() + timeout_s
        while part not in self.text[start:]:
            assert time.monotonic() < end, self.text
            if select.select([self.end], [], [], 0.1)[0]:
                try:
                    self.text += os.read(self.end, 65536).decode()
                except OSError:  # Linux: the other side is closed
                    assert part in self.text[start:], self.text
                    return

    def type(self, text: str) -> None:
        os.write(self.end, text.encode())

    def close(self) -> int:
        try:
            while select.select([self.end], [], [], 20)[0] and (data := os.read(self.end, 65536)):
                self.text += data.decode()
        except OSError:
            pass
        finally:
            os.close(self.end)
            code = self.process.wait(20)
        return code


def test_at_a_terminal_an_offer_is_picked_by_number_and_agreed_to(world: World) -> None:
    t = Terminal(world.env(), "--no-wait", "spend-limit=40")
    t.expect("Select instance [1-3] or 'q' to quit")
    for wrong in ("9\n", "0\n", "-1\n", "x\n", "²\n"):
        t.type(wrong)
        t.expect("Select instance [1-3]")
    t.type("2\n")
    t.expect("Rent 8x B200 at datacrunch/FIN-01 for at most $40.00? [y/N]")
    assert creates(world.cloud) == 0
    t.type("y\n")
    assert t.close() == 0 and world.cloud.instances[0].spec["region"] == "FIN-01"
    table = [line for line in t.text.splitlines() if " | " in line]
    assert len(table) == 4 and max(map(len, table)) <= 80


@pytest.mark.parametrize("answers", [["q\n"], ["Q\n"], ["1\n", "n\n"], ["1\n", "\n"]], ids=str)
def test_a_no_at_a_terminal_rents_nothing(world: World, answers: list[str]) -> None:
    t = Terminal(world.env())
    for question, answer in zip(("Select instance", "[y/N]"), answers, strict=False):
        t.expect(question)
        t.type(answer)
    assert (
        t.close() == 1
        and "nothing was rented" in t.text
        and "Ctrl-C" not in t.text
        and creates(world.cloud) == 0
    )


# ---- Ctrl-C


def interrupted(world: World, ready: str, sig: int = signal.SIGINT) -> tuple[int, str]:
    """(exit code, stderr) of a launch that gets a signal once the cloud has seen a request of that kind."""
    with started("launch", "--yes", env=world.env()) as process:
        until(lambda: [r for r in world.cloud.requests if re.search(ready, f"{r.method} {r.path}")])
        time.sleep(0.1)
        process.send_signal(sig)
        _, said = process.communicate(timeout=30)
    return process.returncode, said


def test_ctrl_c_before_create_rents_nothing(world: World) -> None:
    world.cloud.fault(TYPES, "stall", seconds=3)
    code, said = interrupted(world, TYPES)
    assert (
        code == 130
        and "stopped by Ctrl-C" in said
        and creates(world.cloud) == 0
        and entries(world) == []
    )


@pytest.mark.parametrize("sig, code", [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_ctrl_c_or_sigterm_during_create_finds_what_was_made_and_names_it(
    world: World, sig: int, code: int
) -> None:
    world.cloud.fault(CREATE, "stall_after_effect", seconds=3)
    ended, said = interrupted(world, CREATE, sig)
    (box,) = world.cloud.instances
    (entry,) = entries(world)
    assert (
        ended == code
        and creates(world.cloud) == 1
        and entry.instance_id == box.id
        and not entry.gone
    )
    assert (
        f"instance {box.id} ($33.60/h) is rented and continues by itself" in said
        and f"just stop {entry.plan.run_id}" in said
    )


def test_ctrl_c_after_create_says_that_the_machine_goes_on(world: World) -> None:
    world.cloud.switch("auto_delete_late", 60)
    code, said = interrupted(world, INFO)
    (box,) = world.cloud.instances
    assert (
        code == 130
        and f"instance {box.id} ($33.60/h) is rented and continues by itself" in said
        and box.status != "deleted"
    )


def test_a_laptop_that_dies_during_create_has_the_run_in_its_ledger(world: World) -> None:
    world.cloud.fault(CREATE, "stall_after_effect", seconds=3)
    code, _ = interrupted(world, CREATE, signal.SIGKILL)
    (entry,) = entries(world)
    assert code == -signal.SIGKILL and entry.instance_id is None and not entry.gone
    assert (
        world.cloud.instances[0].name == entry.plan.instance_name
    )  # so that `just status` and `just stop` find it
    found = script("stop", entry.plan.run_id, "--now", "--yes", env=world.env())
    assert found.returncode == 0 and world.cloud.instances[0].status in ("deleting", "deleted")


def test_ctrl_c_while_it_waits_leaves_the_machine_and_says_that_only_fail_over_has_ended(
    world: World,
) -> None:
    with started("launch", "--yes", env=world.env()) as process:
        until(lambda: any("progress.json" in line["path"] for line in world.hub.log[-5:]))
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    (box,) = world.cloud.instances
    assert (
        process.returncode == 130
        and "no longer waiting, no other offer is tried" in said
        and box.status == "active"
    )
    assert (
        f"instance {box.id} ($33.60/h) is rented and continues by itself" in said
        and not entries(world)[0].gone
    )


# ---- refused before anything is asked


@pytest.mark.parametrize(
    "words, said",
    [
        (["phase=stf"], "unknown phase 'stf'; the phases are mid, sft"),
        (["phase=agent_rl"], "agent_rl is not part of nanolan"),
        (["phase="], "phase is empty"),
        (["gpu=H10O"], "Did you mean gpu=H100?"),
        (["gpu=$(id)"], "is not a GPU type"),
        (["spend-limt=5"], "Did you mean spend-limit="),
        (["spend-limit=0"], "spend-limit: "),
        (["spend-limit=-1"], "spend-limit: "),
        (["spend-limit=nan"], "spend-limit: "),
        (["spend-limit=inf"], "spend-limit: "),
        (["spend-limit=1e9"], "spend-limit: "),
        (["spend-limit=10,5"], "spend-limit: "),
        (["spend-limit="], "spend-limit is empty"),
        (["run-name=a b"], "run-name: "),
        (["run-name=$(touch evil)"], "run-name: "),
        (["run-name=a\nb"], "run-name: "),
        (["run-name=../x"], "run-name: "),
        (["run-name=-rf"], "run-name: "),
        (["--run-name", "x" * 300], "run-name: "),
        (["run-name=lаnbot"], "run-name: "),
        (["num-gpus=0"], "num-gpus: "),
        (["shadeform-api=http://evil.example.org"], "must be https"),
        (["sort=size"], "sort"),
    ],
    ids=str,
)
def test_bad_input_is_one_clear_line_exit_code_2_and_no_request(
    world: World, words: list[str], said: str
) -> None:
    done = launch(world, "--dry-run" if "gpu=H10O" in words else "--yes", *words)
    assert (
        done.returncode == 2
        and said in done.stderr
        and "Traceback" not in done.stderr
        and not (ROOT / "evil").exists()
    )
    assert [r.path for r in world.cloud.requests if "types" not in r.path] == []


@pytest.mark.parametrize("missing", KEYS)
def test_a_missing_key_says_how_and_where_to_get_it(
    world: World, missing: str, tmp_path: Path
) -> None:
    done = script("launch", "--yes", env=without(world.env(), missing) | {"HOME": str(tmp_path)})
    assert done.returncode == (2 if missing == "HF_REPO" else 4)
    assert f"{missing} is not set" in done.stderr and "Get it: " in done.stderr
    assert world.cloud.requests == []


def test_a_wrong_key_names_the_variable_and_never_the_value(world: World) -> None:
    done = launch(world, "--yes", **CANARIES)
    assert (
        done.returncode == 4
        and "refused SHADEFORM_API_KEY (HTTP 401" in done.stderr
        and creates(world.cloud) == 0
    )
    assert not any(
        form in done.stdout + done.stderr for key in CANARIES.values() for form in forms_of(key)
    )


def test_no_offer_is_exit_code_3_with_what_there_is(world: World) -> None:
    done = launch(world, "--yes", "gpu=V100")
    assert (
        done.returncode == 3
        and "no available offer for 8x V100" in done.stderr
        and "Available now" in done.stderr
    )


def test_a_failed_check_is_exit_code_4_and_nothing_is_uploaded_or_rented(world: World) -> None:
    seen = len(world.hub.log)
    done = launch(world, "--yes", "model-tag=d99", "spend-limit=1")
    assert done.returncode == 4 and done.stderr.count("[FAILED]") == 2
    assert "2 of " in done.stderr and "nothing was rented" in done.stderr
    assert creates(world.cloud) == 0 and entries(world) == [] and not commits(world, seen)


def test_a_limit_above_a_thousand_dollars_is_asked_for_twice(world: World) -> None:
    once, twice = (
        launch(world, "--dry-run", "spend-limit=1001"),
        launch(world, "--dry-run", "spend-limit=1001", "--yes-really"),
    )
    assert (
        once.returncode == 4
        and "limits above $1,000.00 must be confirmed. Try: --yes-really" in once.stderr
    )
    assert (
        twice.returncode == 0
        and "[  --  ] spend limit" in twice.stderr
        and "accepted by --yes-really" in twice.stderr
    )
    assert "just launch spend-limit=1001 --yes-really\n" in twice.stderr


@pytest.mark.parametrize("words", [[], ["sort=price"], ["sort=hour"], ["sort=total"]], ids=str)
def test_the_bill_shows_what_it_should_cost_and_what_it_can_cost_at_most(
    world: World, words: list[str]
) -> None:
    said = launch(world, "--dry-run", *words).stderr
    assert re.search(
        r"Bill: likely \$[\d.]+ in [\d.]+ h, low \$[\d.]+, high \$[\d.]+ \(by the guide\); at worst \$[\d.]+ in",
        said,
    )


# ---- Shadeform says no, or something else


def test_a_stock_out_is_exit_code_3_and_suggests_the_next_offer(world: World) -> None:
    world.cloud.fault(CREATE, "out_of_stock")
    done = launch(world, "--yes", "phase=mid", "spend-limit=99")
    assert done.returncode == 3 and creates(world.cloud) == 1 and world.cloud.instances == []
    assert (
        "Next: 8x B200 at datacrunch/FIN-01 for $35.84/h (dearer than the $33.60/h agreed to; with --yes, max-price= allows more)"
        in done.stderr
    )
    assert f"just launch phase=mid spend-limit=99 {' '.join(TRIO)}" in done.stderr


def test_with_yes_and_a_max_price_a_stock_out_goes_on_up_to_it_and_json_tells_the_attempts(
    world: World,
) -> None:
    world.cloud.fault(CREATE, "out_of_stock")
    with boxes_that_train(world):
        done = script("launch", "--yes", "--json", "max-price=36", env=world.env())
    told, (entry,) = json.loads(done.stdout), entries(world)
    assert (
        done.returncode == 0
        and creates(world.cloud) == 2
        and "1 offer dropped: above max-price ($36.00/h)" in done.stderr
    )
    assert (told["attempt"], told["offer"]["cloud"], told["instance_id"]) == (
        2,
        "datacrunch",
        entry.instance_id,
    )
    assert told["earlier_attempts"] == [
        {
            "attempt": 1,
            "instance_id": None,
            "spent_usd": "0.00",
            "note": "8x B200 at hyperstack/canada-1: just sold out; nothing was rented",
        }
    ]


def test_at_a_terminal_a_dearer_offer_is_asked_about(world: World) -> None:
    world.cloud.fault(CREATE, "out_of_stock", times=2)
    t = Terminal(world.env(), "--no-wait", "spend-limit=40")
    for question, answer in (
        ("Select instance", "1\n"),
        ("Rent 8x B200 at hyperstack/canada-1 for at most $40.00? [y/N]", "y\n"),
        ("Rent 8x B200 at datacrunch/FIN-01 instead, $35.84/h, for at most $40.00? [y/N]", "y\n"),
        ("Rent 8x B200 at tensordock/us-east instead, $38.40/h", "n\n"),
    ):
        t.expect(question)
        t.type(answer)
    assert t.close() == 3 and "2 offers tried" in t.text and "(not agreed to)" in t.text
    assert creates(world.cloud) == 2 and world.cloud.instances == []


def test_failover_0_tries_no_other_offer(world: World) -> None:
    world.cloud.fault(CREATE, "out_of_stock")
    done = launch(world, "--yes", "max-price=40", "failover=0")
    assert done.returncode == 3 and creates(world.cloud) == 1 and "(failover=0)" in done.stderr


@pytest.mark.parametrize(
    "words, said",
    [
        (
            ["max-price=20"],
            "(3 dropped: above max-price ($20.00/h)); nothing was rented. "
            "The cheapest of them: 8x B200 at hyperstack/canada-1 for $33.60/h, the run about $",
        ),
        (
            ["max-total=20"],
            "(3 dropped: the run's total is above max-total ($20.00)); nothing was rented. "
            "The cheapest of them: 8x B200 at hyperstack/canada-1 for $33.60/h",
        ),
    ],
    ids=str,
)
def test_a_limit_on_prices_that_nothing_keeps_names_the_cheapest_offer(
    world: World, words: list[str], said: str
) -> None:
    done = launch(world, "--yes", *words)
    assert done.returncode == 3 and said in done.stderr and creates(world.cloud) == 0


def test_an_empty_wallet_is_exit_code_4_and_no_other_offer_is_tried(world: World) -> None:
    world.cloud.fault(CREATE, "insufficient_funds")
    done = launch(world, "--yes")
    assert (
        done.returncode == 4
        and "minimum of $5" in done.stderr
        and creates(world.cloud) == 1
        and "Next:" not in done.stderr
    )


def test_a_machine_at_another_price_is_deleted_at_once_with_exit_code_5(world: World) -> None:
    world.cloud.switch("price_differs", 9999)
    done = launch(world, "--yes")
    assert done.returncode == 5 and "$99.99/h instead of $33.60/h" in done.stderr
    assert world.cloud.instances[0].status in ("deleting", "deleted")


@pytest.mark.parametrize(
    "action, code, said",
    [
        ("html", 2, "a login page of the network, a proxy or a firewall"),
        ("truncated", 1, "Shadeform's answer to GET /instances/types cannot be read"),
    ],
)
def test_what_comes_instead_of_offers_is_one_line(
    world: World, action: str, code: int, said: str
) -> None:
    world.cloud.fault(TYPES, action)
    done = launch(world, "--yes")
    assert done.returncode == code and done.stderr.startswith("error: ") and said in done.stderr
    assert done.stderr.count("\n") == 1


def test_offers_that_cannot_be_read_are_counted_and_never_free(world: World) -> None:
    world.cloud.fault(
        TYPES, "edit", change=lambda body: body["instance_types"][0].update(hourly_price=0)
    )
    done = launch(world, "--yes")
    assert "1 entries of Shadeform's list could not be read" in done.stderr
    assert world.cloud.instances[0].spec["cloud"] == "datacrunch"


def test_an_answer_cannot_drive_the_terminal(world: World) -> None:
    world.cloud.fault(CREATE, "status", status=400, body={"error": "bell\x07 \x9b2J\r"})
    said = launch(world, "--yes").stderr
    assert "bell? ?2J; nothing was rented" in said
    world.cloud.fault(
        TYPES,
        "edit",
        change=lambda body: body["instance_types"][0]["availability"][0].update(region="bell\x07"),
    )
    assert "8x B200 at hyperstack/bell?," in launch(world, "--dry-run").stderr


# ---- dry run


def test_a_dry_run_without_any_key_shows_labelled_samples_and_succeeds(
    world: World, tmp_path: Path
) -> None:
    done = script("launch", "--dry-run", env=bare(world, tmp_path))
    assert done.returncode == 0 and "SAMPLE offers, not today's market" in done.stderr
    assert "https://platform.shadeform.ai/settings/api" in done.stderr
    assert "[  --  ] Hub: not checked without HF_TOKEN and HF_REPO" in done.stderr
    assert json.loads(done.stdout)["os"] == "ubuntu24.04_cuda13.0_shade_os"
    assert world.cloud.requests == [] and list(tmp_path.iterdir()) == []


def test_a_dry_run_shows_the_request_changes_nothing_and_says_how_to_rent_the_same(
    world: World,
) -> None:
    before = world.hub.files(REPO)
    done = launch(
        world,
        "--dry-run",
        "phase=mid",
        "run-name=x-1",
        "gpu=H100",
        "--all-configs",
        "spend-limit=99",
    )
    assert done.returncode == 0 and "DRY RUN: nothing was sent" in done.stderr
    assert world.hub.files(REPO) == before and entries(world) == []
    assert [r.method for r in world.cloud.requests] == ["GET", "GET"]
    assert (
        "To rent it: just launch phase=mid run-name=x-1 gpu=H100 spend-limit=99 --all-configs\n"
        in done.stderr
    )
    assert json.loads(done.stdout)["auto_delete"]["spend_threshold"] == "99.00"


def test_a_dry_run_lists_every_failed_check_and_shows_no_secret_in_any_form(world: World) -> None:
    before, seen = world.hub.files(REPO), len(world.hub.log)
    token = f"hf_{MARKER}+tok/{TWIST}"
    done = launch(world, "--dry-run", "spend-limit=1", "model-tag=d99", **CANARIES, HF_TOKEN=token)
    assert done.returncode == 4
    for name in ("Hub token", "Hub repo", "spend limit", "Shadeform key"):
        assert f"[FAILED] {name}" in done.stderr
    said = done.stdout + done.stderr
    assert (
        not any(form in said for key in (*CANARIES.values(), token) for form in forms_of(key))
        and '"*** (' in said
    )
    assert creates(world.cloud) == 0 and world.hub.files(REPO) == before
    assert not commits(world, seen)


@pytest.mark.parametrize("action", ["status", "unauthorized", "html"])
def test_a_dry_run_goes_on_with_samples_when_shadeform_cannot_be_asked(
    world: World, action: str
) -> None:
    world.cloud.fault(TYPES, action, times=None)
    world.cloud.fault(LIST, "unauthorized", times=None)
    done = launch(world, "--dry-run", "model-tag=d99")
    assert done.returncode == 4 and "SAMPLE offers" in done.stderr
    assert all(
        f"[FAILED] {name}" in done.stderr
        for name in ("offers", "input checkpoint", "Shadeform key")
    )


def test_a_dry_run_never_asks_even_at_a_terminal(world: World) -> None:
    t = Terminal(world.env(), "--dry-run")
    assert t.close() == 0 and "Select" not in t.text


# ---- settings and imports


def test_flags_beat_the_environment_beats_the_env_file(world: World, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(
        "\ufeffexport RUN_NAME='from-file'\r\nSPEND_LIMIT=77\r\nGPU=H100\r\nCLOUD=$(touch evil)\r\n"
    )
    (tmp_path / ".env").chmod(0o600)
    env = world.env() | {
        "NANOLAN_ENV_FILE": str(tmp_path / ".env"),
        "SPEND_LIMIT": "88",
        "GPU": "A100",
        "CLOUD": "hyperstack",
    }
    done = script("launch", "--yes", "--json", "--no-wait", "gpu=B200", env=env)
    told, (entry,) = json.loads(done.stdout), entries(world)
    assert (entry.plan.run_name, told["limit_usd"], told["offer"]["gpu"]) == (
        "from-file",
        "88.00",
        "B200",
    ) and not (ROOT / "evil").exists()


@pytest.mark.parametrize("name", ["launch", "offers", "stop", "resume", "wait", "orphans"])
def test_help_imports_click_the_standard_library_and_the_settings_only(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", str(ROOT / f"scripts/{name}.py"), "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {
        line.rsplit("|", 1)[-1].strip()
        for line in done.stderr.splitlines()
        if line.startswith("import time:")
    }
    loaded -= {
        "launch",
        "market",
        "check_status",
        "imported package",
        "site",
        "sitecustomize",
        "usercustomize",
        "org",
        "org.python",
        "org.python.core",
    }  # tried by copy
    foreign = {
        m
        for m in loaded
        if m.split(".")[0] not in {*sys.stdlib_module_names, "click", "nanolan"}
        and not m.startswith(("_", "__editable__"))
    }
    assert foreign == set()
    assert {m for m in loaded if m.startswith("nanolan.")} <= {
        f"nanolan.{m}"
        for m in (
            "cli",
            "cli.command",
            "cli.help",
            "cli.run",
            "errors",
            "money",
            "phases",
            "redact",
            "settings",
            "settings.env_lines",
            "settings.settings",
            "settings.values",
            "times",
        )
    }
