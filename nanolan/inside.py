"""A look inside the pickles of HF_REPO where they lie: nothing of them is run, and of a model only the index is fetched."""
from __future__ import annotations

import io
import re

from nanolan.hub import Hub, Tree
from nanolan.phases import PHASES
from nanolan.pickles import encoding_state, tensors
from nanolan.plan import PinnedFile

READ_AT_ONCE = 32 << 10      # the index of a d20's model file takes about 20 KiB


class RemoteFile(io.RawIOBase):
    """A large file on the Hub, of which only the parts that are read are fetched."""

    def __init__(self, hub: Hub, tree: Tree, file: PinnedFile) -> None:
        self._hub, self._tree, self._file, self._at = hub, tree, file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = max(0, offset + (0, self._at, self._file.size)[whence])
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        size = min(len(buffer), self._file.size - self._at)
        if size <= 0:
            return 0
        data = self._hub.read_part(self._tree.repo, self._file.path, self._at, size, revision=self._tree.revision)
        buffer[:len(data)] = data
        self._at += len(data)
        return len(data)


def look_inside(hub: Hub, tree: Tree, path: str) -> str:
    """What a tokenizer.pkl or a model_*.pt holds, in words; BadAnswer when it is not safe to load or not whole."""
    if path.endswith(".pkl"):
        state = encoding_state(hub.read(tree.repo, path, revision=tree.revision), path)
        return f"{len(state['mergeable_ranks']) + len(state['special_tokens']):,} tokens, a plain encoding"
    remote = io.BufferedReader(RemoteFile(hub, tree, tree.files[path]), READ_AT_ONCE)
    found = tensors(remote, path)
    return f"{len(found)} tensors of {sum(t.numbers for t in found.values()):,} numbers, nothing else; by its index alone"


def pickles_of(tree: Tree, tag: str) -> list[str]:
    """The files that a run unpickles: the tokenizer's, and each checkpoint's newest model."""
    folders = dict.fromkeys(f"{d}/{tag}" for p in PHASES.values() for d in (p.input_dir, p.output_dir))
    models = [[p for p in tree.under(f) if re.fullmatch(r"model_\d{6}\.pt", p.removeprefix(f"{f}/"))] for f in folders]
    tokenizer = [p for p in ("tokenizer/tokenizer.pkl", "tokenizer/token_bytes.pt") if p in tree.files]
    return tokenizer + [max(found) for found in models if found]
