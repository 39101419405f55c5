"""The key file: written once, for its owner only from the first byte, under a name of our own."""
from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanolan.instance import ApiInstance, Instance, instance_of
from nanolan.secret import Secret
from nanolan.shadeform import Shadeform
from nanolan.sim.shadeform import ShadeformServer
from nanolan.sshkey import keep_key

from .box_fixtures import KEY

NAME = "lanbot-sft-20260128-2053-ab12cd34"


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[ShadeformServer]:
    with ShadeformServer(tmp_path / "cloud", key=KEY, boxes=False) as server:
        yield server


def api(cloud: ShadeformServer) -> Shadeform:
    return Shadeform(Secret(KEY), cloud.url, sleep=lambda s: None)


def machine(cloud: ShadeformServer, key_id: str | None = None) -> Instance:
    return instance_of(ApiInstance(id="i", name="../../evil", status="active", ssh_key_id=key_id or cloud.account.keys.default.id))


def test_the_managed_key_is_written_once_and_for_its_owner_only(cloud: ShadeformServer, tmp_path: Path) -> None:
    old = os.umask(0)       # the worst one
    try:
        path = keep_key(api(cloud), machine(cloud), NAME, tmp_path / "keys")
    finally:
        os.umask(old)
    assert path == tmp_path / "keys" / f"{NAME}.pem"
    assert path.read_text() == cloud.account.keys.default.private_key
    assert (stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(path.parent.stat().st_mode)) == (0o600, 0o700)
    asked = len(cloud.requests)
    assert keep_key(api(cloud), machine(cloud), NAME, tmp_path / "keys") == path and len(cloud.requests) == asked


def test_the_file_is_never_readable_for_others_not_even_for_a_moment(cloud: ShadeformServer, tmp_path: Path) -> None:
    events: list[int] = []

    def audit(event: str, args: tuple[object, ...]) -> None:
        if event == "open" and str(args[0]).endswith(".pem"):
            events.append(int(args[2]))  # type: ignore[call-overload]
    sys.addaudithook(audit)
    keep_key(api(cloud), machine(cloud), "audited", tmp_path / "keys")
    assert events and events[0] & os.O_EXCL and events[0] & os.O_CREAT


def test_two_at_once_leave_one_whole_key(cloud: ShadeformServer, tmp_path: Path) -> None:
    cloud.fault("GET /v1/sshkeys", "stall", times=2, seconds=0.5)     # both find no file, then both write
    code = (f"from tests.test_sshkey import *; from types import SimpleNamespace as N\n"
            f"c = N(url={cloud.url!r}, account=N(keys=N(default=N(id={cloud.account.keys.default.id!r}))))\n"
            f"print(keep_key(api(c), machine(c), {NAME!r}, Path({str(tmp_path / 'keys')!r})))")
    both = [subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parent.parent, stdout=subprocess.PIPE,
                             text=True) for _ in range(2)]
    said = [p.communicate(timeout=30)[0].strip() for p in both]
    assert [p.returncode for p in both] == [0, 0] and set(said) == {str(tmp_path / "keys" / f"{NAME}.pem")}
    assert (tmp_path / "keys" / f"{NAME}.pem").read_text() == cloud.account.keys.default.private_key


def test_a_key_of_the_users_own_or_an_api_in_trouble_leaves_no_file(cloud: ShadeformServer, tmp_path: Path) -> None:
    own = cloud.account.keys.add({"name": "mine", "public_key": "ssh-ed25519 AAAA me"})["id"]
    assert keep_key(api(cloud), machine(cloud, own), NAME, tmp_path / "keys") is None
    assert keep_key(api(cloud), machine(cloud, "unknown"), NAME, tmp_path / "keys") is None
    cloud.fault("GET /v1/sshkeys", "internal_error", times=4)
    assert keep_key(api(cloud), machine(cloud), NAME, tmp_path / "keys") is None
    assert not (tmp_path / "keys").exists()
