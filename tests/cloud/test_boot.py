"""boot.sh, the real one, in bash with an empty environment: every step that fails ends in a log, a receipt and no machine."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from msgspec.structs import replace

from nanolan.code.bundle import make_bundle
from nanolan.hub.client import Hub
from nanolan.launch.request import startup_script
from nanolan.plan import Plan
from nanolan.redact import Secret
from nanolan.run.postmortem import read_postmortem
from nanolan.settings.settings import ROOT
from nanolan.sim.box_trouble import make_trouble
from nanolan.times import parse_time
from tests.support.box_fixtures import KEY, REPO, TOKEN, Box, environ, no_box_left, until

module = pytest.fixture(autouse=True, scope="module")(no_box_left)
BOOT = ROOT / "cloud/boot.sh"
# The code that a machine fetches here: a set-up that makes a venv of one link, a box program that says what it was given
CODE = {
    "scripts/setup.sh": 'mkdir -p .venv/bin; ln -sf "$(command -v python3)" .venv/bin/python; echo "set up $1"\n',
    "cloud/train.py": 'import os, sys\nprint("BOX PROGRAM", sys.argv[1:], os.getcwd(), sorted(os.environ.items()))\n'
    'import resource\nprint("core dumps", resource.getrlimit(resource.RLIMIT_CORE))\n',
}


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    with Box(tmp_path) as made:
        yield made


def bundle(box: Box, **code: str) -> Plan:
    """Put the code into the run folder; the plan that names it."""
    source = box.root.parent / "source"
    for name, text in (
        CODE | {name.replace("_", "/", 1) + ".sh": text for name, text in code.items()}
    ).items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(text)
    me = {
        "GIT_AUTHOR_NAME": "me",
        "GIT_AUTHOR_EMAIL": "me@here",
        "GIT_COMMITTER_NAME": "me",
        "GIT_COMMITTER_EMAIL": "me@here",
    }
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "code"]):
        subprocess.run(
            ["git", *words],
            cwd=source,
            check=True,
            env={"PATH": os.environ["PATH"], "HOME": str(source), **me},
        )
    made = make_bundle(source, box.root.parent / "code.bundle", box.plan.run_id)
    box.hub.put(REPO, {f"{box.plan.folder}/code.bundle": box.root.parent / "code.bundle"})
    return replace(box.plan, code=made, shadeform_api=box.cloud.url)


def script_of(plan: Plan, revision: str = "main") -> str:
    """The startup script, with the plan in the run folder, as a launch puts it there."""
    Hub(plan.hf_endpoint, Secret(TOKEN)).commit(
        REPO, {f"{plan.folder}/plan.json": plan.to_json()}, "plan"
    )
    return startup_script(plan, {"SHADEFORM_API_KEY": KEY, "HF_TOKEN": TOKEN}, revision)


def boot(box: Box, script: str) -> int:
    """Run the script as the provider does; its exit code."""
    (box.root / "init-script").touch(0o700)
    (box.root / "init-script").write_text(script)
    return box.program("/bin/bash", str(box.root / "init-script")).wait(60)


def timers(box: Box) -> list[psutil.Process]:
    return [
        p
        for p in psutil.process_iter()
        if environ(p).get("NANOLAN_BOX") == box.mark and "deadman" in p.cmdline()
    ]


def mode(path: Path) -> str:
    return oct(path.stat().st_mode & 0o777)


# ---- the text of it


def test_it_is_short_and_shellcheck_is_content() -> None:
    assert len(BOOT.read_text().splitlines()) <= 135
    shellcheck = next(
        p for p in (ROOT / ".venv/bin/shellcheck", Path("/usr/bin/shellcheck")) if p.exists()
    )
    done = subprocess.run([shellcheck, BOOT], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "newer",
    [
        r"declare\s+-[aAgn]",
        r"local\s+-n",
        r"mapfile",
        r"readarray",
        r"\$\{\w+(,,?|\^\^?)",
        r"\$\{\w+@",
        r"&>>",
        r"\|&",
        r"coproc",
        r"\[\[ -v",
        r"wait -n",
        r"printf -v",
        r"\$\{\w+: -",
        r";;&",
        r"\bsetsid\b",
        r"\bflock\b",
        r"readlink -f",
        r"sed -i",
        r"date -d",
        r"/proc/",
    ],
)
def test_it_holds_nothing_newer_than_bash_3_2_and_no_tool_that_macos_lacks(newer: str) -> None:
    assert not re.search(newer, BOOT.read_text())


# ---- a boot that goes well, twice


def test_a_boot_ends_as_the_box_program_and_a_second_one_takes_up_where_it_was(box: Box) -> None:
    plan = bundle(box)
    assert boot(box, script_of(plan)) == 0
    log = box.log()
    assert "set up light" in log and log.count("BOX PROGRAM") == 1 and "FAILED" not in log
    assert f"['{box.state}', '{box.work}'] {box.work / 'code'} " in log
    for secret in (KEY, TOKEN):
        assert secret not in log, (
            "in no environment variable of the box program, and not in the log"
        )
    assert mode(box.log_file) == "0o644"
    assert {mode(box.state / name) for name in ("secrets.json", "plan.json", "rescue.py")} == {
        "0o600"
    }
    assert (box.state / "secrets.json").readlink() == box.root / "run/nanolan/secrets.json", (
        "in memory, where /run is"
    )
    assert {mode(p) for p in (box.state, box.root / "run/nanolan")} == {"0o700"} and mode(
        box.work
    ) == "0o755"
    assert "core dumps (0, 0)" in log
    assert (box.state / "plan.json").read_bytes() == plan.to_json()
    armed = timers(box)
    assert len(armed) == 1 and armed[0].cmdline()[-1] == str(
        int(parse_time(plan.deadline).timestamp())
    )
    assert not any(
        TOKEN in word or KEY in word
        for p in armed
        for word in p.cmdline() + list(p.environ().values())
    )

    fetched = sum("code.bundle" in line["path"] for line in box.hub.log)
    (box.work / "out").mkdir()
    # With less free disk than before: what fills it is this run's own
    again = script_of(replace(plan, min_free_gb=10**6))
    assert boot(box, again) == 0
    assert box.log().count("BOX PROGRAM") == 2 and (box.work / "out").is_dir()
    assert sum("code.bundle" in line["path"] for line in box.hub.log) == fetched, (
        "the code is here already"
    )
    until(lambda: len(timers(box)) == 1)
    assert [p.pid for p in timers(box)] == [p.pid for p in armed]
    assert not box.deleted


def test_a_fetch_survives_a_hub_in_trouble(box: Box) -> None:
    plan = bundle(box)
    box.hub.fault(r"GET .*code\.bundle", status=503)
    box.hub.fault(r"GET .*code\.bundle", "reset")
    assert boot(box, script_of(plan)) == 0
    assert "HTTPError 503" in box.log() and "BOX PROGRAM" in box.log()


# ---- a boot that fails, at each step


def wrong_hash(box: Box) -> str:
    plan = bundle(box)
    return script_of(replace(plan, code=replace(plan.code, sha256="0" * 64)))


def no_bundle(box: Box) -> str:
    bundle(box)
    (box.root.parent / "code.bundle").write_bytes(b"not a bundle")
    box.hub.put(REPO, {f"{box.plan.folder}/code.bundle": b"not a bundle"})
    import hashlib

    return script_of(
        replace(
            box.plan,
            code=replace(box.plan.code, sha256=hashlib.sha256(b"not a bundle").hexdigest()),
        )
    )


def refused(box: Box) -> str:
    plan = bundle(box)
    box.hub.fault(r"GET .*code\.bundle", status=403, times=100)
    return script_of(plan)


@pytest.mark.parametrize(
    "sabotage, step, why",
    [
        (
            lambda box: script_of(replace(bundle(box), min_free_gb=10**6)),
            "find 1000000 GB of free disk",
            "GB free",
        ),
        (wrong_hash, "fetch the code", "not the one that the launcher uploaded"),
        (lambda box: script_of(bundle(box), "0" * 40), "fetch the code", "HTTPError 404"),
        (refused, "fetch the code", "HTTPError 403"),
        (no_bundle, "fetch the code", "fatal"),
        (
            lambda box: script_of(bundle(box, scripts_setup="echo no packages today; exit 1\n")),
            "install the 'light' set",
            "no packages today",
        ),
    ],
    ids=["disk", "wrong hash", "404", "403", "no bundle", "set-up"],
)
def test_a_step_that_fails_ends_in_a_log_a_receipt_and_no_machine(
    box: Box, sabotage: Callable[[Box], str], step: str, why: str
) -> None:
    assert boot(box, sabotage(box)) == 0
    assert box.deleted, box.log()
    log = box.uploaded_log("error")
    assert f"FAILED: {step}" in log and why in log and TOKEN not in log and KEY not in log
    assert log.splitlines()[0].endswith(f"boot: run {box.plan.run_id}"), "from the first second on"
    assert step in read_postmortem(box.hub.read(REPO, f"{box.plan.folder}/postmortem.json")).message
    receipt = box.receipt()
    assert (receipt["verdict"], receipt["reason"]) == ("failed", "boot_failed") and step in receipt[
        "message"
    ]
    assert "BOX PROGRAM" not in box.log()


def test_a_script_with_damaged_facts_trains_nothing_and_leaves_the_end_to_the_provider(
    box: Box,
) -> None:
    script = re.sub(r"^FACTS='.{9}", "FACTS='", script_of(bundle(box)), flags=re.M)
    assert boot(box, script) != 0
    assert "FAILED" in box.log() and "BOX PROGRAM" not in box.log() and not box.deleted


def test_without_its_values_the_script_does_nothing(box: Box) -> None:
    assert boot(box, BOOT.read_text()) != 0
    assert "RUN_ID" in box.log() and not box.state.exists() and not timers(box)


# ---- what is met on a real Ubuntu, by the words and exit codes that were reported


@pytest.mark.parametrize(
    "name, said",
    [
        ("apt-locked", "install a C compiler: not yet, trying again"),
        ("dns-late", "install a C compiler: not yet, trying again"),
        ("apt-repository-dead", "is not signed"),
        ("dpkg-interrupted", ""),
        ("driver-late", "nvidia-smi: NVIDIA-SMI has failed"),
        ("smi-warns", ""),
        ("df-broken", "Operation not permitted"),
    ],
)
def test_a_boot_waits_for_what_comes_late_and_goes_on_beside_what_is_only_odd(
    box: Box, name: str, said: str
) -> None:
    make_trouble(box.root, name)
    assert boot(box, script_of(bundle(box))) == 0
    assert (
        said in box.log()
        and box.log().count("BOX PROGRAM") == 1
        and "FAILED" not in box.log()
        and not box.deleted
    )


@pytest.mark.parametrize(
    "program, text, step",
    [
        ("nvidia-smi", "echo NVIDIA-SMI has failed; exit 9", "wait for the NVIDIA driver"),
        ("nvidia-smi", "echo No devices were found; exit 0", "wait for the NVIDIA driver"),
    ],
)
def test_a_boot_without_a_driver_ends_before_anything_is_installed(
    box: Box, program: str, text: str, step: str
) -> None:
    (box.root / "usr/bin" / program).write_text(f"#!/bin/sh\n{text}\n")
    assert boot(box, script_of(bundle(box))) == 0
    assert (
        box.deleted
        and f"FAILED: {step}" in box.log()
        and "set up" not in box.log()
        and box.receipt()["reason"] == "boot_failed"
    )


def test_an_apt_that_never_works_is_given_up_by_its_name(box: Box) -> None:
    make_trouble(box.root, "apt-locked")
    (box.root / "usr/bin/apt-get").write_text(
        "#!/bin/sh\necho E: Unable to correct problems, you have held broken packages >&2; exit 100\n"
    )
    assert (
        boot(
            box,
            script_of(bundle(box)).replace(
                'eval "$BOOT"', 'BOOT=${BOOT/retry 600/retry 60}; eval "$BOOT"'
            ),
        )
        == 0
    )
    assert (
        box.deleted
        and "FAILED: install a C compiler" in box.log()
        and "held broken packages" in box.uploaded_log("error")
    )


def test_the_set_up_is_told_the_device_and_tried_again(box: Box) -> None:
    late = (
        'echo "device $NANOLAN_DEVICE"; [ -e tried ] || { touch tried; echo no packages yet; exit 1; }\n'
        + CODE["scripts/setup.sh"]
    )
    assert boot(box, script_of(bundle(box, scripts_setup=late))) == 0
    assert (
        box.log().count("device cpu") == 2
        and "no packages yet" in box.log()
        and "BOX PROGRAM" in box.log()
    )


def test_a_set_up_whose_first_try_fails_after_its_time_is_tried_once_more(box: Box) -> None:
    slow = (  # a rehearsal has 2 s for it
        "[ -e tried ] || { touch tried; sleep 3.5; echo too slow; exit 1; }\n"
        + CODE["scripts/setup.sh"]
    )
    assert boot(box, script_of(bundle(box, scripts_setup=slow))) == 0
    assert "too slow" in box.log() and "BOX PROGRAM" in box.log() and not box.deleted


def test_a_plan_that_another_has_changed_in_the_run_folder_is_not_run(box: Box) -> None:
    script = script_of(bundle(box))
    box.hub.put(
        REPO, {f"{box.plan.folder}/plan.json": replace(box.plan, limit_cents=10**6).to_json()}
    )
    assert boot(box, script) == 0
    assert (
        box.deleted
        and "plan.json is not the one that the launcher uploaded" in box.log()
        and "BOX PROGRAM" not in box.log()
    )


def test_a_folder_for_temporary_files_that_runs_nothing_is_replaced(box: Box) -> None:
    gone = script_of(bundle(box)).replace(
        "#!/bin/bash\n", "#!/bin/bash\nexport TMPDIR=/nowhere\n", 1
    )
    assert boot(box, gone) == 0
    assert f"('TMPDIR', '{box.work}/tmp')" in box.log() and mode(box.work / "tmp") == "0o777"
