"""`just limit`: the right run, asked before, and never more than was said."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
import pytest

from nanolan.errors import UsageProblem
from nanolan.launch.request import create_body
from nanolan.plan import Plan, new_run_id
from nanolan.run.ledger import Entry, Ledger
from nanolan.sim.hub.server import HubServer
from nanolan.sim.shadeform.server import ShadeformServer
from nanolan.times import iso, now_utc, parse_time
from tests.support.box_fixtures import KEY, REPO, TOKEN, WRITERS
from tests.support.core_fixtures import QUICK, a_plan, client, script


class Desk:
    """A laptop with one run that is going."""

    def __init__(self, root: Path, cloud: ShadeformServer, hub: HubServer) -> None:
        self.cloud, self.hub, self.ledger = cloud, hub, Ledger(root / "home")
        now = now_utc()
        self.plan: Plan = a_plan(
            run_id=new_run_id(),
            created_at=iso(now),
            deadline=iso(now + timedelta(minutes=20)),
            limit_cents=1_000,
            hf_repo=REPO,
            runs_repo=REPO,
            hf_endpoint=hub.url,
            owner=self.ledger.owner,
        )
        self.ledger.put(Entry(self.plan, client(cloud).create(create_body(self.plan, "x"))))

    def limit(self, *words: str) -> Any:
        env = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(self.ledger.home),
            "NANOLAN_HOME": str(self.ledger.home),
            "HF_TOKEN": TOKEN,
            "NANOLAN_ENV_FILE": "/dev/null",
            "SHADEFORM_API": self.cloud.url,
            "SHADEFORM_API_KEY": KEY,
        }
        return script("limit", *words, env=env)

    def stored(self) -> str:
        return str(self.cloud.instances[0].spec["auto_delete"]["spend_threshold"])


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with (
        ShadeformServer(tmp_path / "cloud", key=KEY, delays=QUICK, boxes=False) as cloud,
        HubServer(tmp_path / "hub", tokens=WRITERS) as hub,
    ):
        hub.put(REPO, {"x": b"x"})
        yield Desk(tmp_path, cloud, hub)


def test_the_newest_run_or_the_one_named_gets_the_limit(desk: Desk) -> None:
    done = desk.limit("50", "--yes")
    assert (
        done.returncode == 0 and f"run {desk.plan.run_id}: limit $50.00, deadline " in done.stdout
    ), done.stderr
    assert desk.stored() == "50.00" and desk.ledger.find(None).plan.limit_cents == 5_000
    assert desk.limit(desk.plan.run_id[:6], "60.50", "--yes", "--max-duration=1h").returncode == 0
    plan = desk.ledger.find(None).plan
    assert desk.stored() == "60.50" and plan.deadline == iso(
        parse_time(plan.created_at) + timedelta(hours=1)
    )


def test_without_a_yes_nothing_is_changed(desk: Desk) -> None:
    done = desk.limit("50")
    assert done.returncode == 2 and "--yes" in done.stderr and desk.stored() == "10.00"


def test_a_run_without_a_machine_is_told_how_to_go_on(desk: Desk) -> None:
    desk.cloud.instances[0].delete(0.0, "by hand")
    done = desk.limit("50", "--yes")
    assert done.returncode == 2 and re.search(
        rf"no instance .*just resume {desk.plan.run_id} spend-limit=", done.stderr
    )


@pytest.mark.parametrize(
    "words, error",
    [
        ((), click.UsageError),
        (("a", "b", "3"), click.UsageError),
        (("1a2b",), UsageProblem),
        (("1a2b", "-5"), UsageProblem),
        (("1a2b", "0"), UsageProblem),
        (("nan",), UsageProblem),
        (("1e9",), UsageProblem),
    ],
)
def test_words_that_are_no_amount_are_refused(
    words: tuple[str, ...], error: type[Exception]
) -> None:
    from limit import read_words

    with pytest.raises(error):
        read_words(words)
