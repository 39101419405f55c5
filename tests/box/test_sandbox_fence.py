"""The fence around the cloud's metadata service: for the trainer in any case, whatever user it runs as, and for nobody else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nanolan.box.main import _confine_trainer
from nanolan.box.sandbox import UID, TrainerUser, block_metadata_service
from tests.support.sandbox_fixtures import as_root
from tests.support.saver_fixtures import machine

ROOT = Path(__file__).resolve().parents[2]
USER = TrainerUser(UID, Path("/nowhere"))

# A network of its own, with a metadata service in it; nothing of this machine's firewall is touched
FENCED = f"""
import http.server, os, subprocess, sys, threading, urllib.request
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from nanolan.box.sandbox import METADATA, UID, TrainerUser, fence
for words in (["link", "set", "lo", "up"], ["addr", "add", METADATA + "/32", "dev", "lo"]):
    subprocess.run(["ip", *words], check=True)
class Service(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"the startup script")
    def log_message(self, *words): pass
threading.Thread(target=http.server.ThreadingHTTPServer((METADATA, 80), Service).serve_forever, daemon=True).start()
def ask(uid, gid):
    pid = os.fork()
    if pid == 0:
        os.setgroups([]); os.setgid(gid); os.setuid(uid)
        try:
            os._exit(urllib.request.urlopen("http://" + METADATA + "/user-data", timeout=5).read() == b"the startup script")
        except OSError:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
print(ask(UID, UID), ask(0, os.getgid()))
print(repr(fence(TrainerUser(UID, Path("/")))), repr(fence(None)))
print(ask(UID, UID), ask(UID, UID + 1), ask(0, os.getgid()), ask(0, 0), ask(UID + 1, UID + 1))
print(subprocess.run(["iptables", "-S", "OUTPUT"], capture_output=True, text=True).stdout.count(str(UID)))
"""


@as_root
@pytest.mark.system
def test_the_trainer_cannot_ask_the_clouds_metadata_service_as_any_user_and_others_can() -> None:
    if missing := [tool for tool in ("unshare", "ip", "iptables") if not shutil.which(tool)]:
        pytest.skip(f"no {', '.join(missing)} here")
    if subprocess.run(["unshare", "-n", "iptables", "-S"], capture_output=True).returncode:
        pytest.skip("no network of its own can be made here")
    done = subprocess.run(
        ["unshare", "-n", sys.executable, "-c", FENCED], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "1 1\n'' ''\n0 0 0 1 1\n2\n", done.stderr


IPTABLES = """#!/bin/sh
case $3 in -C) exit 1;; esac
echo "$3 ${11}" "${12}" >>"$0.log"
"""


def stand_in(folder: Path, script: str) -> None:
    (folder / "iptables").write_text(script)
    (folder / "iptables").chmod(0o755)


@as_root
def test_the_trainer_without_a_user_of_its_own_is_told_by_its_group(tmp_path: Path) -> None:
    stand_in(tmp_path, IPTABLES)
    code = (
        f"import os, sys; sys.path.insert(0, {str(ROOT)!r}); from nanolan.box.sandbox import fence; "
        "print(repr(fence(None)), os.getgid(), os.getuid(), flush=True); os.system('id -g')"
    )
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.stdout == f"'' {UID} 0\n{UID}\n", done.stderr
    told = (tmp_path / "iptables.log").read_text()
    assert told == f"-I --uid-owner {UID}\n-I --gid-owner {UID}\n"


@pytest.mark.parametrize("account", [USER, None])
@pytest.mark.parametrize("why", ["", "no firewall here"])
def test_the_fence_stands_whether_or_not_the_trainer_has_a_user_of_its_own(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    account: TrainerUser | None,
    why: str,
) -> None:
    monkeypatch.delenv("BOX_ROOT", raising=False)
    fenced: list[Any] = []

    def fence(account: TrainerUser | None) -> str:
        fenced.append(account)
        return why

    deps = {"confine": lambda work: (account, "" if account else "no such user"), "fence": fence}
    _confine_trainer(machine(tmp_path, deps=deps))
    said = capsys.readouterr().out
    assert fenced == [account]
    assert ("warning: the trainer can reach the cloud's metadata service" in said) == bool(why)
    assert ("the trainer runs as the box program's user: no such user" in said) != bool(account)


def test_a_rehearsal_touches_no_firewall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOX_ROOT", str(tmp_path))
    fenced: list[Any] = []
    deps = {"confine": lambda work: (None, "not root"), "fence": fenced.append}
    _confine_trainer(machine(tmp_path, deps=deps))
    assert fenced == []


@as_root
def test_a_machine_without_a_firewall_program_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "No such file or directory: 'iptables'" in block_metadata_service()
    stand_in(tmp_path, "#!/bin/sh\necho 'you must be root' >&2\nexit 4\n")
    assert block_metadata_service() == "you must be root"
