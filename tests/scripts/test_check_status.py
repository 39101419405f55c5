"""`just status` and `just watch`, the real commands, against a local account and a local Hub."""

from __future__ import annotations

import json
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest
from msgspec import structs

from nanolan.run.ledger import STOPPED_BY_USER
from tests.support.box_fixtures import KEY, TOKEN, until
from tests.support.check_status_fixtures import (
    Terminal,
    desk,  # noqa: F401  # a fixture
    terminal,  # noqa: F401  # a fixture
)
from tests.support.status_fixtures import RUN, TRAINING, Desk, receipt


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


@pytest.mark.parametrize(
    "words, said",
    [
        (("0",), "0 seconds"),
        (("000", "ab12"), "000 seconds"),
        (("5", "6"), "5 6"),
        (("a", "b"), "a b"),
    ],
    ids=str,
)
def test_watch_says_what_is_wrong_with_its_words(
    terminal: Terminal, words: tuple[str, ...], said: str
) -> None:
    code, _, err = terminal.type("--watch", *words)
    assert code == 2 and said in err
