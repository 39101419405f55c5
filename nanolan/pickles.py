"""What a pickle holds, without running any of it: nanochat's tokenizer.pkl, and the tensors that a .pt file lists.

A pickle is a program. These readers admit a handful of names and put harmless stand-ins in their place; anything
else is refused by its name. Of a .pt file (a zip) only the index and the list of tensors are read, so that a model of
2 GB can be looked at where it lies: on the disk, or on the Hub by a few small ranges.
"""
from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

from nanolan.errors import BadAnswer

MAX_TOKENIZER_BYTES = 32 << 20       # a vocabulary of 65,536 takes about 1 MiB
MAX_LIST_BYTES = 4 << 20             # data.pkl of a d20 takes about 20 KiB
SIZES = {"Double": 8, "Long": 8, "Float": 4, "Int": 4, "Half": 2, "BFloat16": 2, "Short": 2, "Char": 1, "Byte": 1, "Bool": 1}
# nanochat's, at the very end of the vocabulary, in this order
SPECIAL_TOKENS = (
    "<|bos|>", "<|user_start|>", "<|user_end|>", "<|assistant_start|>", "<|assistant_end|>",
    "<|python_start|>", "<|python_end|>", "<|output_start|>", "<|output_end|>",
)
STATE = ("name", "pat_str", "mergeable_ranks", "special_tokens")


class _Admits(pickle.Unpickler):
    """An unpickler that knows the names in `admitted` alone."""

    def __init__(self, data: bytes, admitted: dict[tuple[str, str], Any], outside: Callable[[Any], Any]) -> None:
        super().__init__(io.BytesIO(data))
        self._admitted, self._outside = admitted, outside

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._admitted:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}"[:200])
        return self._admitted[module, name]

    def persistent_load(self, pid: Any) -> Any:
        return self._outside(pid)


def _no_outside(pid: Any) -> Any:
    raise pickle.UnpicklingError("it asks for an outside object")


# ------------------------------------------------------------------ tokenizer.pkl
class _Encoding:
    """Stands in for tiktoken.Encoding while unpickling: keeps the state, does nothing with it."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


def encoding_state(data: bytes, where: str) -> dict[str, Any]:
    """The state of the tiktoken encoding that `data` pickles, checked; BadAnswer if it is anything else."""
    if len(data) > MAX_TOKENIZER_BYTES:
        raise BadAnswer(f"{where}: larger than {MAX_TOKENIZER_BYTES >> 20} MiB, not a tokenizer")
    try:
        pickled = _Admits(data, {("tiktoken.core", "Encoding"): _Encoding}, _no_outside).load()
    except Exception as e:   # a hostile pickle can raise anything
        raise BadAnswer(f"{where}: refused, not a plain tiktoken encoding ({type(e).__name__}: {e})") from None
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
    return {key: state[key] for key in STATE}


def _is_state(state: Any) -> bool:
    try:
        name, pattern, ranks, specials = (state[key] for key in STATE)
        return (isinstance(name, str) and isinstance(pattern, str)
                and all(type(k) is bytes and type(v) is int for k, v in ranks.items())
                and all(type(k) is str and type(v) is int for k, v in specials.items()))
    except (TypeError, KeyError, AttributeError):
        return False


# ------------------------------------------------------------------ model_*.pt, token_bytes.pt
@dataclass(frozen=True)
class Tensor:
    """What a .pt file says of one tensor."""

    shape: tuple[int, ...]
    storage: str                     # its name among the zip's data/ files
    bytes: int                       # of that storage, by its kind and length

    @property
    def numbers(self) -> int:
        n = 1
        for size in self.shape:
            n *= size
        return n


@dataclass(frozen=True)
class _Storage:
    key: str
    bytes: int


def _tensor(storage: Any, offset: Any, shape: Any, *_: Any) -> Tensor:
    if not isinstance(storage, _Storage) or not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise pickle.UnpicklingError("a tensor without a storage or a shape")
    return Tensor(shape, storage.key, storage.bytes)


def _parameter(tensor: Any, *_: Any) -> Any:
    return tensor


def _storage(pid: Any) -> _Storage:
    """("storage", kind, key, device, length) of torch.save."""
    if not isinstance(pid, tuple) or len(pid) != 5 or pid[0] != "storage" or pid[1] not in SIZES.values():
        raise pickle.UnpicklingError("it asks for an outside object that is no storage")
    return _Storage(str(pid[2]), int(pid[1]) * int(pid[4]))


ADMITTED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict, ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter, **{("torch", f"{kind}Storage"): size for kind, size in SIZES.items()}}


def tensors(file: BinaryIO, where: str) -> dict[str, Tensor]:
    """The tensors that a .pt file lists, by name ("" for a single one); BadAnswer when it holds anything else or is not whole.

    The numbers themselves are not read: each must only have its place, of the right size, in the zip's index.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            sizes = {i.filename.partition("/data/")[2]: i.file_size for i in archive.infolist()}
            listed = [i for i in archive.infolist() if i.filename.endswith("/data.pkl")]
            if len(listed) != 1 or listed[0].file_size > MAX_LIST_BYTES:
                raise BadAnswer(f"{where}: no list of tensors in it: not a file of torch.save")
            found = _Admits(archive.read(listed[0]), ADMITTED, _storage).load()
    except BadAnswer:
        raise
    except zipfile.BadZipFile:
        raise BadAnswer(f"{where}: cut off, or not a file of torch.save (it has no index at its end)") from None
    except Exception as e:   # a hostile pickle can raise anything
        raise BadAnswer(f"{where}: refused, more than tensors in it ({type(e).__name__}: {e})") from None
    named = {"": found} if isinstance(found, Tensor) else found
    if not isinstance(named, dict) or not all(isinstance(k, str) and isinstance(t, Tensor) for k, t in named.items()):
        raise BadAnswer(f"{where}: not a dictionary of tensors")
    if short := [name for name, t in named.items() if sizes.get(t.storage) != t.bytes]:
        raise BadAnswer(f"{where}: tensor {short[0]!r} is not whole in it")
    return named
