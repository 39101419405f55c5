"""Files are hashed while they are written, and not read again."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from nanolan.checkpoint.manifest import (
    CHUNK,
    Cancelled,
    HashedFile,
    hash_file,
    read_whole,
    save_whole,
)

_opened: list[tuple[str, str]] = []
_watched = ""  # a folder


def _see(event: str, args: tuple[Any, ...]) -> None:
    if _watched and event == "open" and isinstance(args[1], str) and _watched in str(args[0]):
        _opened.append((str(args[0]), args[1]))


sys.addaudithook(_see)  # cannot be removed: does nothing outside `opened_files`


@contextmanager
def opened_files(folder: Path) -> Iterator[list[tuple[str, str]]]:
    """The files below `folder` that Python opens meanwhile, and in which mode."""
    global _watched
    _opened.clear()
    _watched = str(folder)
    try:
        yield _opened
    finally:
        _watched = ""


PARTS = (b"", b"a", bytes(range(256)) * 9000, b"z" * CHUNK, b"end")


def test_the_hashes_are_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    with HashedFile(path, sum(map(len, PARTS))) as file:
        assert [file.write(part) for part in PARTS] == [len(part) for part in PARTS]
    assert path.read_bytes() == b"".join(PARTS)
    with opened_files(tmp_path) as opened:
        entry = file.entry()
    assert not opened
    assert entry == hash_file(path)


def test_a_wrong_size_given_beforehand_costs_a_second_look(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    with HashedFile(path, 3) as file:
        file.write(b"four")
    with opened_files(tmp_path) as opened:
        entry = file.entry()
    assert [Path(name).name for name, _ in opened] == ["a.pt"]
    assert entry == hash_file(path)


def test_a_write_is_given_up_between_two_blocks(tmp_path: Path) -> None:
    asked = []
    with (
        HashedFile(tmp_path / "a", 0, lambda: bool(asked.append(1)) or len(asked) > 2) as file,
        pytest.raises(Cancelled),
    ):
        file.write(b"x" * (5 * CHUNK))
    assert isinstance(file.problem, Cancelled)
    assert (tmp_path / "a").stat().st_size == 2 * CHUNK


def test_a_file_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("mine")
    with pytest.raises(FileExistsError):
        HashedFile(tmp_path / "a", 1)


def test_a_saved_step_is_not_read_again_to_be_hashed(tmp_path: Path) -> None:
    def write(folder: Path) -> Any:
        with HashedFile(folder / "model_000003.pt", 7) as file:
            file.write(b"weights")
        (folder / "meta_000003.json").write_text("{}")
        return [file.entry()]  # not of the meta: that one is hashed as before

    with opened_files(tmp_path) as opened:
        folder = save_whole(tmp_path, 3, write, run_id="r", phase="sft")
    assert [Path(name).name for name, mode in opened if "r" in mode] == ["meta_000003.json"]
    assert [f.path for f in read_whole(folder).files] == ["meta_000003.json", "model_000003.pt"]
