"""The local Hub's Xet side: hf-xet's real chunking, hashing and dedup, against folders instead of a storage service.

The client gets the storage address `local:///<folder>` (a test facility of hf-xet 1.8, undocumented). hf-xet locks
such a folder for as long as its process lives, so every token gets its own folder: a new one to write, a copy
to read. Uploaded files are found through shard files: tables of 48-byte records that map sha256 to Xet hash.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

RECORD = 48  # bytes; also the length of a shard's header
END = b"\xff" * 32  # the hash of the record that ends the file table
HAS_SHA256 = 0x40000000  # flags of a file's first record
HAS_VERIFICATION = 0x80000000  # ... each segment is then followed by a verification record

# Runs in a child process: importing hf_xet writes a log under HF_XET_CACHE, which must not be the user's
EXTRACT = """
import sys, time, hf_xet
url, xet_hash, size, to = sys.argv[1:]
with hf_xet.XetSession().new_file_download_group(
        endpoint=url, token="loopback", token_expiry_unix_secs=int(time.time()) + 3600) as group:
    group.start_download_file(hf_xet.XetFileInfo(xet_hash, int(size)), to)
"""


@dataclass(frozen=True)
class XetFile:
    """A file that a client uploaded: its Xet hash, its bytes, and the upload's folder."""

    xet_hash: str
    size: int
    folder: Path


class XetStorage:
    """The folders given to clients, and the files in them."""

    def __init__(self, folder: Path, temp: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.temp = folder, temp
        self._known: dict[str, XetFile] = {}
        self._read: set[Path] = set()
        self._lock = threading.Lock()

    def write_url(self) -> str:
        """The address of a new folder for one upload."""
        return _url(tempfile.mkdtemp(dir=self.folder))

    def read_url(self, sha256: str) -> str | None:
        """The address of a private copy of the upload that contains this file; None if no upload does."""
        file = self.find(sha256)
        return _url(self._copy(file)) if file else None

    def find(self, sha256: str) -> XetFile | None:
        """The uploaded file with this sha256, or None; reads the shards added since the last call."""
        with self._lock:
            if sha256 not in self._known:
                for shard in set(self.folder.glob("*/xet/xorbs/shards/*.mdb")) - self._read:
                    try:
                        files = files_of_shard(shard.read_bytes())
                    except struct.error:
                        continue  # still being written: read it next time
                    self._known |= {
                        s: XetFile(xet_hash, size, shard.parents[3])
                        for s, (xet_hash, size) in files.items()
                    }
                    self._read.add(shard)
            return self._known.get(sha256)

    def extract(self, file: XetFile, to: Path) -> None:
        """Write the file's bytes to `to`; CalledProcessError if hf-xet cannot."""
        copy = self._copy(file)
        try:
            subprocess.run(
                [
                    sys.executable,
                    "-c",
                    EXTRACT,
                    _url(copy),
                    file.xet_hash,
                    str(file.size),
                    str(to),
                ],
                env=os.environ | {"HF_XET_CACHE": str(copy)},
                check=True,
                capture_output=True,
            )
        finally:
            shutil.rmtree(copy, ignore_errors=True)

    def _copy(self, file: XetFile) -> Path:
        """A copy that can be opened while the uploader still has the original open; chunks are hard links."""
        copy = Path(tempfile.mkdtemp(dir=self.temp))
        shutil.copytree(
            file.folder / "xet" / "xorbs",
            copy / "xet" / "xorbs",
            copy_function=lambda a, b: shutil.copy(a, b) if a.endswith(".redb") else os.link(a, b),
        )
        return copy


def files_of_shard(shard: bytes) -> dict[str, tuple[str, int]]:
    """sha256 -> (Xet hash, bytes) of every file in a shard; struct.error if it is cut off."""
    out: dict[str, tuple[str, int]] = {}
    at = RECORD
    while True:
        xet_hash, flags, segments, _ = struct.unpack_from("<32sIIQ", shard, at)
        if xet_hash == END:
            return out
        at += RECORD
        size = sum(
            struct.unpack_from("<I", shard, at + RECORD * i + 36)[0] for i in range(segments)
        )
        at += RECORD * segments * (2 if flags & HAS_VERIFICATION else 1)
        if flags & HAS_SHA256:
            out[_hex(shard, at)] = _hex(xet_hash, 0), size
            at += RECORD


def _hex(data: bytes, at: int) -> str:
    """32 bytes as Xet prints a hash: four little-endian words, each as 16 hex digits."""
    return "".join(f"{word:016x}" for word in struct.unpack_from("<4Q", data, at))


def _url(folder: str | Path) -> str:
    return f"local://{folder}"
