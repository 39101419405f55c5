"""What `just launch` refuses, and what Shadeform refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from nanolan.settings.settings import ROOT
from nanolan.sim.world import World
from tests.support.core_fixtures import (
    CREATE,
    TYPES,
    creates,
    forms_of,
    script,
    without,
)
from tests.support.launch_script_fixtures import (
    CANARIES,
    KEYS,
    TRIO,
    Terminal,
    boxes_that_train,
    commits,
    entries,
    launch,
)
from tests.support.world_fixtures import one_world, world  # noqa: F401  # fixtures


# ---- refused before anything is asked
@pytest.mark.parametrize(
    "words, said",
    [
        (["phase=stf"], "unknown phase 'stf'; the phases are mid, sft"),
        (["phase=agent_rl"], "agent_rl is not a phase of nanolan's trainer"),
        (["phase="], "phase is empty"),
        (["gpu=H10O"], "Did you mean gpu=H100?"),
        (["gpu=H10", "--all-configs"], "fits several types: H100, H100_nvl. With --yes name one"),
        (["gpu=any"], "With --yes name one of them; nothing was rented"),
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


@pytest.mark.slow  # a whole command
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
        r"Bill: likely \$[\d.]+ in [\d.]+ h, low \$[\d.]+, high \$[\d.]+ \(by the guide\); at most \$[\d.]+: the provider deletes it",
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


@pytest.mark.slow  # a whole command; tests/launch/ has the decision
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


@pytest.mark.slow  # a whole command
def test_at_a_terminal_a_dearer_offer_is_asked_about(world: World) -> None:
    world.cloud.fault(CREATE, "out_of_stock", times=2)
    t = Terminal(world.env(), "--no-wait", "spend-limit=40")
    for question, answer in (
        ("Select instance", "1\n"),
        (
            "Rent 8x B200 (hyperstack) for sft of me/lanbot-checkpoints d20: likely $2.57, at most $40? [y/N]",
            "y\n",
        ),
        ("Rent 8x B200 (datacrunch) instead, $35.84/h: likely $2.74, at most $40? [y/N]", "y\n"),
        ("Rent 8x B200 (tensordock) instead, $38.40/h", "n\n"),
    ):
        t.expect(question)
        t.type(answer)
    assert t.close() == 3 and "2 offers tried" in t.text and "(not agreed to)" in t.text
    assert creates(world.cloud) == 2 and world.cloud.instances == []


@pytest.mark.slow  # a whole command; tests/launch/ has the decision
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
            ["max-total=1"],
            "(3 dropped: the run's total is above max-total ($1.00)); nothing was rented. "
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


@pytest.mark.slow  # a whole command; tests/launch/ has the decision
def test_an_empty_wallet_is_exit_code_4_and_no_other_offer_is_tried(world: World) -> None:
    world.cloud.fault(CREATE, "insufficient_funds")
    done = launch(world, "--yes")
    assert (
        done.returncode == 4
        and "minimum of $5" in done.stderr
        and creates(world.cloud) == 1
        and "Next:" not in done.stderr
    )


@pytest.mark.slow  # a whole command; tests/launch/ has the decision
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
    assert "not readable, so left out: 1 entry of Shadeform's list" in done.stderr
    assert world.cloud.instances[0].spec["cloud"] == "datacrunch"


@pytest.mark.slow  # a whole command; tests/launch/ has the decision
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
