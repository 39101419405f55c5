"""The local Hub's storage: atomic writes, restarts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanolan.sim.hub.repo import Refusal, Repo, git_oid, lfs_pointer
from nanolan.sim.hub.store import Store


def names(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


def test_an_object_is_found_by_its_hash(tmp_path: Path) -> None:
    store = Store(tmp_path)
    sha256, size = store.put([b"ab", b"c"])
    assert (sha256, size) == (hashlib.sha256(b"abc").hexdigest(), 3)
    assert store.object(sha256).read_bytes() == b"abc"
    assert (store.size_of(sha256), store.size_of("0" * 64)) == (3, None)


@pytest.mark.parametrize(
    ("sha256", "size"), [("0" * 64, None), (hashlib.sha256(b"abc").hexdigest(), 4)]
)
def test_bytes_with_another_hash_or_size_are_refused(
    tmp_path: Path, sha256: str, size: int | None
) -> None:
    store = Store(tmp_path)
    with pytest.raises(Refusal) as no:
        store.put([b"abc"], sha256, size)
    assert no.value.status == 400
    assert names(tmp_path / "objects") == names(tmp_path / "tmp") == set()


def test_a_stream_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield b"half"
        raise ConnectionError

    store = Store(tmp_path)
    with pytest.raises(ConnectionError):
        store.put(broken())
    assert names(tmp_path / "objects") == names(tmp_path / "tmp") == set()


def test_a_restart_keeps_repositories_and_drops_incomplete_uploads(tmp_path: Path) -> None:
    store = Store(tmp_path)
    blob = store.add("a.txt", b"text")
    store.save(Repo.new("model", "me/m", True, {"a.txt": blob}))
    (tmp_path / "tmp" / "half").write_bytes(b"ha")
    again = Store(tmp_path)
    assert again.load("model", "me/m") == store.load("model", "me/m")
    assert again.object(blob.sha256).read_bytes() == b"text"
    assert names(tmp_path / "tmp") == set()


def test_repositories_of_one_name_and_several_types_are_separate(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for typ in ("model", "dataset"):
        store.save(Repo.new(typ, "me/m", True, {}))
    store.delete("model", "me/m")
    assert [r.typ for r in store.all()] == ["dataset"]
    assert store.load("model", "me/m") is None


def test_a_file_has_the_same_blob_whether_given_as_bytes_or_by_path(tmp_path: Path) -> None:
    store = Store(tmp_path / "hub")
    for name, data in (("a.txt", b"text"), ("b.pt", b"\0" * 3000)):
        (tmp_path / name).write_bytes(data)
        assert store.add(name, data) == store.add(name, tmp_path / name)
    assert store.add("a.txt", b"text").oid == git_oid(b"text")
    sha256 = hashlib.sha256(b"\0" * 3000).hexdigest()
    assert store.add("b.pt", tmp_path / "b.pt").oid == git_oid(lfs_pointer(sha256, 3000))
