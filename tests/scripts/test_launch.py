"""`just launch` and `just dry-run` as a user types them: real processes against a local Shadeform and a local Hub."""

from __future__ import annotations

import json
import re
import signal
import time

import pytest

from nanolan.sim.world import World
from tests.sim.openapi import check_request
from tests.support.core_fixtures import (
    CREATE,
    INFO,
    TYPES,
    creates,
    script,
    started,
    until,
)
from tests.support.launch_script_fixtures import (
    TRIO,
    Terminal,
    boxes_that_train,
    entries,
    launch,
)
from tests.support.world_fixtures import one_world, world  # noqa: F401  # fixtures


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


@pytest.mark.slow  # a whole command
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
def test_at_a_terminal_an_offer_is_picked_by_number_and_agreed_to(world: World) -> None:
    t = Terminal(world.env(), "--no-wait", "spend-limit=40")
    t.expect("Select instance [1-3] or 'q' to quit")
    for wrong in ("9\n", "0\n", "-1\n", "x\n", "²\n"):
        t.type(wrong)
        t.expect("Select instance [1-3]")
    t.type("2\n")
    t.expect(
        "Rent 8x B200 (datacrunch) for sft of me/lanbot-checkpoints d20: likely $2.74, at most $40? [y/N]"
    )
    assert creates(world.cloud) == 0
    t.type("y\n")
    assert t.close() == 0 and world.cloud.instances[0].spec["region"] == "FIN-01"
    table = [line for line in t.text.splitlines() if " | " in line]
    assert len(table) == 4 and max(map(len, table)) <= 80


def test_the_table_the_bill_and_the_question_have_one_forecast(world: World) -> None:
    t = Terminal(world.env(), "--no-wait")
    t.expect("[1-3] or 'q'")
    t.type("2\n")
    t.expect("[y/N]")
    t.type("n\n")
    t.close()
    row = next(line for line in t.text.splitlines() if "| datacrunch" in line)
    (cost,) = re.findall(r"\| (\$[\d.]+) +\| Yes", row)
    assert f"Bill: likely {cost} in" in t.text and f"d20: likely {cost}, at most $" in t.text
    lines = re.sub(r"\x1b\[[0-9;]*m|\r", "", t.text).splitlines()
    assert all(len(line) <= 80 for line in lines if not line.startswith("Rent "))


@pytest.mark.parametrize(
    "answers, code",
    [(["q\n"], 0), (["Q\n"], 0), (["quit\n"], 0), (["1\n", "n\n"], 1), (["1\n", "\n"], 1)],
    ids=str,
)
def test_a_no_at_a_terminal_rents_nothing(world: World, answers: list[str], code: int) -> None:
    t = Terminal(world.env())
    for question, answer in zip(("Select instance", "[y/N]"), answers, strict=False):
        t.expect(question)
        t.type(answer)
    assert (
        t.close() == code
        and "nothing was rented" in t.text.lower()
        and "Ctrl-C" not in t.text
        and creates(world.cloud) == 0
    )


def interrupted(world: World, ready: str, sig: int = signal.SIGINT) -> tuple[int, str]:
    """(exit code, stderr) of a launch that gets a signal once the cloud has seen a request of that kind."""
    with started("launch", "--yes", env=world.env()) as process:
        until(lambda: [r for r in world.cloud.requests if re.search(ready, f"{r.method} {r.path}")])
        time.sleep(0.1)
        process.send_signal(sig)
        _, said = process.communicate(timeout=30)
    return process.returncode, said


# ---- Ctrl-C
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


@pytest.mark.slow  # tests/promises/test_kills.py kills at every moment
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


@pytest.mark.slow  # a whole command
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
