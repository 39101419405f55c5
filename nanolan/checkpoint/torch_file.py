"""Lists the tensors of a .pt file (model_*.pt, token_bytes.pt) without torch and without executing its pickle.

Reads only the index and the list of tensors of the file (a zip), so that a model of 2 GB can be checked on the disk, or on
the Hub by a few range requests. A file that passes needs no more memory than its size.
"""

from __future__ import annotations

import pickle
import zipfile
from dataclasses import dataclass
from typing import Any, BinaryIO

from nanolan.checkpoint.file_kind import HEAD_BYTES, mistaken_for
from nanolan.checkpoint.safe_pickle import RestrictedUnpickler
from nanolan.errors import BadAnswer

MAX_LIST_BYTES = 4 << 20  # data.pkl of a d20 takes about 20 KiB
MAX_INDEX_BYTES = 4 << 20  # of the zip: about 100 bytes per tensor
HEADER_BYTES = 30  # minimum of a zip entry
FLOATS = ("Double", "Float", "Half", "BFloat16")
SIZES = {
    "Double": 8,
    "Long": 8,
    "Float": 4,
    "Int": 4,
    "Half": 2,
    "BFloat16": 2,
    "Short": 2,
    "Char": 1,
    "Byte": 1,
    "Bool": 1,
}


@dataclass(frozen=True)
class Tensor:
    """The description of one tensor in a .pt file."""

    shape: tuple[int, ...]
    storage: str  # name of its file in the zip's data/ folder
    bytes: int  # size of that storage, by its kind and length
    kind: str = "Float"

    def is_floating_point(self) -> bool:
        """Whether the tensor holds floats."""
        return self.kind in FLOATS

    @property
    def numbers(self) -> int:
        n = 1
        for size in self.shape:
            n *= size
        return n


@dataclass(frozen=True)
class _Kind:
    name: str
    size: int  # bytes of a number


@dataclass(frozen=True)
class _Storage:
    key: str
    kind: _Kind
    numbers: int


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> Tensor:
    if (
        not isinstance(storage, _Storage)
        or not _whole_numbers(shape)
        or not _whole_numbers(stride)
        or len(stride) != len(shape)
    ):
        raise pickle.UnpicklingError("a tensor without a storage or a shape")
    found = Tensor(shape, storage.key, storage.kind.size * storage.numbers, storage.kind.name)
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    if offset < 0 or found.numbers and (last >= storage.numbers or found.numbers > storage.numbers):
        raise pickle.UnpicklingError("a tensor larger than its storage")
    return found


def _whole_numbers(shape: Any) -> bool:
    return isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)


def _parameter(tensor: Any, *_: Any) -> Any:
    return tensor


def _storage(pid: Any) -> _Storage:
    """("storage", kind, key, device, length) of torch.save."""
    match pid:
        case ("storage", _Kind() as kind, str(key), _, int(numbers)) if numbers >= 0:
            return _Storage(key, kind, numbers)
    raise pickle.UnpicklingError("it asks for an outside object that is not a storage")


def _no_items() -> dict[str, Any]:
    """Replaces OrderedDict: a plain dictionary keeps the order too, and has no attributes that a pickle could set."""
    return {}


ADMITTED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _no_items,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    **{("torch", f"{kind}Storage"): _Kind(kind, size) for kind, size in SIZES.items()},
}


class BoundedFile:
    """A file of which at most `most` bytes can be read."""

    def __init__(self, file: BinaryIO, most: int, where: str) -> None:
        self._file = file
        self._left = most
        self._where = where
        self.seek = file.seek
        self.tell = file.tell
        self.seekable = file.seekable

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(self._left + 1 if size < 0 else min(size, self._left + 1))
        self._left -= len(data)
        if self._left < 0:
            raise BadAnswer(
                f"{self._where}: its index is larger than {MAX_INDEX_BYTES >> 20} MiB: not a file of torch.save"
            )
        return data


def _index(archive: zipfile.ZipFile, where: str) -> dict[str, zipfile.ZipInfo]:
    """The zip's entries by name; BadAnswer unless laid out as by torch.save: in one folder, uncompressed, not overlapping."""
    found = sorted(archive.infolist(), key=lambda i: i.header_offset)
    ends = [*(i.header_offset for i in found[1:]), archive.start_dir]
    apart = all(
        i.header_offset + HEADER_BYTES + i.compress_size <= end
        for i, end in zip(found, ends, strict=True)
    )
    plain = all(
        i.compress_type == zipfile.ZIP_STORED and i.compress_size == i.file_size for i in found
    )
    folders = {i.filename.partition("/")[0] for i in found}
    begins = bool(found) and found[0].header_offset == 0
    if (
        not begins
        or not apart
        or not plain
        or len(folders) != 1
        or len({i.filename for i in found}) != len(found)
    ):
        raise BadAnswer(f"{where}: compressed or inconsistent: not a file of torch.save")
    return {i.filename.partition("/")[2]: i for i in found}


def _no_index(file: BinaryIO, where: str) -> BadAnswer:
    """The error for a file that is not a complete zip."""
    file.seek(0)
    if what := mistaken_for(file.read(HEAD_BYTES)):
        return BadAnswer(f"{where} is {what}")
    return BadAnswer(f"{where}: cut off, or not a file of torch.save (it has no index at its end)")


def check_whole(file: BinaryIO, where: str) -> None:
    """BadAnswer unless `file` is a complete zip of torch.save; its content is not checked."""
    try:
        with zipfile.ZipFile(BoundedFile(file, MAX_INDEX_BYTES, where)) as archive:
            _index(archive, where)
    except zipfile.BadZipFile:
        raise _no_index(file, where) from None
    except (ValueError, LookupError, NotImplementedError, UnicodeDecodeError) as e:
        raise BadAnswer(f"{where}: not a file of torch.save ({type(e).__name__})") from None


def tensors(file: BinaryIO, where: str) -> dict[str, Tensor]:
    """The tensors of a .pt file by name ("" for a single one); BadAnswer if it holds anything else or is incomplete.

    The numbers are not read: each storage only needs an entry of the right size in the zip's index.
    """
    try:
        with zipfile.ZipFile(BoundedFile(file, MAX_LIST_BYTES + MAX_INDEX_BYTES, where)) as archive:
            entries = _index(archive, where)
            listed = entries.get("data.pkl")
            if listed is None or listed.file_size > MAX_LIST_BYTES:
                raise BadAnswer(f"{where}: it has no list of tensors: not a file of torch.save")
            found = RestrictedUnpickler(archive.read(listed), ADMITTED, _storage).load()
    except BadAnswer:
        raise
    except zipfile.BadZipFile:
        raise _no_index(file, where) from None
    except Exception as e:  # a hostile pickle can raise anything
        raise BadAnswer(
            f"{where}: refused, it holds more than tensors ({type(e).__name__}: {e})"
        ) from None
    named = {"": found} if isinstance(found, Tensor) else found
    if not isinstance(named, dict) or not all(
        isinstance(k, str) and isinstance(t, Tensor) for k, t in named.items()
    ):
        raise BadAnswer(f"{where}: not a dictionary of tensors")
    if short := [
        name
        for name, t in named.items()
        if (at := entries.get(f"data/{t.storage}")) is None or at.file_size != t.bytes
    ]:
        raise BadAnswer(f"{where}: tensor {short[0]!r} is not complete")
    return named
