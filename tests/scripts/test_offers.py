"""`just offers`: the market, without renting."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanolan.sim.shadeform.server import ShadeformServer
from tests.support.core_fixtures import TYPES, script


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShadeformServer]:
    with ShadeformServer(tmp_path_factory.mktemp("cloud"), boxes=False) as server:
        yield server


@pytest.fixture
def env(cloud: ShadeformServer, tmp_path: Path) -> dict[str, str]:
    cloud.faults.clear()
    cloud.requests.clear()
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "NANOLAN_ENV_FILE": "/dev/null",
        "HF_HUB_OFFLINE": "1",
        "SHADEFORM_API": cloud.url,
        "SHADEFORM_API_KEY": cloud.key,
    }


def test_the_table_is_the_guides_and_no_line_is_longer_than_80_columns(env: dict[str, str]) -> None:
    done = script("offers", env=env)
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and lines[0] == "=== Available B200 instances (sorted by price) ==="
    assert [line.split("|")[1].strip() for line in lines if " | " in line] == [
        "Provider",
        "hyperstack",
        "datacrunch",
        "tensordock",
    ]
    assert max(map(len, lines)) <= 80


def test_the_hint_keeps_the_settings_that_were_typed(env: dict[str, str]) -> None:
    lines = script(
        "offers", "phase=mid", "gpu=H100", "--all-configs", "shadeform-api-key=sim-key", env=env
    ).stdout.splitlines()
    assert lines[-1] == "Rent one: just launch phase=mid gpu=H100 --all-configs"


@pytest.mark.parametrize(
    "words",
    [
        ["--all-configs", "gpu=H100"],
        ["--all-configs", "gpu=a100", "--sort", "total"],
        ["gpu=H100:8"],
        ["gpu=0", "all-configs=yes"],
    ],
    ids=str,
)
def test_every_line_fits_80_columns_for_other_choices_too(
    env: dict[str, str], words: list[str]
) -> None:
    done = script("offers", *words, env=env)
    assert done.returncode == 0 and max(map(len, (done.stdout + done.stderr).splitlines())) <= 80


def test_the_expected_dollars_grow_with_the_model(env: dict[str, str]) -> None:
    def dollars(*words: str) -> float:
        return float(
            json.loads(script("offers", "--json", *words, env=env).stdout)["offers"][0][
                "expected_usd"
            ]
        )

    assert (
        dollars() < dollars("eval=full")
        and 2.5 < dollars("model-tag=d32") / dollars("model-tag=d20") < 3.4
    )


def test_earlier_receipts_of_the_ledger_count_and_a_file_that_cannot_be_read_stops_nothing(
    env: dict[str, str], tmp_path: Path
) -> None:
    from nanolan.run.ledger import Entry, Ledger
    from nanolan.run.record import PhaseReport, Receipt
    from tests.support.core_fixtures import PLAN

    env["NANOLAN_HOME"] = str(tmp_path / "home")
    before = json.loads(script("offers", "--json", env=env).stdout)["offers"][0]["expected_usd"]
    Ledger(tmp_path / "home").put(
        Entry(
            PLAN,
            "i",
            True,
            receipt=Receipt(
                PLAN.run_id,
                "succeeded",
                seconds=700,
                stages={"sft.train": 600},
                phases={"sft": PhaseReport("proven")},
            ),
        )
    )
    after = json.loads(script("offers", "--json", env=env).stdout)["offers"][0]["expected_usd"]
    assert float(after) < float(before) / 2
    (tmp_path / "home/runs/bad.json").write_text("{")
    done = script("offers", env=env)
    assert done.returncode == 0 and done.stdout


def test_json_has_the_same_offers_and_unknown_costs_are_null(
    env: dict[str, str], cloud: ShadeformServer
) -> None:
    cloud.fault(
        TYPES,
        "edit",
        change=lambda body: body["instance_types"][0]["configuration"].update(gpu_type="B200X"),
    )
    told = json.loads(script("offers", "--json", "phase=mid+sft", "gpu=B20", env=env).stdout)
    assert told["schema_version"] == 1 and told["phase"] == "mid+sft"
    assert [(o["cloud"], o["hourly_cents"], o["expected_usd"]) for o in told["offers"]] == [
        ("hyperstack", 3360, None),
        ("datacrunch", 3584, "46.59"),
        ("tensordock", 3840, "49.92"),
    ]


def test_what_was_dropped_is_said_with_the_reason(env: dict[str, str]) -> None:
    assert (
        "1 offer dropped: an ARM machine"
        in script("offers", "gpu=H20", "--all-configs", env=env).stderr
    )


def test_without_a_key_the_offers_are_labelled_samples(
    env: dict[str, str], cloud: ShadeformServer
) -> None:
    del env["SHADEFORM_API_KEY"]
    done = script("offers", env=env)
    assert (
        done.returncode == 0
        and "SAMPLE offers, not today's market" in done.stderr
        and cloud.requests == []
    )


@pytest.mark.parametrize(
    "words, code",
    [
        (["gpu=V100"], 3),
        (["gpu=H10O"], 2),
        (["phase=stf"], 2),
        (["gppu=H100"], 2),
        (["num-gpus=3"], 3),
    ],
    ids=str,
)
def test_nothing_found_is_3_and_a_typo_is_2(
    env: dict[str, str], words: list[str], code: int
) -> None:
    assert script("offers", *words, env=env).returncode == code


def test_a_listing_cannot_drive_the_terminal(env: dict[str, str], cloud: ShadeformServer) -> None:
    cloud.fault(
        TYPES,
        "edit",
        change=lambda body: body["instance_types"][0]["availability"][0].update(region="bell\x07"),
    )
    assert "| bell?" in script("offers", env=env).stdout


def test_any_shows_the_whole_market_with_its_gpus(env: dict[str, str]) -> None:
    told = json.loads(script("offers", "gpu=any", "--json", env=env).stdout)["offers"]
    assert {o["gpu"] for o in told} > {"B200", "H100", "A100_80G", "L40S"}
    assert {o["num_gpus"] for o in told} > {1, 8}
    lines = script("offers", "gpu=any", env=env).stdout.splitlines()
    assert lines[0] == "=== Available instances (sorted by price) ===" and "| GPU " in lines[2]


def test_spot_offers_are_shown_on_request_with_what_their_total_assumes(
    env: dict[str, str],
) -> None:
    lines = script("offers", "spot=yes", env=env).stdout.splitlines()
    kinds = [line.rsplit("|", 1)[1].strip() for line in lines if " | " in line]
    assert kinds == ["Kind", "spot", "on demand", "on demand", "on demand"]
    assert any(line.startswith("spot: Run includes") for line in lines)
    assert lines[-1] == "Rent one: just launch spot=yes" and max(map(len, lines)) <= 80
    found = json.loads(script("offers", "spot=only", "--json", env=env).stdout)["offers"]
    assert [o["spot"] for o in found] == [True]
    assert not any("spot" in line for line in script("offers", env=env).stdout.splitlines())
