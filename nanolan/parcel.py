"""What a user uploads by hand, checked before it is sent: a nanochat checkpoint, a tokenizer, the identity conversations."""
from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from zipfile import is_zipfile

from nanolan.adopt import BY_HAND
from nanolan.datasets import IDENTITY_FILE, MOST_DATA_BYTES
from nanolan.errors import BadAnswer, UsageProblem
from nanolan.identity import count_conversations
from nanolan.manifest import MANIFEST, FileEntry, Manifest, hash_bytes, hash_file
from nanolan.phases import FOLDERS
from nanolan.pickles import MAX_TOKENIZER_BYTES, encoding_state, tensors
from nanolan.size import read_size

CHECKPOINTS = {name: folder for folder, name in FOLDERS.items()}     # base -> base_checkpoints, ...
KINDS = (*CHECKPOINTS, "tokenizer", "data")
MAX_META_BYTES = 16 << 20
TOKENIZER_FILES = ("tokenizer.pkl", "token_bytes.pt")


@dataclass(frozen=True)
class Parcel:
    """Local files that were found good, and where they go."""

    kind: str
    folder: Path                         # where the files lie
    target: str                          # folder in the repo, "" for its root
    entries: tuple[FileEntry, ...]       # without the manifest
    text: str                            # what is in it
    manifest: Manifest | None = None     # of a checkpoint
    left: int = 0                        # bytes of optimizer that stay here: no phase reads them

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
    return base / CHECKPOINTS[kind] / tag if kind in CHECKPOINTS else base / (IDENTITY_FILE if kind == "data" else kind)


def pack(kind: str, path: Path, tag: str, optimizer: bool = False) -> Parcel:
    """The parcel of `kind` at `path`, for model `tag`; UsageProblem or BadAnswer says what is wrong and what to do."""
    if not path.exists():
        raise UsageProblem(f"{path} is not there. Name it: just upload {kind} PATH, or set NANOCHAT_BASE_DIR")
    try:
        if kind in CHECKPOINTS:
            return _checkpoint(kind, path, f"{CHECKPOINTS[kind]}/{tag}", optimizer)
        return _tokenizer(path) if kind == "tokenizer" else _data(path)
    except OSError as e:
        raise UsageProblem(f"{e.filename or path} cannot be read: {e.strerror}") from None


def _checkpoint(kind: str, path: Path, target: str, optimizer: bool) -> Parcel:
    """The newest step: its model and meta, whole and fitting each other; the optimizer, which no phase reads, if wanted."""
    step = _newest_step(kind, path)
    model, meta = path / f"model_{step}.pt", path / f"meta_{step}.json"
    if not meta.is_file() or meta.stat().st_size > MAX_META_BYTES:
        raise UsageProblem(f"{path} has {model.name} but no usable {meta.name}, which says how the model is built. "
                           "Copy it there too")
    wanted = read_size(meta.read_bytes(), str(meta)).n_params
    with open(model, "rb") as f:
        numbers = sum(t.numbers for t in tensors(f, str(model)).values())
    if numbers < wanted:
        raise BadAnswer(f"{model} holds {numbers:,} numbers, a model of {meta.name} has at least {wanted:,}: they do not belong "
                        "together")
    states = sorted(path.glob(f"optim_{step}*.pt"))
    files = [model, meta, *(states if optimizer else ())]
    if strange := [p for p in files if p.suffix == ".pt" and not is_zipfile(p)]:
        raise BadAnswer(f"{strange[0]} is no file of torch.save; nothing was sent. Leave the optimizer out, or mend it")
    entries = tuple(hash_file(p) for p in files)
    return Parcel(kind, path, target, entries, f"step {int(step)}, {numbers / 1e6:,.1f}M parameters",
                  Manifest(BY_HAND, kind, int(step), entries), sum(p.stat().st_size for p in states if not optimizer))


def _newest_step(kind: str, path: Path) -> str:
    if not path.is_dir():
        raise UsageProblem(f"{path} is a file; name the folder that holds model_SSSSSS.pt: just upload {kind} FOLDER")
    steps = sorted(m[1] for p in path.iterdir() if (m := re.fullmatch(r"model_(\d{6})\.pt", p.name)))
    if steps:
        return steps[-1]
    inside = sorted(p.parent for p in path.glob("*/model_*.pt"))
    hint = f"Did you mean {inside[-1]}?" if inside else f"Name the right folder: just upload {kind} FOLDER"
    raise UsageProblem(f"{path} holds no model_SSSSSS.pt, so it is no nanochat checkpoint. {hint}")


def _tokenizer(path: Path) -> Parcel:
    folder = path if path.is_dir() else path.parent
    for name in TOKENIZER_FILES:
        if not (folder / name).is_file():
            raise UsageProblem(f"{folder} holds no {name}; nanochat's scripts.tok_train writes both files. "
                               "Name the right folder: just upload tokenizer FOLDER")
    if (folder / "tokenizer.pkl").stat().st_size > MAX_TOKENIZER_BYTES:
        raise BadAnswer(f"{folder / 'tokenizer.pkl'}: larger than {MAX_TOKENIZER_BYTES >> 20} MiB, not a tokenizer")
    state = encoding_state((folder / "tokenizer.pkl").read_bytes(), str(folder / "tokenizer.pkl"))
    count = len(state["mergeable_ranks"]) + len(state["special_tokens"])
    sizes = folder / "token_bytes.pt"
    with open(sizes, "rb") as f:
        if [t.shape for t in tensors(f, str(sizes)).values()] != [(count,)]:
            raise BadAnswer(f"{sizes} does not fit the {count:,} tokens of tokenizer.pkl: they do not belong together")
    return Parcel("tokenizer", folder, "tokenizer", tuple(hash_file(folder / n) for n in TOKENIZER_FILES), f"{count:,} tokens")


def _data(path: Path) -> Parcel:
    if path.is_dir():
        raise UsageProblem(f"{path} is a folder; name the file: just upload data {path / IDENTITY_FILE}")
    if not path.is_file() or path.stat().st_size > MOST_DATA_BYTES:
        raise UsageProblem(f"{path} is no file of at most {MOST_DATA_BYTES >> 20} MiB; nothing was read")
    data = path.read_bytes()
    count = count_conversations(data, str(path))
    return Parcel("data", path.parent, "", (hash_bytes(IDENTITY_FILE, data),), f"{count:,} conversations")


def stage(parcel: Parcel, source: Path, folder: Path) -> tuple[str, ...]:
    """Put links to the parcel's files, and its manifest, into an empty folder; their names. `source` is what was named."""
    for e in parcel.entries:
        (folder / e.path).symlink_to((source if parcel.kind == "data" else parcel.folder / e.path).resolve())
    if parcel.manifest:
        (folder / MANIFEST).write_text(parcel.manifest.to_json())
    return tuple(sorted(p.name for p in folder.iterdir()))
