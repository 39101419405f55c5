"""The files of an upload by hand, checked before they are sent: a nanochat checkpoint, a tokenizer, the identity conversations."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nanolan.checkpoint.architecture import (
    MAX_META_BYTES,
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
from nanolan.checkpoint.manifest import MANIFEST, FileEntry, Manifest, hash_bytes, hash_file
from nanolan.checkpoint.safe_pickle import MAX_TOKENIZER_BYTES, encoding_state
from nanolan.checkpoint.torch_file import check_whole, tensors
from nanolan.code.secret_scan import Scanner
from nanolan.errors import BadAnswer, UsageProblem
from nanolan.files import entries_of
from nanolan.hub.input_check import reads_text_only
from nanolan.hub.layout import BY_HAND
from nanolan.phases import FOLDERS, IDENTITY_FILE, MOST_DATA_BYTES
from nanolan.plan import Fork

CHECKPOINTS = {name: folder for folder, name in FOLDERS.items()}  # base -> base_checkpoints, ...
OTHERS = ("tokenizer", "data")  # that are no checkpoint
KINDS = (*CHECKPOINTS, *OTHERS)
NUMBERS = re.compile(r"(^|/)data/\d+$")
TOKENIZER_FILES = ("tokenizer.pkl", "token_bytes.pt")


@dataclass(frozen=True)
class UploadSet:
    """Checked local files and where to upload them."""

    kind: str
    folder: Path  # of the local files
    target: str  # folder in the repo, "" for its root
    entries: tuple[FileEntry, ...]  # without the manifest
    text: str  # what is in it
    manifest: Manifest | None = None  # of a checkpoint
    left: int = 0  # bytes of optimizer that are not sent: no phase reads them
    config: GPTConfig | None = None  # of a checkpoint
    tokens: int | None = None  # of a tokenizer

    @property
    def size(self) -> int:
        return sum(e.size for e in self.entries)

    def path(self, name: str) -> str:
        """The path in the repo of one of the files."""
        return f"{self.target}/{name}".lstrip("/")

    @property
    def written(self) -> FileEntry | None:
        """The manifest as a file entry."""
        return hash_bytes(MANIFEST, self.manifest.to_json().encode()) if self.manifest else None


def checkpoints_of(fork: Fork | None) -> dict[str, str]:
    """Kind of checkpoint -> its folder in HF_REPO: of nanolan's phases, and of what a checkout's phases write and read.

    A checkout's own folders are kinds, too: a phase may read what none of its phases writes."""
    phases = fork.phases.values() if fork else ()
    written = {p.name: p.output_dir for p in phases if p.name not in OTHERS}
    folders = {f: f for p in phases for f in (p.input_dir, p.output_dir) if f not in FOLDERS}
    return CHECKPOINTS | written | folders


def default_path(kind: str, base: Path, tag: str, fork: Fork | None = None) -> Path:
    """Where nanochat saves it, below NANOCHAT_BASE_DIR."""
    if kind in OTHERS:
        return base / (IDENTITY_FILE if kind == "data" else kind)
    return base / checkpoints_of(fork)[kind] / tag


def collect(
    kind: str, path: Path, tag: str, optimizer: bool = False, fork: Fork | None = None
) -> UploadSet:
    """Check the files of `kind` at `path`, for model `tag`; UsageProblem or BadAnswer says what is wrong and what to do.

    A checkpoint of a fork is only checked for what it holds: its own loader tries it on the instance."""
    if not path.exists():
        if kind not in OTHERS and (models := _models_in(path.parent)):
            raise UsageProblem(
                f"{path} does not exist; beside it is {', '.join(models[:3])}. Type: just upload {kind} "
                f"model-tag={models[0]}"
            )
        raise UsageProblem(
            f"{path} does not exist. Give its path: just upload {kind} PATH, or set NANOCHAT_BASE_DIR"
        )
    try:
        if kind == "tokenizer":
            upload_set = _tokenizer(path)
        elif kind == "data":
            upload_set = _data(path, reads_text_only(fork))
        else:
            target = f"{checkpoints_of(fork)[kind]}/{tag}"
            upload_set = _checkpoint(kind, path, target, optimizer, own=fork is None)
        check_secrets(upload_set, path)
        return upload_set
    except OSError as e:
        raise UsageProblem(f"{e.filename or path} cannot be read: {e.strerror}") from None


def _models_in(folder: Path) -> list[str]:
    """The model tags of a folder of checkpoints."""
    if not folder.is_dir():
        return []
    return sorted(
        p.name for p in folder.iterdir() if any(MODEL_FILE.fullmatch(n.name) for n in _files(p))
    )


def _files(folder: Path) -> list[Path]:
    return [*folder.iterdir()] if folder.is_dir() else []


def check_secrets(upload_set: UploadSet, source: Path) -> None:
    """UsageProblem if a file contains a secret; of a model or optimizer everything is searched except the tensors."""
    scanner = Scanner()
    for entry in upload_set.entries:
        path = source if upload_set.kind == "data" else upload_set.folder / entry.path
        if path.suffix == ".pt":
            found = next(
                filter(None, (scanner.file(str(path), words) for words in text_of_archive(path))),
                None,
            )
        else:
            found = scanner.text(str(path), path.read_bytes(), shapes=path.suffix != ".pkl")
        if found:
            raise UsageProblem(f"{found}; nothing was sent. Remove it, then upload again")


def text_of_archive(path: Path) -> Iterator[bytes]:
    """Everything in a file of torch.save except the tensors' numbers."""
    with zipfile.ZipFile(path) as archive:
        yield archive.comment
        for entry in archive.infolist():
            if not NUMBERS.search(entry.filename) and entry.file_size <= MAX_META_BYTES:
                yield archive.read(entry)


def check_together(upload_sets: Iterable[UploadSet]) -> None:
    """BadAnswer if a checkpoint does not fit a tokenizer that is uploaded with it."""
    upload_sets = tuple(upload_sets)
    for tokenizer in (p for p in upload_sets if p.tokens):
        for checkpoint in (p for p in upload_sets if p.config):
            check_vocabulary(checkpoint.config, tokenizer.tokens, str(checkpoint.folder))  # type: ignore[arg-type]


def _checkpoint(kind: str, path: Path, target: str, optimizer: bool, own: bool) -> UploadSet:
    """The newest step: its model and meta, complete and matching; with `optimizer` also the optimizer, which no phase reads."""
    model, meta = _newest_step(kind, path)
    step = int(model.stem.removeprefix("model_"))
    with open(model, "rb") as f:
        found = tensors(f, str(model))
    with open(meta, "rb") as f:
        data = f.read(MAX_META_BYTES + 1)
    config = None
    if own:
        config = parse_meta(data, str(meta), step).config
        check_tensors(config, found, str(model))
        check_rows(config, SEQUENCE_LEN, str(model))
    else:
        read_meta(data, str(meta), step)
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
        raise BadAnswer(f"{e}; nothing was sent. Leave out --optim, or repair the file") from None


def _newest_step(kind: str, path: Path) -> tuple[Path, Path]:
    """The model and meta files of the newest step."""
    if not path.is_dir():
        raise UsageProblem(
            f"{path} is a file; give the folder that holds model_SSSSSS.pt: just upload {kind} FOLDER"
        )
    if found := newest_step((p.name for p in path.iterdir()), str(path), f"rm {path}/"):
        return path / found[0], path / found[1]
    inside = sorted(p.parent for p in path.glob("*/model_*.pt"))
    hint = (
        f"Did you mean {inside[-1]}?"
        if inside
        else f"Give the right folder: just upload {kind} FOLDER"
    )
    raise UsageProblem(
        f"{path} holds no model_SSSSSS.pt, so it is not a nanochat checkpoint. {hint}"
    )


def _tokenizer(path: Path) -> UploadSet:
    folder = path if path.is_dir() else path.parent
    for name in TOKENIZER_FILES:
        if not (folder / name).is_file():
            raise UsageProblem(
                f"{folder} holds no {name}; nanochat's scripts.tok_train writes both files. "
                "Give the right folder: just upload tokenizer FOLDER"
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


def _data(path: Path, text_only: bool) -> UploadSet:
    if path.is_dir():
        raise UsageProblem(
            f"{path} is a folder; give the file: just upload data {path / IDENTITY_FILE}"
        )
    if not path.is_file() or path.stat().st_size > MOST_DATA_BYTES:
        raise UsageProblem(
            f"{path} is not a file of at most {MOST_DATA_BYTES >> 20} MiB; nothing was read"
        )
    data = path.read_bytes()
    count = count_conversations(io.BytesIO(data), str(path), text_only=text_only)
    return UploadSet(
        "data", path.parent, "", (hash_bytes(IDENTITY_FILE, data),), f"{count:,} conversations"
    )
