"""The key file: written once, readable only by its owner from the first byte, named after the plan."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanolan.errors import UnclearAnswer, UsageProblem
from nanolan.redact import Secret
from nanolan.shadeform.client import Shadeform
from nanolan.shadeform.models import Instance, instance_of
from nanolan.shadeform.ssh_key import (
    OwnKey,
    load_own_key,
    private_key_file,
    save_managed_key,
    upload_own_key,
)
from nanolan.sim.shadeform.server import ShadeformServer
from tests.support.box_fixtures import KEY

NAME = "lanbot-sft-20260128-2053-ab12cd34"


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[ShadeformServer]:
    with ShadeformServer(tmp_path / "cloud", key=KEY, boxes=False) as server:
        yield server


def api(cloud: ShadeformServer) -> Shadeform:
    return Shadeform(Secret(KEY), cloud.url, sleep=lambda s: None)


def machine(cloud: ShadeformServer, key_id: str | None = None) -> Instance:
    return instance_of(
        dict(
            id="i",
            name="../../evil",
            status="active",
            ssh_key_id=key_id or cloud.account.keys.default.id,
        )
    )


def test_the_managed_key_is_written_once_and_for_its_owner_only(
    cloud: ShadeformServer, tmp_path: Path
) -> None:
    old = os.umask(0)  # the worst one
    try:
        path = save_managed_key(api(cloud), machine(cloud), NAME, tmp_path / "keys")
    finally:
        os.umask(old)
    assert path == tmp_path / "keys" / f"{NAME}.pem"
    assert path.read_text() == cloud.account.keys.default.private_key
    assert (stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(path.parent.stat().st_mode)) == (
        0o600,
        0o700,
    )
    asked = len(cloud.requests)
    assert (
        save_managed_key(api(cloud), machine(cloud), NAME, tmp_path / "keys") == path
        and len(cloud.requests) == asked
    )


def test_the_key_file_is_never_readable_for_others(cloud: ShadeformServer, tmp_path: Path) -> None:
    events: list[int] = []

    def audit(event: str, args: tuple[object, ...]) -> None:
        if event == "open" and str(args[0]).endswith(".pem"):
            events.append(int(args[2]))  # type: ignore[call-overload]

    sys.addaudithook(audit)
    save_managed_key(api(cloud), machine(cloud), "audited", tmp_path / "keys")
    assert events and events[0] & os.O_EXCL and events[0] & os.O_CREAT


def test_two_at_once_leave_one_whole_key(cloud: ShadeformServer, tmp_path: Path) -> None:
    cloud.fault(
        "GET /v1/sshkeys", "stall", times=2, seconds=0.5
    )  # both find no file, then both write
    code = (
        f"from tests.shadeform.test_ssh_key import *; from types import SimpleNamespace as N\n"
        f"c = N(url={cloud.url!r}, account=N(keys=N(default=N(id={cloud.account.keys.default.id!r}))))\n"
        f"print(save_managed_key(api(c), machine(c), {NAME!r}, Path({str(tmp_path / 'keys')!r})))"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    said = [p.communicate(timeout=30)[0].strip() for p in both]
    assert [p.returncode for p in both] == [0, 0] and set(said) == {
        str(tmp_path / "keys" / f"{NAME}.pem")
    }
    assert (tmp_path / "keys" / f"{NAME}.pem").read_text() == cloud.account.keys.default.private_key


def test_half_a_key_on_a_full_disk_does_not_stay(cloud: ShadeformServer, tmp_path: Path) -> None:
    code = (
        f"from tests.shadeform.test_ssh_key import *; from types import SimpleNamespace as N; import resource\n"
        f"c = N(url={cloud.url!r}, account=N(keys=N(default=N(id={cloud.account.keys.default.id!r}))))\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
        f"print(save_managed_key(api(c), machine(c), {NAME!r}, Path({str(tmp_path / 'keys')!r})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stdout == "None\n" and list((tmp_path / "keys").iterdir()) == [], done.stderr


def test_an_own_key_or_a_failing_api_leaves_no_file(cloud: ShadeformServer, tmp_path: Path) -> None:
    own = cloud.account.keys.add({"name": "mine", "public_key": "ssh-ed25519 AAAA me"})["id"]
    assert save_managed_key(api(cloud), machine(cloud, own), NAME, tmp_path / "keys") is None
    assert save_managed_key(api(cloud), machine(cloud, "unknown"), NAME, tmp_path / "keys") is None
    cloud.fault("GET /v1/sshkeys", "internal_error", times=4)
    assert save_managed_key(api(cloud), machine(cloud), NAME, tmp_path / "keys") is None
    assert not (tmp_path / "keys").exists()


# ---- the user's own key

PUBLIC = "ssh-ed25519 " + "A" * 68 + " me@home"


def test_the_users_key_is_given_by_path_or_as_text(tmp_path: Path) -> None:
    (tmp_path / "id.pub").write_text(PUBLIC + "\n")
    assert load_own_key(PUBLIC) == OwnKey(PUBLIC)
    assert load_own_key(str(tmp_path / "id.pub")) == OwnKey(PUBLIC), (
        "no private half beside it: an agent has it"
    )
    (tmp_path / "id").write_text("private")
    assert load_own_key(str(tmp_path / "id.pub")) == OwnKey(PUBLIC, tmp_path / "id")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "ssh-ed25519",
        "/nonexistent/id.pub",
        "ssh-ed25519 AAAA; rm -rf",
        "\0",
        "a" * 5000,
        "ssh-ed25519 " + "A" * 68 + "\nssh-ed25519 " + "B" * 68,
    ],
)
def test_what_is_no_public_key_is_refused(text: str) -> None:
    with pytest.raises(UsageProblem, match="SSH_PUBLIC_KEY"):
        load_own_key(text)


def test_a_private_key_is_refused_and_nothing_of_it_is_shown(tmp_path: Path) -> None:
    key = "-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0\n"  # pragma: allowlist secret
    (tmp_path / "id").write_text(key)
    with pytest.raises(UsageProblem, match=r"must be the \.pub file") as e:
        load_own_key(str(tmp_path / "id"))
    assert "BEGIN" not in str(e.value) and "c2VjcmV0" not in str(e.value)


def posts(cloud: ShadeformServer) -> int:
    return sum(r.method == "POST" for r in cloud.requests)


def test_the_users_key_is_uploaded_once_regardless_of_name_and_comment(
    cloud: ShadeformServer,
) -> None:
    first = upload_own_key(api(cloud), OwnKey(PUBLIC))
    assert (
        upload_own_key(api(cloud), OwnKey(PUBLIC.replace("me@home", "other"))) == first
        and posts(cloud) == 1
    )
    key = cloud.account.keys.all[first]
    assert key.public_key == PUBLIC and key.name.startswith("nanolan-") and not key.is_default
    theirs = cloud.account.keys.add({"name": "by hand", "public_key": "ssh-ed25519 " + "B" * 68})[
        "id"
    ]
    assert (
        upload_own_key(api(cloud), OwnKey("ssh-ed25519 " + "B" * 68 + " me")) == theirs
        and posts(cloud) == 1
    )


def test_a_lost_answer_uploads_no_second_one(cloud: ShadeformServer) -> None:
    cloud.fault("POST /v1/sshkeys/add", "reset_after_effect")
    found = upload_own_key(api(cloud), OwnKey(PUBLIC))
    assert cloud.account.keys.all[found].public_key == PUBLIC and posts(cloud) == 1


def test_a_failed_upload_is_an_error_and_never_uses_another_key(cloud: ShadeformServer) -> None:
    cloud.fault("POST /v1/sshkeys/add", "internal_error")
    with pytest.raises(UnclearAnswer):
        upload_own_key(api(cloud), OwnKey(PUBLIC))
    assert len(cloud.account.keys.all) == 1


def test_each_instance_is_opened_with_the_key_it_was_created_with(
    cloud: ShadeformServer, tmp_path: Path
) -> None:
    mine = OwnKey(PUBLIC, tmp_path / "id")
    made = machine(cloud, upload_own_key(api(cloud), mine))
    assert private_key_file(api(cloud), made, NAME, tmp_path / "keys", mine) == tmp_path / "id"
    assert private_key_file(api(cloud), made, NAME, tmp_path / "keys", None) is None
    managed = private_key_file(api(cloud), machine(cloud), NAME, tmp_path / "keys", mine)
    assert managed == tmp_path / "keys" / f"{NAME}.pem" and managed.is_file()
