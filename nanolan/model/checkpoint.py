"""Checkpoints in nanochat's layout: a folder with model_SSSSSS.pt and meta_SSSSSS.json, S = step.

Loading never runs code from a file (weights_only). Saving goes through nanolan.checkpoint.manifest.save_whole.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor
from torch.serialization import get_crc32_options, set_crc32_options

from nanolan.checkpoint.architecture import (
    MAX_META_BYTES,
    MODEL_FILE,
    GPTConfig,
    Meta,
    newest_step,
    parse_meta,
)
from nanolan.checkpoint.manifest import FileEntry, HashedFile, hash_bytes, save_whole
from nanolan.checkpoint.torch_file import tensors
from nanolan.errors import BadAnswer
from nanolan.model.gpt import GPT

# What nanochat writes into each phase's meta beside model_config; unmeasured values are null.
META_KEYS = {
    "mid": ("step", "val_bpb", "user_config"),
    "sft": ("step", "val_loss", "mmlu_acc", "arc_easy_acc"),
    "rl": ("step", "pass_at_k", "user_config"),  # nanochat: only model_config
}


@dataclass(frozen=True)
class Loaded:
    """A model loaded from a folder."""

    model: GPT
    step: int
    meta: dict[str, Any]


def newest(folder: Path) -> int:
    """The newest step in `folder`; BadAnswer if there is none, or it has no meta."""
    found = newest_step(
        (p.name for p in folder.iterdir()) if folder.is_dir() else (), str(folder), f"rm {folder}/"
    )
    if found is None:
        raise BadAnswer(f"{folder}: no model_*.pt there: it is missing")
    return int(MODEL_FILE.fullmatch(found[0])[1])  # type: ignore[index]


def load(folder: Path, device: torch.device | str = "cpu", step: int | None = None) -> Loaded:
    """The model of `step` (default: the newest) in `folder`, on `device`; BadAnswer says what is wrong."""
    step = newest(folder) if step is None else step
    meta_path, model_path = folder / f"meta_{step:06d}.json", folder / f"model_{step:06d}.pt"
    meta = read_meta(meta_path, step)
    return Loaded(
        GPT.from_state(meta.config, read_state(model_path), device, str(model_path)),
        step,
        meta.values,
    )


def read_meta(path: Path, step: int | None = None) -> Meta:
    """The meta file of `step`, as nanolan.checkpoint.architecture checks it."""
    try:
        with open(path, "rb") as f:
            return parse_meta(f.read(MAX_META_BYTES + 1), str(path), step)
    except OSError as e:
        raise BadAnswer(f"{path}: cannot be read ({e.strerror})") from None


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a model file, on the CPU; checks its list first, since torch allocates whatever it declares."""
    try:
        with open(path, "rb") as f:
            tensors(f, str(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except BadAnswer:
        raise
    except OSError as e:
        raise BadAnswer(f"{path}: cannot be read ({e.strerror or e})") from None
    except (
        Exception
    ) as e:  # torch raises RuntimeError, EOFError, UnpicklingError ... for damaged or hostile files
        raise BadAnswer(
            f"{path}: cannot be loaded: truncated, damaged or not tensors ({type(e).__name__})"
        ) from None
    if not isinstance(state, dict) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()
    ):
        raise BadAnswer(f"{path}: not a dictionary of tensors")
    return state


def write_files(
    folder: Path, step: int, model: GPT, meta: dict[str, Any]
) -> tuple[FileEntry, FileEntry]:
    """Write model_ and meta_ of `step` into `folder`; not atomic, see `save`."""
    return (
        write_tensors(folder / f"model_{step:06d}.pt", weights_of(model)),
        write_meta(folder, step, meta_text(meta)),
    )


def weights_of(model: GPT) -> dict[str, Tensor]:
    """The model's weights by name, as they are saved; not copies."""
    return OrderedDict((key, t.detach()) for key, t in model.state_dict().items())


def meta_text(meta: dict[str, Any]) -> bytes:
    """The content of a meta file."""
    return f"{json.dumps(meta, indent=2)}\n".encode()


def write_meta(folder: Path, step: int, text: bytes) -> FileEntry:
    """Write the meta file of `step`."""
    path = folder / f"meta_{step:06d}.json"
    path.write_bytes(text)
    return hash_bytes(path.name, text)


def write_tensors(
    path: Path, state: Mapping[str, Tensor], cancelled: Callable[[], bool] = lambda: False
) -> FileEntry:
    """torch.save of tensors, hashed as they are written.

    OSError or RuntimeError when the disk does not take them; Cancelled once `cancelled()`.
    """
    on_host = type(state)((key, t.cpu()) for key, t in state.items())  # type: ignore[call-arg]
    with HashedFile(path, saved_size(state), cancelled) as file:
        try:
            torch.save(on_host, cast(IO[bytes], file))
        except RuntimeError as e:  # torch's writer reports its own state, not what failed
            raise file.problem or e from None
    return file.entry()


class _Counter:
    """Counts what is written to it."""

    size = 0

    def write(self, data: bytes | memoryview) -> int:
        self.size += memoryview(data).nbytes
        return memoryview(data).nbytes

    def flush(self) -> None:
        pass


def saved_size(state: Mapping[str, Tensor]) -> int:
    """Bytes of the file that torch.save makes of `state`: they follow from names, shapes and dtypes alone.

    Saves tensors of the same form whose memory is never touched, without checksums: milliseconds, and no memory.
    """
    form = type(state)((key, torch.empty(t.shape, dtype=t.dtype)) for key, t in state.items())  # type: ignore[call-arg]
    counter, checksums = _Counter(), get_crc32_options()
    set_crc32_options(False)
    try:
        torch.save(form, cast(IO[bytes], counter))
    finally:
        set_crc32_options(checksums)
    return counter.size


def meta_of(
    phase: str, config: GPTConfig, sequence_len: int, values: dict[str, Any]
) -> dict[str, Any]:
    """A phase's meta from measured `values`; mid sets the model's sequence_len, sft keeps it."""
    if phase == "mid":
        config = replace(config, sequence_len=sequence_len)
    return {key: values.get(key) for key in META_KEYS[phase]} | {"model_config": asdict(config)}


def save(
    out_dir: Path,
    step: int,
    model: GPT,
    meta: dict[str, Any],
    *,
    run_id: str,
    phase: str,
    final: bool,
    extra: dict[str, Any],
) -> Path:
    """Save a step atomically; returns the folder out_dir/step-NNNNNN."""
    return save_whole(
        out_dir,
        step,
        lambda folder: write_files(folder, step, model, meta),
        run_id=run_id,
        phase=phase,
        final=final,
        extra=extra,
    )
