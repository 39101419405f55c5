"""`just wait`: the verdict as exit code, in one line, as often as one likes."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from nanolan.run.ledger import Ledger
from tests.support.box_fixtures import KEY, REPO, TOKEN
from tests.support.core_fixtures import script, started
from tests.support.status_fixtures import RUN, TRAINING, Desk, desk, receipt  # noqa: F401  # a fixture


def env(desk: Desk, home: Path | None = None) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(desk.ledger.home),
        "NANOLAN_HOME": str(home or desk.ledger.home),
        "NANOLAN_ENV_FILE": os.devnull,
        "HF_HOME": str(desk.ledger.home / "hf"),
        "HF_ENDPOINT": desk.hub.url,
        "HF_TOKEN": TOKEN,
        "HF_REPO": REPO,
        "SHADEFORM_API": desk.cloud.url,
        "SHADEFORM_API_KEY": KEY,
    }


def wait(desk: Desk, *words: str, **more: Any) -> Any:
    return script("wait", *words, env=env(desk, **more))


@pytest.mark.parametrize(
    "verdict, reason, code",
    [
        ("succeeded", "", 0),
        ("failed", "hang", 5),
        ("stopped", "spend_limit", 6),
        ("stopped", "limit_lost", 7),
        ("stopped", "user", 5),
    ],
)
def test_an_ended_run_has_its_verdict_any_number_of_times_in_one_line(
    desk: Desk, verdict: str, reason: str, code: int
) -> None:
    desk.tell(receipt=receipt(verdict, reason))
    desk.cloud.account.delete(desk.entry.instance_id or "")
    for words in ((), (RUN,)):
        done = wait(desk, *words)
        said = done.stdout + done.stderr
        assert done.returncode == code and said.count("\n") == 1 and f"run {RUN} {verdict}" in said


def test_it_waits_for_the_end(desk: Desk) -> None:
    desk.tell(progress=TRAINING)
    with started("wait", env=env(desk)) as process:
        time.sleep(2.5)
        assert process.poll() is None
        process.kill()
    assert not [r for r in desk.cloud.requests if r.method == "POST"]


def test_it_gives_up_in_time_and_the_run_goes_on(desk: Desk) -> None:
    desk.tell(progress=TRAINING)
    done = wait(desk, "--timeout", "1s")
    assert done.returncode == 1 and done.stdout == "" and done.stderr.count("\n") == 1
    for part in (
        f"run {RUN} has not ended within 1s; it goes on (training)",
        f"just wait {RUN}",
        f"just stop {RUN}",
    ):
        assert part in done.stderr


def test_what_could_not_be_seen_is_no_end(desk: Desk) -> None:
    desk.tell(receipt=receipt())
    desk.cloud.account.delete(desk.entry.instance_id or "")
    desk.cloud.fault("GET /v1/instances$", "forbidden", times=None)
    done = wait(desk, "timeout=1s")
    assert (
        done.returncode == 8
        and "Shadeform refused" in done.stderr
        and not desk.ledger.find(RUN).gone
    )
    assert "$1.00/h" in done.stderr and f"just stop {RUN} --now" in done.stderr


def test_a_machine_in_error_that_may_bill_is_exit_code_8(desk: Desk) -> None:
    desk.cloud.switch("goes_to_error")
    broken = structs.replace(desk.entry, plan=structs.replace(desk.entry.plan, run_id="ffffffff"))
    broken = structs.replace(broken, instance_id=desk.rent(broken.plan).id)
    desk.ledger.put(broken)
    done = wait(desk, "ffff")
    assert done.returncode == 8 and "$" in done.stderr and "just stop ffffffff" in done.stderr


def test_a_run_of_another_laptop_is_waited_for_and_not_noted_here(
    desk: Desk, tmp_path: Path
) -> None:
    desk.hub.put(REPO, {f"runs/{RUN}/plan.json": desk.entry.plan.to_json()})
    desk.tell(receipt=receipt())
    desk.cloud.account.delete(desk.entry.instance_id or "")
    done = wait(desk, "ab12", home=tmp_path / "another-home")
    assert (
        done.returncode == 0
        and f"run {RUN} succeeded, $1.23" in done.stdout
        and Ledger(tmp_path / "another-home").entries() == []
    )


@pytest.mark.parametrize(
    "words", [("zz",), ("--timeout=soon",), ("$(touch evil)",), ("--timeout=0",)]
)
def test_bad_words_are_usage_errors(desk: Desk, words: tuple[str, ...]) -> None:
    assert wait(desk, *words).returncode == 2
