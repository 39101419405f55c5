"""Problems of a freshly rented Ubuntu, as programs that shadow the real ones on the box's PATH.

Each behaves as reported for the real one, with its messages and exit codes, the first few times or always.
"""

from __future__ import annotations

import shutil
from pathlib import Path

LATE = 3  # how many calls fail before the thing is available

# a counter of calls in $tries, one for each stand-in
COUNT = f"""#!/bin/sh
tries=$(($(cat "$0.tries" 2>/dev/null || echo 0) + 1)); echo "$tries" >"$0.tries"; late={LATE}
"""
NO_COMPILER = """#!/bin/sh
[ -e "$BOX_ROOT/usr/bin/installed" ] || { echo "cc: command not found" >&2; exit 127; }
"""
INSTALLS = """
case "$*" in *install*) touch "$BOX_ROOT/usr/bin/installed" ;; esac
"""
LOCKED = (
    COUNT
    + """
if [ "$tries" -le $((2 * late)) ]; then case "$*" in
    *update*) echo "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 1042 (apt-get)" >&2
              echo "E: Unable to lock directory /var/lib/apt/lists/" >&2; exit 100 ;;
    *) echo "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 1042 (unattended-upgr)" >&2; exit 100 ;;
esac; fi"""
    + INSTALLS
)
NO_NAMES = (
    COUNT
    + """
if [ "$tries" -le $((2 * late)) ]; then case "$*" in
    *update*) echo "W: Failed to fetch http://archive.ubuntu.com/ubuntu/dists/noble/InRelease  Temporary failure resolving" \
                   "'archive.ubuntu.com'" >&2; exit 0 ;;
    *) echo "E: Unable to locate package gcc" >&2; exit 100 ;;
esac; fi"""
    + INSTALLS
)
DEAD_REPOSITORY = (
    COUNT
    + """
case "$*" in *update*)
    echo "E: The repository 'https://developer.download.nvidia.com InRelease' is not signed." >&2; exit 100 ;;
esac
"""
    + INSTALLS
)
INTERRUPTED = (
    COUNT
    + """
[ -e "$BOX_ROOT/usr/bin/configured" ] || { 
    echo "E: dpkg was interrupted, you must manually run 'dpkg --configure -a' to correct the problem." >&2; exit 100; }
"""
    + INSTALLS
)
DPKG = """#!/bin/sh
[ "$*" != "--configure -a" ] || touch "$BOX_ROOT/usr/bin/configured"
"""
LATE_DRIVER = (
    COUNT
    + """
if [ "$tries" -le "$late" ]; then
    echo "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA driver is"
    echo "installed and running."; exit 9
fi
exec "$0.real" "$@"
"""
)
WARNS = """#!/bin/sh
case "$*" in *compute-apps*) echo "No running processes found" ;; *) "$0.real" "$@" ;; esac
echo "WARNING: infoROM is corrupted at gpu 0000:1B:00.0"
exit 14
"""
DF = f"""#!/bin/sh
{shutil.which("df") or "/bin/df"} "$@"
echo "df: /run/user/1000/doc: Operation not permitted" >&2
exit 1
"""

TROUBLES: dict[str, dict[str, str]] = {
    "apt-locked": {"cc": NO_COMPILER, "apt-get": LOCKED, "dpkg": DPKG},
    "dns-late": {"cc": NO_COMPILER, "apt-get": NO_NAMES, "dpkg": DPKG},
    "apt-repository-dead": {"cc": NO_COMPILER, "apt-get": DEAD_REPOSITORY, "dpkg": DPKG},
    "dpkg-interrupted": {"cc": NO_COMPILER, "apt-get": INTERRUPTED, "dpkg": DPKG},
    "driver-late": {"nvidia-smi": LATE_DRIVER},
    "smi-warns": {"nvidia-smi": WARNS},
    "df-broken": {"df": DF},
    "no-hostname": {},
}
# A host name that does not resolve; needs Linux and root
UNKNOWN_HOST = (
    "unshare",
    "--uts",
    "/bin/sh",
    "-c",
    'hostname nowhere-to-be-found; exec "$@"',
    "box",
)


def make_trouble(folder: Path, name: str) -> None:
    """Put the replacement programs of a problem on a box's PATH."""
    for program, text in TROUBLES[name].items():
        path = folder / "usr/bin" / program
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            path.rename(f"{path}.real")
        path.write_text(text)
        path.chmod(0o755)


def before_script(name: str | None) -> tuple[str, ...]:
    """The prefix of the command that runs the startup script."""
    return UNKNOWN_HOST if name == "no-hostname" else ()
