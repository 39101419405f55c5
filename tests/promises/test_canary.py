"""The canary can fail: each way in which a secret gets out fails the very test that let it out, and no other."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nanolan.settings.settings import ROOT
from nanolan.sim.marker import MARKER
from tests.support.canary import ALLOWED, FORMS, shows, without_script

LEAKS = """
import base64, os, subprocess, sys, time, urllib.request
from pathlib import Path
import pytest
from nanolan.sim.marker import MARKER
from nanolan.sim.shadeform.server import ShadeformServer

TWICE = base64.b64encode(b"xy" + base64.b64encode(b"z" + MARKER.encode() + b"!")).decode()

def child(code, **how):
    return subprocess.run([sys.executable, "-c", code], env={"PATH": os.environ["PATH"], "S": MARKER, **how}, capture_output=True)

def test_printed(): print(MARKER)
def test_printed_in_base64(): print(TWICE, file=sys.stderr)
def test_printed_by_a_child(): child("import os; print(os.environ['S'])")
def test_captured(capsys): print(MARKER); capsys.readouterr()
def test_file(tmp_path): (tmp_path / "a" / "b").parent.mkdir(); (tmp_path / "a/b").write_text("x" + TWICE)
def test_file_name(tmp_path): (tmp_path / MARKER).touch()
def test_end_of_a_big_file(tmp_path): (tmp_path / "big").write_bytes(bytes(9 << 20) + MARKER.encode())
def test_wide_mode(tmp_path): (tmp_path / "secrets.json").write_text(MARKER); (tmp_path / "secrets.json").chmod(0o644)
def test_argv(): subprocess.run(["true", MARKER])
def test_argv_of_a_grandchild():
    child("import os, subprocess, time; subprocess.run(['sh', '-c', 'sleep 0.5 # ' + os.environ['S']])")
def test_environ(): child("", NANOLAN_BOX="a-box")
def test_environ_of_a_grandchild():
    child("import os, subprocess; subprocess.run(['sleep', '0.5'], env=dict(os.environ, NANOLAN_TRAINER='1'))")

@pytest.fixture
def cloud(tmp_path):
    with ShadeformServer(tmp_path, boxes=False) as cloud:
        yield cloud

def ask(cloud, path, headers={}, body=None):
    try:
        urllib.request.urlopen(urllib.request.Request(cloud.url + path, body, headers))
    except OSError:
        pass

def test_address(cloud): ask(cloud, "/instances?key=" + MARKER)
def test_header(cloud): ask(cloud, "/instances", {"Cookie": MARKER})
def test_body(cloud): ask(cloud, "/sshkeys/add", {}, b'{"name": "' + MARKER.encode() + b'"}')

def test_fine_what_is_allowed(tmp_path, cloud):
    (tmp_path / "secrets.json").write_text(MARKER); (tmp_path / "secrets.json").chmod(0o600)
    ask(cloud, "/instances", {"X-API-KEY": MARKER})
    ask(cloud, "/instances/create", {}, b'{"launch_configuration": {"script_configuration": {"base64_script": "%s"}}}' % TWICE.encode())
    child("import time; time.sleep(0.3)")

@pytest.mark.shows("output", "stdout of *pytest", "and pytest shows what they printed")
@pytest.mark.shows("file", "*/log", "the test's own input")
def test_fine_what_is_meant(tmp_path): (tmp_path / "log").write_text(MARKER)

@pytest.fixture(scope="session")
def late(tmp_path_factory):
    yield
    (tmp_path_factory.mktemp("late") / "left").write_text(MARKER)

def test_zz_fine_but_for_the_end_of_the_session(late): pass
"""


@pytest.mark.shows("*", "*", "the tests in it leak on purpose")
def test_every_leak_fails_the_test_that_let_it_out_and_nothing_else_does(tmp_path: Path) -> None:
    (tmp_path / "test_leaks.py").write_text(LEAKS)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "tests.support.canary",
            "-p",
            "no:cacheprovider",
            "-v",
            "--tb=line",
            f"--rootdir={tmp_path}",
            f"--basetemp={tmp_path}/base",
            str(tmp_path),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        env={"PATH": "/usr/bin:/bin"},
        text=True,
        stderr=subprocess.STDOUT,
        timeout=60,
    )
    names = re.findall(r"^def test_(\w+)", LEAKS, re.M)
    found = dict(re.findall(r"^a secret got out in \S*::test_(\w+): (.*)", done.stdout, re.M))
    late = found.pop("zz_fine_but_for_the_end_of_the_session")
    assert set(found) == {n for n in names if "fine" not in n} and "late0/left" in late, done.stdout
    kinds = {
        "printed": "output Captured stdout call",
        "printed_by": "output stdout of",
        "captured": "output stdout",
        "file": "file ",
        "argv": "argv ",
        "environ": "environ ",
        "address": "request GET",
        "header": "request GET",
        "body": "request POST",
        "wide": "file ",
        "end_of": "file ",
    }
    for name, said in found.items():
        assert (
            said.startswith(kinds[max((k for k in kinds if name.startswith(k)), key=len)].rstrip())
            or "stderr" in said
        ), (name, said)
    assert f"{len(names)} passed" in done.stdout


def test_every_form_of_the_mark_is_looked_for() -> None:
    for before, after in ((b"a" * i, b"b" * j) for i in range(4) for j in range(4)):
        once = base64.b64encode(before + MARKER.encode() + after)
        assert shows(once) and all(
            shows(base64.b64encode(b"c" * k + once + b"d")) for k in range(3)
        )
    assert not shows("CANARY") and shows(f"x{MARKER}x".encode()) and min(map(len, FORMS)) > 18


def test_of_a_create_request_only_the_script_is_left_out() -> None:
    body = b'{"name": "%s", "launch_configuration": {"type": "script", "script_configuration": {"base64_script": "%s"}}}'
    assert shows(without_script(body % (MARKER.encode(), b""))) and not shows(
        without_script(body % (b"x", MARKER.encode()))
    )
    assert without_script(b"not json") == b"not json"


def test_every_allowed_place_has_its_reason() -> None:
    assert all(len(row[3].split()) > 2 for row in ALLOWED)
