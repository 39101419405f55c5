"""The trainer's confinement: a user of its own that can do its work and nothing more; where that cannot be, the reason is told."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanolan.box.sandbox import UID, block_metadata_service, chown_tree, confine, trainer_folder

PYTHONS = ("/usr/bin/python3", sys.executable)  # the first has no nanolan in it: "no code" is told
as_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can run a trainer as another user"
)


def runs(python: str) -> bool:
    try:
        return (
            subprocess.run(
                [python, "-c", ""], user=UID, group=UID, extra_groups=[], cwd="/", check=False
            ).returncode
            == 0
        )
    except OSError:
        return False


@pytest.fixture
def python() -> str:
    """A Python that the trainer's user may run."""
    if found := next(filter(runs, PYTHONS), ""):
        return found
    pytest.skip(f"{' and '.join(PYTHONS)} lie where another user may not look")


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine's work folder as boot.sh leaves it, with the code beside; all of root's, for everybody to read."""
    with tempfile.TemporaryDirectory(
        prefix="nanolan-tests-"
    ) as folder:  # pytest's own are closed to other users
        root = Path(folder)
        for name in ("work/model", "work/data", "code/nanolan", "state"):
            (root / name).mkdir(parents=True)
        (root / "work/model/model_000001.pt").write_bytes(b"weights")
        (root / "code/nanolan/__init__.py").touch()
        (root / "state/secrets.json").write_text("{}")
        for path in [root, *root.rglob("*")]:
            path.chmod(0o755)
        (root / "state").chmod(0o700)
        (root / "state/secrets.json").chmod(0o600)
        monkeypatch.chdir(root / "code")
        yield root / "work"


@as_root
def test_the_trainers_user_reads_its_inputs_writes_its_desk_and_nothing_else(
    work: Path, python: str
) -> None:
    old = trainer_folder(work) / "out/step-000001"
    old.mkdir(parents=True)  # of an earlier life, or fetched: root's
    account, why = confine(work, python=python)
    assert account and account.uid == UID, why

    def may(code: str) -> bool:
        return (
            subprocess.run(
                [python, "-c", f"import os, shutil\n{code}"],
                env=account.environment,
                stderr=subprocess.DEVNULL,
                **account.popen,
            ).returncode
            == 0
        )

    assert may(f"open('{work}/model/model_000001.pt').read()")
    assert may(
        f"open('{trainer_folder(work)}/metrics.jsonl', 'w').write('x'); open('{old}/model', 'w').close()"
    )
    assert may(f"os.rename('{old}', '{old}-b'); shutil.rmtree('{old}-b')")
    assert may("open(os.path.expanduser('~/cache'), 'w').close()")
    for wish in (
        f"open('{work.parent}/state/secrets.json').read()",
        f"os.listdir('{work.parent}/state')",
        f"open('{work}/x', 'w')",
        f"open('{work}/model/model_000001.pt', 'a')",
        f"os.rename('{work}/model', '{work}/m')",
        f"os.kill({os.getpid()}, 0)",
        f"open('{work.parent}/code/nanolan/__init__.py', 'w')",
        f"open('/proc/{os.getpid()}/environ').read()",
        f"open('/proc/{os.getpid()}/mem', 'rb').seek(1)",
        f"open('{work}/job.json', 'w')",
        "os.setuid(0)",
    ):
        assert not may(wish), wish
    assert oct((trainer_folder(work) / "metrics.jsonl").stat().st_mode & 0o777) == "0o600"


@as_root
@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda work: (work / "model/model_000001.pt").chmod(0o600), "Permission denied"),
        (lambda work: (work / "data").chmod(0o700), "Permission denied"),
        (lambda work: shutil.rmtree(work / "data"), "No such file"),
        (lambda work: work.chmod(0o700), "Permission denied"),
        (
            lambda work: (
                (work.parent / "code/nanolan/__init__.py").unlink()
                or (work.parent / "code/nanolan").rmdir()
            ),
            "No module named 'nanolan'",
        ),
    ],
    ids=[
        "a file that is root's alone",
        "a folder that is root's alone",
        "no inputs",
        "a closed work folder",
        "no code",
    ],
)
def test_what_the_trainer_could_not_do_is_the_reason_to_go_on_without(
    work: Path, python: str, spoil: object, why: str
) -> None:
    spoil(work)  # type: ignore[operator]
    account, told = confine(work, python=python)
    assert account is None and why in told and "\n" not in told


@as_root
def test_a_python_that_only_root_may_run_is_the_reason_to_go_on_without(work: Path) -> None:
    closed = work.parent / "state/python3"
    closed.symlink_to("/usr/bin/env")
    assert confine(work, python=str(closed)) == (
        None,
        f"PermissionError: [Errno 13] Permission denied: '{closed}'",
    )


@as_root
def test_a_gpu_whose_node_the_trainer_may_not_use_is_a_reason_and_its_group_is_given(
    work: Path, python: str
) -> None:
    nodes = work.parent / "dev"
    nodes.mkdir()
    try:
        os.mknod(nodes / "nvidia0", 0o020660, os.makedev(1, 3))
    except OSError as e:
        pytest.skip(f"no device nodes can be made here: {e.strerror}")
    assert confine(work, python=python, dev=nodes) == (None, f"{nodes}/nvidia0 cannot be written")
    os.chown(nodes / "nvidia0", 0, 4711)
    (nodes / "nvidia0").chmod(0o660)
    account, why = confine(work, python=python, dev=nodes)
    if account is None and "nosuid" in why:
        pytest.skip(why)
    assert account and account.groups == (4711,), why


# `ls -l /dev/nvidia*` of rented machines, as drivers make the nodes by default: (name, mode)
OPEN = [
    ("nvidia0", 0o666),
    ("nvidia1", 0o666),
    ("nvidiactl", 0o666),
    ("nvidia-uvm", 0o666),
    ("nvidia-uvm-tools", 0o666),
]
LISTINGS = {
    "one card": OPEN[:1] + OPEN[2:],
    "mig capabilities": [
        *OPEN,
        ("nvidia-caps/nvidia-cap1", 0o400),
        ("nvidia-caps/nvidia-cap2", 0o444),
    ],
    "nvswitch": [
        *OPEN,
        ("nvidia-nvswitch0", 0o600),
        ("nvidia-nvswitchctl", 0o600),
        ("nvidia-nvlink", 0o600),
        ("nvidia-modeset", 0o600),
        ("nvidia-caps-imex-channels/channel0", 0o600),
    ],
    "profiling closed": [*OPEN[:-1], ("nvidia-uvm-tools", 0o600)],
}


@as_root
@pytest.mark.parametrize("listing", LISTINGS.values(), ids=LISTINGS)
def test_the_trainer_has_a_user_of_its_own_on_machines_as_they_are(
    work: Path, python: str, listing: list[tuple[str, int]]
) -> None:
    dev = work.parent / "dev"
    try:
        for name, mode in listing:
            (dev / name).parent.mkdir(parents=True, exist_ok=True)
            os.mknod(dev / name, 0o020000, os.makedev(1, 3))
            (dev / name).chmod(mode)
    except OSError as e:
        pytest.skip(f"no device nodes can be made here: {e.strerror}")
    for folder in (dev, *(p for p in dev.iterdir() if p.is_dir())):
        folder.chmod(0o755)
    account, why = confine(work, python=python, dev=dev)
    if account is None and "nosuid" in why:
        pytest.skip(why)
    assert account, why


def test_who_is_not_root_goes_on_as_himself(work: Path, python: str) -> None:
    if os.geteuid() != 0:
        assert confine(work) == (None, "the box program is not root")
        return
    os.chown(work, UID, UID)
    code = (
        f"import sys; sys.path.insert(0, '{Path(__file__).resolve().parents[2]}'); from nanolan.box.sandbox import confine; "
        f"from pathlib import Path; print(confine(Path('{work}')))"
    )
    done = subprocess.run(
        [python, "-c", code], user=UID, group=UID, extra_groups=[], capture_output=True, text=True
    )
    if "No module named" in done.stderr:
        pytest.skip("the checkout lies where another user may not look")
    assert done.stdout == "(None, 'the box program is not root')\n", done.stderr


@as_root
def test_handing_over_follows_no_link_and_gives_no_second_name_away(work: Path) -> None:
    mine, folder = work.parent / "state/secrets.json", trainer_folder(work) / "out"
    folder.mkdir(parents=True)
    (folder / "model").touch()
    (folder / "link").symlink_to(mine)
    (folder / "folder").symlink_to(mine.parent)
    os.link(work / "model/model_000001.pt", folder / "second-name")
    chown_tree(trainer_folder(work), UID)
    assert {p.stat().st_uid for p in (trainer_folder(work), folder, folder / "model")} == {UID}
    assert {p.stat().st_uid for p in (mine, mine.parent, work / "model/model_000001.pt")} == {0}


# A network of its own, with a metadata service in it; nothing of this machine's firewall is touched
FENCED = """
import http.server, os, subprocess, sys, threading, urllib.request
sys.path.insert(0, {root!r})
from nanolan.box.sandbox import METADATA, UID, block_metadata_service
for words in (["link", "set", "lo", "up"], ["addr", "add", METADATA + "/32", "dev", "lo"]):
    subprocess.run(["ip", *words], check=True)
class Service(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"the startup script")
    def log_message(self, *words): pass
threading.Thread(target=http.server.ThreadingHTTPServer((METADATA, 80), Service).serve_forever, daemon=True).start()
def ask(uid):
    pid = os.fork()
    if pid == 0:
        os.setgroups([]); os.setgid(uid); os.setuid(uid)
        try:
            os._exit(int(urllib.request.urlopen("http://" + METADATA + "/user-data", timeout=5).read() != b"the startup script"))
        except OSError:
            os._exit(9)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
print(ask(UID), repr(block_metadata_service()), repr(block_metadata_service()), ask(UID), ask(0), ask(UID + 1))
print(subprocess.run(["iptables", "-S", "OUTPUT"], capture_output=True, text=True).stdout.count(str(UID)))
"""


@as_root
@pytest.mark.system
def test_the_trainers_user_cannot_ask_the_clouds_metadata_service_and_others_can() -> None:
    if missing := [tool for tool in ("unshare", "ip", "iptables") if not shutil.which(tool)]:
        pytest.skip(f"no {', '.join(missing)} here")
    if subprocess.run(["unshare", "-n", "iptables", "-S"], capture_output=True).returncode:
        pytest.skip("no network of its own can be made here")
    code = FENCED.format(root=str(Path(__file__).resolve().parents[2]))
    done = subprocess.run(
        ["unshare", "-n", sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "0 '' '' 9 0 0\n1\n", done.stderr


@as_root
def test_a_machine_without_a_firewall_program_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "No such file or directory: 'iptables'" in block_metadata_service()
    (tmp_path / "iptables").write_text("#!/bin/sh\necho 'you must be root' >&2\nexit 4\n")
    (tmp_path / "iptables").chmod(0o755)
    assert block_metadata_service() == "you must be root"
