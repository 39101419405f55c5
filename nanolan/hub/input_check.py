"""A look inside what a run starts from, where it lies on the Hub: none of it is run, and of a model only the index is fetched."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO, cast

from nanolan.checkpoint.architecture import (
    MODEL_FILE,
    SEQUENCE_LEN,
    GPTConfig,
    check_rows,
    check_tensors,
    check_token_bytes,
    check_vocabulary,
    newest_step,
    parse_meta,
)
from nanolan.checkpoint.conversations import count_conversations
from nanolan.checkpoint.model_size import ModelSize, size_of
from nanolan.checkpoint.parquet import TAIL_BYTES, read_footer
from nanolan.checkpoint.safe_pickle import encoding_state
from nanolan.checkpoint.torch_file import tensors
from nanolan.errors import BadAnswer
from nanolan.hub.client import SMALL_FILE, Hub, Tree
from nanolan.net.deadline import begin
from nanolan.phases import IDENTITY_FILE, MOST_DATA_BYTES, check_data, data_of
from nanolan.plan import Pinned, PinnedFile

READ_AT_ONCE = 32 << 10  # the index of a d20's model file takes about 20 KiB
TOKENIZER = "tokenizer/tokenizer.pkl"
TOKEN_BYTES = "tokenizer/token_bytes.pt"


class RemoteFile(io.RawIOBase):
    """A large file on the Hub, of which only the parts that are read are fetched."""

    def __init__(self, hub: Hub, source: Tree | Pinned, file: PinnedFile) -> None:
        self._hub, self._source, self._file, self._at = hub, source, file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        at = offset + (0, self._at, self._file.size)[whence]
        if at < 0:
            raise OSError("a place before the file's begin")
        self._at = at
        return at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        size = min(len(buffer), self._file.size - self._at)
        if size <= 0:
            return 0
        data = self._hub.read_part(
            self._source.repo,
            self._file.path,
            self._at,
            size,
            revision=self._source.revision,
            kind=self._source.kind,
        )
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


@dataclass(frozen=True)
class InputFacts:
    """What was found good, and how large it is."""

    text: str
    config: GPTConfig | None = None  # of a checkpoint
    tokens: int | None = None  # of a tokenizer

    @property
    def size(self) -> ModelSize | None:
        """How big the model is."""
        return size_of(self.config) if self.config else None


def open_remote(
    hub: Hub, source: Tree | Pinned, file: PinnedFile, at_once: int = READ_AT_ONCE
) -> BinaryIO:
    """A file on the Hub as one that can be read and sought in."""
    return cast(BinaryIO, io.BufferedReader(RemoteFile(hub, source, file), at_once))


def look_at_checkpoint(
    hub: Hub, source: Tree | Pinned, model: PinnedFile, meta: PinnedFile
) -> InputFacts:
    """A model by its index and its meta; BadAnswer when nanolan cannot train from it."""
    step = int(MODEL_FILE.fullmatch(_name(model))[1])  # type: ignore[index]
    config = parse_meta(_read(hub, source, meta), meta.path, step).config
    found = tensors(open_remote(hub, source, model), model.path)
    check_tensors(config, found, model.path)
    check_rows(config, SEQUENCE_LEN, model.path)
    numbers = sum(t.numbers for t in found.values())
    return InputFacts(
        f"{len(found)} tensors of {numbers:,} numbers, nothing else; by its index alone", config
    )


def look_at_tokenizer(hub: Hub, source: Tree | Pinned, files: Iterable[PinnedFile]) -> InputFacts:
    """A tokenizer.pkl and, where it is there, its token_bytes.pt; BadAnswer when they are no good."""
    by_path = {f.path: f for f in files}
    if TOKENIZER not in by_path:
        raise BadAnswer(f"there is no {TOKENIZER}. Upload it: just upload tokenizer")
    state = encoding_state(_read(hub, source, by_path[TOKENIZER]), TOKENIZER)
    count = len(state["mergeable_ranks"]) + len(state["special_tokens"])
    if sizes := by_path.get(TOKEN_BYTES):
        check_token_bytes(tensors(open_remote(hub, source, sizes), TOKEN_BYTES), count, TOKEN_BYTES)
    return InputFacts(f"{count:,} tokens, a plain encoding", tokens=count)


def look_at_identity(hub: Hub, source: Tree | Pinned) -> InputFacts:
    """The identity conversations; BadAnswer names the first line that is none."""
    file = _file(source, IDENTITY_FILE)
    if file.size > MOST_DATA_BYTES:
        raise BadAnswer(f"{IDENTITY_FILE}: larger than {MOST_DATA_BYTES >> 20} MiB")
    small = file.size <= SMALL_FILE
    content = (
        io.BytesIO(_read(hub, source, file))
        if small
        else open_remote(hub, source, file, SMALL_FILE)
    )
    return InputFacts(f"{count_conversations(content, IDENTITY_FILE)} conversations")


def look_at_data(hub: Hub, source: Tree | Pinned, file: PinnedFile) -> None:
    """A file of a data set, by its footer; BadAnswer when it has not got the columns that are read."""
    where = f"{source.repo}/{file.path}"
    footer = read_footer(open_remote(hub, source, file, TAIL_BYTES), where)
    check_data(data_of(source.repo, file.path), footer.columns, footer.rows, where)


def check_together(checkpoint: InputFacts, tokenizer: InputFacts, where: str) -> None:
    """BadAnswer unless model and tokenizer fit each other."""
    if checkpoint.config and tokenizer.tokens:
        check_vocabulary(checkpoint.config, tokenizer.tokens, where)


def look_at_datasets(hub: Hub, pins: Iterable[Pinned]) -> None:
    """Every file of the pinned data sets, at the same time; BadAnswer when one has not got the columns that are read."""
    for answer in [begin(partial(look_at_data, hub, pin, f)) for pin in pins for f in pin.files]:
        answer.result()


def look_at_inputs(hub: Hub, pins: Iterable[Pinned]) -> str:
    """What a run has pinned to start from, all of it, in words; BadAnswer says what is no good."""
    answers = [begin(look) for pin in pins for look in _looks(hub, pin)]
    seen = [answer.result() for answer in answers]
    checkpoint = next((s for s in seen if s.config), None)
    tokenizer = next((s for s in seen if s.tokens), None)
    if checkpoint is None or tokenizer is None:
        raise BadAnswer(
            f"there is no {'tokenizer' if checkpoint else 'model_SSSSSS.pt'} among what the run has pinned"
        )
    check_together(checkpoint, tokenizer, "the checkpoint")
    return "; ".join(s.text for s in seen)


def look_at_state(hub: Hub, pin: Pinned) -> None:
    """A saved state: its model, its meta, and an optimizer that is whole; BadAnswer when a trainer cannot go on from it."""
    look_at_checkpoint(hub, pin, *model_in(pin))
    for f in pin.files:
        if _name(f).startswith("optim_"):
            tensors(open_remote(hub, pin, f), f.path)


def _looks(hub: Hub, pin: Pinned) -> list[partial[InputFacts]]:
    """What there is to look at in some pinned files."""
    models = any(MODEL_FILE.fullmatch(_name(f)) for f in pin.files)
    found = [partial(look_at_checkpoint, hub, pin, *model_in(pin))] if models else []
    paths = {f.path for f in pin.files}
    if TOKENIZER in paths:
        found.append(partial(look_at_tokenizer, hub, pin, pin.files))
    if IDENTITY_FILE in paths:
        found.append(partial(look_at_identity, hub, pin))
    return found


def model_in(pin: Pinned) -> tuple[PinnedFile, PinnedFile]:
    """The model and the meta that a trainer takes from a pinned checkpoint: its newest step's; BadAnswer when one is missing."""
    by_name = {_name(f): f for f in pin.files}
    folder = next((f.path.rpartition("/")[0] for f in pin.files), "")
    found = newest_step(
        by_name, f"{pin.repo}/{folder}", f"just hf repos delete-files {pin.repo} {folder}/"
    )
    if found is None:
        raise BadAnswer(
            f"{pin.repo}/{folder} holds no model_SSSSSS.pt: it is not a nanochat checkpoint"
        )
    return by_name[found[0]], by_name[found[1]]


def _read(hub: Hub, source: Tree | Pinned, file: PinnedFile) -> bytes:
    return hub.read(source.repo, file.path, revision=source.revision)


def _file(source: Tree | Pinned, path: str) -> PinnedFile:
    files = source.files.values() if isinstance(source, Tree) else source.files
    return next(f for f in files if f.path == path)


def _name(file: PinnedFile) -> str:
    return file.path.rpartition("/")[2]
