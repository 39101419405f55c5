"""Locks between processes: by flock, or by a lock file where the file system does not support it."""

from __future__ import annotations

import errno
import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from nanolan.run.locks import Busy, hold, is_held
from nanolan.settings.settings import ROOT

WITHOUT_FLOCK = """
import errno, fcntl, sys
from pathlib import Path
def flock(*_):
    raise OSError(errno.ENOLCK, "No locks available")
if sys.argv[2] != "0":
    fcntl.flock = flock
from nanolan.run.locks import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(
    params=[0, errno.ENOLCK, errno.EOPNOTSUPP], ids=lambda n: errno.errorcode.get(n, "flock")
)
def refusal(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How the file system answers flock: 0 works."""

    def flock(*_: object) -> None:
        raise OSError(request.param, "no locks here")

    if request.param:
        monkeypatch.setattr(fcntl, "flock", flock)
    return int(request.param)


def test_a_lock_excludes_others_on_every_file_system(tmp_path: Path, refusal: int) -> None:
    path = tmp_path / "new/lock"
    assert not is_held(path)
    with hold(path):
        assert is_held(path)
        with pytest.raises(Busy), hold(path, 0.1):
            pass
    assert not is_held(path)
    with hold(path):
        pass


def test_a_lock_ends_with_its_process_even_when_that_is_killed(
    tmp_path: Path, refusal: int
) -> None:
    path = tmp_path / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", WITHOUT_FLOCK, str(path), str(refusal)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    ) as child:
        assert child.stdout and child.stdout.readline() == b"held\n"
        assert is_held(path)
        child.kill()
    assert not is_held(path)


def test_another_error_of_the_file_system_is_not_taken_for_a_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="broken"), hold(tmp_path / "lock"):
        pass
