"""What a pickle holds, without running any of it: nanochat's tokenizer.pkl, and the tensors that a .pt file lists.

A pickle is a program. These readers admit a handful of names and put harmless stand-ins in their place; anything
else is refused by its name. They know only the operations that torch and tiktoken write, in Python: the quick unpickler
makes room for gigabytes when twelve bytes tell it to, and hashes a tuple nested so deep that the process dies.

Of a .pt file (a zip) only the index and the list of tensors are read, so that a model of 2 GB can be looked at where it
lies: on the disk, or on the Hub by a few small ranges. What passes can take no more memory than the file has bytes.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

from nanolan.checkpoint.file_kind import HEAD_BYTES, mistaken_for
from nanolan.errors import BadAnswer

MAX_TOKENIZER_BYTES = (
    8 << 20
)  # a vocabulary of 65,536 takes about 1 MiB; a pickle can make 64 times of it
MAX_LIST_BYTES = 4 << 20  # data.pkl of a d20 takes about 20 KiB
MAX_INDEX_BYTES = 4 << 20  # of the zip: about 100 bytes a tensor
HEADER_BYTES = 30  # of a zip's entry, at least
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
# nanochat's, at the very end of the vocabulary, in this order
SPECIAL_TOKENS = (
    "<|bos|>",
    "<|user_start|>",
    "<|user_end|>",
    "<|assistant_start|>",
    "<|assistant_end|>",
    "<|python_start|>",
    "<|python_end|>",
    "<|output_start|>",
    "<|output_end|>",
)
STATE = ("name", "pat_str", "mergeable_ranks", "special_tokens")


# All that pickle.dump and torch.save need for these files, by pickletools' names
OPERATIONS = """
PROTO FRAME STOP MARK EMPTY_DICT EMPTY_LIST EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 BINUNICODE SHORT_BINUNICODE
BINBYTES SHORT_BINBYTES BININT BININT1 BININT2 LONG1 BINFLOAT NEWTRUE NEWFALSE NONE GLOBAL STACK_GLOBAL NEWOBJ REDUCE BUILD SETITEM
SETITEMS APPEND APPENDS BINPUT LONG_BINPUT MEMOIZE BINGET LONG_BINGET BINPERSID
""".split()  # noqa: SIM905
NAMES = {ord(op.code): op.name for op in pickletools.opcodes}
KEYS = (str, bytes, int)


class _Known(dict[int, Any]):
    """Operation -> what it does."""

    def __missing__(self, operation: int) -> Any:
        raise pickle.UnpicklingError(f"it holds the operation {NAMES.get(operation, operation)}")


class _Admits(pickle._Unpickler):
    """An unpickler that knows the names in `admitted` and a few operations alone."""

    stack: list[Any]
    pop_mark: Callable[[], list[Any]]

    def __init__(
        self, data: bytes, admitted: dict[tuple[str, str], Any], outside: Callable[[Any], Any]
    ) -> None:
        super().__init__(io.BytesIO(data))
        self._admitted, self._outside = admitted, outside

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._admitted:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}"[:200])
        return self._admitted[module, name]

    def persistent_load(self, pid: Any) -> Any:
        return self._outside(pid)

    def load_newobj(self) -> None:
        kind, values = self.stack[-2:]
        if kind is not _Encoding or values != ():
            raise pickle.UnpicklingError("it makes an object of its own")
        self.stack[-2:] = [_Encoding()]

    def load_build(self) -> None:
        """The state of an encoding; what else a torch.save says of a dictionary is left out."""
        state, thing = self.stack.pop(), self.stack[-1]
        if type(thing) is _Encoding:
            thing.state = state
        elif type(thing) is not dict:
            raise pickle.UnpicklingError("it changes what is not its own")

    def load_setitem(self) -> None:
        *_, key, value = self.stack
        del self.stack[-2:]
        self._put([key, value])

    def load_setitems(self) -> None:
        self._put(self.pop_mark())

    def _put(self, items: list[Any]) -> None:
        into = self.stack[-1]
        if type(into) is not dict or not all(type(key) in KEYS for key in items[::2]):
            raise pickle.UnpicklingError("it fills what is no plain dictionary")
        into.update(zip(items[::2], items[1::2], strict=True))

    dispatch = _Known(
        {code: act for code, act in pickle._Unpickler.dispatch.items() if NAMES[code] in OPERATIONS}
    )
    dispatch |= {
        ord("\x81"): load_newobj,
        ord("b"): load_build,
        ord("s"): load_setitem,
        ord("u"): load_setitems,
    }


def _no_outside(pid: Any) -> Any:
    raise pickle.UnpicklingError("it asks for an outside object")


# ------------------------------------------------------------------ tokenizer.pkl
class _Encoding:
    """Stands in for tiktoken.Encoding while unpickling: keeps the state, does nothing with it."""

    state: Any = None


def encoding_state(data: bytes, where: str) -> dict[str, Any]:
    """The state of the tiktoken encoding that `data` pickles, checked; BadAnswer if it is anything else."""
    if len(data) > MAX_TOKENIZER_BYTES:
        raise BadAnswer(f"{where}: larger than {MAX_TOKENIZER_BYTES >> 20} MiB, not a tokenizer")
    if what := mistaken_for(data):
        raise BadAnswer(f"{where} is {what}")
    try:
        pickled = _Admits(data, {("tiktoken.core", "Encoding"): _Encoding}, _no_outside).load()
    except Exception as e:  # a hostile pickle can raise anything
        raise BadAnswer(
            f"{where}: refused, not a plain tiktoken encoding ({type(e).__name__}: {e})"
        ) from None
    if not isinstance(pickled, _Encoding):
        raise BadAnswer(f"{where}: holds a {type(pickled).__name__}, not a tiktoken encoding")
    state = pickled.state
    if not _is_state(state):
        raise BadAnswer(f"{where}: not the state of a tiktoken encoding")
    ids = sorted([*state["mergeable_ranks"].values(), *state["special_tokens"].values()])
    if ids != list(range(len(ids))):
        raise BadAnswer(f"{where}: token ids have gaps or doubles")
    if missing := [s for s in SPECIAL_TOKENS if s not in state["special_tokens"]]:
        raise BadAnswer(f"{where}: no special token {missing[0]}")
    if lacking := [n for n in range(256) if bytes([n]) not in state["mergeable_ranks"]]:
        raise BadAnswer(f"{where}: no token for byte {lacking[0]}: it could not write every text")
    return {key: state[key] for key in STATE}


def _is_state(state: Any) -> bool:
    try:
        name, pattern, ranks, specials = (state[key] for key in STATE)
        return (
            isinstance(name, str)
            and isinstance(pattern, str)
            and b"" not in ranks
            and all(type(k) is bytes and type(v) is int for k, v in ranks.items())
            and all(type(k) is str and type(v) is int for k, v in specials.items())
        )
    except (TypeError, KeyError, AttributeError):
        return False


# ------------------------------------------------------------------ model_*.pt, token_bytes.pt
@dataclass(frozen=True)
class Tensor:
    """What a .pt file says of one tensor."""

    shape: tuple[int, ...]
    storage: str  # its name among the zip's data/ files
    bytes: int  # of that storage, by its kind and length
    kind: str = "Float"

    def is_floating_point(self) -> bool:
        """Whether its numbers are floats."""
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
    raise pickle.UnpicklingError("it asks for an outside object that is no storage")


def _no_items() -> dict[str, Any]:
    """An OrderedDict as torch begins it; a plain dictionary keeps the order too, and has no attributes to lie with."""
    return {}


ADMITTED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _no_items,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    **{("torch", f"{kind}Storage"): _Kind(kind, size) for kind, size in SIZES.items()},
}


class _Sparing:
    """A file of which only so many bytes may be read."""

    def __init__(self, file: BinaryIO, most: int, where: str) -> None:
        self._file, self._left, self._where = file, most, where
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(self._left + 1 if size < 0 else min(size, self._left + 1))
        self._left -= len(data)
        if self._left < 0:
            raise BadAnswer(
                f"{self._where}: its index alone is larger than {MAX_INDEX_BYTES >> 20} MiB: not a file of torch.save"
            )
        return data


def _index(archive: zipfile.ZipFile, where: str) -> dict[str, zipfile.ZipInfo]:
    """The zip's entries by name, as torch.save lays them out: in one folder, none packed, none over another."""
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
        raise BadAnswer(f"{where}: packed, or put together by hand: not a file of torch.save")
    return {i.filename.partition("/")[2]: i for i in found}


def _no_index(file: BinaryIO, where: str) -> BadAnswer:
    """What to say of a file that is no whole zip."""
    file.seek(0)
    if what := mistaken_for(file.read(HEAD_BYTES)):
        return BadAnswer(f"{where} is {what}")
    return BadAnswer(f"{where}: cut off, or not a file of torch.save (it has no index at its end)")


def check_whole(file: BinaryIO, where: str) -> None:
    """BadAnswer unless `file` is a zip of torch.save with all that its index names; what is in it is not looked at."""
    try:
        with zipfile.ZipFile(_Sparing(file, MAX_INDEX_BYTES, where)) as archive:
            _index(archive, where)
    except zipfile.BadZipFile:
        raise _no_index(file, where) from None
    except (ValueError, LookupError, NotImplementedError, UnicodeDecodeError) as e:
        raise BadAnswer(f"{where}: not a file of torch.save ({type(e).__name__})") from None


def tensors(file: BinaryIO, where: str) -> dict[str, Tensor]:
    """The tensors that a .pt file lists, by name ("" for a single one); BadAnswer when it holds anything else or is not whole.

    The numbers themselves are not read: each must only have its place, of the right size, in the zip's index.
    """
    try:
        with zipfile.ZipFile(_Sparing(file, MAX_LIST_BYTES + MAX_INDEX_BYTES, where)) as archive:
            entries = _index(archive, where)
            listed = entries.get("data.pkl")
            if listed is None or listed.file_size > MAX_LIST_BYTES:
                raise BadAnswer(f"{where}: no list of tensors in it: not a file of torch.save")
            found = _Admits(archive.read(listed), ADMITTED, _storage).load()
    except BadAnswer:
        raise
    except zipfile.BadZipFile:
        raise _no_index(file, where) from None
    except Exception as e:  # a hostile pickle can raise anything
        raise BadAnswer(
            f"{where}: refused, more than tensors in it ({type(e).__name__}: {e})"
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
        raise BadAnswer(f"{where}: tensor {short[0]!r} is not whole in it")
    return named
