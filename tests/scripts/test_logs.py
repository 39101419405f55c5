"""`just logs`: lines on stdout, where they come from on stderr; Ctrl-C only stops looking."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from nanolan.settings.settings import ROOT
from nanolan.times import iso, now_utc
from tests.support.box_fixtures import KEY, REPO, TOKEN
from tests.support.core_fixtures import script, started, until
from tests.support.ssh_fixtures import Ssh, environment
from tests.support.status_fixtures import RUN, TRAINING, Desk, new_desk, receipt

HUNDRED = "".join(f"line {i}\n" for i in range(250))


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with new_desk(tmp_path) as made:
        yield made


@pytest.fixture
def ssh(tmp_path: Path) -> Ssh:
    return Ssh(tmp_path)


def logs(desk: Desk, ssh: Ssh, *words: str) -> Any:
    return script("logs", *words, env=environment(desk, ssh))


def part(desk: Desk, text: str, number: int = 1) -> None:
    desk.hub.put(REPO, {f"runs/{RUN}/log/a1-part-{number:04d}.log": text.encode()})


def end(desk: Desk, log: str) -> None:
    desk.hub.put(REPO, {"logs/x.log": log.encode()})
    desk.tell(receipt=receipt("failed", "oom"))
    desk.cloud.account.delete(desk.entry.instance_id or "")


def test_a_live_run_is_read_on_its_machine_with_our_own_keys_and_no_questions(
    desk: Desk, ssh: Ssh
) -> None:
    ssh.set(log="boot: run\nstep 1\n")
    done = logs(desk, ssh)
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        "boot: run\nstep 1\n",
        "from the machine itself, live\n",
    )
    [argv] = ssh.calls
    assert (
        "BatchMode=yes" in argv
        and "ConnectTimeout=5" in argv
        and f"HostKeyAlias=nanolan-{desk.entry.instance_id}" in argv
    )


def test_one_out_of_reach_is_read_from_the_hub_and_its_age_is_told(desk: Desk, ssh: Ssh) -> None:
    ssh.set(unreachable="")
    desk.tell(progress=TRAINING)
    part(desk, "boot: run\n")
    part(desk, "step 1\n", 2)
    done = logs(desk, ssh, RUN)
    assert (done.returncode, done.stdout) == (0, "boot: run\nstep 1\n")
    assert (
        "from the Hub, reported" in done.stderr
        and "Connection timed out" in done.stderr
        and done.stderr.count("\n") == 1
    )


def test_after_the_end_it_is_the_whole_log(desk: Desk, ssh: Ssh) -> None:
    end(desk, HUNDRED)
    done = logs(desk, ssh)
    assert (
        done.stdout.splitlines() == HUNDRED.splitlines()[-100:]
        and "from the whole log, logs/x.log" in done.stderr
    )
    assert (
        logs(desk, ssh, "-n", "all").stdout == HUNDRED
        and logs(desk, ssh, "-n", "2").stdout == "line 248\nline 249\n"
    )
    assert logs(desk, ssh, "--lines=0").stdout == "" and not ssh.calls


def test_since_counts_by_the_stamps(desk: Desk, ssh: Ssh) -> None:
    old, new = (iso(now_utc() - timedelta(minutes=m)) for m in (60, 5))
    end(desk, f"{old} box: a\nx\n{new} box: b\ny\n")
    assert logs(desk, ssh, "--since", "10m").stdout == f"{new} box: b\ny\n"
    assert logs(desk, ssh, "since=2h").stdout.count("\n") == 4


@pytest.mark.shows("file", "*/ssh-standin/log", "a log with secrets is the input here")
def test_no_control_character_and_no_secret_reaches_the_terminal(desk: Desk, ssh: Ssh) -> None:
    ssh.set(log=f"\x1b]0;evil\x07 \x1b[2J\x9b5m {KEY} {TOKEN}\n")
    done = logs(desk, ssh)
    assert done.stdout == "?]0;evil? ?5m *** ***\n"


def test_it_follows_until_the_run_ends(desk: Desk, ssh: Ssh) -> None:
    ssh.set(log="one\n")
    with started("logs", "-f", env=environment(desk, ssh)) as process:
        assert process.stdout and process.stderr
        assert process.stdout.readline() == "one\n"
        with (ssh.dir / "log").open("a") as f:
            f.write("two\n")
        assert process.stdout.readline() == "two\n"
        end(desk, "one\ntwo\nthree\n")
        ssh.set(gone="")
        assert process.stdout.readline() == "three\n"
        assert process.wait(30) == 0
        assert f"run {RUN} failed; how it went: just why {RUN}" in process.stderr.read()


def test_ctrl_c_only_stops_looking(desk: Desk, ssh: Ssh) -> None:
    ssh.set(log="one\n")
    with started("logs", "--follow", env=environment(desk, ssh)) as process:
        assert process.stdout and process.stdout.readline() == "one\n"
        until(lambda: len(ssh.calls) == 2)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        assert process.returncode == 130 and "goes on" in err and "Traceback" not in err
    assert desk.cloud.instance(desk.entry.instance_id or "").status == "active"


def test_a_reader_that_has_seen_enough_is_no_error(desk: Desk, ssh: Ssh) -> None:
    end(desk, HUNDRED * 400)
    with subprocess.Popen(
        [sys.executable, str(ROOT / "scripts/logs.py"), "-n", "all"],
        env=environment(desk, ssh),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout and process.stderr
        process.stdout.readline()
        process.stdout.close()
        assert b"rror" not in process.stderr.read() and process.wait(30) == 0


def test_a_run_without_a_log_yet_says_what_to_look_at(desk: Desk, ssh: Ssh) -> None:
    ssh.set(unreachable="")
    done = logs(desk, ssh)
    assert done.returncode == 1 and f"just status {RUN}" in done.stderr and done.stdout == ""


@pytest.mark.parametrize(
    "words",
    [("-n", "some"), ("-n", "-1"), ("--since", "soon"), ("zz",), ("--since=0",), ("lines=1e3",)],
    ids=str,
)
def test_bad_words_are_usage_errors(desk: Desk, ssh: Ssh, words: tuple[str, ...]) -> None:
    assert logs(desk, ssh, *words).returncode == 2
