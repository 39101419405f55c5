"""A .pt file is read and never run: its tensors are listed, anything else is refused by its name."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch

from nanolan.checkpoint.torch_file import tensors
from nanolan.errors import BadAnswer

MODEL = OrderedDict(
    a=torch.zeros(3, 4),
    b=torch.zeros(5, dtype=torch.bfloat16),
    c=torch.nn.Parameter(torch.zeros(2)),
)


class Evil:
    def __init__(self, call: Callable[..., Any], *args: Any) -> None:
        self.call, self.args = call, args

    def __reduce__(self) -> Any:
        return self.call, self.args


def saved(value: Any, **how: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **how)
    return file.getvalue()


def rezipped(data: bytes, change: Callable[[str, bytes], bytes | None]) -> bytes:
    """The same zip with each entry changed, or left out."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            if (content := change(name, old.read(name))) is not None:
                new.writestr(name, content)
    return out.getvalue()


def test_the_tensors_of_a_file_are_listed_with_their_shapes() -> None:
    found = tensors(io.BytesIO(saved(MODEL)), "m.pt")
    assert {name: t.shape for name, t in found.items()} == {"a": (3, 4), "b": (5,), "c": (2,)}
    assert [t.bytes for t in found.values()] == [48, 10, 8] and sum(
        t.numbers for t in found.values()
    ) == 19
    assert tensors(io.BytesIO(saved(torch.zeros(7, dtype=torch.int32))), "b.pt")[""].shape == (7,)


class Counted(io.BytesIO):
    taken = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.taken += len(data)
        return data


def test_of_a_large_model_only_the_index_is_read() -> None:
    file = Counted(saved({"w": torch.zeros(1_000_000)}))
    assert tensors(file, "m.pt")["w"].numbers == 1_000_000 and file.taken < 80_000


@pytest.mark.parametrize(
    "data, says",
    [
        (saved(Evil(os.system, "touch evil")), "asks for (posix|nt).system"),
        (saved({"a": Evil(eval, "open('evil', 'w')")}), "asks for (builtins|__builtin__).eval"),
        (saved({"a": torch.nn.Linear(1, 1)}), "asks for torch.nn"),
        (saved([torch.zeros(1)]), "not a dictionary of tensors"),
        (saved({1: torch.zeros(1)}), "not a dictionary"),
        (saved({"a": 1}), "not a dictionary of tensors"),
        (saved(MODEL)[:-30], "cut off"),
        (b"", "an empty file"),
        (b"PK\x03\x04", "cut off"),
        (saved(MODEL, _use_new_zipfile_serialization=False), "cut off"),
        (
            rezipped(saved(MODEL), lambda name, data: None if name.endswith("data.pkl") else data),
            "no list of tensors",
        ),
        (
            rezipped(saved(MODEL), lambda name, data: None if name.endswith("data/0") else data),
            "tensor 'a' is not complete",
        ),
        (
            rezipped(
                saved(MODEL), lambda name, data: data[:-1] if name.endswith("data/1") else data
            ),
            "tensor 'b' is not complete",
        ),
        (
            rezipped(
                saved(MODEL), lambda name, data: b"\x80" if name.endswith("data.pkl") else data
            ),
            "refused",
        ),
        (
            rezipped(
                saved(MODEL),
                lambda name, data: (
                    pickle.dumps(Evil(os.mkdir, "evil")) if name.endswith("data.pkl") else data
                ),
            ),
            "mkdir",
        ),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_any_other_file_is_refused_and_runs_nothing(
    data: bytes, says: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadAnswer, match=says):
        tensors(io.BytesIO(data), "m.pt")
    assert not list(tmp_path.iterdir())
