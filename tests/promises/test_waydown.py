"""Nothing on the way to deletion keeps it from happening: full disks, outputs that are gone, no memory for another process.

The real boot.sh, rescue program and box program, in trouble that is made for real (tests/support/trouble.py)."""

from __future__ import annotations

import configparser
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from nanolan.sim.box import MARK
from tests.cloud.test_boot import boot, bundle, mode, script_of, timers
from tests.support.box_fixtures import KEY, Box, until
from tests.support.trouble import Disk, small_disk
from tests.support.trouble import __file__ as trouble
from tests.support.waydown_fixtures import (
    box,  # noqa: F401  # a fixture
    module,  # noqa: F401  # an autouse fixture
)

pytestmark = pytest.mark.shows(
    "file", "*/lanbot-training.log", "the log as a trainer writes it is the input here"
)


FULL = Path("/dev/full")


def program(box: Box, *words: str, before: tuple[str, ...] = (), **how: Any) -> int:
    """Run the rescue program with another output than the log; its exit code."""
    env = {
        "PATH": "/usr/bin:/bin",
        "BOX_ROOT": str(box.root),
        MARK: box.mark,
        "HOME": str(box.root / "root"),
        "LC_ALL": "C.UTF-8",
    }
    child = subprocess.Popen(
        [*before, "/usr/bin/env", "python3", str(box.state / "rescue.py"), *words],
        env=env,
        cwd="/",
        stdin=subprocess.DEVNULL,
        **how,
    )
    box.started.append(child)
    return child.wait(40)


def full() -> dict[str, Any]:
    return {"stdout": FULL.open("wb"), "stderr": subprocess.STDOUT}


def broken_pipe() -> dict[str, Any]:
    read, write = os.pipe()
    os.close(read)
    return {"stdout": write, "stderr": write}


def closed() -> dict[str, Any]:
    return {"preexec_fn": lambda: (os.close(1), os.close(2))}


OUTPUTS = {"full disk": full, "broken pipe": broken_pipe, "closed": closed}


WORDS: dict[str, Callable[[], tuple[str, ...]]] = {
    "fail": lambda: ("fail", "words"),
    "deadman": lambda: ("deadman", str(time.time() + 0.2)),
}


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("words", WORDS)
def test_what_the_rescue_program_cannot_say_keeps_it_from_nothing(
    box: Box, words: str, output: str
) -> None:
    assert program(box, *WORDS[words](), **OUTPUTS[output]()) == 0, (
        "and its end is clean: it is not started again"
    )
    assert box.deleted


@pytest.mark.parametrize("words", WORDS)
def test_without_memory_for_another_process_the_rescue_program_deletes(
    box: Box, words: str
) -> None:
    assert program(box, *WORDS[words](), before=(sys.executable, trouble, "no-fork"), **full()) == 0
    assert box.deleted and (words == "deadman" or box.receipt()["reason"] == "boot_failed")


def test_on_a_disk_that_takes_nothing_the_timer_is_armed_and_there_is_one(tmp_path: Path) -> None:
    with small_disk(tmp_path / "box/root", 1) as disk, Box(tmp_path) as box:
        box.unpack()
        disk.fill()
        disk.read_only()
        first = box.program(
            "/usr/bin/env", "python3", str(box.state / "rescue.py"), "deadman", str(time.time() + 2)
        )
        time.sleep(0.7)
        assert program(box, "deadman", "0") == 0 and not box.deleted, "the second one ends at once"
        assert first.wait(20) == 0 and box.deleted


@pytest.mark.parametrize("name", ["plan.json", "secrets.json"])
@pytest.mark.parametrize("left", [b"", b"{", b"[]", b'{"run_id": 7}', b"\xff"])
def test_a_timer_whose_files_a_crash_has_cut_off_powers_off_at_its_time(
    box: Box, name: str, left: bytes
) -> None:
    (box.state / name).write_bytes(left)
    assert (
        box.program("/usr/bin/env", "python3", str(box.state / "rescue.py"), "deadman", "0").wait(
            20
        )
        == 0
    )
    assert "powering off" in box.log() and not box.deleted


def test_a_timer_reads_its_files_when_it_is_armed(box: Box) -> None:
    timer = box.program(
        "/usr/bin/env", "python3", str(box.state / "rescue.py"), "deadman", str(time.time() + 1.2)
    )
    time.sleep(0.6)
    for path in box.state.iterdir():
        path.unlink()
    assert timer.wait(20) == 0 and box.deleted


@pytest.mark.parametrize("left", [b"", b"{", b"[]", b"{}", b'{"verdict": null, "log": 7}'])
def test_a_verdict_that_a_crash_has_cut_off_leaves_a_receipt_all_the_same(
    box: Box, left: bytes
) -> None:
    (box.state / "verdict.json").write_bytes(left)
    assert program(box, "fail", "words") == 0
    assert box.deleted and box.receipt()["message"] == "the machine gave up: words"


def test_a_list_that_cannot_be_read_is_no_reason_to_stay(box: Box) -> None:
    (box.state / "instance.json").write_text(json.dumps({"id": box.id}))
    box.cloud.fault("GET /v1/instances$", "status", status=200, body=b"odd")
    assert program(box, "deadman", "0") == 0
    asked = [
        r.method for r in box.cloud.requests if not r.path.endswith("/types")
    ]  # those are for its clock
    assert asked[:2] == ["GET", "POST"] and box.deleted, "by the id that was noted"


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Box]:
    """A machine before its first boot; its home's disk is a small one."""
    with small_disk(tmp_path / "box/root", 1), Box(tmp_path) as made:
        yield made


def home(box: Box) -> Disk:
    return Disk(box.root / "root")


# ---- boot.sh
@pytest.mark.parametrize("trouble", [Disk.fill, Disk.read_only], ids=["full", "read-only"])
def test_a_home_that_takes_nothing_is_done_without(
    bare: Box, trouble: Callable[[Disk], None]
) -> None:
    trouble(home(bare))
    plan = bundle(bare)
    assert boot(bare, script_of(plan)) == 0
    memory = bare.root / "run/nanolan"
    assert (
        f"BOX PROGRAM ['{memory}', '{bare.work}']" in bare.log()
        and "going on in memory" in bare.log()
    )
    assert (memory / "plan.json").read_bytes() == plan.to_json() and mode(
        memory / "secrets.json"
    ) == "0o600"
    assert len(timers(bare)) == 1 and KEY not in bare.log() and not bare.deleted


@pytest.mark.parametrize("trouble", [Disk.fill, Disk.read_only], ids=["full", "read-only"])
def test_a_home_that_takes_nothing_any_more_keeps_what_an_earlier_boot_left_whole(
    bare: Box, trouble: Callable[[Disk], None]
) -> None:
    plan = bundle(bare)
    assert boot(bare, script_of(plan)) == 0
    kept = {p.name: p.read_bytes() for p in bare.state.iterdir()}
    trouble(home(bare))
    assert boot(bare, script_of(plan)) == 0
    assert {p.name: p.read_bytes() for p in bare.state.iterdir()} == kept
    assert (
        bare.log().count(f"BOX PROGRAM ['{bare.state}', '{bare.work}']") == 2
        and "FAILED" not in bare.log()
    )


def test_a_file_that_cannot_be_unpacked_anew_is_not_cut_off(box: Box) -> None:
    plan = bundle(box)
    assert boot(box, script_of(plan)) == 0
    python = box.root / "usr/bin/python3"
    python.write_text(
        '#!/bin/sh\n[ "$1" = -c ] && exit 1\nexec /usr/bin/python3 "$@"\n'
    )  # as without memory for a decoder
    python.chmod(0o755)
    assert (
        boot(
            box, script_of(plan).replace("\nset -Eeuo", f"\nPATH={python.parent}:$PATH; set -Eeuo")
        )
        == 0
    )
    assert (
        box.log().count("BOX PROGRAM") == 2
        and (box.state / "plan.json").read_bytes() == plan.to_json()
    )


@pytest.mark.parametrize("trouble", ["full disk, no /tmp", "no GPU"])
def test_a_restart_on_a_machine_that_is_broken_by_then_gets_to_the_box_program_which_saves_what_is_there(
    tmp_path: Path, trouble: str
) -> None:
    with small_disk(tmp_path / "box/nanolan", 5) as disk, Box(tmp_path) as box:
        script = script_of(structs.replace(bundle(box), min_free_gb=0))
        assert boot(box, script) == 0 and box.log().count("BOX PROGRAM") == 1
        if trouble == "no GPU":
            (box.root / "usr/bin/nvidia-smi").write_text(
                "#!/bin/sh\necho No devices were found; exit 6\n"
            )
        else:
            script = script.replace("#!/bin/bash\n", "#!/bin/bash\nexport TMPDIR=/gone\n")
            (box.root / "init-script").write_text(script)
            disk.fill()
        child = box.program("/bin/bash", str(box.root / "init-script"))
        until(lambda: child.poll() is not None, 20, box.log)
        assert child.returncode == 0, box.log()
        assert "FAILED" not in box.log() and not box.deleted
        assert box.log().count("BOX PROGRAM") == 2


def test_a_log_that_takes_nothing_keeps_no_boot_from_going_on_nor_from_giving_up(
    tmp_path: Path,
) -> None:
    with small_disk(tmp_path / "box/var/log", 1) as disk, Box(tmp_path) as box:
        bundle(box)
        (box.root / "var/log/lanbot-training.log").touch()
        disk.fill()
        assert boot(box, script_of(bundle(box, scripts_setup="exit 1\n"))) == 0
        assert box.deleted and "install the 'light' set" in box.receipt()["message"]


def test_a_log_that_cannot_be_opened_keeps_no_boot_from_giving_up(box: Box) -> None:
    shutil.rmtree(box.root / "var")
    (box.root / "var").touch()
    (box.root / "init-script").touch(0o700)
    (box.root / "init-script").write_text(script_of(bundle(box, scripts_setup="exit 1\n")))
    env = {"PATH": "/usr/bin:/bin", "BOX_ROOT": str(box.root), MARK: box.mark}
    child = subprocess.Popen(
        ["/bin/bash", box.root / "init-script"],
        env=env,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    box.started.append(child)
    assert child.wait(60) == 0 and box.deleted and box.receipt()["reason"] == "boot_failed"


def test_a_checkout_that_fails_ends_the_boot_and_is_made_anew_by_the_next(box: Box) -> None:
    """A checkout that breaks off leaves some files: the boot must not go on with these, now or after a restart."""
    plan = bundle(box)
    git = box.root / "broken/git"
    git.parent.mkdir()
    git.write_text(
        '#!/bin/sh\nfor word; do [ "$word" = checkout ] && { /usr/bin/git "$@"; exit 1; }; done; exec /usr/bin/git "$@"\n'
    )
    git.chmod(0o755)
    script = script_of(plan)
    assert (
        boot(box, script.replace("#!/bin/bash\n", f"#!/bin/bash\nPATH={git.parent}:$PATH\n")) == 0
    )
    assert "FAILED: fetch the code" in box.log() and "BOX PROGRAM" not in box.log() and box.deleted
    assert boot(box, script) == 0 and "BOX PROGRAM" in box.log()
    assert (box.work / "code.sha256").read_text().strip() == plan.code.sha256, (
        "a whole one, this time"
    )


def test_what_boot_writes_is_roots_alone_and_the_code_can_be_read_by_the_trainers_user(
    tmp_path: Path,
) -> None:
    old = os.umask(0)
    try:
        with Box(tmp_path) as box:
            assert boot(box, script_of(bundle(box))) == 0
    finally:
        os.umask(old)
    private = [
        p for p in (*box.state.iterdir(), *(box.root / "run/nanolan").iterdir()) if p.is_file()
    ]
    assert {mode(p) for p in private} == {"0o600"}
    assert {mode(p) for p in (box.work / "code").rglob("*.py")} == {"0o644"} and mode(
        box.work / "code"
    ) == "0o755"


def test_systemd_starts_it_again_after_every_end_that_is_not_clean_and_never_gives_up(
    box: Box,
) -> None:
    (box.root / "run/systemd/system").mkdir(parents=True)
    (box.root / "etc/systemd/system").mkdir(parents=True)
    told = box.root / "told"
    (box.root / "usr/bin/systemctl").write_text(f'#!/bin/sh\necho "$*" >>{told}\n')
    (box.root / "usr/bin/systemctl").chmod(0o755)
    script = script_of(bundle(box)).replace(
        "#!/bin/bash\n", f"#!/bin/bash\nPATH={box.root}/usr/bin:$PATH\n"
    )
    assert boot(box, script) == 0 and "BOX PROGRAM" not in box.log(), "that is for the unit"
    unit = configparser.ConfigParser()
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(box.root / "etc/systemd/system/nanolan.service")
    assert dict(unit["Service"]) == {
        "OOMPolicy": "continue",  # a rank that is out of memory does not end the box program
        "Environment": "NANOLAN_UNIT=1",
        "Restart": "on-failure",
        "RestartSec": "5",
        "ExecStart": f"/bin/bash {box.state / 'start.sh'}",
    }
    assert (
        unit["Unit"]["StartLimitIntervalSec"] == "0"
        and unit["Install"]["WantedBy"] == "multi-user.target"
    )
    assert (box.state / "start.sh").read_text() == script
    assert told.read_text().splitlines() == ["daemon-reload", "enable --now nanolan.service"]


def test_needrestart_is_told_to_leave_the_unit_alone_where_it_is_installed(box: Box) -> None:
    for folder in ("run/systemd/system", "etc/systemd/system", "etc/needrestart/conf.d"):
        (box.root / folder).mkdir(parents=True)
    (box.root / "usr/bin/systemctl").write_text("#!/bin/sh\n")
    (box.root / "usr/bin/systemctl").chmod(0o755)
    assert boot(box, script_of(bundle(box))) == 0 and "needrestart" not in box.log()
    told = (box.root / "etc/needrestart/conf.d/nanolan.conf").read_text()
    assert told == "$nrconf{override_rc}{qr(^nanolan)} = 0;\n"


@pytest.mark.parametrize("problem", ["no unit", "no start.sh", "refused"])
def test_where_systemd_does_not_take_it_the_boot_goes_on_by_itself(box: Box, problem: str) -> None:
    (box.root / "run/systemd/system").mkdir(parents=True)
    if problem != "no unit":
        (box.root / "etc/systemd/system").mkdir(parents=True)
    if problem == "no start.sh":
        (box.state / "start.sh.new").mkdir()
        (box.state / "start.sh.new/x").touch()
    (box.root / "usr/bin/systemctl").write_text("#!/bin/sh\nexit 1\n")
    (box.root / "usr/bin/systemctl").chmod(0o755)
    script = script_of(bundle(box)).replace(
        "#!/bin/bash\n", f"#!/bin/bash\nPATH={box.root}/usr/bin:$PATH\n"
    )
    assert (
        boot(box, script) == 0
        and box.log().count("BOX PROGRAM") == 1
        and "going on without" in box.log()
    )
