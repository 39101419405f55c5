"""Checks the content of a run's inputs on the Hub without executing any of it; of a model only the index is downloaded."""

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
    read_meta,
)
from nanolan.checkpoint.conversations import count_conversations
from nanolan.checkpoint.model_size import ModelSize, size_of
from nanolan.checkpoint.parquet import TAIL_BYTES, read_footer
from nanolan.checkpoint.safe_pickle import encoding_state
from nanolan.checkpoint.torch_file import tensors
from nanolan.errors import BadAnswer
from nanolan.hub.client import SMALL_FILE, Hub, Tree
from nanolan.net.deadline import start_thread
from nanolan.phases import IDENTITY_FILE, MOST_DATA_BYTES, check_data, data_of
from nanolan.plan import Fork, Pinned, PinnedFile
from nanolan.trainers.rows import CUSTOM

READ_AT_ONCE = 32 << 10  # the index of a d20's model file takes about 20 KiB
TOKENIZER = "tokenizer/tokenizer.pkl"
TOKEN_BYTES = "tokenizer/token_bytes.pt"


class RemoteFile(io.RawIOBase):
    """A large file on the Hub; downloads only the parts that are read."""

    def __init__(self, hub: Hub, source: Tree | Pinned, file: PinnedFile) -> None:
        self._hub = hub
        self._source = source
        self._file = file
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        at = offset + (0, self._at, self._file.size)[whence]
        if at < 0:
            raise OSError("a position before the start of the file")
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
    """What a checked input contains."""

    text: str
    config: GPTConfig | None = None  # of a checkpoint
    tokens: int | None = None  # of a tokenizer
    checkpoint: bool = False

    @property
    def size(self) -> ModelSize | None:
        """The size of the model."""
        return size_of(self.config) if self.config else None


def open_remote(
    hub: Hub, source: Tree | Pinned, file: PinnedFile, at_once: int = READ_AT_ONCE
) -> BinaryIO:
    """A file on the Hub as a seekable binary file."""
    return cast(BinaryIO, io.BufferedReader(RemoteFile(hub, source, file), at_once))


def inspect_checkpoint(
    hub: Hub, source: Tree | Pinned, model: PinnedFile, meta: PinnedFile, *, own: bool = True
) -> InputFacts:
    """Check a model by its index and its meta; BadAnswer if nanolan cannot train from it.

    A foreign trainer's (not `own`) is only checked for what it holds: the instance tries whether the trainer can load it.
    """
    found = tensors(open_remote(hub, source, model), model.path)
    config = None
    step = int(MODEL_FILE.fullmatch(_name(model))[1])  # type: ignore[index]
    if own:
        config = parse_meta(_read(hub, source, meta), meta.path, step).config
        check_tensors(config, found, model.path)
        check_rows(config, SEQUENCE_LEN, model.path)
    else:
        read_meta(_read(hub, source, meta), meta.path, step)
    numbers = sum(t.numbers for t in found.values())
    return InputFacts(
        f"{len(found)} tensors, {numbers:,} parameters, nothing else (checked by its index)",
        config,
        checkpoint=True,
    )


def inspect_tokenizer(hub: Hub, source: Tree | Pinned, files: Iterable[PinnedFile]) -> InputFacts:
    """Check a tokenizer.pkl and, if present, its token_bytes.pt; BadAnswer if they are unusable."""
    by_path = {f.path: f for f in files}
    if TOKENIZER not in by_path:
        raise BadAnswer(f"there is no {TOKENIZER}. Upload it: just upload tokenizer")
    state = encoding_state(_read(hub, source, by_path[TOKENIZER]), TOKENIZER)
    count = len(state["mergeable_ranks"]) + len(state["special_tokens"])
    if sizes := by_path.get(TOKEN_BYTES):
        check_token_bytes(tensors(open_remote(hub, source, sizes), TOKEN_BYTES), count, TOKEN_BYTES)
    return InputFacts(f"{count:,} tokens, a plain encoding", tokens=count)


def inspect_identity(hub: Hub, source: Tree | Pinned, fork: Fork | None = None) -> InputFacts:
    """Check the identity conversations; BadAnswer names the first line that is invalid, or that the fork does not read."""
    file = _file(source, IDENTITY_FILE)
    if file.size > MOST_DATA_BYTES:
        raise BadAnswer(f"{IDENTITY_FILE}: larger than {MOST_DATA_BYTES >> 20} MiB")
    small = file.size <= SMALL_FILE
    content = (
        io.BytesIO(_read(hub, source, file))
        if small
        else open_remote(hub, source, file, SMALL_FILE)
    )
    count = count_conversations(content, IDENTITY_FILE, text_only=reads_text_only(fork))
    return InputFacts(f"{count} conversations")


def reads_text_only(fork: Fork | None) -> bool:
    """Whether a fork reads only text from the conversations, as nanochat's scripts do; of a checkout that declares its phases
    it is not known."""
    return fork is not None and fork.row != CUSTOM


def inspect_data_file(hub: Hub, source: Tree | Pinned, file: PinnedFile) -> None:
    """Check a file of a data set by its footer; BadAnswer if a column that training reads is missing."""
    where = f"{source.repo}/{file.path}"
    footer = read_footer(open_remote(hub, source, file, TAIL_BYTES), where)
    check_data(data_of(source.repo, file.path), footer.columns, footer.rows, where)


def check_together(checkpoint: InputFacts, tokenizer: InputFacts, where: str) -> None:
    """BadAnswer unless the model fits the tokenizer."""
    if checkpoint.config and tokenizer.tokens:
        check_vocabulary(checkpoint.config, tokenizer.tokens, where)


def inspect_datasets(hub: Hub, pins: Iterable[Pinned]) -> None:
    """Check every file of the pinned data sets in parallel; BadAnswer if a column that training reads is missing."""
    for answer in [
        start_thread(partial(inspect_data_file, hub, pin, f)) for pin in pins for f in pin.files
    ]:
        answer.result()


def inspect_inputs(
    hub: Hub, pins: Iterable[Pinned], fork: Fork | None = None, *, identity: bool = True
) -> str:
    """Check all inputs that a run has pinned, the conversations if a phase reads them (`identity`).

    Returns their description. BadAnswer says what is unusable.
    """
    answers = [start_thread(check) for pin in pins for check in _checks(hub, pin, fork, identity)]
    seen = [answer.result() for answer in answers]
    checkpoint = next((s for s in seen if s.checkpoint), None)
    tokenizer = next((s for s in seen if s.tokens), None)
    if checkpoint is None or tokenizer is None:
        raise BadAnswer(f"the run has pinned no {'tokenizer' if checkpoint else 'model_SSSSSS.pt'}")
    check_together(checkpoint, tokenizer, "the checkpoint")
    return "; ".join(s.text for s in seen)


def inspect_state(hub: Hub, pin: Pinned, *, own: bool = True) -> None:
    """Check a saved state: its model, meta and optimizer; BadAnswer if a trainer cannot resume from it."""
    inspect_checkpoint(hub, pin, *model_in(pin), own=own)
    for f in pin.files:
        if _name(f).startswith("optim_"):
            tensors(open_remote(hub, pin, f), f.path)


def _checks(hub: Hub, pin: Pinned, fork: Fork | None, identity: bool) -> list[partial[InputFacts]]:
    """The checks for the pinned files."""
    own = fork is None
    models = any(MODEL_FILE.fullmatch(_name(f)) for f in pin.files)
    found = [partial(inspect_checkpoint, hub, pin, *model_in(pin), own=own)] if models else []
    paths = {f.path for f in pin.files}
    if TOKENIZER in paths:
        found.append(partial(inspect_tokenizer, hub, pin, pin.files))
    if IDENTITY_FILE in paths and identity:
        found.append(partial(inspect_identity, hub, pin, fork))
    return found


def model_in(pin: Pinned) -> tuple[PinnedFile, PinnedFile]:
    """The model and meta files of the newest step in a pinned checkpoint; BadAnswer if one is missing."""
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
