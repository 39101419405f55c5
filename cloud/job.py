"""What a job of SkyPilot or Hugging Face runs: the same boot.sh and box program as a rented instance. The job ends with them, and
so does its machine.

Python's own library only. The job's command fetches this file from the run folder, checks its hash and passes the folder's
address; its last line, which the export adds, is `start({...})` with the run's values, boot.sh and the rescue program among them.
The secrets come on stdin, as JSON: no process that starts from here has one in its environment or its arguments.
"""

from __future__ import annotations

import base64
import contextlib
import importlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = os.environ.get("BOX_ROOT", "")  # empty but in a rehearsal
LOG = Path(f"{ROOT}/var/log/lanbot-training.log")
RESTARTS, RESTART_S = 5, 5.0  # of a box program that was killed, as systemd does it on an instance
LOOK_S, LOOKS = 5.0, 12  # at the run folder, before anything is installed
KEPT = "SKYPILOT_TASK_ID,JOB_ID,BOX_ROOT"  # through sudo: which job this is
# settings of the platform or its image that would change how the Hub is asked, or which Python runs
DROPPED = re.compile(r"(?!NANOLAN_BOX$)(HF_|HUGGING|WANDB|PYTHON|NANOLAN|CONDA|VIRTUAL_ENV)\w*")


def say(text: str) -> None:
    print(f"job: {text}", flush=True)


def start(values: dict[str, Any]) -> None:
    """The whole job; exits with the code of the box program: 0, or the verdict's."""
    secrets = json.loads(sys.stdin.read())
    if os.geteuid() != 0 and not ROOT:
        become_root(secrets)
    folder = private_folder()
    rescue = load(folder, unpack(values["script"]["RESCUE"]))
    over, number = look(rescue, values, secrets["HF_TOKEN"])
    if over:
        say(over)
        sys.exit(0)
    script = folder / "boot.sh"
    script.touch(0o600)
    script.write_text(script_of(values, sys.argv[1], secrets, time.time()))
    sys.exit(supervise(script, number, lambda line: rescue.hide(line, secrets)))


def become_root(secrets: dict[str, str]) -> None:
    """Run this file again as root: boot.sh installs packages, and the trainer gets a user of its own."""
    sudo = shutil.which("sudo")
    if not sudo or subprocess.run([sudo, "-n", "true"], stdin=subprocess.DEVNULL).returncode:
        sys.exit("job: this needs root, or sudo without a password: neither is here")
    read, write = os.pipe()
    os.write(write, json.dumps(secrets).encode())
    os.close(write)
    os.dup2(read, 0)
    os.execv(sudo, [sudo, "-n", f"--preserve-env={KEPT}", sys.executable, *sys.argv])  # noqa: S606


def private_folder() -> Path:
    """A folder of root's alone, in memory where /run is."""
    with contextlib.suppress(OSError):
        Path(f"{ROOT}/run").mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix="nanolan-job-", dir=f"{ROOT}/run"))
    return Path(tempfile.mkdtemp(prefix="nanolan-job-"))


def load(folder: Path, source: bytes) -> Any:
    """The rescue program as a module: its calls to the Hub, and its mask."""
    (folder / "rescue.py").write_bytes(source)
    sys.path.insert(0, str(folder))
    return importlib.import_module("rescue")


def look(
    rescue: Any,
    values: dict[str, Any],
    token: str,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[str, int]:
    """(why there is nothing to do, or ""; the run's newest attempt so far). Without an answer the box program decides later."""
    for _ in range(LOOKS):
        try:
            receipt = record(rescue, values, "receipt.json", token)
            if receipt.get("verdict") == "succeeded":
                return f"run {values['script']['RUN_ID']} is over (succeeded); nothing to do", 0
            return "", int(record(rescue, values, "machine.json", token).get("attempt", 1))
        except Exception as e:  # a Hub that is down, a record that is none
            say(f"the run folder cannot be read: {type(e).__name__} {getattr(e, 'code', '')}")
            sleep(LOOK_S)
    return "", 1


def record(rescue: Any, values: dict[str, Any], name: str, token: str) -> dict[str, Any]:
    """A JSON file of the run folder; empty if there is none."""
    try:
        data = json.loads(rescue.call(f"{values['folder']}/{name}", token=token))
    except OSError as e:
        if getattr(e, "code", 0) == 404:
            return {}
        raise
    return data if isinstance(data, dict) else {}


def script_of(values: dict[str, Any], url: str, secrets: dict[str, str], now: float) -> str:
    """The startup script, as an instance gets it: boot.sh after its values."""
    shell = values["script"] | {
        "RUN_URL": url,
        "DEADLINE": str(int(now + values["life_s"])),
        "SECRETS": pack(json.dumps(secrets).encode()),
    }
    lines = [f"{name}={shlex.quote(value)}" for name, value in shell.items()]
    return "\n".join(
        [*lines, values["unpack"], 'BOOT=$(unpack "$BOOT") || exit 1', 'eval "$BOOT"', ""]
    )


def pack(data: bytes) -> str:
    """As nanolan/launch/request.py does it."""
    return base64.b85encode(zlib.compress(data, 9)).decode()


def unpack(text: str) -> bytes:
    """Reverse `pack`."""
    return zlib.decompress(base64.b85decode(text))


def supervise(script: Path, number: int, mask: Callable[[str], str]) -> int:
    """Run boot.sh, which becomes the box program, again when that was killed; print its log meanwhile. Its exit code."""
    env = {k: v for k, v in os.environ.items() if not DROPPED.match(k)} | {
        "NANOLAN_JOB": str(os.getpid()),  # what the dead man's timer ends
        "NANOLAN_ATTEMPT": str(number),
        "NANOLAN_UNIT": "1",  # this program restarts it, not systemd
    }
    follower = Follower(LOG, mask)
    box: list[subprocess.Popen[bytes]] = []

    def end(*_: object) -> None:
        """The time is up, or the job was cancelled."""
        say("ended by a signal: the time is up, or the job was cancelled")
        for process in box:  # not the timer: it powers a machine off that nobody takes down
            with contextlib.suppress(OSError):
                process.kill()
        follower.close()
        os._exit(143)

    signal.signal(signal.SIGTERM, end)
    for _ in range(1 + RESTARTS):
        code = run(script, env, box, mask)
        if 0 <= code < 128:
            break
        say(f"the box program was killed (exit code {code}); starting it again")
        time.sleep(RESTART_S)
    follower.close()
    return code if 0 <= code < 256 else 1


def run(
    script: Path,
    env: dict[str, str],
    box: list[subprocess.Popen[bytes]],
    mask: Callable[[str], str],
) -> int:
    """Run the script to its end; its exit code. It does not get this program's stdout: what it leaves behind would hold that open,
    and the platform waits for its end."""
    console = script.with_name("console")
    with console.open("wb") as out:
        box[:] = [
            subprocess.Popen(  # noqa: S603
                ["/bin/bash", str(script)],
                env=env,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        ]
        code = box[0].wait()
    if said := console.read_bytes().decode(errors="replace").strip():  # before its log is open
        say(mask(said))
    return code


class Follower:
    """Prints the log as it grows, in whole lines and masked: what the platform shows as the job's log."""

    def __init__(self, path: Path, mask: Callable[[str], str], out: Any = sys.stdout) -> None:
        self._path, self._mask, self._out = path, mask, out
        self._at = path.stat().st_size if path.is_file() else 0
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Print what is left."""
        self._closed.set()
        self._thread.join(10)

    def _follow(self) -> None:
        while not self._closed.wait(0.5):
            self.more()
        self.more()

    def more(self) -> None:
        """Print the whole lines that are new."""
        try:
            with self._path.open("rb") as log:
                log.seek(self._at)
                data = log.read()
        except OSError:
            return
        whole = data[: data.rfind(b"\n") + 1]
        self._at += len(whole)
        if whole:
            with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
                self._out.write(self._mask(whole.decode(errors="replace")))
                self._out.flush()
