"""The local Hub's Xet side, which real uploads use by default."""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from nanolan.sim.hub.server import HubServer
from nanolan.sim.hub.xet import (
    END,
    HAS_SHA256,
    HAS_VERIFICATION,
    RECORD,
    XetStorage,
    files_of_shard,
)

UPLOAD = """
from huggingface_hub import HfApi
HfApi().upload_file(repo_id="me/m", path_or_fileobj="m.pt", path_in_repo="m.pt")
"""
LOST = (
    "hf-xet no longer takes the storage address local:///folder, which the local Hub's Xet mode is built on. "
    "Pin the hf-xet that still did (1.8.0), or run rehearsals with xet=False"
)


def run(hub: HubServer, tmp: Path, script: str, **more: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp / "home")} | hub.env(tmp / "hf_home") | more
    return subprocess.run(
        [sys.executable, "-c", script], cwd=tmp, env=env, capture_output=True, text=True, timeout=60
    )


def test_hf_xet_still_accepts_a_folder_as_its_storage(tmp_path: Path) -> None:
    data = Random(0).randbytes(300_000)
    (tmp_path / "m.pt").write_bytes(data)
    with HubServer(tmp_path / "hub", xet=True) as hub:
        hub.put("me/m", {"a.txt": b"x"})
        done = run(hub, tmp_path, UPLOAD)
        assert done.returncode == 0, f"{LOST}\n{done.stderr[-2000:]}"
        assert "m.pt" in hub.files("me/m"), LOST
        assert not [line for line in hub.log if "/__lfs__/" in line["path"]], (
            LOST
        )  # the bytes did not come by HTTP
        assert hub.read("me/m", "m.pt") == data, LOST


def test_a_client_without_xet_downloads_files_uploaded_by_xet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("HF_HOME", "HF_XET_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    data = Random(1).randbytes(300_000)
    (tmp_path / "m.pt").write_bytes(data)
    with HubServer(tmp_path / "hub", xet=True) as hub:
        hub.put("me/m", {"a.txt": b"x"})
        assert run(hub, tmp_path, UPLOAD).returncode == 0
        get = 'from huggingface_hub import hf_hub_download; print(hf_hub_download("me/m", "m.pt"))'
        done = run(hub, tmp_path, get, HF_HUB_DISABLE_XET="1")
        assert Path(done.stdout.strip()).read_bytes() == data
        assert [line["status"] for line in hub.log if "/__cdn__/" in line["path"]] == [200]
        assert not (
            tmp_path / "home"
        ).exists()  # neither client nor server wrote into the user's home


def test_downloads_use_xet_too(tmp_path: Path) -> None:
    data = Random(2).randbytes(300_000)
    (tmp_path / "m.pt").write_bytes(data)
    script = (
        UPLOAD
        + 'from huggingface_hub import hf_hub_download; print(hf_hub_download("me/m", "m.pt"))'
    )
    with HubServer(tmp_path / "hub", xet=True) as hub:
        hub.put("me/m", {"a.txt": b"x"})
        done = run(hub, tmp_path, script)
        assert done.returncode == 0, done.stderr[-2000:]
        assert Path(done.stdout.strip()).read_bytes() == data
        assert [line["status"] for line in hub.log if "/xet-read-token/" in line["path"]] == [200]
        assert not [line for line in hub.log if "/__cdn__/" in line["path"]]


def test_every_reader_gets_its_own_folder(tmp_path: Path) -> None:
    (tmp_path / "m.pt").write_bytes(Random(4).randbytes(300_000))
    with HubServer(tmp_path / "hub", xet=True) as hub:
        hub.put("me/m", {"a.txt": b"x"})
        assert run(hub, tmp_path, UPLOAD).returncode == 0
        xet, sha256 = hub.store.xet, hub.files("me/m")["m.pt"].sha256
        assert xet
        written = xet.find(sha256)
        assert written
        folders = {
            xet.read_url(sha256),
            xet.read_url(sha256),
            f"local://{written.folder}",
        }
        assert len(folders) == 3  # hf-xet locks a folder: two users of one would fail


def test_a_second_server_finds_the_uploads_of_the_first(tmp_path: Path) -> None:
    data = Random(3).randbytes(300_000)
    (tmp_path / "m.pt").write_bytes(data)
    with HubServer(tmp_path / "hub", xet=True) as first:
        first.put("me/m", {"a.txt": b"x"})
        assert run(first, tmp_path, UPLOAD).returncode == 0
    assert HubServer(tmp_path / "hub", xet=True).read("me/m", "m.pt") == data


def shard(*, segments: int, verified: bool, sha256: bytes) -> bytes:
    flags = HAS_SHA256 | (HAS_VERIFICATION if verified else 0)
    words = struct.pack("<4Q", 1, 2, 3, 4)
    body = struct.pack("<32sIIQ", words, flags, segments, 0)
    body += b"".join(bytes(36) + struct.pack("<I", 1000) + bytes(8) for _ in range(segments))
    body += bytes(RECORD) * segments * verified
    return bytes(RECORD) + body + sha256 + bytes(16) + END + bytes(16)


@pytest.mark.parametrize("verified", [False, True])
def test_a_shard_holds_hash_and_size_of_each_file(verified: bool) -> None:
    key = struct.pack("<4Q", 0xA, 0xB, 0xC, 0xD)
    assert files_of_shard(shard(segments=3, verified=verified, sha256=key)) == {
        "".join(f"{n:016x}" for n in (0xA, 0xB, 0xC, 0xD)): (
            "".join(f"{n:016x}" for n in (1, 2, 3, 4)),
            3000,
        )
    }


def test_a_half_written_shard_is_read_again_later(tmp_path: Path) -> None:
    key = hashlib.sha256(b"x").digest()
    sha256 = "".join(f"{n:016x}" for n in struct.unpack("<4Q", key))
    whole = shard(segments=1, verified=True, sha256=key)
    xet = XetStorage(tmp_path, tmp_path)
    path = Path(xet.write_url().removeprefix("local://"), "xet", "xorbs", "shards", "a.mdb")
    path.parent.mkdir(parents=True)
    for cut in (0, 10, RECORD + 10, len(whole) - RECORD):
        path.write_bytes(whole[:cut])
        assert xet.find(sha256) is None
    path.write_bytes(whole)
    found = xet.find(sha256)
    assert found
    assert found.size == 1000
