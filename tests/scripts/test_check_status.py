"""`just status` and `just watch`, the real commands, against a local account and a local Hub."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
import pytest
from msgspec import structs

from nanolan.cli.run import Account
from nanolan.cost.overdue import SLACK_S, OverdueTimer
from nanolan.errors import LimitHitLost
from nanolan.redact import Secret
from nanolan.run.ledger import STOPPED_BY_USER
from nanolan.settings.load import load_settings
from nanolan.settings.settings import ROOT
from nanolan.shadeform.client import Shadeform
from nanolan.sim.hub.server import HubServer
from nanolan.sim.shadeform.server import ShadeformServer
from nanolan.times import iso, now_utc
from tests.support.box_fixtures import AT_ONCE, KEY, REPO, TOKEN, WRITERS, until
from tests.support.status_fixtures import RUN, TRAINING, Desk, receipt


class Terminal:
    """A laptop with a checkout of its own, where the commands are typed."""

    def __init__(self, root: Path, hub: HubServer, cloud: ShadeformServer) -> None:
        self.checkout, self.home, self.hub, self.cloud = (
            root / "checkout",
            root / "home",
            hub,
            cloud,
        )
        shutil.copytree(
            ROOT / "nanolan",
            self.checkout / "nanolan",
            ignore=shutil.ignore_patterns("sim", "train", "__pycache__"),
        )
        shutil.copytree(
            ROOT / "scripts",
            self.checkout / "scripts",
            ignore=shutil.ignore_patterns("__pycache__"),
        )
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(root),
            "PYTHONPATH": str(self.checkout),
            "PYTHONDONTWRITEBYTECODE": "1",
            "NANOLAN_HOME": str(self.home),
            "NANOLAN_ENV_FILE": os.devnull,
            "HF_HOME": str(root / "hf"),
            "HF_ENDPOINT": hub.url,
            "HF_TOKEN": TOKEN,
            "SHADEFORM_API": cloud.url,
            "SHADEFORM_API_KEY": KEY,
        }

    def start(self, *words: str, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(self.checkout / "scripts/check_status.py"), *words],
            cwd=self.checkout,
            env={**self.env, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def type(self, *words: str, **env: str) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        child = self.start(*words, **env)
        out, err = child.communicate(timeout=30)
        return child.returncode, out, err


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    with (
        HubServer(tmp_path / "hub", tokens=WRITERS) as hub,
        ShadeformServer(
            tmp_path / "cloud", key=KEY, boxes=False, delays=replace(AT_ONCE, deleting_s=0)
        ) as cloud,
    ):
        hub.put(REPO, {"README.md": b"#"})
        yield Terminal(tmp_path, hub, cloud)


@pytest.fixture
def desk(terminal: Terminal, tmp_path: Path) -> Desk:
    """One run of an hour ago, in the ledger of the terminal."""
    return Desk(tmp_path, terminal.hub, terminal.cloud)


def finish(child: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = child.communicate(timeout=30)
    return child.returncode, out, err


def test_with_nothing_to_show_it_says_the_next_command_and_exits_0(terminal: Terminal) -> None:
    for words, env in (
        ((), {}),
        ((), {"SHADEFORM_API_KEY": "", "HF_TOKEN": ""}),
        (("--watch",), {}),
    ):
        code, out, _ = terminal.type(*words, **env)
        assert code == 0 and "just launch phase=sft" in out
    code, out, _ = terminal.type("--json", SHADEFORM_API_KEY="")
    assert code == 0 and json.loads(out) == {
        "schema_version": 1,
        "problems": [],
        "runs": [],
        "not_in_the_ledger": [],
        "machines": [],
        "others": {"count": 0, "usd_per_hour": "0.00"},
        "unreadable": [],
    }


def test_a_live_run_is_shown_with_a_shell_whose_key_only_the_owner_can_read(
    terminal: Terminal, desk: Desk
) -> None:
    desk.tell(progress=TRAINING)
    terminal.cloud.add_foreign("somebody-elses", 250)
    code, out, err = terminal.type()
    assert (
        code == 0
        and err == ""
        and "TRAINING" in out
        and "1 other instance on this account, $2.50/h, not ours" in out
    )
    key = terminal.checkout / f".ssh_keys/{desk.entry.plan.instance_name}.pem"
    assert f"ssh -i .ssh_keys/{key.name} " in out
    assert (stat.S_IMODE(key.stat().st_mode), stat.S_IMODE(key.parent.stat().st_mode)) == (
        0o600,
        0o700,
    )
    code, out, _ = terminal.type("ab12")
    assert code == 0 and "TRAINING" in out, "a run by the beginning of its id"


def test_json_holds_no_secret_and_nothing_raw_from_the_provider(
    terminal: Terminal, desk: Desk
) -> None:
    desk.tell(progress=TRAINING)
    code, out, err = terminal.type("--json")
    shown = json.loads(out)
    assert code == 0 and shown["schema_version"] == 1 and shown["runs"][0]["state"] == "training"
    private = terminal.cloud.account.keys.default.private_key.splitlines()[1]
    assert not [
        s for s in (TOKEN, KEY, private, "launch_configuration", "base64") if s in out + err
    ]


@pytest.mark.parametrize("with_run", [True, False])
def test_an_account_that_does_not_answer_is_said_and_is_never_no_run(
    terminal: Terminal, tmp_path: Path, with_run: bool
) -> None:
    if with_run:
        Desk(tmp_path, terminal.hub, terminal.cloud)
    terminal.cloud.fault("GET /v1/instances", "forbidden", times=None)
    code, out, _ = terminal.type()
    assert (
        code == 1
        and "unavailable: Shadeform refused SHADEFORM_API_KEY" in out
        and "No run yet" not in out
    )
    assert ("Shadeform could not be asked" in out) == with_run and ": gone" not in out
    assert "SHADEFORM_API_KEY" in json.loads(terminal.type("--json")[1])["problems"][0]


def test_a_run_that_nobody_knows_and_a_missing_key_say_what_to_do(
    terminal: Terminal, desk: Desk
) -> None:
    code, _, err = terminal.type("nothing-of-that-name")
    assert code == 2 and "just status" in err
    code, _, err = terminal.type(SHADEFORM_API_KEY="")
    assert code == 4 and "SHADEFORM_API_KEY is not set" in err and "https://" in err


def test_a_watch_ends_with_the_run_and_exits_with_its_verdict(
    terminal: Terminal, desk: Desk
) -> None:
    desk.tell(progress=TRAINING)
    watch = terminal.start("--watch", "1")
    until(lambda: any("receipt.json" in line["path"] for line in terminal.hub.log))
    terminal.cloud.fault(
        "GET /v1/instances$", "internal_error", times=2
    )  # a failed look is not the end
    desk.tell(receipt=receipt("stopped", "spend_limit"))
    time.sleep(0.2)
    assert watch.poll() is None
    terminal.cloud.account.delete(desk.entry.instance_id or "")
    code, out, err = finish(watch)
    assert code == 6 and "TRAINING" in out and "STOPPED" in out and "run ab12cd34 stopped" in err


def test_a_watch_ends_with_8_when_a_machine_in_error_may_go_on_billing(
    terminal: Terminal, tmp_path: Path
) -> None:
    terminal.cloud.switch("goes_to_error")
    Desk(tmp_path, terminal.hub, terminal.cloud)
    code, _, err = terminal.type("--watch", "1")
    assert code == 8 and "$" in err and f"just stop {RUN}" in err


def test_a_watch_sees_that_the_run_was_stopped_from_another_terminal(
    terminal: Terminal, desk: Desk
) -> None:
    watch = terminal.start("--watch", "1")
    until(lambda: any("receipt.json" in line["path"] for line in terminal.hub.log))
    desk.ledger.put(structs.replace(desk.entry, gone=True, note=STOPPED_BY_USER))
    terminal.cloud.account.delete(desk.entry.instance_id or "")
    code, out, err = finish(watch)
    assert code == 5 and "STOPPED" in out and STOPPED_BY_USER in err


@pytest.mark.parametrize("during", ["the pause", "a look"])
def test_ctrl_c_only_ends_the_watching(terminal: Terminal, desk: Desk, during: str) -> None:
    desk.tell(progress=TRAINING)
    if during == "a look":
        terminal.cloud.fault("GET /v1/instances$", "stall", seconds=1.5)
    watch = terminal.start("--watch", "30")
    until(
        lambda: (
            len(terminal.hub.log) >= 5
            and (during == "a look" or not any(line["ms"] is None for line in terminal.hub.log))
        )
    )
    time.sleep(0.3)
    watch.send_signal(signal.SIGINT)
    code, _, err = finish(watch)
    assert (
        code == 130
        and f"run {RUN} goes on" in err
        and f"just stop {RUN}" in err
        and "Traceback" not in err
    )
    assert terminal.cloud.instance(desk.entry.instance_id or "").status == "active"
    assert not [r for r in terminal.cloud.requests if r.method == "POST"]


# ---- the guard


def outlived(desk: Desk, **plan: Any) -> None:
    """The run of the desk is past its deadline, and the provider did not delete its machine."""
    late = structs.replace(
        desk.entry.plan, **({"deadline": iso(now_utc() - timedelta(minutes=5))} | plan)
    )
    desk.entry = structs.replace(desk.entry, plan=late)
    desk.ledger.put(desk.entry)
    desk.tell(progress=TRAINING)


def watched(
    desk: Desk, terminal: Terminal, monkeypatch: pytest.MonkeyPatch, slack_s: float = 0.0
) -> int:
    """`just watch --guard` in this process; the minute of slack is `slack_s`."""
    from check_status import follow

    monkeypatch.setenv("NANOLAN_SSH_KEYS", str(desk.ledger.home / "keys"))
    api = Shadeform(Secret(KEY), desk.cloud.url)
    s = load_settings({}, terminal.env)
    ticks = iter(range(10_000))
    timer = OverdueTimer(lambda: next(ticks) * slack_s)
    account = Account(desk.ledger, s, api)
    return follow(account, desk.ledger.find(RUN), 0.05, False, timer)


def test_the_guard_deletes_a_machine_that_has_outlived_its_limits_and_says_so(
    terminal: Terminal,
    desk: Desk,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    outlived(desk)
    with pytest.raises(
        LimitHitLost, match="deleted by just watch --guard: it should have been deleted at"
    ):
        watched(desk, terminal, monkeypatch, SLACK_S)
    machine = desk.cloud.instance(desk.entry.instance_id or "")
    said = capsys.readouterr().err
    assert (
        machine.why == "asked"
        and f"DELETING instance {machine.id} now" in said
        and f"instance {machine.id} is gone" in said
    )
    entry = desk.ledger.find(RUN)
    assert entry.gone and "--guard" in entry.note and entry.spent_cents is not None


def test_the_guard_leaves_a_machine_within_its_limits_and_the_first_minute_alone(
    terminal: Terminal, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.tell(progress=TRAINING)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(
            lambda: (
                time.sleep(1.5),
                desk.tell(receipt=receipt()),
                desk.cloud.account.delete(desk.entry.instance_id or ""),
            )
        )
        assert watched(desk, terminal, monkeypatch, SLACK_S) == 0
    assert not [r for r in desk.cloud.requests if r.path.endswith("/delete")]
    again = Desk(desk.ledger.home.parent, desk.hub, desk.cloud)
    outlived(again)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(
            lambda: (
                time.sleep(1.5),
                again.tell(receipt=receipt()),
                again.cloud.account.delete(again.entry.instance_id or ""),
            )
        )
        assert (
            watched(again, terminal, monkeypatch, 0.0) == 0
        )  # its clock stands still: the minute is never over
    assert not [r for r in desk.cloud.requests if r.path.endswith("/delete")]


def test_the_guard_waits_for_a_machine_in_error_and_deletes_it_too(
    terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal.cloud.switch("goes_to_error")
    desk = Desk(tmp_path, terminal.hub, terminal.cloud)
    outlived(desk)
    with pytest.raises(LimitHitLost):
        watched(desk, terminal, monkeypatch, SLACK_S)
    assert desk.cloud.instance(desk.entry.instance_id or "").why == "asked"


def test_the_guard_deletes_a_machine_without_a_key_once_its_run_is_over(
    terminal: Terminal,
    desk: Desk,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    keyless = structs.replace(
        desk.entry.plan, self_delete=False, deadline=iso(now_utc() + timedelta(hours=1))
    )
    desk.entry = structs.replace(desk.entry, plan=keyless)
    desk.ledger.put(desk.entry)
    desk.tell(receipt=receipt())
    _, out, _ = terminal.type(RUN)
    assert "STOPPING" in out and "waits to be deleted: just guard" in out
    assert watched(desk, terminal, monkeypatch, SLACK_S) == 0
    machine = desk.cloud.instance(desk.entry.instance_id or "")
    assert (
        machine.why == "asked"
        and "its run is over (succeeded). DELETING" in capsys.readouterr().err
    )


def test_the_guard_is_for_watching_and_for_our_own_runs(terminal: Terminal, desk: Desk) -> None:
    code, _, err = terminal.type("--guard")
    assert code == 2 and "just watch" in err
    desk.hub.put(
        REPO,
        {f"runs/{RUN}/plan.json": structs.replace(desk.entry.plan, owner="0badcafe").to_json()},
    )
    (desk.ledger.runs / f"{RUN}.json").unlink()
    code, _, err = terminal.type("--watch", "--guard", RUN, HF_REPO=REPO)
    assert (
        code == 2
        and "nothing was changed" in err
        and terminal.cloud.instance(desk.entry.instance_id or "").status == "active"
    )


# ---- from another laptop


def test_a_run_that_is_not_in_the_ledger_is_rebuilt_from_the_account_and_its_folder(
    terminal: Terminal, desk: Desk
) -> None:
    desk.hub.put(REPO, {f"runs/{RUN}/plan.json": desk.entry.plan.to_json()})
    desk.tell(progress=TRAINING)
    (desk.ledger.runs / f"{RUN}.json").unlink()
    code, out, err = terminal.type("ab12", HF_REPO=REPO)
    assert code == 0 and "TRAINING" in out, err
    assert desk.ledger.has(RUN), "it is of our own owner"


def test_a_run_of_another_owner_is_shown_until_the_owner_is_named(
    terminal: Terminal, desk: Desk
) -> None:
    desk.hub.put(
        REPO,
        {f"runs/{RUN}/plan.json": structs.replace(desk.entry.plan, owner="0badcafe").to_json()},
    )
    desk.tell(receipt=receipt("failed", "hang"))
    desk.cloud.account.delete(desk.entry.instance_id or "")
    (desk.ledger.runs / f"{RUN}.json").unlink()
    code, out, _ = terminal.type(RUN, HF_REPO=REPO)
    assert code == 0 and "FAILED" in out and not desk.ledger.has(RUN)
    code, _, err = terminal.type("--watch", RUN, HF_REPO=REPO)
    assert code == 5 and not desk.ledger.has(RUN)
    code, out, _ = terminal.type(RUN, "--owner=0badcafe", HF_REPO=REPO)
    assert code == 0 and desk.ledger.has(RUN)


@pytest.mark.parametrize(
    "words, watch, want",
    [
        ((), True, (60.0, None)),
        (("30",), True, (30.0, None)),
        (("30", "1a2b"), True, (30.0, "1a2b")),
        (("1a2b", "30"), True, (30.0, "1a2b")),
        (("12345678",), True, (60.0, "12345678")),
        (("30",), False, (60.0, "30")),
        (("lanbot-v3",), False, (60.0, "lanbot-v3")),
    ],
)
def test_seconds_and_a_run_are_told_apart(
    words: tuple[str, ...], watch: bool, want: tuple[float, str | None]
) -> None:
    from check_status import read_words  # type: ignore[import-not-found]

    assert read_words(words, watch) == want


@pytest.mark.parametrize("words", [("0",), ("30", "60"), ("a", "b")])
def test_words_that_mean_nothing_are_refused(words: tuple[str, ...]) -> None:
    from check_status import read_words

    with pytest.raises(click.UsageError, match="one number of seconds"):
        read_words(words, True)
