"""What an upload by hand contains, checked before it is sent: a nanochat checkpoint, a tokenizer, the identity conversations."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nanolan.checkpoint.architecture import (
    MAX_META_BYTES,
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
from nanolan.checkpoint.manifest import MANIFEST, FileEntry, Manifest, hash_bytes, hash_file
from nanolan.checkpoint.safe_pickle import MAX_TOKENIZER_BYTES, encoding_state
from nanolan.checkpoint.torch_file import check_whole, tensors
from nanolan.code.secret_scan import Scanner
from nanolan.errors import BadAnswer, UsageProblem
from nanolan.files import entries_of
from nanolan.hub.layout import BY_HAND
from nanolan.phases import FOLDERS, IDENTITY_FILE, MOST_DATA_BYTES

CHECKPOINTS = {name: folder for folder, name in FOLDERS.items()}  # base -> base_checkpoints, ...
KINDS = (*CHECKPOINTS, "tokenizer", "data")
NUMBERS = re.compile(r"(^|/)data/\d+$")
TOKENIZER_FILES = ("tokenizer.pkl", "token_bytes.pt")


@dataclass(frozen=True)
class UploadSet:
    """Local files that were found good, and where they go."""

    kind: str
    folder: Path  # where the files lie
    target: str  # folder in the repo, "" for its root
    entries: tuple[FileEntry, ...]  # without the manifest
    text: str  # what is in it
    manifest: Manifest | None = None  # of a checkpoint
    left: int = 0  # bytes of optimizer that stay here: no phase reads them
    config: GPTConfig | None = None  # of a checkpoint
    tokens: int | None = None  # of a tokenizer

    @property
    def size(self) -> int:
        return sum(e.size for e in self.entries)

    def path(self, name: str) -> str:
        """Of a file in the repo."""
        return f"{self.target}/{name}".lstrip("/")

    @property
    def written(self) -> FileEntry | None:
        """The manifest's own file."""
        return hash_bytes(MANIFEST, self.manifest.to_json().encode()) if self.manifest else None


def where_from(kind: str, base: Path, tag: str) -> Path:
    """Where nanochat leaves it, below NANOCHAT_BASE_DIR."""
    return (
        base / CHECKPOINTS[kind] / tag
        if kind in CHECKPOINTS
        else base / (IDENTITY_FILE if kind == "data" else kind)
    )


def pack(kind: str, path: Path, tag: str, optimizer: bool = False) -> UploadSet:
    """The parcel of `kind` at `path`, for model `tag`; UsageProblem or BadAnswer says what is wrong and what to do."""
    if not path.exists():
        raise UsageProblem(
            f"{path} is not there. Name it: just upload {kind} PATH, or set NANOCHAT_BASE_DIR"
        )
    try:
        if kind in CHECKPOINTS:
            parcel = _checkpoint(kind, path, f"{CHECKPOINTS[kind]}/{tag}", optimizer)
        else:
            parcel = _tokenizer(path) if kind == "tokenizer" else _data(path)
        check_secrets(parcel, path)
        return parcel
    except OSError as e:
        raise UsageProblem(f"{e.filename or path} cannot be read: {e.strerror}") from None


def check_secrets(parcel: UploadSet, source: Path) -> None:
    """UsageProblem when a file holds a secret; of a model or optimizer all is looked through but its numbers."""
    scanner = Scanner()
    for e in parcel.entries:
        path = source if parcel.kind == "data" else parcel.folder / e.path
        if path.suffix == ".pt":
            found = next(
                filter(None, (scanner.file(str(path), words) for words in words_of(path))), None
            )
        else:
            found = scanner.text(str(path), path.read_bytes(), shapes=path.suffix != ".pkl")
        if found:
            raise UsageProblem(f"{found}; nothing was sent. Take it out, then upload again")


def words_of(path: Path) -> Iterator[bytes]:
    """What is in a file of torch.save beside the tensors' numbers."""
    with zipfile.ZipFile(path) as archive:
        yield archive.comment
        for entry in archive.infolist():
            if not NUMBERS.search(entry.filename) and entry.file_size <= MAX_META_BYTES:
                yield archive.read(entry)


def check_together(parcels: Iterable[UploadSet]) -> None:
    """BadAnswer when a checkpoint and a tokenizer that are uploaded together do not belong together."""
    parcels = tuple(parcels)
    for tokenizer in (p for p in parcels if p.tokens):
        for checkpoint in (p for p in parcels if p.config):
            check_vocabulary(checkpoint.config, tokenizer.tokens, str(checkpoint.folder))  # type: ignore[arg-type]


def _checkpoint(kind: str, path: Path, target: str, optimizer: bool) -> UploadSet:
    """The newest step: its model and meta, whole and fitting each other; the optimizer, which no phase reads, if wanted."""
    model, meta = _newest_step(kind, path)
    step = int(model.stem.removeprefix("model_"))
    with open(meta, "rb") as f:
        config = parse_meta(f.read(MAX_META_BYTES + 1), str(meta), step).config
    with open(model, "rb") as f:
        found = tensors(f, str(model))
    check_tensors(config, found, str(model))
    check_rows(config, SEQUENCE_LEN, str(model))
    numbers = sum(t.numbers for t in found.values())
    states = sorted(
        p for p in entries_of(path, "optim_*.pt") if re.fullmatch(rf"optim_{step:06d}\D.*", p.name)
    )
    for state in states if optimizer else ():
        _check_optimizer(state)
    entries = tuple(hash_file(p) for p in [model, meta, *(states if optimizer else ())])
    return UploadSet(
        kind,
        path,
        target,
        entries,
        f"step {step}, {numbers / 1e6:,.1f}M parameters",
        Manifest(BY_HAND, kind, step, entries),
        sum(p.stat().st_size for p in states if not optimizer),
        config=config,
    )


def _check_optimizer(state: Path) -> None:
    try:
        with open(state, "rb") as f:
            check_whole(f, str(state))
    except BadAnswer as e:
        raise BadAnswer(f"{e}; nothing was sent. Leave the optimizer out, or mend it") from None


def _newest_step(kind: str, path: Path) -> tuple[Path, Path]:
    """The model and meta file of the newest step."""
    if not path.is_dir():
        raise UsageProblem(
            f"{path} is a file; name the folder that holds model_SSSSSS.pt: just upload {kind} FOLDER"
        )
    if found := newest_step((p.name for p in path.iterdir()), str(path), f"rm {path}/"):
        return path / found[0], path / found[1]
    inside = sorted(p.parent for p in path.glob("*/model_*.pt"))
    hint = (
        f"Did you mean {inside[-1]}?"
        if inside
        else f"Name the right folder: just upload {kind} FOLDER"
    )
    raise UsageProblem(f"{path} holds no model_SSSSSS.pt, so it is no nanochat checkpoint. {hint}")


def _tokenizer(path: Path) -> UploadSet:
    folder = path if path.is_dir() else path.parent
    for name in TOKENIZER_FILES:
        if not (folder / name).is_file():
            raise UsageProblem(
                f"{folder} holds no {name}; nanochat's scripts.tok_train writes both files. "
                "Name the right folder: just upload tokenizer FOLDER"
            )
    if (folder / "tokenizer.pkl").stat().st_size > MAX_TOKENIZER_BYTES:
        raise BadAnswer(
            f"{folder / 'tokenizer.pkl'}: larger than {MAX_TOKENIZER_BYTES >> 20} MiB, not a tokenizer"
        )
    state = encoding_state((folder / "tokenizer.pkl").read_bytes(), str(folder / "tokenizer.pkl"))
    count = len(state["mergeable_ranks"]) + len(state["special_tokens"])
    sizes = folder / "token_bytes.pt"
    with open(sizes, "rb") as f:
        check_token_bytes(tensors(f, str(sizes)), count, str(sizes))
    entries = tuple(hash_file(folder / n) for n in TOKENIZER_FILES)
    return UploadSet("tokenizer", folder, "tokenizer", entries, f"{count:,} tokens", tokens=count)


def _data(path: Path) -> UploadSet:
    if path.is_dir():
        raise UsageProblem(
            f"{path} is a folder; name the file: just upload data {path / IDENTITY_FILE}"
        )
    if not path.is_file() or path.stat().st_size > MOST_DATA_BYTES:
        raise UsageProblem(
            f"{path} is no file of at most {MOST_DATA_BYTES >> 20} MiB; nothing was read"
        )
    data = path.read_bytes()
    count = count_conversations(io.BytesIO(data), str(path))
    return UploadSet(
        "data", path.parent, "", (hash_bytes(IDENTITY_FILE, data),), f"{count:,} conversations"
    )
