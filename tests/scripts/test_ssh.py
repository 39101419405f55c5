"""`just ssh`: the right machine, the right key, arguments as they were typed, and ssh's own exit code."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from msgspec import structs

from tests.support.core_fixtures import script, started, until
from tests.support.ssh_fixtures import Ssh, environment
from tests.support.status_fixtures import RUN, Desk, new_desk

SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with new_desk(tmp_path) as made:
        yield made


@pytest.fixture
def ssh(tmp_path: Path) -> Ssh:
    return Ssh(tmp_path)


def run(desk: Desk, ssh: Ssh, *words: str, **more: str) -> Any:
    return script("ssh", *words, env=environment(desk, ssh, **more))


def key_of(argv: list[str]) -> str | None:
    return argv[argv.index("-i") + 1] if "-i" in argv else None


@pytest.mark.parametrize(
    "words, command",
    [
        ((), []),
        ((RUN,), []),
        ((RUN[:4],), []),
        (("lanbot-v3",), []),
        ((RUN, "nvidia-smi", "-L"), ["nvidia-smi", "-L"]),
        (("nvidia-smi", "-L"), ["nvidia-smi", "-L"]),
        (
            ("--debug", RUN, "echo", "a b", "$(id)", "x=y", "--debug", "--owner", "z"),
            ["echo", "a b", "$(id)", "x=y", "--debug", "--owner", "z"],
        ),
    ],
    ids=str,
)
def test_what_was_typed_after_the_run_reaches_ssh_as_it_was(
    desk: Desk, ssh: Ssh, words: tuple[str, ...], command: list[str]
) -> None:
    done = run(desk, ssh, *words)
    assert done.returncode == 0, done.stderr
    [argv] = ssh.calls
    at = argv.index("--")
    assert argv[at + 1].startswith("203.0.113.") and argv[at + 2 :] == command
    assert f"HostKeyAlias=nanolan-{desk.entry.instance_id}" in argv


@pytest.mark.parametrize("words", [(f"{RUN[:3]}x",), ("lanbot-v2",), ("frobnicate", "-x")], ids=str)
def test_a_misspelt_run_is_refused_with_the_runs_and_runs_nothing(
    desk: Desk, ssh: Ssh, words: tuple[str, ...]
) -> None:
    done = run(desk, ssh, *words)
    assert done.returncode == 2 and not ssh.calls
    assert words[0] in done.stderr and (RUN in done.stderr or "lanbot-v3?" in done.stderr)


@pytest.mark.parametrize("code", [0, 3, 255])
def test_the_exit_code_is_that_of_ssh(desk: Desk, ssh: Ssh, code: int) -> None:
    ssh.set(code=str(code))
    done = run(desk, ssh, RUN, "false")
    assert done.returncode == code and done.stdout == "ran: false\n"


@pytest.mark.parametrize(
    "messages, said",
    [
        (
            "ssh: connect to host 203.0.113.5 port 22: Connection refused\r\n",
            "the instance cannot be reached (Connection refused)",
        ),
        (
            "ssh: connect to host 203.0.113.5 port 22: No route to host\r\n",
            "the instance cannot be reached (No route to host)",
        ),
        (
            "Connection timed out during banner exchange\r\n",
            "the instance cannot be reached (Connection timed out during banner exchange)",
        ),
        (
            "shadeform@203.0.113.5: Permission denied (publickey).\r\n",
            "the instance does not accept the key (Permission denied (publickey).)",
        ),
        (
            "client_loop: send disconnect: Broken pipe\r\n",
            "the connection was lost (Broken pipe)",
        ),
        (
            "@@@@@@@\r\n@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!\r\n@@@@\r\nHost key verification failed.\r\n",
            "another host key than at the first connection",
        ),
    ],
)
def test_a_failure_of_ssh_is_said_in_a_line_with_the_next_command(
    desk: Desk, ssh: Ssh, messages: str, said: str
) -> None:
    ssh.set(code="255", messages=messages)
    done = run(desk, ssh, RUN)
    assert done.returncode == 255 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ") and said in done.stderr
    assert "active" in done.stderr and f"just status {RUN}" in done.stderr


@pytest.mark.parametrize("code", [0, 3, 255])
def test_other_messages_of_ssh_are_shown_as_they_are(desk: Desk, ssh: Ssh, code: int) -> None:
    ssh.set(code=str(code), messages="a key is too old\r\nand so is this\x1b[2J\r\n")
    done = run(desk, ssh, RUN, "true")
    assert done.returncode == code and done.stderr == "a key is too old\nand so is this\n"


@pytest.mark.skipif(not shutil.which("ssh"), reason="needs openssh-client")
def test_the_real_ssh_at_a_closed_port_says_that_the_instance_cannot_be_reached(
    desk: Desk, tmp_path: Path
) -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    machine = desk.cloud.instance(desk.entry.instance_id or "")
    machine.behavior |= {"ip": "127.0.0.1", "ssh_port": port}
    done = script("ssh", RUN, "true", env=environment(desk))
    assert done.returncode == 255 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: the instance cannot be reached (Connection refused)")


def test_sigterm_ends_ssh_too(desk: Desk, ssh: Ssh) -> None:
    (ssh.dir / "ssh").write_text(f"#!/bin/sh\necho $$ >{ssh.dir}/pid\nexec sleep 60\n")
    with started("ssh", RUN, env=environment(desk, ssh)) as child:
        until(lambda: (ssh.dir / "pid").exists() and (ssh.dir / "pid").read_text().strip())
        pid = int((ssh.dir / "pid").read_text())
        child.terminate()
        child.wait(20)
    until(lambda: not psutil.pid_exists(pid))


def test_the_managed_key_is_kept_for_its_owner_alone(desk: Desk, ssh: Ssh) -> None:
    run(desk, ssh)
    key = Path(key_of(ssh.calls[0]) or "")
    assert key.read_text() == desk.cloud.account.keys.default.private_key
    assert (stat.S_IMODE(key.stat().st_mode), stat.S_IMODE(key.parent.stat().st_mode)) == (
        0o600,
        0o700,
    )
    assert (
        key.read_text()
        not in (desk.ledger.home / "ledger").parent.joinpath("runs", f"{RUN}.json").read_text()
    )


def own_pair(tmp_path: Path) -> tuple[Path, str]:
    private = tmp_path / "id_ed25519"
    private.write_text("a private key")
    public = "ssh-ed25519 " + "A" * 68 + " me@home"
    (tmp_path / "id_ed25519.pub").write_text(public + "\n")
    return private, public


@pytest.mark.parametrize("how", ["path", "text", "another"])
def test_the_users_own_key_is_taken_for_a_machine_that_was_made_with_it(
    desk: Desk, ssh: Ssh, tmp_path: Path, how: str
) -> None:
    private, public = own_pair(tmp_path)
    added = desk.cloud.account.keys.add(
        {"name": "mine", "public_key": public.replace("me@home", "another comment")}
    )["id"]
    if how != "another":
        desk.cloud.instance(desk.entry.instance_id or "").spec["ssh_key_id"] = added
    done = run(desk, ssh, SSH_PUBLIC_KEY=public if how == "text" else f"{private}.pub")
    assert done.returncode == 0, done.stderr
    [argv] = ssh.calls
    if how == "path":
        assert key_of(argv) == str(private)
    elif how == "text":  # the agent has it, or ssh's own settings name it
        assert key_of(argv) is None and "IdentitiesOnly=yes" not in argv
    else:
        assert (key_of(argv) or "").endswith(".pem")


@pytest.mark.parametrize(
    "case, said",
    [
        ("gone", f"just logs {RUN}"),
        ("no address", "no address yet"),
        ("evil", "no usable address"),
        ("not ours", "--owner"),
        ("no ssh", "openssh-client"),
        ("unknown", "no instance"),
    ],
)
def test_where_there_is_nothing_to_reach_it_says_what_to_do(
    desk: Desk, ssh: Ssh, case: str, said: str
) -> None:
    more: dict[str, str] = {}
    if case in ("gone", "unknown"):
        desk.cloud.account.delete(desk.entry.instance_id or "")
    elif case == "no address":
        desk.cloud.instance(desk.entry.instance_id or "").behavior["ip"] = ""
    elif case == "evil":
        desk.cloud.instance(desk.entry.instance_id or "").behavior["ip"] = (
            "-oProxyCommand=touch evil"
        )
    elif case == "not ours":
        plan = structs.replace(desk.entry.plan, run_id="ffffffff", owner="12345678")
        desk.hub.put(plan.runs_repo, {"runs/ffffffff/plan.json": plan.to_json()})
        desk.rent(plan)
    elif case == "no ssh":
        more["PATH"] = "/nonexistent"
    done = run(desk, ssh, *(["ffffffff"] if case == "not ours" else []), **more)
    assert done.returncode in (1, 2) and said in done.stderr and done.stderr.count("\n") == 1
    assert not ssh.calls


@pytest.mark.slow
@pytest.mark.system
@pytest.mark.skipif(
    not SSHD or not shutil.which("ssh"), reason="needs openssh-server and openssh-client"
)
def test_a_real_server_is_reached_and_another_one_behind_the_same_address_is_no_alarm(
    desk: Desk, tmp_path: Path
) -> None:
    keys = tmp_path / "server"
    keys.mkdir()
    (keys / "authorized").write_text(desk.cloud.account.keys.default.public_key + "\n")
    machine = desk.cloud.instance(desk.entry.instance_id or "")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    machine.behavior |= {
        "ip": "127.0.0.1",
        "ssh_port": port,
        "ssh_user": os.environ.get("USER") or "root",
    }
    env = environment(desk, Ssh(tmp_path), PATH=os.environ["PATH"])
    for life in ("first", "second"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", keys / life], check=True
        )
        server = subprocess.Popen(
            [
                str(SSHD),
                "-D",
                "-e",
                "-f",
                "/dev/null",
                "-p",
                str(port),
                "-h",
                keys / life,
                "-o",
                f"AuthorizedKeysFile={keys / 'authorized'}",
                "-o",
                "StrictModes=no",
                "-o",
                "UsePAM=no",
                "-o",
                "ListenAddress=127.0.0.1",
                "-o",
                "PidFile=none",
            ],
            stderr=subprocess.DEVNULL,
        )
        try:
            time.sleep(1)
            done = script("ssh", RUN, "echo there; exit 3", env=env)
            assert (done.returncode, done.stdout) == (3, "there\n"), done.stderr
        finally:
            server.kill()
            server.wait()
        # the provider gives the address to the next machine of the run
        desk.cloud.account.delete(machine.id)
        again = structs.replace(desk.entry.plan, attempt=2)
        machine = desk.rent(again)
        machine.behavior |= {
            "ip": "127.0.0.1",
            "ssh_port": port,
            "ssh_user": os.environ.get("USER") or "root",
        }
        desk.ledger.put(structs.replace(desk.entry, plan=again, instance_id=machine.id))
