"""Boxes as real processes: what the script gets, when it starts again, and that nothing survives."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time

import psutil
import pytest

from nanolan.sim.box import Guard, Machine, box_environment, marked
from nanolan.sim.nvidia_smi import Gpus

SLEEP = b"while :; do sleep 1; done\n"
# A daemon as they are made: fork, new session, fork again; its parents are gone, and init is its parent.
DAEMON = f"""{sys.executable} - <<'EOF'
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        open(os.environ["BOX_ROOT"] + "/daemon.pid.new", "w").write(str(os.getpid()))
        os.rename(os.environ["BOX_ROOT"] + "/daemon.pid.new", os.environ["BOX_ROOT"] + "/daemon.pid")
        time.sleep(600)
    os._exit(0)
EOF
""".encode()


def until(condition, timeout_s=30.0):
    """The first true value of `condition`."""
    end = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
    return value


def alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def box(tmp_path):
    made = []

    def make(script, **options):
        made.append(
            Machine(
                f"box-{os.getpid()}-{len(made)}",
                tmp_path / f"a box {len(made)}",
                script,
                **{"restart_s": 0.05, **options},
            )
        )
        made[-1].start()
        return made[-1]

    yield make
    for machine in made:
        machine.kill()


def test_the_script_gets_the_promised_environment_and_nothing_else(box):
    host = {
        "PIP_INDEX_URL": "i",
        "UV": "/bin/uv",
        "UV_FIND_LINKS": "f",
        "SSL_CERT_FILE": "c",
        "HF_TOKEN": "hf_secret",
        "HOME": "/root",
        "PATH": "/opt/bin",
        "PIPX": "no",
        "UVX": "no",
        "PYTHONPATH": "no",
        "LANG": "no",
    }
    machine = box(b"/usr/bin/env\n", host=host)
    until(lambda: machine.exit_codes)
    seen = dict(line.split("=", 1) for line in machine.console.read_text().splitlines())
    of_bash_itself = {"PWD", "SHLVL", "_"}
    assert {k: v for k, v in seen.items() if k not in of_bash_itself} == {
        "PATH": "/usr/bin:/bin",
        "BOX_ROOT": str(machine.folder),
        "NANOLAN_BOX": machine.box_id,
        "PIP_INDEX_URL": "i",
        "UV": "/bin/uv",
        "UV_FIND_LINKS": "f",
        "SSL_CERT_FILE": "c",
    }


def test_the_host_cannot_set_the_box_up_in_another_folder(tmp_path):
    host = {"BOX_ROOT": "/", "NANOLAN_BOX": "other", "PATH": "/tmp"}
    promised = {"BOX_ROOT": str(tmp_path), "NANOLAN_BOX": "id", "PATH": "/usr/bin:/bin"}
    assert box_environment("id", tmp_path, host) == promised


@pytest.fixture
def typing():
    """Somebody types into this process while the box starts."""
    before, (read, write) = os.dup(0), os.pipe()
    os.write(write, b"not for the box\n")
    os.dup2(read, 0)
    for fd in (read, write):
        os.close(fd)
    yield
    os.dup2(before, 0)
    os.close(before)


def test_the_script_starts_in_the_root_folder_without_input(box, typing):
    machine = box(b'pwd; cat; echo "end of input"; echo error >&2\n')
    until(lambda: machine.exit_codes)
    assert machine.console.read_text().splitlines() == ["/", "end of input", "error"]


def test_only_its_owner_reads_the_script(box):
    machine = box(b"SECRET=x\n")
    assert stat.S_IMODE((machine.folder / "init-script").stat().st_mode) == 0o700


def test_nvidia_smi_is_there_when_there_are_gpus(box):
    with_gpus = box(
        b'"$BOX_ROOT/usr/bin/nvidia-smi" -L\n', gpus=Gpus(2, "NVIDIA X", 1000, "9.0", "580.1")
    )
    without = box(b'test -e "$BOX_ROOT/usr/bin/nvidia-smi" || echo none\n')
    until(lambda: with_gpus.exit_codes and without.exit_codes)
    assert (
        with_gpus.console.read_text().count("NVIDIA X") == 2
        and without.console.read_text() == "none\n"
    )


def test_a_script_that_ends_well_is_not_started_again(box):
    machine = box(b"echo once\n")
    until(lambda: machine.exit_codes)
    time.sleep(0.3)
    assert machine.exit_codes == [0] and machine.console.read_text() == "once\n"


def test_a_failed_script_is_started_again_so_many_times(box):
    machine = box(b"echo again; exit 3\n", restarts=2)
    until(lambda: len(machine.exit_codes) == 3)
    time.sleep(0.3)
    assert machine.exit_codes == [3, 3, 3] and machine.console.read_text() == "again\n" * 3


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_script_is_started_again(box, number):
    machine = box(b"exec sleep 600\n")
    first = until(lambda: machine.pid)
    os.kill(first, number)
    until(lambda: machine.pid != first and alive(machine.pid))
    assert machine.exit_codes == [-number]


def test_it_waits_before_it_starts_again(box):
    clock = f"{sys.executable} -c 'import time; print(time.time())'; exit 1\n".encode()
    machine = box(clock, restarts=1, restart_s=1.0)
    until(lambda: len(machine.exit_codes) == 2)
    first, second = map(float, machine.console.read_text().split())
    assert second - first >= 1.0


def test_a_killed_box_stays_down(box):
    machine = box(b"echo up; sleep 600\n")
    until(lambda: machine.console.exists() and machine.console.read_text())
    machine.kill()
    time.sleep(0.3)
    assert machine.processes() == [] and machine.console.read_text() == "up\n" and not machine.on
    machine.kill()  # again: nothing to do


def test_a_box_killed_while_it_waits_to_start_again_stays_down(box):
    machine = box(b"echo up; exit 1\n", restart_s=0.5)
    until(lambda: machine.exit_codes)
    machine.kill()
    time.sleep(0.7)
    assert machine.exit_codes == [1] and machine.console.read_text() == "up\n"


def test_kill_finds_what_left_the_group_the_session_and_its_parents(box):
    machine = box(DAEMON + b"trap '' TERM HUP\n" + SLEEP)
    pid_file = machine.folder / "daemon.pid"
    until(pid_file.exists)
    daemon = int(pid_file.read_text())
    until(lambda: machine.pid)
    assert os.getsid(daemon) != os.getsid(machine.pid) and daemon in [
        p.pid for p in machine.processes()
    ]
    machine.kill()
    assert not alive(daemon) and not alive(machine.pid)


def test_kill_finds_children_that_cleared_their_environment(box):
    machine = box(b'env -i /bin/sh -c "echo \\$\\$; while :; do sleep 1; done"\n')
    child = int(until(lambda: machine.console.exists() and machine.console.read_text()))
    until(lambda: "NANOLAN_BOX" not in psutil.Process(child).environ())
    assert child in [p.pid for p in machine.processes()]
    machine.kill()
    assert not alive(child)


def test_kill_wins_against_a_script_that_forks_as_fast_as_it_can(box):
    machine = box(b"spawn() { (sleep 0.05; spawn) & (sleep 600) & }; spawn; wait\n")
    until(lambda: len(machine.processes()) > 8)
    machine.kill()
    time.sleep(0.3)
    assert machine.processes() == []


def test_kill_touches_no_other_box_and_no_other_process(box):
    one, other = box(SLEEP), box(SLEEP)
    stranger = subprocess.Popen(["/bin/sleep", "600"])
    try:
        until(lambda: one.processes() and other.processes())
        one.kill()
        assert alive(stranger.pid) and alive(other.pid) and not alive(one.pid)
    finally:
        stranger.kill()
        stranger.wait()


def test_strays_outlive_a_killed_script(box):
    """As the workers of a killed torchrun do: who runs again has to look for them."""
    machine = box(
        b'sleep 600 & echo $!; test -e "$BOX_ROOT/second" && exit 0; touch "$BOX_ROOT/second"; exit 1\n'
    )
    until(lambda: len(machine.exit_codes) == 2)
    assert all(alive(int(pid)) for pid in machine.console.read_text().split())


def test_a_reboot_ends_everything_and_runs_the_script_again(box):
    machine = box(b"echo $$; trap '' TERM\n" + SLEEP)
    until(lambda: machine.console.exists() and machine.console.read_text())
    before = {p.pid for p in machine.processes()}
    machine.reboot()
    until(lambda: len(machine.console.read_text().split()) == 2)
    assert not any(alive(pid) for pid in before) and machine.on and alive(machine.pid)


def test_the_boxes_end_when_their_cloud_is_killed(box, tmp_path):
    """The guard notices, even a kill -9; it goes by itself and leaves other boxes alone."""
    program = f"""
import time
from pathlib import Path
from nanolan.sim.box import Guard, Machine
guard = Guard()
guard.watch("guarded-{os.getpid()}")
machine = Machine("guarded-{os.getpid()}", Path({str(tmp_path / "box")!r}), {DAEMON + SLEEP!r})
machine.start()
print(guard._process.pid, flush=True)
time.sleep(600)
"""
    other = box(SLEEP)
    cloud = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    try:
        guard_pid = int(cloud.stdout.readline())
        until((tmp_path / "box/daemon.pid").exists)
        assert len(marked({f"guarded-{os.getpid()}"})) >= 2
    finally:
        cloud.kill()
        cloud.wait()
    until(lambda: not marked({f"guarded-{os.getpid()}"}))
    until(lambda: not alive(guard_pid))
    assert alive(other.pid)


def test_a_guard_is_gone_once_closed():
    guard = Guard()
    guard.watch("nobody")
    guard.close()
    assert guard._process.returncode == 0
