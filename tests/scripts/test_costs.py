"""`just costs`, the real command: the ledger alone, no key, no network."""

from __future__ import annotations

import json
from pathlib import Path

from nanolan.run.ledger import Entry, Ledger
from nanolan.run.record import Receipt
from tests.support.core_fixtures import PLAN, script


def test_it_sums_up_the_ledger_without_a_key(tmp_path: Path) -> None:
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "NANOLAN_HOME": str(tmp_path / "home")}
    assert "No run yet" in script("costs", env=env).stdout
    Ledger(tmp_path / "home").put(
        Entry(PLAN, "i-1", True, receipt=Receipt(PLAN.run_id, "succeeded", metered_cents=1234))
    )
    done = script("costs", env=env)
    assert (
        done.returncode == 0
        and done.stderr == ""
        and done.stdout.splitlines()[1].endswith("$12.34")
    )
    assert json.loads(script("costs", "--json", env=env).stdout)["all"]["usd"] == "12.34"


def test_a_file_that_cannot_be_read_is_said_beside_the_sums(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/bad.json").write_text("{")
    done = script(
        "costs", env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "NANOLAN_HOME": str(tmp_path)}
    )
    assert done.returncode == 0 and "bad.json cannot be read" in done.stderr
    done = script(
        "costs",
        "--json",
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "NANOLAN_HOME": str(tmp_path)},
    )
    assert "bad.json cannot be read" in json.loads(done.stdout)["unreadable"][0]
