"""Reads pickles without executing them: a restricted unpickler, and nanochat's tokenizer.pkl.

A pickle is a program. This unpickler allows a few names and replaces them by harmless objects; any other name is refused. It
supports only the operations that torch and tiktoken write. It is the pure Python one: the C unpickler allocates gigabytes
when twelve bytes say so, and crashes while it hashes a deeply nested tuple.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Callable
from typing import Any

from nanolan.checkpoint.file_kind import mistaken_for
from nanolan.errors import BadAnswer

# a vocabulary of 65,536 takes about 1 MiB; unpickled, a file can take 64 times its size
MAX_TOKENIZER_BYTES = 8 << 20
# nanochat's, at the end of the vocabulary, in this order
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
    """Operation -> its implementation; raises for other operations."""

    def __missing__(self, operation: int) -> Any:
        raise pickle.UnpicklingError(f"it holds the operation {NAMES.get(operation, operation)}")


class RestrictedUnpickler(pickle._Unpickler):
    """An unpickler that allows only the names in `admitted` and a few operations."""

    stack: list[Any]
    pop_mark: Callable[[], list[Any]]

    def __init__(
        self, data: bytes, admitted: dict[tuple[str, str], Any], outside: Callable[[Any], Any]
    ) -> None:
        super().__init__(io.BytesIO(data))
        self._admitted = admitted
        self._outside = outside

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._admitted:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}"[:200])
        return self._admitted[module, name]

    def persistent_load(self, pid: Any) -> Any:
        return self._outside(pid)

    def load_newobj(self) -> None:
        kind, values = self.stack[-2:]
        if kind is not _Encoding or values != ():
            raise pickle.UnpicklingError("it creates an object of another class")
        self.stack[-2:] = [_Encoding()]

    def load_build(self) -> None:
        """Keep the state of an encoding; ignore attributes that torch.save adds to a dictionary."""
        state, thing = self.stack.pop(), self.stack[-1]
        if type(thing) is _Encoding:
            thing.state = state
        elif type(thing) is not dict:
            raise pickle.UnpicklingError("it changes another object")

    def load_setitem(self) -> None:
        *_, key, value = self.stack
        del self.stack[-2:]
        self._put([key, value])

    def load_setitems(self) -> None:
        self._put(self.pop_mark())

    def _put(self, items: list[Any]) -> None:
        into = self.stack[-1]
        if type(into) is not dict or not all(type(key) in KEYS for key in items[::2]):
            raise pickle.UnpicklingError("it fills an object that is not a plain dictionary")
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


class _Encoding:
    """Replaces tiktoken.Encoding while unpickling: only keeps the state."""

    state: Any = None


def encoding_state(data: bytes, where: str) -> dict[str, Any]:
    """The checked state of a pickled tiktoken encoding; BadAnswer if `data` is anything else."""
    if len(data) > MAX_TOKENIZER_BYTES:
        raise BadAnswer(f"{where}: larger than {MAX_TOKENIZER_BYTES >> 20} MiB, not a tokenizer")
    if what := mistaken_for(data):
        raise BadAnswer(f"{where} is {what}")
    try:
        pickled = RestrictedUnpickler(
            data, {("tiktoken.core", "Encoding"): _Encoding}, _no_outside
        ).load()
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
        raise BadAnswer(f"{where}: token ids have gaps or duplicates")
    if missing := [s for s in SPECIAL_TOKENS if s not in state["special_tokens"]]:
        raise BadAnswer(f"{where}: no special token {missing[0]}")
    if lacking := [n for n in range(256) if bytes([n]) not in state["mergeable_ranks"]]:
        raise BadAnswer(f"{where}: no token for byte {lacking[0]}: it cannot encode every text")
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
