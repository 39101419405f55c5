"""What `just stop` asks, and stopping from another laptop."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
from msgspec import structs

from nanolan.launch.request import create_body
from nanolan.run.ledger import Ledger
from nanolan.run.record import Progress, Receipt, to_json
from nanolan.settings.settings import ROOT
from nanolan.sim.hub.server import HubServer
from nanolan.sim.shadeform.server import ShadeformServer
from nanolan.times import iso, now_utc
from tests.support.box_fixtures import REPO, TOKEN, WRITERS
from tests.support.core_fixtures import INFO, client, script, started, until
from tests.support.stop_script_fixtures import (
    cloud,  # noqa: F401  # a fixture
    deleted,
    environment,
    ledger,  # noqa: F401  # a fixture
    rented,
)


class Machine:
    """A run on a Hub of its own, and what its machine does there when it is asked to stop."""

    def __init__(
        self,
        hub: HubServer,
        cloud: ShadeformServer,
        ledger: Ledger,
        progress: bool = True,
        **plan: Any,
    ) -> None:
        self.hub, self.cloud, self.ledger = hub, cloud, ledger
        hub.put(REPO, {"README.md": b"#"})
        self.plan = rented(
            cloud, ledger, **({"hf_endpoint": hub.url, "hf_repo": REPO, "runs_repo": REPO} | plan)
        )
        self.instance = cloud.instances[-1]
        if progress:
            told = Progress(
                self.plan.run_id, "training", {}, iso(now_utc()), attempt=self.plan.attempt
            )
            self.leave(progress=told)

    def leave(self, **files: Any) -> None:
        self.hub.put(
            REPO,
            {f"{self.plan.folder}/{name}.json": to_json(value) for name, value in files.items()},
        )

    def asked(self) -> dict[str, Any] | None:
        files = self.hub.files(REPO)
        path = f"{self.plan.folder}/stop.json"
        return json.loads(self.hub.read(REPO, path)) if path in files else None

    def obey(self, receipt: bool = True) -> None:
        """Wait for the request, and end."""
        until(self.asked)
        if receipt:
            self.leave(
                receipt=Receipt(
                    self.plan.run_id,
                    "stopped",
                    "user",
                    "Saved: sft step 40",
                    spent_cents=123,
                    seconds=60,
                    attempt=self.plan.attempt,
                )
            )
        self.cloud.account.delete(self.instance.id)

    def stop(self, *words: str, **env: str) -> Any:
        return script("stop", *words, env=self.env(**env))

    def env(self, **env: str) -> dict[str, str]:
        return environment(
            self.cloud,
            self.ledger,
            **{"HF_ENDPOINT": self.hub.url, "HF_TOKEN": TOKEN, "HF_REPO": REPO} | env,
        )


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "hub", tokens=WRITERS) as server:
        yield server


# ---- asking
@pytest.mark.parametrize("receipt", [True, False])
def test_a_machine_is_asked_to_save_and_go_and_waited_for(
    hub: HubServer, cloud: ShadeformServer, ledger: Ledger, receipt: bool
) -> None:
    machine = Machine(hub, cloud, ledger, attempt=2)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(machine.obey, receipt)
        done = machine.stop(machine.plan.run_id[:6], "--yes")
    assert done.returncode == 0, done.stderr
    assert machine.asked() == {"attempt": 2, "at": ANY} and "is asked to stop" in done.stderr
    assert ("Saved: sft step 40" in done.stdout or "user" in done.stdout) == receipt
    assert ("left no receipt: what was not yet on the Hub is lost" in done.stderr) != receipt
    assert not [r for r in cloud.requests if r.path.endswith("/delete")], (
        "the laptop deleted nothing"
    )
    assert ledger.find(machine.plan.run_id).gone


def test_a_machine_without_a_key_is_deleted_from_here_once_its_receipt_is_there(
    hub: HubServer, cloud: ShadeformServer, ledger: Ledger
) -> None:
    machine = Machine(hub, cloud, ledger, self_delete=False)

    def obey() -> None:
        until(machine.asked)
        machine.leave(receipt=Receipt(machine.plan.run_id, "stopped", "user", "Saved: sft step 40"))

    with ThreadPoolExecutor(1) as pool:
        pool.submit(obey)
        done = machine.stop(machine.plan.run_id, "--yes")
    assert (
        done.returncode == 0
        and "its run is over (stopped user): deleting its instance" in done.stderr
    ), done.stderr
    assert machine.instance.why == "asked" and "STOPPED" in done.stdout


def test_when_the_machine_does_not_go_in_time_it_says_what_bills_and_how_to_delete_it(
    hub: HubServer, cloud: ShadeformServer, ledger: Ledger
) -> None:
    machine = Machine(hub, cloud, ledger)
    done = machine.stop("--yes", "--timeout=1s")
    assert (
        done.returncode == 8
        and not ledger.find(machine.plan.run_id).gone
        and deleted(cloud) == [False]
    )
    for part in (machine.instance.id, "$33.60/h", f"just stop {machine.plan.run_id} --now"):
        assert part in done.stderr


def test_ctrl_c_only_stops_waiting(hub: HubServer, cloud: ShadeformServer, ledger: Ledger) -> None:
    machine = Machine(hub, cloud, ledger)
    with started("stop", "--yes", env=machine.env()) as process:
        assert process.stderr
        said = ""
        while "  training" not in said:
            said += process.stderr.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (
        process.returncode == 130
        and f"run {machine.plan.run_id} continues to stop by itself" in err
        and "--now" in err
    )
    assert deleted(cloud) == [False] and machine.asked()


def test_a_machine_that_boots_finds_the_request_when_it_comes_up(
    hub: HubServer, cloud: ShadeformServer, ledger: Ledger
) -> None:
    machine = Machine(hub, cloud, ledger, progress=False)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(machine.obey)
        done = machine.stop("--yes")
    assert (
        done.returncode == 0
        and "has not reported yet and finds the request when it comes up" in done.stderr
        and "--now" in done.stderr
    )


def test_a_machine_that_boots_and_does_not_end_in_time_is_no_success(
    hub: HubServer, cloud: ShadeformServer, ledger: Ledger
) -> None:
    machine = Machine(hub, cloud, ledger, progress=False)
    done = machine.stop("--yes", "--timeout=1s")
    assert (
        done.returncode == 8
        and machine.asked()
        and machine.instance.id in done.stderr
        and "$33.60/h" in done.stderr
    )


@pytest.mark.parametrize(
    "why, said",
    [
        ("no token", "without HF_TOKEN"),
        ("nonsense", "progress.json cannot be read"),
        ("error", "cannot be asked to stop: the provider says"),
        ("hub", "could not be asked to stop"),
    ],
)
def test_a_machine_that_cannot_be_asked_is_named_with_its_price_and_the_other_way(
    hub: HubServer, cloud: ShadeformServer, ledger: Ledger, why: str, said: str
) -> None:
    if why == "error":
        cloud.switch("goes_to_error")
    machine = Machine(hub, cloud, ledger)
    until(lambda: machine.instance.status in ("active", "error"))
    if why == "nonsense":
        machine.leave(
            progress={
                "run_id": machine.plan.run_id,
                "state": "training",
                "phases": {},
                "updated": "soon",
            }
        )
    if why == "hub":
        hub.fault("POST /api/models/.*/commit/", status=403, times=50)
    done = machine.stop("--yes", **({"HF_TOKEN": ""} if why == "no token" else {}))
    assert (
        done.returncode == 8
        and said in done.stderr
        and deleted(cloud) == [False]
        and machine.asked() is None
    )
    for part in (machine.instance.id, "$33.60/h", f"just stop {machine.plan.run_id} --now"):
        assert part in done.stderr


def test_without_a_yes_nobody_is_asked_to_stop(
    hub: HubServer, cloud: ShadeformServer, ledger: Ledger
) -> None:
    machine = Machine(hub, cloud, ledger)
    done = machine.stop()
    assert (
        done.returncode == 2
        and "pass --yes; nothing was stopped" in done.stderr
        and machine.asked() is None
    )


def test_of_two_machines_of_a_run_one_alone_cannot_be_asked(
    hub: HubServer, cloud: ShadeformServer, ledger: Ledger
) -> None:
    machine = Machine(hub, cloud, ledger)
    client(cloud).create(create_body(machine.plan, "x"))
    done = machine.stop(machine.instance.id, "--yes")
    assert (
        done.returncode == 2
        and f"just stop {machine.instance.id} --now" in done.stderr
        and machine.asked() is None
    )


def test_a_bad_timeout_is_refused_before_anything_is_asked(
    hub: HubServer, cloud: ShadeformServer, ledger: Ledger
) -> None:
    machine = Machine(hub, cloud, ledger)
    for bad in ("0", "-1", "soon", "1w", ""):
        assert machine.stop("--yes", f"--timeout={bad}").returncode == 2 and machine.asked() is None


# ---- from another laptop
def test_a_run_of_another_laptop_is_left_alone_until_its_owner_is_named(
    hub: HubServer, cloud: ShadeformServer, ledger: Ledger, tmp_path: Path
) -> None:
    machine = Machine(hub, cloud, ledger, owner="0badcafe")
    hub.put(
        REPO,
        {
            f"{machine.plan.folder}/plan.json": structs.replace(
                machine.plan, shadeform_api=cloud.url
            ).to_json()
        },
    )
    machine.ledger = Ledger(tmp_path / "other-home")
    for words in (("--now",), ()):
        done = machine.stop(machine.plan.run_id, "--yes", *words)
        assert (
            done.returncode == 2
            and "--owner 0badcafe" in done.stderr
            and deleted(cloud) == [False]
            and machine.asked() is None
        )
    done = machine.stop(machine.plan.run_id, "--yes", "--now", "--owner", "0badcafe")
    assert (
        done.returncode == 0
        and deleted(cloud) == [True]
        and machine.ledger.find(machine.plan.run_id).gone
    )


def test_a_full_disk_keeps_no_machine_from_being_deleted(
    cloud: ShadeformServer, ledger: Ledger
) -> None:
    plan = rented(cloud, ledger)
    before = (ledger.runs / f"{plan.run_id}.json").read_bytes()
    command = [
        "sh",
        "-c",
        'ulimit -f 0; exec "$@"',
        "sh",
        sys.executable,
        str(ROOT / "scripts/stop.py"),
        plan.run_id,
        "--now",
        "--yes",
    ]
    done = subprocess.run(
        command,
        env=environment(cloud, ledger),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0 and deleted(cloud) == [True] and "is gone" in done.stdout, (
        done.stderr
    )
    assert (
        "NOT RECORDED: " in done.stderr
        and (ledger.runs / f"{plan.run_id}.json").read_bytes() == before
    )


def test_ctrl_c_while_it_deletes_says_that_the_machine_may_still_bill(
    cloud: ShadeformServer, ledger: Ledger
) -> None:
    plan = rented(cloud, ledger)
    cloud.fault("POST /v1/instances/.*/delete", "status", times=None, status=500)
    with started("stop", plan.run_id, "--now", "--yes", env=environment(cloud, ledger)) as process:
        until(lambda: any(r.path.endswith("/delete") for r in cloud.requests))
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 130 and re.search(
        r"stopped by Ctrl-C: instance \S+ \(\$33.60/h\) was being deleted.*just stop \S+ --now",
        said,
    )


def test_one_odd_answer_deletes_no_instance_that_still_saves(
    hub: HubServer, cloud: ShadeformServer, ledger: Ledger
) -> None:
    machine = Machine(hub, cloud, ledger, self_delete=False)
    odd = {"auto_delete": {"date_threshold": "2026-01-01T00:00:00Z", "spend_threshold": "150.00"}}
    cloud.fault(INFO, "edit", times=1, skip=2, change=lambda body: body | odd)
    done = machine.stop("--yes", "--timeout=6s")
    assert deleted(cloud) == [False] and "deleting its instance" not in done.stderr
