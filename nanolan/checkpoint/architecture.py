"""Checks whether nanolan can train a model: a nanochat GPT of autumn 2025, by its meta file, tensors and tokenizer.

Used by upload, adopt, verify, doctor, dry-run, launch, resume and the trainer. No torch.
"""

from __future__ import annotations

import dataclasses
import json
import re
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from nanolan.checkpoint.file_kind import mistaken_for
from nanolan.errors import BadAnswer

MAX_META_BYTES = 1 << 20
MOST = {"n_layer": 1024, "vocab_size": 1 << 22, "sequence_len": 1 << 17}  # anything else: 1 << 16
ROPE_LENGTHS = 10  # the position tables cover this many times sequence_len, a hard cap on a row
COMPILED_PREFIX = "_orig_mod."
SEQUENCE_LEN = 2048  # tokens of a row, as in nanolan/train/recipe.py
PADDED_TO = 64  # nanochat pads the vocabulary to a multiple of this since 2026
MODEL_FILE = re.compile(r"model_(\d{6}|[1-9]\d{6,})\.pt")  # of nanochat: zero padded to six digits
ONE_YEAR = "nanolan's own trainer reads the d-models of nanochat up to autumn 2025, a checkout of yours its own (trainer=)"


T = TypeVar("T")


class Shaped(Protocol):
    """A tensor, or its description in a file."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def is_floating_point(self) -> bool: ...


@dataclass(frozen=True)
class GPTConfig:
    """`model_config` of a meta file."""

    sequence_len: int
    vocab_size: int
    n_layer: int
    n_head: int
    n_kv_head: int
    n_embd: int

    @staticmethod
    def from_meta(d: Mapping[str, Any], where: str = "meta") -> GPTConfig:
        """The config in a meta file's `model_config`; BadAnswer if it is not of this architecture."""
        names = [f.name for f in dataclasses.fields(GPTConfig)]
        if extra := sorted(set(d) - set(names)):
            raise BadAnswer(
                f"{where}: model_config has {', '.join(extra)[:200]}: a newer architecture; {ONE_YEAR}"
            )
        bad = [n for n in names if not (type(d.get(n)) is int and 0 < d[n] <= MOST.get(n, 1 << 16))]
        if bad:
            raise BadAnswer(
                f"{where}: model_config {bad[0]} is {reprlib.repr(d.get(bad[0]))}, expected a whole number; {ONE_YEAR}"
            )
        config = GPTConfig(**{n: d[n] for n in names})
        if config.n_embd % config.n_head or config.n_head % config.n_kv_head or config.head_dim % 2:
            raise BadAnswer(f"{where}: model_config does not divide into heads: {config}")
        return config

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.n_embd // self.n_head

    @property
    def n_params(self) -> int:
        """Parameters; exact when n_kv_head == n_head (as in every d-model)."""
        return 2 * self.vocab_size * self.n_embd + 12 * self.n_layer * self.n_embd**2

    @property
    def positions(self) -> int:
        """The maximum row length of the model."""
        return ROPE_LENGTHS * self.sequence_len


@dataclass(frozen=True)
class Meta:
    """A checked meta file."""

    config: GPTConfig
    values: dict[str, Any]


def parse_meta(data: bytes, where: str, step: int | None = None) -> Meta:
    """Parse a meta file whose name says `step`; BadAnswer if no model can be built from it."""
    values = read_meta(data, where, step)
    return Meta(GPTConfig.from_meta(values["model_config"], where), values)


def read_meta(data: bytes, where: str, step: int | None = None) -> dict[str, Any]:
    """A meta file of any trainer, whose name says `step`; BadAnswer if it is none."""
    if len(data) > MAX_META_BYTES:
        raise BadAnswer(f"{where}: larger than {MAX_META_BYTES >> 20} MiB, not a meta file")
    if what := mistaken_for(data):
        raise BadAnswer(f"{where} is {what}")
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as e:
        raise BadAnswer(f"{where}: not JSON ({str(e)[:100]})") from None
    if not isinstance(values, dict) or not isinstance(values.get("model_config"), dict):
        raise BadAnswer(f"{where}: has no model_config")
    stated = values.get("step")
    if step is not None and stated is not None and (isinstance(stated, bool) or stated != step):
        raise BadAnswer(
            f"{where}: says step {reprlib.repr(stated)}, which is not its file name's: another model's meta"
        )
    return values


def meta_name(model: str) -> str:
    """The meta file that belongs to a model file."""
    return re.sub(r"model_(\d+)\.pt$", r"meta_\1.json", model)


def newest_step(names: Iterable[str], where: str, remove: str) -> tuple[str, str] | None:
    """The model and meta file of the newest step in a folder, by its file names; None if there is no model.

    BadAnswer if the newest model has no meta, as after a killed save: the message names the step before, and the command
    that removes the newest one (`remove` plus the file name).
    """
    present = set(names)
    models = {int(m[1]): name for name in present if (m := MODEL_FILE.fullmatch(name))}
    if not models:
        return None
    newest = models[max(models)]
    if meta_name(newest) in present:
        return newest, meta_name(newest)
    whole = [step for step, name in models.items() if meta_name(name) in present]
    before = f", or start from step {max(whole)}, which has both: {remove}{newest}" if whole else ""
    raise BadAnswer(
        f"{where} has {newest} but no {meta_name(newest)}, as after a save that was killed: upload both{before}"
    )


def shapes(config: GPTConfig) -> dict[str, tuple[int, ...]]:
    """The name and shape of every tensor of a model."""
    C = config.n_embd
    kv = config.n_kv_head * config.head_dim
    layer = {
        "attn.c_q": (C, C),
        "attn.c_k": (kv, C),
        "attn.c_v": (kv, C),
        "attn.c_proj": (C, C),
        "mlp.c_fc": (4 * C, C),
        "mlp.c_proj": (C, 4 * C),
    }
    blocks = {
        f"transformer.h.{i}.{name}.weight": shape
        for i in range(config.n_layer)
        for name, shape in layer.items()
    }
    ends = dict.fromkeys(("transformer.wte.weight", "lm_head.weight"), (config.vocab_size, C))
    return {**ends, **blocks}


def plain_names(found: Mapping[str, T], where: str) -> dict[str, T]:
    """`found` without torch.compile's prefix; BadAnswer if two tensors then have the same name."""
    plain = {name.removeprefix(COMPILED_PREFIX): t for name, t in found.items()}
    if len(plain) != len(found):
        raise BadAnswer(f"{where}: a tensor is there twice, with and without {COMPILED_PREFIX}")
    return plain


def check_tensors(config: GPTConfig, found: Mapping[str, Shaped], where: str) -> None:
    """BadAnswer unless `found` has exactly the model's tensors, with their shapes and of floats. Ignores torch.compile's prefix."""
    found = plain_names(found, where)
    want = shapes(config)
    if missing := sorted(want.keys() - found.keys()):
        raise BadAnswer(
            f"{where}: no {missing[0]} ({len(missing)} of {len(want)} tensors missing): it does not belong to its meta"
        )
    if extra := sorted(found.keys() - want.keys()):
        raise BadAnswer(
            f"{where}: {extra[0][:100]} does not belong to this architecture ({len(extra)} such tensors); {ONE_YEAR}"
        )
    for name, shape in want.items():
        tensor = found[name]
        if tuple(tensor.shape) != shape:
            raise BadAnswer(
                f"{where}: {name} is {tuple(tensor.shape)}, expected {shape} by its meta: they do not belong together"
            )
        if not tensor.is_floating_point():
            raise BadAnswer(f"{where}: {name} does not hold floats")


def check_vocabulary(config: GPTConfig, tokens: int, where: str = "the model") -> None:
    """BadAnswer unless the tokenizer's number of tokens equals the model's vocabulary."""
    rows = config.vocab_size
    if rows == tokens:
        return
    if rows == -(-tokens // PADDED_TO) * PADDED_TO:
        raise BadAnswer(
            f"{where} has a padded vocabulary: {rows:,} rows for the tokenizer's {tokens:,} tokens. nanolan trains "
            "only where both are equal: cut the rows above off wte and lm_head, and set vocab_size"
        )
    raise BadAnswer(
        f"{where} has a vocabulary of {rows:,}, the tokenizer has {tokens:,} tokens: they do not belong together. "
        "Upload the tokenizer that the model was trained with"
    )


def check_rows(config: GPTConfig, sequence_len: int, where: str = "the model") -> None:
    """BadAnswer if a row is longer than the model's positions."""
    if sequence_len > config.positions:
        raise BadAnswer(
            f"{where}: rows of {sequence_len} tokens, but the model's positions end at {config.positions}"
        )


def check_token_bytes(found: Mapping[str, Shaped], tokens: int, where: str) -> None:
    """BadAnswer unless a token_bytes.pt has one whole number for each token."""
    only = found.get("")
    if (
        len(found) != 1
        or only is None
        or tuple(only.shape) != (tokens,)
        or only.is_floating_point()
    ):
        raise BadAnswer(
            f"{where} does not fit the {tokens:,} tokens of tokenizer.pkl: they do not belong together"
        )
